"""The loop: the original's behaviour on its own log, and numbers that repeat to the last bit."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import CPU, assert_identical, contents, interrupted_in, numbers, poisoned, small_model
from torch import nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.optim import SGD

from alexnet_cifar10 import train as training
from alexnet_cifar10.batches import DeviceLoader
from alexnet_cifar10.evaluate import evaluate
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.optim import make_optimizer, make_schedule, one_cycle
from alexnet_cifar10.recipes import CLASSIC, FAST, LONG
from alexnet_cifar10.runs import TrainingError, load_model, load_state
from alexnet_cifar10.train import Monitor, train_one_epoch

# What the original tutorial printed: training loss, validation loss, validation accuracy of epochs 1 to 24,
# and the number after "trigger", 0 where it printed none.
ORIGINAL_LOG = [
    (1.341, 1.158, 0.588, 0),
    (0.928, 0.802, 0.717, 0),
    (0.767, 0.686, 0.762, 0),
    (0.664, 0.734, 0.754, 1),
    (0.578, 0.803, 0.724, 2),
    (0.500, 0.600, 0.795, 0),
    (0.436, 0.550, 0.820, 0),
    (0.387, 0.515, 0.830, 0),
    (0.341, 0.534, 0.827, 1),
    (0.295, 0.491, 0.837, 0),
    (0.261, 0.560, 0.819, 1),
    (0.231, 0.561, 0.828, 2),
    (0.208, 0.564, 0.828, 3),
    (0.184, 0.570, 0.831, 4),
    (0.161, 0.580, 0.839, 5),
    (0.084, 0.487, 0.864, 0),
    (0.058, 0.502, 0.868, 1),
    (0.052, 0.500, 0.869, 2),
    (0.044, 0.528, 0.868, 3),
    (0.040, 0.533, 0.869, 4),
    (0.034, 0.551, 0.868, 5),
    (0.028, 0.536, 0.874, 6),
    (0.028, 0.559, 0.870, 7),
    (0.028, 0.544, 0.872, 8),
]


def plateau_schedule(recipe):
    """The learning rate's schedule of a recipe, and an optimiser that it moves."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    return optimizer, make_schedule(optimizer, recipe, steps=1)


def one_epoch(model, batches, optimizer, schedule=None, *, scaler=None, precision=torch.float32):
    scaler = scaler or GradScaler("cpu", enabled=False)
    return train_one_epoch(model, batches, optimizer, schedule, scaler, precision)


def counted(batches, seen):
    """Pass batches on, and note the size of each that was learnt from."""
    for images, labels in batches:
        yield images, labels
        seen.append(len(labels))


# --- the original's behaviour -------------------------------------------------------------------------------------


def test_the_originals_log_gives_the_originals_decisions():
    monitor, (optimizer, schedule) = Monitor(CLASSIC.patience), plateau_schedule(CLASSIC)
    triggers, rates = [], []
    for epoch, (_, valid_loss, valid_accuracy, _) in enumerate(ORIGINAL_LOG, start=1):
        assert not monitor.should_stop, f"stopped before epoch {epoch}"
        monitor.update(epoch, valid_loss, valid_accuracy)
        schedule.step(valid_loss)
        triggers.append(monitor.trigger)
        rates.append(optimizer.param_groups[0]["lr"])
    assert triggers == [trigger for *_, trigger in ORIGINAL_LOG]
    assert rates == pytest.approx([1e-3] * 14 + [1e-4] * 6 + [1e-5] * 4)  # lowered after epochs 15 and 21
    assert monitor.should_stop
    assert (monitor.best_epoch, monitor.max_accuracy) == (22, 0.874)


