"""Recipes: every value of one is used, or refused when the recipe is made."""

import math
from dataclasses import fields, replace

import pytest

from alexnet_cifar10.recipes import CLASSIC, FAST, LONG, RECIPES, Recipe, choose_recipe

# Other values than those of the recipes below, for each field.
OTHER = {
    "epochs": 2,
    "batch_size": 3,
    "learning_rate": 0.02,
    "dropout": (0.5, 0.5, 0.5, 0.5, 0.5),
    "plateau_factor": 0.5,
    "plateau_patience": 9,
    "warm_up": 0.9,
    "momentum": 0.3,
    "weight_decay": 0.7,
    "others_rate": 0.5,
    "whitening": True,
    "label_smoothing": 0.3,
    "flip": True,
    "shift": 3,
    "cutout": 9,
    "autocast": True,
    "patience": 0,
}
OPTIMIZERS = {"adam": {}, "sgd": {"momentum": 0.9}, "muon": {"momentum": 0.9, "weight_decay": 0.0, "others_rate": 1.0}}
SCHEDULES = {"plateau": {"plateau_factor": 0.1, "plateau_patience": 0}, "one-cycle": {"warm_up": 0.2}}


def recipe_with(optimizer, schedule):
    values = {"epochs": 5, "batch_size": 4, "learning_rate": 0.1, "dropout": (0.0,) * 5}
    values |= OPTIMIZERS[optimizer] | SCHEDULES[schedule]
    return Recipe(name="mine", optimizer=optimizer, schedule=schedule, **values)


@pytest.fixture(scope="module")
def outcome(digits, tmp_path_factory):
    """What training with a recipe gives: the bytes of the last weights, each recipe trained once."""
    import torch
    from small_run import start_with

    from alexnet_cifar10 import train as training
    from alexnet_cifar10.runs import load_state

    known, start = {}, start_with(digits)

    def dropped(recipe):
        """The small network, with as much dropout as the recipe has."""
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.Dropout(recipe.dropout[0]), torch.nn.Conv2d(4, 6, 3, 2)]
        return torch.nn.Sequential(*layers, torch.nn.BatchNorm2d(6), torch.nn.Flatten(), torch.nn.Linear(54, 10))

    def outcome(recipe):
        if recipe not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("RUNS_ROOT", str(tmp_path_factory.mktemp("runs")))
                patch.setattr(training, "autocast_dtype", lambda device: torch.bfloat16)
                run = start(dropped(recipe), base=recipe, images=9, epochs=recipe.epochs, batch_size=recipe.batch_size)
                weights = load_state(run.last_checkpoint)
                known[recipe] = [value.numpy().tobytes() for value in weights.values()], len(run.read_history())
        return known[recipe]

    return outcome


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("field", OTHER)
def test_every_value_is_used_or_refused(field, optimizer, schedule, outcome):
    recipe = recipe_with(optimizer, schedule)
    assert getattr(recipe, field) != OTHER[field]
    belongs_to = {key for values in (*OPTIMIZERS.values(), *SCHEDULES.values()) for key in values}
    if field in belongs_to - (OPTIMIZERS[optimizer] | SCHEDULES[schedule]).keys():
        with pytest.raises(ValueError, match=f"{field} = .*: {optimizer} with {schedule} does not use {field}"):
            replace(recipe, **{field: OTHER[field]})
    else:
        assert outcome(replace(recipe, **{field: OTHER[field]})) != outcome(recipe)


def test_the_test_above_has_every_field():
    assert {field.name for field in fields(Recipe)} - OTHER.keys() == {"name", "optimizer", "schedule"}


@pytest.mark.parametrize(("optimizer", "schedule", "field"), [
    ("sgd", "plateau", "momentum"),
    ("muon", "plateau", "weight_decay"),
    ("muon", "one-cycle", "others_rate"),
    ("adam", "plateau", "plateau_factor"),
    ("adam", "one-cycle", "warm_up"),
])  # fmt: skip
def test_a_value_that_is_needed_and_not_there_is_refused(optimizer, schedule, field):
    with pytest.raises(ValueError, match=f"{field} = None: {optimizer} with {schedule} needs {field}"):
        replace(recipe_with(optimizer, schedule), **{field: None})


