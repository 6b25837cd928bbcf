"""What a training run is made of, as plain values."""

from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal

from alexnet_cifar10.environment import is_smoke_run

__all__ = ["ABLATIONS", "CLASSIC", "DEFAULTS", "FAST", "LONG", "RECIPES", "Recipe", "choose_recipe"]


@dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule, stopping, dropout, augmentation and precision of one training run."""

    name: str
    epochs: int  # "plateau": at most; "one-cycle": exactly
    batch_size: int  # images a step
    optimizer: Literal["adam", "sgd", "muon"]  # "sgd": with Nesterov momentum; "muon": and with orthogonal steps
    learning_rate: float  # "plateau": at the start; "one-cycle": the highest
    schedule: Literal["plateau", "one-cycle"]
    dropout: tuple[float, float, float, float, float]  # share that is dropped by each of `AlexNet`'s dropouts
    # "plateau": the rate falls when the validation loss no longer does
    plateau_factor: float = 0.1  # the rate is multiplied by this ...
    plateau_patience: int = 4  # ... after more than this many epochs without a lower validation loss
    # "one-cycle": the rate rises in a straight line over this share of all steps, then falls in one to nearly 0
    warm_up: float = 0.0
    momentum: float = 0.0  # of "sgd" and "muon"
    # of "sgd" and "muon": each step takes this share, times the learning rate, from the weights of hidden layers
    weight_decay: float = 0.0
    label_smoothing: float = 0.0  # this share of the probability that a label stands for goes to all ten classes alike
    flip: bool = False  # each image is seen mirrored in every second epoch
    shift: int = 0  # ... and moved by up to this many pixels, up or down and left or right
    cutout: int = 0  # ... and a square with sides of this many pixels is made grey, anew each epoch
    autocast: bool = False  # multiply in 16 bits, where the device is fast at it
    patience: int | None = None  # early stopping after more than this many epochs without a lower validation loss

    def as_record(self) -> dict[str, Any]:
        """Its values as `run.json` gives them back."""
        return {**asdict(self), "dropout": list(self.dropout)}


# What a recipe does not ask for. An older record, from before there were all of these values, did not have it either.
DEFAULTS = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}

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
    replace(FAST, name="fast-sgd", optimizer="sgd"),
    replace(FAST, name="fast-with-dropout", dropout=CLASSIC.dropout),
    replace(FAST, name="fast-no-autocast", autocast=False),
)

RECIPES = {recipe.name: recipe for recipe in (CLASSIC, FAST, LONG, *ABLATIONS)}


def choose_recipe(
    name: str,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    patience: int | None = None,
) -> Recipe:
    """The recipe called `name`, with every value that is not None in place of its own."""
    if epochs is None and is_smoke_run():
        epochs = 1
    changes = dict(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, patience=patience)
    return replace(RECIPES[name], **{key: value for key, value in changes.items() if value is not None})
