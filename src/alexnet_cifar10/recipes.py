"""What a training run is made of, as plain values."""

from dataclasses import dataclass, replace

from alexnet_cifar10.environment import is_smoke_run

__all__ = ["CLASSIC", "RECIPES", "Recipe", "choose_recipe"]


@dataclass(frozen=True)
class Recipe:
    """Optimiser (Adam), schedule (reduce on plateau) and stopping of one training run."""

    name: str
    epochs: int  # at most
    batch_size: int  # images a step
    learning_rate: float
    plateau_factor: float  # the rate is multiplied by this ...
    plateau_patience: int  # ... after more than this many epochs without a lower validation loss
    patience: int  # early stopping after more than this many epochs without a lower validation loss


# The original tutorial's run, value by value.
CLASSIC = Recipe(
    name="classic",
    epochs=55,
    batch_size=16,
    learning_rate=1e-3,
    plateau_factor=0.1,
    plateau_patience=4,
    patience=7,
)

RECIPES = {recipe.name: recipe for recipe in (CLASSIC,)}


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