def test_a_run_with_the_originals_losses_is_the_originals_run(start, monkeypatch, capsys):
    """The same through `train`: what it saves, prints and when it stops."""
    model, log = small_model(), iter(ORIGINAL_LOG)

    def learn(model, batches, *others):
        list(batches)
        with torch.no_grad():
            model[6].bias += 1  # a mark on the weights: how many epochs they have seen
        result = next(log)
        monkeypatch.setattr(training, "evaluate", lambda *_: SimpleNamespace(loss=result[1], accuracy=result[2]))
        return result[0]

    with torch.no_grad():
        model[6].bias.zero_()
    monkeypatch.setattr(training, "train_one_epoch", learn)
    run = start(model, epochs=55)
    history = run.read_history()
    assert [(row["train_loss"], row["valid_loss"], row["valid_accuracy"]) for row in history] == [
        row[:3] for row in ORIGINAL_LOG
    ]
    assert [row["lr"] for row in history] == pytest.approx([1e-3] * 15 + [1e-4] * 6 + [1e-5] * 3)
    assert load_state(run.best_checkpoint)["6.bias"].tolist() == [22] * 10
    assert load_state(run.last_checkpoint)["6.bias"].tolist() == [24] * 10
    result = run.read_record()["result"]
    assert (result["epochs"], result["best_epoch"], result["best_valid_accuracy"]) == (24, 22, 0.874)
    assert result["stopped_early"] and run.read_record()["status"] == "finished"
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("Epoch ")]
    assert [int(line.split("trigger ")[1]) if "trigger" in line else 0 for line in lines] == [
        trigger for *_, trigger in ORIGINAL_LOG
    ]
    assert "best validation accuracy 0.874 in epoch 22" in printed


def test_a_run_that_stops_early_in_its_last_epoch_says_that_more_epochs_change_nothing(start, monkeypatch, capsys):
    results = iter([SimpleNamespace(loss=loss, accuracy=0.5) for loss in (1, 2)])
    monkeypatch.setattr(training, "evaluate", lambda *_: next(results))
    for epochs, why in ((2, "all its epochs are done, the validation"), (5, "early, the validation")):
        run = start(epochs=epochs, patience=0, resume=True)
        assert f"Finished ({why} loss no longer falls): best" in capsys.readouterr().out
        assert len(run.read_history()) == 2


losses = st.floats(0, 10) | st.sampled_from([0.5, 0.5 * (1 - 1e-5), 0.5 * (1 - 1e-3)])  # equal and nearly equal ones
results = st.lists(st.tuples(losses, st.sampled_from([0, 0.1, 0.5, 0.501, 1])), min_size=1, max_size=60)
no_hurry = settings(deadline=None, derandomize=True, database=None)


@no_hurry
@given(results, st.integers(0, 10))
def test_stopping_and_best_model_are_what_the_whole_history_says(results, patience):
    monitor = Monitor(patience)
    for epoch, (loss, accuracy) in enumerate(results, start=1):
        monitor.update(epoch, loss, accuracy)
        losses = [loss for loss, _ in results[:epoch]]
        accuracies = [accuracy for _, accuracy in results[:epoch]]
        lowest = epoch - losses[::-1].index(min(losses))  # the last epoch that reached the lowest loss
        assert monitor.trigger == epoch - lowest
        assert monitor.should_stop == (epoch - lowest > patience)
        assert monitor.max_accuracy == max(accuracies)
        assert monitor.best_epoch == 1 + accuracies.index(max(accuracies))  # the first that reached it


@no_hurry
@given(st.lists(losses, min_size=1, max_size=60), st.integers(0, 5), st.sampled_from([0.1, 0.5]))
def test_the_rate_falls_when_the_loss_has_not_for_more_than_the_patience(losses, patience, factor):
    recipe = replace(CLASSIC, plateau_patience=patience, plateau_factor=factor)
    optimizer, schedule = plateau_schedule(recipe)
    rate, lowest, waited = recipe.learning_rate, math.inf, 0
    for loss in losses:
        schedule.step(loss)
        waited += 1
        if loss < lowest * (1 - 1e-4):
            lowest, waited = loss, 0
        if waited > patience:
            waited = 0
            if rate - rate * factor > 1e-8:  # PyTorch leaves smaller steps out
                rate *= factor
        assert optimizer.param_groups[0]["lr"] == rate


def test_the_loop_learns_the_digits(start, digits):
    valid = range(300, 400)
    run = start(AlexNet(), images=160, valid=valid, epochs=2, batch_size=8)
    first, last = run.read_history()
    assert last["train_loss"] < first["train_loss"] / 2
    assert last["valid_accuracy"] > 0.5  # by chance: 0.1
    valid_loader = DeviceLoader(digits.train, valid, batch_size=50, device=CPU)
    best = evaluate(load_model(run.best_checkpoint, CPU), valid_loader, CPU)
    assert best.accuracy == max(first["valid_accuracy"], last["valid_accuracy"])


# --- where the original is fragile --------------------------------------------------------------------------------