@pytest.mark.parametrize("change", [{"optimizer": "adamw"}, {"schedule": "cosine"}, {"optimizer": "plateau"}])
def test_names_that_do_not_exist_are_refused_with_those_that_do(change):
    ((what, name),) = change.items()
    with pytest.raises(ValueError, match=f"{what} = '{name}': it can be one of "):
        replace(CLASSIC, **change)


@pytest.mark.parametrize("field", ["flip", "whitening", "autocast"])
@pytest.mark.parametrize("value", ["false", 1, None])
def test_a_switch_is_true_or_false(field, value):
    with pytest.raises(ValueError, match=f"{field} = {value!r}: it can be True or False."):
        replace(FAST, **{field: value})


@pytest.mark.parametrize(("recipe", "field", "values"), [
    (CLASSIC, "epochs", [0, 1.5, None, True]),
    (CLASSIC, "batch_size", [1, 16.0]),
    (CLASSIC, "learning_rate", [-0.1, 11, math.nan, "0.1", True]),
    (CLASSIC, "dropout", [(0.0, 0.0, 0.0, 0.0, 1.1), (-0.1, 0.0, 0.0, 0.0, 0.0), (0.1,), 0.1, (True, 0, 0, 0, 0)]),
    (CLASSIC, "plateau_factor", [-0.1, 1.0]),
    (CLASSIC, "plateau_patience", [-1, 0.5]),
    (CLASSIC, "patience", [-1, 7.5]),
    (FAST, "warm_up", [-0.1, 1.5]),
    (FAST, "momentum", [-0.1, 2]),
    (FAST, "weight_decay", [-0.01, 11]),
    (FAST, "others_rate", [-1, 11]),
    (FAST, "label_smoothing", [-0.1, 1.1, False]),
    (FAST, "shift", [-1, 32, 1.5, True]),
    (FAST, "cutout", [-1, 32, 1.5, False]),
])  # fmt: skip
def test_a_number_out_of_its_range_is_refused(recipe, field, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{field} = .*: it can be (a|five) .*numbers?.* from .* to "):
            replace(recipe, **{field: value})


def test_the_test_above_has_every_number():
    (ranges,) = (m.args[1] for m in test_a_number_out_of_its_range_is_refused.pytestmark)
    words = {"optimizer", "schedule", "name", "flip", "autocast", "whitening"}
    assert {field.name for field in fields(Recipe)} == {field for _, field, _ in ranges} | words


def test_a_number_at_the_end_of_its_range_is_not_refused():
    replace(CLASSIC, epochs=1, batch_size=2, learning_rate=1, plateau_factor=0.0, plateau_patience=0, patience=0)
    replace(LONG, epochs=10_000, warm_up=1, momentum=0, weight_decay=0, label_smoothing=1.0, shift=31, cutout=31)


def test_a_recipe_takes_what_is_given_and_keeps_the_rest():
    assert choose_recipe("classic", epochs=None) == CLASSIC
    assert choose_recipe("classic", epochs=3, patience=0) == replace(CLASSIC, epochs=3, patience=0)
    assert choose_recipe("fast") == FAST == RECIPES["fast"]


def test_what_another_optimiser_or_schedule_does_not_use_is_left_out():
    sgd = choose_recipe("fast", optimizer="sgd", label_smoothing=0.0)
    assert sgd == replace(FAST, optimizer="sgd", weight_decay=None, others_rate=None, label_smoothing=0.0)
    constant = choose_recipe("classic", schedule="one-cycle", warm_up=0.1)
    assert constant == replace(CLASSIC, schedule="one-cycle", warm_up=0.1, plateau_factor=None, plateau_patience=None)


@pytest.mark.parametrize("changes", [{"optimizer": "adam", "momentum": 0.9}, {"optimizer": "adamw"}])
def test_what_is_asked_for_and_not_used_is_refused_and_not_left_out(changes):
    with pytest.raises(ValueError, match=f"{list(changes)[-1]} = "):
        choose_recipe("fast", **changes)
