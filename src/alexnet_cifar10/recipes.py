"""Recipes: what a training run is made of, as plain values."""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

# The values that belong to an optimiser or a schedule. Each recipe has those of its own two, and None for the others.
VALUES_OF = {
    "adam": (),
    "sgd": ("momentum",),
    "muon": ("momentum", "weight_decay", "others_rate"),
    "plateau": ("plateau_factor", "plateau_patience"),
    "one-cycle": ("warm_up",),
}


@dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule, stopping, dropout, augmentation and precision of one training run.

    Each number has its lowest and highest value beside its type. Raises `ValueError` for a number out of its range, an
    optimiser or schedule that does not exist, and a value that is set and not used, or used and not set.
    """

    name: str
    epochs: Annotated[int, 1, 10_000]  # "plateau": at most; "one-cycle": exactly
    batch_size: Annotated[int, 2, 50_000]  # images per step; one alone has no variance, as batch normalisation needs it
    optimizer: Literal["adam", "sgd", "muon"]  # "sgd": with Nesterov momentum; "muon": and with orthogonal steps
    learning_rate: Annotated[float, 0.0, 10.0]  # "plateau": at the start; "one-cycle": the highest
    schedule: Literal["plateau", "one-cycle"]
    dropout: Annotated[tuple[float, float, float, float, float], 0.0, 1.0]  # fraction that each of `AlexNet`'s drops
    plateau_factor: Annotated[float | None, 0.0, 0.999] = None  # the rate is multiplied by this ...
    plateau_patience: Annotated[int | None, 0, 10_000] = None  # ... after more epochs without a lower validation loss
    warm_up: Annotated[float | None, 0.0, 1.0] = None  # "one-cycle": the fraction of all steps in which the rate rises
    momentum: Annotated[float | None, 0.0, 0.999] = None
    weight_decay: Annotated[float | None, 0.0, 10.0] = None  # hidden layers lose this, times the rate, in each step
    others_rate: Annotated[float | None, 0.0, 10.0] = None  # fraction of the rate for all but hidden layers' weights
    whitening: bool = False  # the first convolution starts with the principal directions of the images' patches
    label_smoothing: Annotated[float, 0.0, 1.0] = 0.0  # fraction of each label that goes to all ten classes alike
    flip: bool = False  # each image is seen mirrored in every second epoch
    shift: Annotated[int, 0, 31] = 0  # each image is moved by up to this many pixels both ways, anew in each epoch
    cutout: Annotated[int, 0, 31] = 0  # a square with sides of this many pixels is made grey, anew in each epoch
    autocast: bool = False  # multiply in 16 bits, where the device is fast at it
    patience: Annotated[int | None, 0, 10_000] = None  # it stops after more epochs without a lower validation loss

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            check_value(key, value)
        used = VALUES_OF[self.optimizer] + VALUES_OF[self.schedule]
        for key in [key for keys in VALUES_OF.values() for key in keys]:
            if (getattr(self, key) is not None) != (key in used):
                why = f"needs {key}" if key in used else f"does not use {key}: leave it None"
                raise ValueError(f"{key} = {getattr(self, key)}: {self.optimizer} with {self.schedule} {why}.")

    def as_record(self) -> dict[str, Any]:
        """Its values as `run.json` gives them back."""
        return {**asdict(self), "dropout": list(self.dropout)}


def check_value(name: str, value: Any) -> None:
    """Raises `ValueError` for a value that is none of the names, or out of the range, beside its type in `Recipe`."""
    hint = Recipe.__annotations__[name]
    if hint is bool and not isinstance(value, bool):  # the text "false" would count as True
        raise ValueError(f"{name} = {value!r}: it can be True or False.")
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise ValueError(f"{name} = {value!r}: it can be one of {', '.join(get_args(hint))}.")
    if get_origin(hint) is Annotated and value is not getattr(Recipe, name, ...):  # a default is in order
        _, lowest, highest = get_args(hint)
        kind, types = ("a whole number", int) if isinstance(lowest, int) else ("a number", (int, float))
        kind, numbers = ("five numbers, each", value) if name == "dropout" else (kind, (value,))
        is_five = name != "dropout" or isinstance(value, (tuple, list)) and len(value) == 5
        is_right = is_five and all(isinstance(x, types) and lowest <= x <= highest for x in numbers)
        if not is_right or any(isinstance(x, bool) for x in numbers):  # True would count as 1
            raise ValueError(f"{name} = {value!r}: it can be {kind} from {lowest} to {highest}.")


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

# The same network, trained to the accuracy that the original printed, in a twelfth of its epochs. Trials chose the
# values; results/README.md says for which of them a loss without them can be told from chance.
FAST = Recipe(
    name="fast",
    epochs=2,
    batch_size=128,  # twice the steps of 256, and on two CPU cores an epoch takes no longer
    optimizer="muon",
    learning_rate=0.08,
    schedule="one-cycle",
    dropout=(0.0, 0.0, 0.0, 0.0, 0.0),
    warm_up=0.2,
    momentum=0.6,
    weight_decay=0.0,
    others_rate=0.25,  # their steps are not orthogonal, so their length grows with their gradients
    whitening=True,
    label_smoothing=0.1,
    flip=True,
    shift=1,
    autocast=True,
)

# As many epochs as the original took, on harder images, with one dropout and weight decay.
LONG = replace(
    FAST,
    name="fast-long",
    epochs=24,
    learning_rate=0.014,
    dropout=(0.0, 0.0, 0.0, 0.0, 0.3),
    momentum=0.9,
    weight_decay=0.1,
    others_rate=0.5,
    shift=3,
    cutout=8,
)

RECIPES = {recipe.name: recipe for recipe in (CLASSIC, FAST, LONG)}


def choose_recipe(name: str | None, dataset: str = "cifar10", **changes: Any) -> Recipe:
    """The recipe called `name`, with every value of `changes` that is not None in place of its own.

    What another optimiser or schedule does not use is None then. Without a name: CLASSIC if `epochs` are set, or else
    what trains in minutes. On the handwritten digits that is CLASSIC with ten epochs, as they are too few for FAST; and
    only photographs are mirrored: a mirrored 2 is no 2.
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    usual = {"cifar10": FAST, "digits": replace(CLASSIC, epochs=10)}[dataset]
    recipe = RECIPES[name] if name else CLASSIC if "epochs" in changes else usual
    parts = [changes.get(part, getattr(recipe, part)) for part in ("optimizer", "schedule")]
    used = [key for name, keys in VALUES_OF.items() if name in parts for key in keys]
    not_used = {key: None for keys in VALUES_OF.values() for key in keys if key not in used}
    return replace(recipe, **{"flip": recipe.flip and dataset == "cifar10", **not_used, **changes})