def test_losses_are_means_per_image_also_with_a_short_last_batch(start, digits):
    """With a rate of (nearly) zero the weights stay, so that the losses can be computed in one go."""

    def model():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

    run = start(model(), images=10, valid=range(20, 25), learning_rate=1e-30)  # batches of 4, 4, 2 and of 4, 1
    (row,) = run.read_history()
    for column, indices in (("train_loss", range(10)), ("valid_loss", range(20, 25))):
        images, labels = zip(*(digits.train[i] for i in indices), strict=True)
        with torch.no_grad():
            loss = F.cross_entropy(model()(torch.stack(images)), torch.tensor(labels)).item()
        assert row[column] == pytest.approx(loss, rel=1e-5)


def test_a_last_batch_of_one_image_does_not_crash_batch_normalisation(digits):
    loader, seen = DeviceLoader(digits.train, range(5), batch_size=4, device=CPU, shuffle=True), []
    model = AlexNet()
    loss = one_epoch(model, counted(loader, seen), SGD(model.parameters(), lr=0.01))
    assert seen == [4] and math.isfinite(loss)


def test_a_loss_that_is_not_finite_stops_the_run_names_the_place_and_keeps_the_files(start):
    run = start(small_model(), epochs=1)
    before = contents(run)
    with pytest.raises(TrainingError) as refusal:
        start(small_model(), epochs=3, resume=True, loader=poisoned)
    message = str(refusal.value)
    assert message.startswith("Run 'run', epoch 2: the training loss of step 2 is nan, not a finite number.")
    assert "What earlier epochs gave is kept" in message and "learning_rate" in message
    assert contents(run) == before and run.read_record()["status"] == "failed"
    load_state(run.best_checkpoint)
    assert len(start(small_model(), epochs=2, resume=True).read_history()) == 2, "with good images it goes on"


def test_a_loss_that_is_not_finite_ends_the_epoch_at_once(digits):
    loader, seen = poisoned(digits.train, range(12), batch_size=3, device=CPU, shuffle=True), []
    loader.set_epoch(2)
    model = small_model()
    with pytest.raises(TrainingError, match="step 2"):
        one_epoch(model, counted(loader, seen), SGD(model.parameters(), lr=0.01))
    assert seen == [3], "the step after it is not made"


