"""The loop: the original's behaviour on its own log, numbers that repeat, and a run that loses nothing."""

import math
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import Subset
from training_process import train_few_images

from alexnet_cifar10 import training
from alexnet_cifar10.checkpoints import CheckpointError, Run, load_checkpoint, load_model, load_state
from alexnet_cifar10.data import ImageDataset, ImageSet
from alexnet_cifar10.environment import seed_everything
from alexnet_cifar10.evaluation import evaluate
from alexnet_cifar10.loaders import DeviceLoader, make_data_loader
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.recipes import CLASSIC, FAST, LONG, choose_recipe
from alexnet_cifar10.training import (
    Monitor,
    TrainingError,
    find_or_train_run,
    make_optimizer,
    one_cycle,
    train,
    train_one_epoch,
)

CPU = torch.device("cpu")

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
    return optimizer, ReduceLROnPlateau(
        optimizer, mode="min", factor=recipe.plateau_factor, patience=recipe.plateau_patience
    )


def device_loader(dataset, indices, **options):
    return DeviceLoader(dataset, indices, device=CPU, **options)


def data_loader(dataset, indices, *, batch_size, **options):
    return make_data_loader(Subset(dataset, indices), batch_size, **options)


def start_with(digits):
    """A function that trains on a few digits; every part of it can be changed."""

    def start(
        model=None,
        *,
        images=10,
        valid=range(20, 26),
        loader=device_loader,
        seed=42,
        provenance=digits.provenance,
        run_name="run",
        resume=False,
        base=CLASSIC,
        augment=None,
        **recipe,
    ):
        recipe = replace(base, **{"epochs": 1, "batch_size": 4, **recipe})
        if model is None:
            seed_everything(seed)
            model = AlexNet(recipe.dropout)
        if augment is None:
            augment = {"flip": True, "shift": recipe.shift, "cutout": recipe.cutout} if recipe.flip else {}
        made = {"batch_size": recipe.batch_size, "seed": seed, **augment}
        try:
            return train(
                model,
                loader(digits.train, range(images), shuffle=True, **made),
                loader(digits.train, valid, batch_size=4, shuffle=False, seed=seed),
                recipe,
                provenance=provenance,
                seed=seed,
                run_name=run_name,
                resume=resume,
            )
        except KeyboardInterrupt:  # it would end the tests
            pytest.fail("the interrupt was not caught")

    return start


@pytest.fixture
def start(runs, digits):
    return start_with(digits)


def small_model():
    """A stand-in with the same kinds of layers, where it does not matter what learns."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
    )


def numbers(run):
    """A run's history without the seconds."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.read_history()]


def state_without_seconds(run):
    def plain(value):
        if isinstance(value, torch.Tensor):
            return (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key != "seconds"}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(load_state(run.training_state))


def assert_identical(run, other):
    """Both checkpoints byte by byte, the losses to the last bit, and all that resuming needs."""
    assert numbers(run) == numbers(other)
    assert run.best_checkpoint.read_bytes() == other.best_checkpoint.read_bytes()
    assert run.last_checkpoint.read_bytes() == other.last_checkpoint.read_bytes()
    assert state_without_seconds(run) == state_without_seconds(other)


def contents(run):
    """Every byte of a run, but for the lock, TensorBoard's files (named by time), and run.json."""
    names = ("best_checkpoint.pth", "last_checkpoint.pth", "training_state.pt", "history.csv")
    return {name: (run.path / name).read_bytes() for name in names if (run.path / name).exists()}


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

    def learn(model, loader, optimizer, after_step, **options):
        after_step(10)
        with torch.no_grad():
            model[5].bias += 1  # a mark on the weights: how many epochs they have seen
        result = next(log)
        monkeypatch.setattr(training, "evaluate", lambda *_: SimpleNamespace(loss=result[1], accuracy=result[2]))
        return result[0]

    with torch.no_grad():
        model[5].bias.zero_()
    monkeypatch.setattr(training, "train_one_epoch", learn)
    run = start(model, epochs=55)
    history = run.read_history()
    assert [(row["train_loss"], row["valid_loss"], row["valid_accuracy"]) for row in history] == [
        row[:3] for row in ORIGINAL_LOG
    ]
    assert [row["lr"] for row in history] == pytest.approx([1e-3] * 15 + [1e-4] * 6 + [1e-5] * 3)
    assert load_state(run.best_checkpoint)["5.bias"].tolist() == [22] * 10
    assert load_state(run.last_checkpoint)["5.bias"].tolist() == [24] * 10
    result = run.read_record()["result"]
    assert (result["epochs"], result["best_epoch"], result["best_valid_accuracy"]) == (24, 22, 0.874)
    assert result["stopped_early"] and run.read_record()["status"] == "finished"
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("Epoch ")]
    assert [int(line.split("trigger ")[1]) if "trigger" in line else 0 for line in lines] == [
        trigger for *_, trigger in ORIGINAL_LOG
    ]
    assert "best validation accuracy 0.874 in epoch 22" in printed


