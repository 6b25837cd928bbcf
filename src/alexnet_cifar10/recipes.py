"""Recipes: what a training run is made of, as plain values."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

# The values that belong to an optimiser or a schedule. Each recipe has those of its own two, and None for the others.
VALUES_OF = {
    "adam": (),
    "sgd": ("momentum",),
    "muon": ("momentum", "weight_decay"),
    "plateau": ("plateau_factor", "plateau_patience"),
    "one-cycle": ("warm_up",),
}


@dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule, stopping, dropout, augmentation and precision of one training run.

    Raises `ValueError` for an optimiser or schedule that does not exist, and a value that is set and not used, or used
    and not set.
    """

    name: str
    epochs: int  # "plateau": at most; "one-cycle": exactly
    batch_size: int  # images per step
    optimizer: Literal["adam", "sgd", "muon"]  # "sgd": with Nesterov momentum; "muon": and with orthogonal steps
    learning_rate: float  # "plateau": at the start; "one-cycle": the highest
    schedule: Literal["plateau", "one-cycle"]
    dropout: tuple[float, float, float, float, float]  # fraction that each of `AlexNet`'s dropouts drops
    plateau_factor: float | None = None  # the rate is multiplied by this ...
    plateau_patience: int | None = None  # ... after more than this many epochs without a lower validation loss
    warm_up: float | None = None  # "one-cycle": the fraction of all steps in which the rate rises
    momentum: float | None = None
    weight_decay: float | None = None  # hidden layers lose this fraction, times the learning rate, in each step
    label_smoothing: float = 0.0  # fraction of each label's probability that goes to all ten classes alike
    flip: bool = False  # each image is seen mirrored in every second epoch
    shift: int = 0  # each image is moved by up to this many pixels in both directions, anew in each epoch
    cutout: int = 0  # a square with sides of this many pixels is made grey, anew in each epoch
    autocast: bool = False  # multiply in 16 bits, where the device is fast at it
    patience: int | None = None  # early stopping after more than this many epochs without a lower validation loss

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs = {self.epochs}: training needs at least one epoch.")
        if self.batch_size < 2:
            raise ValueError(f"batch_size = {self.batch_size}: batch normalisation needs at least two images.")
        for what, names in (("optimizer", ("adam", "sgd", "muon")), ("schedule", ("plateau", "one-cycle"))):
            if getattr(self, what) not in names:
                raise ValueError(f"{what} = {getattr(self, what)!r}: it can be one of {', '.join(names)}.")
        used = VALUES_OF[self.optimizer] + VALUES_OF[self.schedule]
        for key in {key for keys in VALUES_OF.values() for key in keys}:
            if (getattr(self, key) is not None) != (key in used):
                why = f"needs {key}" if key in used else f"does not use {key}: leave it None"
                raise ValueError(f"{key} = {getattr(self, key)}: {self.optimizer} with {self.schedule} {why}.")

    def as_record(self) -> dict[str, Any]:
        """Its values as `run.json` gives them back."""
        return {**asdict(self), "dropout": list(self.dropout)}


# The original tutorial's run, value by value.
CLASSIC = Recipe(
    name="classic",
    epochs=55,
    batch_size=16,
    optimizer="adam",
    learning_rate=1e-3,
    schedule="plateau",
    dropout=(0.1, 0.3, 0.1, 0.3, 0.1),
    plateau_factor=0.1,
    plateau_patience=4,
    patience=7,
)

# The same network, trained to the original's accuracy in an eighth of its epochs.
FAST = Recipe(
    name="fast",
    epochs=3,
    batch_size=256,
    optimizer="muon",
    learning_rate=0.05,
    schedule="one-cycle",
    dropout=(0.0, 0.0, 0.0, 0.0, 0.0),
    warm_up=0.2,
    momentum=0.9,
    weight_decay=0.0,
    label_smoothing=0.1,
    flip=True,
    shift=2,
    autocast=True,
)

# FAST for as many epochs as the original took, on harder images, with one dropout and weight decay.
LONG = replace(
    FAST, name="fast-long", epochs=24, weight_decay=0.05, dropout=(0.0, 0.0, 0.0, 0.0, 0.3), shift=4, cutout=10
)

# FAST with one value changed back, to see what it buys.
ABLATIONS = (
    replace(FAST, name="fast-no-flip", flip=False),
    replace(FAST, name="fast-no-shift", shift=0),
    replace(FAST, name="fast-no-smoothing", label_smoothing=0.0),
    replace(FAST, name="fast-sgd", optimizer="sgd", weight_decay=None),
    replace(FAST, name="fast-with-dropout", dropout=CLASSIC.dropout),
    replace(FAST, name="fast-no-autocast", autocast=False),
)

RECIPES = {recipe.name: recipe for recipe in (CLASSIC, FAST, LONG, *ABLATIONS)}


def choose_recipe(name: str | None, dataset: str = "cifar10", **changes: Any) -> Recipe:
    """The recipe called `name`, with every value of `changes` that is not None in place of its own.

    Without a name: CLASSIC if `epochs` are set, or else what trains in minutes. On the handwritten digits that is
    CLASSIC with ten epochs, as they are too few for FAST.
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    if name is None:
        usual = {"cifar10": FAST, "digits": replace(CLASSIC, epochs=10)}[dataset]
        return replace(CLASSIC if "epochs" in changes else usual, **changes)
    return replace(RECIPES[name], **changes)