def test_a_validation_loss_that_is_not_finite_is_no_improvement_but_an_end(start, runs, monkeypatch):
    monkeypatch.setattr(training, "evaluate", lambda *_: SimpleNamespace(loss=math.nan, accuracy=0.9))
    with pytest.raises(TrainingError, match="epoch 1: the validation loss is nan.* No epoch was completed"):
        start(small_model())
    assert not (runs / "run" / "best_checkpoint.pth").exists()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"epochs": 0}, "epochs = 0: it can be a whole number from 1 to 10000"),
        ({"batch_size": 11}, "batch_size = 11: at most 10 with 10 training images"),
        ({"valid": []}, "no images to make batches of"),
        ({"images": 0}, "no images to make batches of"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(how, why, start, runs):
    with pytest.raises((ValueError, TrainingError), match=why):
        start(**how)
    assert not runs.exists()


# --- the same numbers again ---------------------------------------------------------------------------------------


@pytest.fixture
def two_epochs(start):
    return start(epochs=2, run_name="first")


def test_the_same_command_gives_the_same_bytes(start, two_epochs):
    torch.rand(7)  # what was drawn before does not matter
    assert_identical(start(epochs=2, run_name="second"), two_epochs)


def test_another_seed_gives_other_numbers(start, two_epochs):
    other = start(epochs=2, run_name="second", seed=43)
    assert numbers(other)[0]["train_loss"] != numbers(two_epochs)[0]["train_loss"]


def test_what_is_validated_does_not_change_what_is_learnt(start, two_epochs):
    other = start(epochs=2, run_name="second", valid=range(500, 530))
    assert other.last_checkpoint.read_bytes() == two_epochs.last_checkpoint.read_bytes()


# --- the recipe FAST, through the same loop -----------------------------------------------------------------------


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def precision(request, monkeypatch):
    """As on a processor that is fast at this type."""
    monkeypatch.setattr(training, "autocast_dtype", lambda device: request.param)
    return request.param


def test_fast_repeats_and_resumes_to_the_last_bit_in_every_precision(precision, start):
    few = {"images": 6, "valid": range(20, 22), "epochs": 2}
    whole = start(base=LONG, **few, run_name="whole")  # all that FAST has, and more
    assert whole.read_record()["precision"] == str(precision).removeprefix("torch.")
    start(base=LONG, **few, loader=interrupted_in(2))
    run = start(base=LONG, **few, resume=True)
    assert_identical(run, whole)
    assert all(value.dtype in (torch.float32, torch.int64) for value in load_state(run.best_checkpoint).values())


def test_fast_learns_the_digits(start):
    # mirrored digits are no digits, so not with flips
    model, few = AlexNet(FAST.dropout), {"images": 120, "valid": range(300, 360), "epochs": 2, "batch_size": 8}
    run = start(model, base=FAST, flip=False, shift=0, **few)
    first, last = run.read_history()
    assert last["train_loss"] < first["train_loss"] and last["valid_accuracy"] > 0.5


def test_sixteen_bits_are_really_used_and_change_the_numbers_only_a_little(start, monkeypatch):
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(training, "autocast_dtype", lambda device, dtype=dtype: dtype)
        (row,) = start(base=FAST, learning_rate=1e-4, run_name=str(dtype).removeprefix("torch.")).read_history()
        losses.append((row["train_loss"], row["valid_loss"]))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_one_cycle_rises_and_then_falls_to_nearly_nothing_over_all_steps(start, monkeypatch):
    rates, make_once = [], make_optimizer

    def watched(*arguments):
        optimizer = make_once(*arguments)
        optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(training, "make_optimizer", watched)
    start(base=FAST, images=40, epochs=2, learning_rate=0.06, warm_up=0.25)  # 2 x 10 steps
    top = rates.index(max(rates))
    assert len(rates) == 20 and top == 4 and rates[top] == pytest.approx(0.06)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.06 / 10


@pytest.mark.parametrize("steps", range(1, 8))
@pytest.mark.parametrize("warm_up", [0.0, 0.2, 1.0])
def test_one_cycle_fits_into_few_steps(steps, warm_up):
    shares = [one_cycle(step, steps, warm_up) for step in range(steps)]
    assert max(shares) == 1 and min(shares) > 0
    top = shares.index(1)
    assert shares == sorted(shares[: top + 1]) + sorted(shares[top + 1 :], reverse=True)


def test_a_first_step_that_overflows_in_float16_is_left_out_and_harms_nothing(digits):
    """As on a graphics card whose first gradients are too large: the scaler skips the step, and tries a smaller one."""
    model, loader = small_model(), DeviceLoader(digits.train, range(8), batch_size=8, device=CPU)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = make_optimizer(model, FAST, torch.float16)
    scaler = GradScaler("cpu", init_scale=2.0**100)
    one_epoch(model, loader, optimizer, precision=torch.float16, scaler=scaler)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    scaler.update(1024.0)
    one_epoch(model, loader, optimizer, precision=torch.float16, scaler=scaler)
    assert not torch.equal(before[0], next(model.parameters()))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_run_goes_on_where_other_types_are_fast(start, monkeypatch):
    def evaluate_once(*arguments, left=iter([1, 0] * 2)):
        if not next(left):
            raise KeyboardInterrupt  # the stop button, in the epoch after it
        return evaluate(*arguments)

    monkeypatch.setattr(training, "evaluate", evaluate_once)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        monkeypatch.setattr(training, "autocast_dtype", lambda device, dtype=dtype: dtype)
        if dtype == torch.float32:
            monkeypatch.setattr(training, "evaluate", evaluate)
        run = start(small_model(), base=FAST, epochs=3, resume=True)
    assert [row["epoch"] for row in run.read_history()] == [1, 2, 3]
    assert [part["precision"] for part in run.read_record()["resumed"]] == ["float16", "float32"]


def test_label_smoothing_is_for_training_and_not_for_validation(start, digits):
    def model():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

    still = {"learning_rate": 1e-30, "whitening": False, "flip": False, "shift": 0, "autocast": False}
    run = start(model(), base=FAST, label_smoothing=0.3, **still)
    (row,) = run.read_history()
    for column, indices, smoothing in (("train_loss", range(10), 0.3), ("valid_loss", range(20, 26), 0.0)):
        images, labels = zip(*(digits.train[i] for i in indices), strict=True)
        with torch.no_grad():
            expected = F.cross_entropy(model()(torch.stack(images)), torch.tensor(labels), label_smoothing=smoothing)
        assert row[column] == pytest.approx(expected.item(), rel=1e-5)