def test_classic_is_the_originals_recipe():
    assert (CLASSIC.batch_size, CLASSIC.learning_rate, CLASSIC.epochs, CLASSIC.patience) == (16, 1e-3, 55, 7)
    assert (CLASSIC.plateau_factor, CLASSIC.plateau_patience) == (0.1, 4)


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
    run = start(images=160, valid=valid, epochs=2, batch_size=8)
    first, last = run.read_history()
    assert last["train_loss"] < first["train_loss"] / 2
    assert last["valid_accuracy"] > 0.5  # by chance: 0.1
    valid_loader = device_loader(digits.train, valid, batch_size=50)
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
    loader, seen = DeviceLoader(digits.train, range(5), batch_size=4, device=CPU), []
    model = AlexNet()
    loss = train_one_epoch(model, loader, SGD(model.parameters(), lr=0.01), seen.append)
    assert seen == [4] and math.isfinite(loss)


def poisoned(dataset, indices, **options):
    """Batches that turn infinite at the second step of the second epoch, as a bad data pipeline would make them."""

    class Poisoned(DeviceLoader):
        def __iter__(self):
            for step, (images, labels) in enumerate(super().__iter__(), start=1):
                at_fault = step == 2 and getattr(self.sampler, "epoch", None) == 2
                yield images * math.inf if at_fault else images, labels

    return Poisoned(dataset, indices, device=CPU, **options)


def test_a_loss_that_is_not_finite_stops_the_run_names_the_place_and_keeps_the_files(start):
    run = start(small_model(), epochs=1)
    before = contents(run)
    with pytest.raises(TrainingError) as refusal:
        start(small_model(), epochs=3, resume=True, loader=poisoned)
    message = str(refusal.value)
    assert message.startswith("Run 'run', epoch 2: the training loss of step 2 is nan, not a finite number.")
    assert "The checkpoints of epoch 1 are kept" in message and "learning_rate" in message
    assert contents(run) == before and run.read_record()["status"] == "failed"
    load_state(run.best_checkpoint)
    assert len(start(small_model(), epochs=2, resume=True).read_history()) == 2, "with good images it goes on"


def test_a_loss_that_is_not_finite_ends_the_epoch_at_once(digits):
    loader, seen = poisoned(digits.train, range(12), batch_size=3, shuffle=True), []
    loader.sampler.set_epoch(2)
    model = small_model()
    with pytest.raises(TrainingError, match="step 2"):
        train_one_epoch(model, loader, SGD(model.parameters(), lr=0.01), seen.append)
    assert seen == [3, 6]


def test_a_validation_loss_that_is_not_finite_is_no_improvement_but_an_end(start, runs, monkeypatch):
    monkeypatch.setattr(training, "evaluate", lambda *_: SimpleNamespace(loss=math.nan, accuracy=0.9))
    with pytest.raises(TrainingError, match="epoch 1: the validation loss is nan.* No epoch was completed"):
        start(small_model())
    assert not (runs / "run" / "best_checkpoint.pth").exists()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"epochs": 0}, "epochs = 0: training needs at least one epoch"),
        ({"batch_size": 11}, "batch_size = 11: there are only 10 training images"),
        ({"valid": []}, "no validation images"),
        ({"images": 0}, "only 0 training images"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(how, why, start, runs):
    with pytest.raises(TrainingError, match=why):
        start(small_model(), loader=data_loader, **how)
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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_gives_the_same_bytes_as_images_held_on_the_device(num_workers, start, two_epochs):
    loader = partial(data_loader, num_workers=num_workers)
    assert_identical(start(epochs=2, run_name="second", loader=loader), two_epochs)


def test_what_is_validated_does_not_change_what_is_learnt(start, two_epochs):
    other = start(epochs=2, run_name="second", valid=range(500, 530))
    assert other.last_checkpoint.read_bytes() == two_epochs.last_checkpoint.read_bytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_command_gives_the_same_bytes_on_cuda(digits, runs):
    cuda = torch.device("cuda")

    def twice(name):
        seed_everything(42)
        model = AlexNet().to(cuda)
        loaders = (
            DeviceLoader(digits.train, range(400), batch_size=16, device=cuda, shuffle=True),
            DeviceLoader(digits.train, range(400, 500), batch_size=50, device=cuda),
        )
        return train(model, *loaders, replace(CLASSIC, epochs=2), provenance=digits.provenance, run_name=name)

    assert_identical(twice("first"), twice("second"))


# --- a run that stops and goes on ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, digits):
    """Five epochs in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS_ROOT", str(tmp_path_factory.mktemp("uninterrupted")))
        yield start_with(digits)(epochs=5)


def interrupted_in(epoch):
    """A loader whose second batch of an epoch never comes: somebody presses the stop button."""

    def loader(dataset, indices, **options):
        class Interrupted(DeviceLoader):
            def __iter__(self):
                for step, batch in enumerate(super().__iter__(), start=1):
                    if step == 2 and getattr(self.sampler, "epoch", None) == epoch:
                        raise KeyboardInterrupt
                    yield batch

        return Interrupted(dataset, indices, device=CPU, **options)

    return loader


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 5])
def test_a_run_that_was_interrupted_in_any_epoch_ends_as_if_it_had_not_been(epoch, start, uninterrupted, capsys):
    run = start(epochs=5, loader=interrupted_in(epoch))
    printed = capsys.readouterr().out
    assert "To go on: resume = True with run_name = 'run'." in printed
    assert re.search(rf"Stopped: .*\b{epoch - 1} epoch" if epoch > 1 else "no epoch was completed yet", printed)
    assert run.read_record()["status"] == "interrupted"
    resumed = start(epochs=5, resume=True)
    assert_identical(resumed, uninterrupted)
    earlier = [f"Epoch {number:2d}/5" for number in range(1, 6)]
    assert re.findall(r"^Epoch +\d+/5", capsys.readouterr().out, re.M) == earlier, "the notebook shows the whole"


@pytest.mark.parametrize("count", range(4, 9))
def test_ctrl_c_while_a_file_is_written_counts_the_epochs_that_are_kept(count, start, runs, monkeypatch, capsys):
    replace_file, left = os.replace, count

    def count_down(source, target):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        replace_file(source, target)

    run = start(small_model(), epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", count_down)  # the first three are those of the start
        start(small_model(), epochs=3, resume=True)
    kept = len(load_state(run.training_state)["history"])
    assert re.search(rf"Stopped: .*\b{kept} epochs? ", capsys.readouterr().out)
    result, history = run.read_record()["result"], run.read_history()
    assert result["epochs"] == len(history) == kept < 3
    assert result["best_valid_accuracy"] == history[result["best_epoch"] - 1]["valid_accuracy"]
    resumed = start(small_model(), epochs=3, resume=True)
    assert_identical(resumed, start(small_model(), epochs=3, run_name="undisturbed"))


def test_more_epochs_go_on_and_tensorboard_has_no_point_twice(start, uninterrupted):
    for epochs in (2, 3, 5):
        seed_everything(99)  # the weights of the model that is passed do not matter
        run = start(AlexNet() if epochs > 2 else None, epochs=epochs, resume=True)
    assert_identical(run, uninterrupted)
    history = run.read_history()
    for half, chart, column in training.CURVES:
        events = EventAccumulator(str(run.tensorboard / half)).Reload().Scalars(chart)
        assert [event.step for event in events] == [1, 2, 3, 4, 5]
        assert [event.value for event in events] == pytest.approx([row[column] for row in history])


def test_the_record_keeps_what_a_run_was_begun_with_and_says_where_it_went_on(start, monkeypatch):
    began = start(small_model(), epochs=1).read_record()
    monkeypatch.setattr(training, "git_commit", lambda: "another commit")
    record = start(small_model(), epochs=3, resume=True).read_record()
    assert all(record[key] == began[key] for key in ("started", "machine", "versions", "git_commit", "seed"))
    assert record["recipe"]["epochs"] == 3 and record["result"]["epochs"] == 3
    (resumed,) = record["resumed"]
    assert resumed["epoch"] == 2 and resumed["git_commit"] == "another commit"
    assert set(resumed) == {"epoch", "started", "device", "machine", "threads", "precision", "versions", "git_commit"}


def test_a_finished_run_that_is_resumed_does_nothing_and_says_so(start, monkeypatch, capsys):
    run = start(epochs=2)
    before, record = contents(run), (run.path / "run.json").read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(training, "git_commit", lambda: "another commit")
    model = AlexNet()
    start(model, epochs=2, resume=True)
    assert contents(run) == before and (run.path / "run.json").read_bytes() == record
    assert "Finished (all its epochs are done)" in capsys.readouterr().out
    last = load_checkpoint(run.last_checkpoint)
    assert all(torch.equal(last[key], value) for key, value in model.state_dict().items()), "the cells below have it"


@pytest.fixture
def kept(start):
    """A run that exists, with the bytes of its files."""
    run = start(small_model(), epochs=1)
    return run, contents(run)


def test_a_run_that_exists_is_not_overwritten_and_both_ways_out_are_named(start, kept):
    run, before = kept
    with pytest.raises(TrainingError, match="the run 'run' exists") as refusal:
        start(small_model(), epochs=1)
    assert "resume = True" in str(refusal.value) and "another run_name" in str(refusal.value)
    assert contents(run) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_without_its_state_is_not_overwritten_either(resume, start, kept):
    """Somebody has deleted the largest file, or copied only the others."""
    run, _ = kept
    run.training_state.unlink()
    before = contents(run)
    with pytest.raises(TrainingError, match=r"exists, and it is not overwritten.* training_state\.pt is not there"):
        start(small_model(), epochs=2, resume=resume)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("how", "difference"),
    [
        ({"seed": 7}, "seed was 42, now 7"),
        ({"learning_rate": 0.01}, "learning_rate was 0.001, now 0.01"),
        ({"batch_size": 5}, "batch_size was 4, now 5"),
        ({"patience": 3}, "patience was 7, now 3"),
        ({"name": "other"}, "name was 'classic', now 'other'"),
        ({"images": 12}, "train_images was 10, now 12"),
        ({"valid": range(20, 27)}, "valid_images was 6, now 7"),
    ],
)
def test_resuming_with_other_settings_is_refused_with_the_difference(how, difference, start, kept):
    run, before = kept
    with pytest.raises(TrainingError, match="cannot be resumed with other settings") as refusal:
        start(small_model(), epochs=2, resume=True, **how)
    assert difference in str(refusal.value) and "another run_name" in str(refusal.value)
    assert contents(run) == before


@pytest.mark.parametrize("change", [{"dataset": "CIFAR-10"}, {"digests": {"pixels": "sha256:00"}}])
def test_resuming_on_other_data_is_refused(change, start, kept, digits):
    run, before = kept
    with pytest.raises(TrainingError, match="data was "):
        start(small_model(), epochs=2, resume=True, provenance=replace(digits.provenance, **change))
    assert contents(run) == before


def test_a_run_without_a_name_gets_one_that_tells_what_it_is_and_is_the_latest(start, runs):
    run = start(small_model(), run_name=None, seed=3)
    assert re.fullmatch(r"classic-digits-seed3-\d{8}-\d{6}", run.name)
    assert (runs / "latest").read_text().strip() == run.name


def test_resume_without_a_name_goes_on_with_the_newest_run(start, kept):
    start(small_model(), run_name="newer")
    run = start(small_model(), run_name=None, resume=True, epochs=2)
    assert run.name == "newer" and len(run.read_history()) == 2


def test_resume_starts_a_run_that_does_not_exist_yet_and_says_so(start, capsys):
    assert len(start(small_model(), resume=True).read_history()) == 1
    assert "There is no run 'run' to go on with: it begins now." in capsys.readouterr().out


def test_leftovers_of_a_process_that_was_killed_while_it_wrote_are_cleaned_up(start, kept):
    run, _ = kept
    before = {path.name for path in run.path.iterdir()}
    (run.path / ".best_checkpoint.pth.partial").write_bytes(b"half a fi")
    start(small_model(), epochs=1, resume=True)  # nothing is left to train, so that nothing else renames it
    assert {path.name for path in run.path.iterdir()} == before


def test_a_state_that_is_damaged_is_refused_and_left_alone(start, kept):
    run, _ = kept
    run.training_state.write_bytes(run.training_state.read_bytes()[:-100])
    before = contents(run)
    with pytest.raises(CheckpointError, match="training_state.pt cannot be loaded"):
        start(small_model(), epochs=2, resume=True)
    assert contents(run) == before


def test_a_record_that_is_damaged_is_refused_and_the_files_are_left_alone(start, kept):
    run, before = kept
    (run.path / "run.json").write_text('{"run_name": "run", "sta')
    with pytest.raises(CheckpointError, match=r"the run 'run': its run\.json.* is missing or damaged"):
        start(small_model(), epochs=2, resume=True)
    assert contents(run) == before


@pytest.mark.parametrize("kind", ["a checkpoint", "of another network"])
def test_a_state_of_something_else_is_refused_in_words(kind, start, kept):
    run, _ = kept
    if kind == "a checkpoint":
        run.training_state.write_bytes(run.best_checkpoint.read_bytes())
    model = small_model() if kind == "a checkpoint" else nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(CheckpointError, match="is not the state of this network's training") as refusal:
        start(model, epochs=2, resume=True)
    assert "another run_name" in str(refusal.value)


def test_a_run_says_one_line_an_epoch_and_nothing_is_written_over(start, capsys):
    start(small_model(), epochs=3)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert [line[:10] for line in lines] == ["Epoch  1/3", "Epoch  2/3", "Epoch  3/3", "Finished ("]
    assert all(word in lines[0] for word in ("train loss", "valid loss", "valid accuracy", "lr 1e-03", "images/s"))
    assert "handwritten digits" in lines[-1], "the data is named beside the result"
    assert "\r" not in printed and "\x1b" not in printed


def test_the_record_says_what_the_run_was_made_of(start, digits):
    record = start(small_model(), epochs=2, seed=9).read_record()
    assert record["recipe"] == {**vars(CLASSIC), "dropout": list(CLASSIC.dropout), "epochs": 2, "batch_size": 4}
    assert record["precision"] == "float32"
    assert (record["seed"], record["train_images"], record["valid_images"]) == (9, 10, 6)
    assert record["data"]["digests"] == digits.provenance.digests
    assert record["versions"]["torch"] == torch.__version__ and record["device"] == "cpu"


# --- the recipe FAST, through the same loop -----------------------------------------------------------------------


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def precision(request, monkeypatch):
    """As on a processor that is fast at this type."""
    monkeypatch.setattr(training, "autocast_dtype", lambda device: request.param)
    return request.param


def test_fast_repeats_and_resumes_to_the_last_bit_in_every_precision(precision, start):
    few = {"images": 6, "valid": range(20, 22), "epochs": 2}
    whole = start(base=LONG, **few, run_name="whole")  # FAST, and more
    assert whole.read_record()["precision"] == str(precision).removeprefix("torch.")
    start(base=LONG, **few, loader=interrupted_in(2))
    run = start(base=LONG, **few, resume=True)
    assert_identical(run, whole)
    assert all(value.dtype in (torch.float32, torch.int64) for value in load_state(run.best_checkpoint).values())


def test_fast_learns_the_digits(start):
    # mirrored digits are no digits, so not with flips
    run = start(base=FAST, flip=False, shift=0, images=120, valid=range(300, 360), epochs=2, batch_size=8)
    first, last = run.read_history()
    assert last["train_loss"] < first["train_loss"] and last["valid_accuracy"] > 0.5


def test_sixteen_bits_are_really_used_and_change_the_numbers_only_a_little(start, monkeypatch):
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(training, "autocast_dtype", lambda device, dtype=dtype: dtype)
        (row,) = start(base=FAST, learning_rate=1e-4, run_name=str(dtype)).read_history()
        losses.append((row["train_loss"], row["valid_loss"]))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_one_cycle_rises_and_then_falls_to_nearly_nothing_over_all_steps(start, monkeypatch):
    rates, train_once = [], training.train_one_epoch

    def watch(model, loader, optimizer, after_step, **options):
        def after(seen):
            rates.append(optimizer.param_groups[0]["lr"])
            after_step(seen)

        return train_once(model, loader, optimizer, after, **options)

    monkeypatch.setattr(training, "train_one_epoch", watch)
    start(small_model(), base=FAST, images=40, epochs=2, learning_rate=0.06, warm_up=0.25)  # 2 x 10 steps
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
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    train_one_epoch(model, loader, optimizer, precision=torch.float16, scaler=scaler)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    scaler.update(1024.0)
    train_one_epoch(model, loader, optimizer, precision=torch.float16, scaler=scaler)
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

    run = start(model(), base=FAST, flip=False, shift=0, label_smoothing=0.3, autocast=False, learning_rate=1e-30)
    (row,) = run.read_history()
    for column, indices, smoothing in (("train_loss", range(10), 0.3), ("valid_loss", range(20, 26), 0.0)):
        images, labels = zip(*(digits.train[i] for i in indices), strict=True)
        with torch.no_grad():
            expected = F.cross_entropy(model()(torch.stack(images)), torch.tensor(labels), label_smoothing=smoothing)
        assert row[column] == pytest.approx(expected.item(), rel=1e-5)


def test_a_schedule_over_all_steps_cannot_be_made_longer_afterwards(start):
    run = start(small_model(), base=FAST)
    before = contents(run)
    with pytest.raises(TrainingError, match="epochs was 1, now 2"):
        start(small_model(), base=FAST, epochs=2, resume=True)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"augment": {}}, "flip = True, here it is False: DeviceLoader(flip=True"),
        ({"augment": {"flip": True, "shift": 1}}, "shift = 2, here it is 1: DeviceLoader(shift=2"),
        ({"base": LONG, "augment": {"flip": True, "shift": 4}}, "cutout = 10, here it is 0: DeviceLoader(cutout=10"),
        ({"base": CLASSIC, "augment": {"batch_size": 5}}, "batch_size = 4, here it is 5: DeviceLoader(batch_size=4"),
        ({"base": CLASSIC, "augment": {"seed": 7}}, "seed = 42, here it is 7: DeviceLoader(seed=42"),
        ({"model": AlexNet()}, r"dropout = (0.0, 0.0, 0.0, 0.0, 0.0), here it is (0.1, 0.3, 0.1, 0.3, 0.1): AlexNet("),
    ],
)
def test_a_run_whose_record_would_not_be_true_is_refused(how, said, start, runs):
    with pytest.raises(TrainingError, match=re.escape(said)):
        start(**{"base": FAST, **how})
    assert not runs.exists()


def test_a_run_recorded_before_recipes_had_more_values_can_be_resumed(start):
    whole = start(small_model(), epochs=2, run_name="whole")
    run = start(small_model(), epochs=1)
    record = run.read_record()
    for key in ("optimizer", "schedule", "dropout", "weight_decay", "flip", "shift", "cutout", "autocast"):
        del record["recipe"][key]
    run.write_record(record)
    assert_identical(start(small_model(), epochs=2, resume=True), whole)


def test_a_run_recorded_before_there_was_a_value_is_not_resumed_with_it(start):
    run = start(base=FAST, epochs=2, loader=interrupted_in(2))
    record = run.read_record()
    del record["recipe"]["weight_decay"]
    run.write_record(record)
    with pytest.raises(TrainingError, match="weight_decay was 0.0, now 0.1"):
        start(base=FAST, epochs=2, weight_decay=0.1, resume=True)
    assert len(start(base=FAST, epochs=2, resume=True).read_history()) == 2


# --- the short run that notebooks 05 and 06 train for themselves --------------------------------------------------


@pytest.fixture
def few_images(digits):
    data = ImageDataset(digits.train.data[:60], digits.train.targets[:60], digits.classes)
    return ImageSet(data, data, digits.classes, digits.provenance)


def test_without_a_run_a_short_one_is_trained_and_with_one_it_is_taken(few_images, runs, capsys):
    run = find_or_train_run(few_images, CPU)
    assert "There is no run on handwritten digits yet" in capsys.readouterr().out
    assert len(run.read_history()) == 1
    assert find_or_train_run(few_images, CPU) == run
    assert capsys.readouterr().out == ""


def test_a_run_that_is_named_and_does_not_exist_is_not_trained_instead(few_images, runs):
    with pytest.raises(CheckpointError, match="there is no such run"):
        find_or_train_run(few_images, CPU, "frist")
    assert not runs.exists()


# --- recipes ------------------------------------------------------------------------------------------------------


def test_a_recipe_takes_what_is_given_and_keeps_the_rest(monkeypatch):
    monkeypatch.delenv("TUTORIAL_SMOKE")
    assert choose_recipe("classic") == CLASSIC
    assert choose_recipe("classic", epochs=3, patience=0) == replace(CLASSIC, epochs=3, patience=0)
    assert choose_recipe("fast") == FAST


def test_a_smoke_run_is_one_epoch_unless_epochs_are_named(monkeypatch):
    monkeypatch.setenv("TUTORIAL_SMOKE", "1")
    assert choose_recipe("classic").epochs == 1
    assert choose_recipe("classic", epochs=2).epochs == 2


# --- real processes -----------------------------------------------------------------------------------------------


class Process:
    """`train_few_images` in a process, and what it says."""

    method = "forkserver" if sys.platform == "linux" else "spawn"  # the first starts in no time, others have it not

    def __init__(self, runs, **how):
        context = multiprocessing.get_context(self.method)
        context.set_forkserver_preload(["alexnet_cifar10.training"])
        self.said = runs / "said.txt"
        runs.mkdir(exist_ok=True)
        self.ready, end = context.Pipe(duplex=False)
        self.process = context.Process(target=train_few_images, args=(runs, self.said, end), kwargs=how, daemon=True)
        self.process.start()
        end.close()

    def __enter__(self):
        self.ready.recv()  # it begins to train
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.join()
        self.ready.close()

    def wait(self):
        self.process.join(timeout=300)
        return self.process.exitcode

    def wait_for_first_epoch(self):
        history = self.said.parent / "run" / "history.csv"
        while not history.exists() or len(history.read_text().splitlines()) < 2:
            assert self.process.is_alive(), self.said.read_text(encoding="utf-8")
            time.sleep(0.01)


needs_posix = pytest.mark.skipif(os.name != "posix", reason="signals and resource limits are POSIX here")
KILLED = -getattr(signal, "SIGKILL", signal.SIGTERM)


def epochs_in(runs):
    """Load every file of the run that is there, as a reader would; return the number of epochs that can be resumed."""
    run = Run(runs / "run")
    for checkpoint in (run.best_checkpoint, run.last_checkpoint):
        if checkpoint.exists():
            load_checkpoint(checkpoint)
    if (run.path / "run.json").exists():
        assert run.read_record()["run_name"] == "run"
    if (run.path / "history.csv").exists():
        history = run.read_history()
        assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
    if (runs / "latest").exists():
        assert (runs / "latest").read_text() == "run\n"
    return len(load_state(run.training_state)["history"]) if run.training_state.exists() else 0


def assert_goes_on_as_if_nothing_had_happened(runs, tmp_path):
    """One more epoch, and all of it is what a run without interruption gives."""
    epochs, undisturbed = epochs_in(runs) + 1, tmp_path / "undisturbed"
    for folder in (runs, undisturbed):
        with Process(folder, epochs=epochs) as process:
            assert process.wait() == 0
    assert_identical(Run(runs / "run"), Run(undisturbed / "run"))
    names = {path.name for path in (undisturbed / "run").iterdir()}
    assert {path.name for path in (runs / "run").iterdir()} == names, "no leftovers"


def test_twenty_kills_at_random_times_lose_nothing(tmp_path):
    with Process(tmp_path / "pace", epochs=4) as process:
        began = time.perf_counter()
        assert process.wait() == 0
    an_epoch, chance, completed = (time.perf_counter() - began) / 4, random.Random(20), [0]
    for _ in range(20 if Process.method == "forkserver" else 5):
        with Process(tmp_path / "runs", epochs=10_000) as process:
            time.sleep(chance.uniform(0, 2) * an_epoch)
            assert process.process.is_alive()
        assert process.process.exitcode == KILLED
        completed.append(epochs_in(tmp_path / "runs"))
    assert completed == sorted(completed)
    assert_goes_on_as_if_nothing_had_happened(tmp_path / "runs", tmp_path)


def test_a_kill_before_or_after_any_file_is_renamed_loses_nothing(tmp_path):
    completed = []
    for count in range(1, 9) if Process.method == "forkserver" else (4, 6):
        for after_it in (False, True):
            with Process(tmp_path / "runs", epochs=10_000, die_at_rename=count, after_it=after_it) as process:
                assert process.wait() == KILLED
            completed.append(epochs_in(tmp_path / "runs"))
    assert completed == sorted(completed) and completed[-1] > 1
    assert_goes_on_as_if_nothing_had_happened(tmp_path / "runs", tmp_path)


@needs_posix
def test_ctrl_c_ends_calmly_and_the_run_goes_on_later(tmp_path):
    with Process(tmp_path / "runs", epochs=10_000) as process:
        process.wait_for_first_epoch()
        os.kill(process.process.pid, signal.SIGINT)
        assert process.wait() == 0
    *_, stopped, below = process.said.read_text(encoding="utf-8").splitlines()
    assert stopped.startswith("Stopped: ") and stopped.endswith("To go on: resume = True with run_name = 'run'.")
    assert below == "The cells below go on."
    assert re.search(r"\b\d+ epochs? ", stopped)
    assert_goes_on_as_if_nothing_had_happened(tmp_path / "runs", tmp_path)


def test_a_second_process_cannot_train_into_the_same_folder_until_the_first_is_gone(tmp_path):
    with Process(tmp_path / "runs", epochs=10_000) as first:
        first.wait_for_first_epoch()
        with Process(tmp_path / "runs", epochs=1) as second:
            assert second.wait() == 0
        said = first.said.read_text(encoding="utf-8")
        assert "TrainingError: another process is training into the run 'run'" in said and "another run_name" in said
        assert first.process.is_alive()
    with Process(tmp_path / "runs", epochs=epochs_in(tmp_path / "runs")) as third:
        assert third.wait() == 0
    assert "Finished" in first.said.read_text(encoding="utf-8"), "the death of the first has freed the folder"


@needs_posix
@pytest.mark.parametrize("room", [1_000_000, 30_000_000], ids=["for no checkpoint", "for all but the state"])
def test_a_disk_that_is_full_stops_the_run_and_the_last_good_files_stay(room, tmp_path):
    runs = tmp_path / "runs"
    with Process(runs, epochs=1) as process:
        assert process.wait() == 0
    state = load_state(runs / "run" / "training_state.pt")
    with Process(runs, epochs=2, largest_file=room) as process:
        assert process.wait() == 0
    error, below = process.said.read_text(encoding="utf-8").splitlines()[-2:]
    assert re.match(r"CheckpointError: \S+ cannot be written into .*: File too large\. .* Free some space", error)
    assert below == "The cells below go on."
    assert epochs_in(runs) == 1
    assert load_state(runs / "run" / "training_state.pt")["monitor"] == state["monitor"]
    assert_goes_on_as_if_nothing_had_happened(runs, tmp_path)
