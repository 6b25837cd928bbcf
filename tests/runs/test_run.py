"""The run folder: what is kept, resumed, refused, found again."""

import io
import os
import re
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_run import CPU, assert_identical, contents, interrupted_in, small_model, start_with
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import alexnet_cifar10
from alexnet_cifar10 import train as training
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.recipes import CLASSIC, FAST
from alexnet_cifar10.runs import CheckpointError, Run, TrainingError, find_run, here_and_now, is_run_name, load_state
from alexnet_cifar10.runs import run as runs_module
from alexnet_cifar10.runs.files import to_bytes
from alexnet_cifar10.runs.report import CURVES, Report


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, digits):
    """Five epochs in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS_ROOT", str(tmp_path_factory.mktemp("uninterrupted")))
        yield start_with(digits)(epochs=5)


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

    run = start(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", count_down)  # the first three are those of the start
        start(epochs=3, resume=True)
    kept = len(load_state(run.training_state)["history"])
    assert re.search(rf"Stopped: .*\b{kept} epochs? ", capsys.readouterr().out)
    result, history = run.read_record()["result"], run.read_history()
    assert result["epochs"] == len(history) == kept < 3
    assert result["best_valid_accuracy"] == history[result["best_epoch"] - 1]["valid_accuracy"]
    resumed = start(epochs=3, resume=True)
    assert_identical(resumed, start(epochs=3, run_name="undisturbed"))


@pytest.mark.parametrize("resume", [False, True], ids=["new", "going on"])
@pytest.mark.parametrize("where", ["here_and_now", "make_optimizer", "Report"])
def test_ctrl_c_before_the_first_step_ends_as_calmly_as_later(where, resume, start, monkeypatch, capsys):
    """Imports and large files take their time: that is when somebody sees what was forgotten."""

    def stop(*_):
        raise KeyboardInterrupt

    if resume:
        start(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(runs_module if where == "Report" else training, where, stop)
        run = start(epochs=2, resume=resume)
    assert "Stopped" in capsys.readouterr().out
    assert len(run.read_history()) == resume
    if where == "Report":
        assert run.read_record()["status"] == "interrupted"
    assert_identical(start(epochs=2, resume=True), start(epochs=2, run_name="undisturbed"))


def held_open(name, monkeypatch, tries):
    """As on Windows, where a file that Excel shows cannot be replaced: so many times, on a clock that needs no time."""
    now, refused, replace_file = [0.0], [], os.replace

    def replace_if_closed(source, target):
        if Path(target).name == name and Path(target).exists() and len(refused) < tries:
            refused.append(target)
            raise PermissionError(13, "Access is denied", str(source), None, str(target))
        replace_file(source, target)

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(os, "replace", replace_if_closed)
    monkeypatch.setattr(alexnet_cifar10, "time", SimpleNamespace(sleep=sleep))
    return now


@pytest.mark.parametrize("name", ["history.csv", "run.json", "last_checkpoint.pth"])
def test_a_file_that_another_program_has_open_is_waited_for_and_then_named(name, start, uninterrupted, monkeypatch):
    with monkeypatch.context() as patch:
        held_open(name, patch, tries=5)
        assert_identical(start(epochs=5), uninterrupted)
    with monkeypatch.context() as patch:
        now = held_open(name, patch, tries=10_000)
        with pytest.raises(CheckpointError, match=rf"{name} cannot be replaced: close the program that has it open"):
            start(epochs=5, run_name="second")
        assert 1.99 < now[0] < 10, "seconds that were waited, also to write down the end"
    assert_identical(start(epochs=5, run_name="second", resume=True), uninterrupted)


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", r"\ud559\uc2b5 \xf1"), ("cp949", r"학습 \xf1"), ("utf-8", "학습 ñ")]
)
def test_a_console_without_the_letters_of_a_name_stops_no_training(encoding, shown, start):
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with redirect_stdout(console):
        assert start(run_name="학습 ñ").read_record()["status"] == "finished"
    console.seek(0)
    assert f"run '{shown}'." in console.read()


def test_a_console_that_is_gone_stops_no_training(start):
    console = io.StringIO()
    console.close()
    with redirect_stdout(console):
        assert start().read_record()["status"] == "finished"


@pytest.mark.parametrize("name", ["", "NUL", "con", "COM1", "lpt¹", "aux.txt", "prn .tar.gz", "run.", "run ", "../run"])
def test_a_name_that_some_system_does_not_take_is_refused_with_the_reason(name, start, runs):
    with pytest.raises(TrainingError, match="is not one plain folder name .*Windows keeps for itself"):
        start(run_name=name)
    assert not runs.exists()


@pytest.mark.parametrize("name", ["console", "nullify", "com10", "auxiliary.txt", "a.con"])
def test_a_name_that_only_begins_like_one_of_windows_is_fine(name):
    assert is_run_name(name)


def test_more_epochs_go_on_and_tensorboard_has_no_point_twice(start, uninterrupted):
    for epochs in (2, 3, 5):
        model = small_model()
        if epochs > 2:
            nn.init.zeros_(model[0].weight)  # the weights of the model that is passed do not matter
        run = start(model, epochs=epochs, resume=True)
    assert_identical(run, uninterrupted)
    history = run.read_history()
    for half, chart, column in CURVES:
        events = EventAccumulator(str(run.tensorboard / half)).Reload().Scalars(chart)
        assert [event.step for event in events] == [1, 2, 3, 4, 5]
        assert [event.value for event in events] == pytest.approx([row[column] for row in history])


def test_the_record_keeps_what_a_run_was_begun_with_and_says_where_it_went_on(start, monkeypatch):
    began = start(epochs=1).read_record()
    elsewhere = {**here_and_now(CPU, torch.float32), "git_commit": "another commit"}
    monkeypatch.setattr(training, "here_and_now", lambda *_: elsewhere)
    record = start(epochs=3, resume=True).read_record()
    assert all(record[key] == began[key] for key in ("started", "machine", "git_commit", "seed"))
    assert record["recipe"]["epochs"] == 3 and record["result"]["epochs"] == 3
    (resumed,) = record["resumed"]
    assert resumed["epoch"] == 2 and resumed["git_commit"] == "another commit"
    assert set(resumed) == {"epoch", "started", "machine", "precision", "git_commit"}


def test_a_finished_run_that_is_resumed_does_nothing_and_says_so(start, monkeypatch, capsys):
    run = start(epochs=2)
    before, record = contents(run), run.read_record()
    capsys.readouterr()
    elsewhere = {**here_and_now(CPU, torch.float32), "git_commit": "another commit"}
    monkeypatch.setattr(training, "here_and_now", lambda *_: elsewhere)
    model = small_model()
    nn.init.zeros_(model[0].weight)
    start(model, epochs=2, resume=True)
    assert contents(run) == before
    assert run.read_record() == record | {"number": record["number"] + 1}, "it is the newest, and all else is as it was"
    assert "Finished (all its epochs are done)" in capsys.readouterr().out
    last = load_state(run.last_checkpoint)
    assert all(torch.equal(last[key], value) for key, value in model.state_dict().items()), "the cells below have it"


@pytest.fixture
def kept(start):
    """A run that exists, with the bytes of its files."""
    run = start(epochs=1)
    return run, contents(run)


def test_a_run_that_exists_is_not_overwritten_and_both_ways_out_are_named(start, kept):
    run, before = kept
    with pytest.raises(TrainingError, match="the run 'run' exists") as refusal:
        start(epochs=1)
    assert "resume = True" in str(refusal.value) and "another run_name" in str(refusal.value)
    assert contents(run) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_without_its_state_is_not_overwritten_either(resume, start, kept):
    """Somebody has deleted the largest file, or copied only the others."""
    run, _ = kept
    run.training_state.unlink()
    before = contents(run)
    with pytest.raises(TrainingError, match=r"exists, and it is not overwritten.* training_state\.pt is not there"):
        start(epochs=2, resume=resume)
    assert contents(run) == before


FILES = ["best_checkpoint.pth", "last_checkpoint.pth", "training_state.pt", "history.csv"]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", FILES)
def test_a_folder_with_any_file_of_a_run_is_not_trained_over(left, resume, start, kept):
    run, before = kept
    for name in FILES:
        if name != left:
            (run.path / name).unlink()
    with pytest.raises(TrainingError, match="the run 'run' exists, and it is not overwritten.* is not there"):
        start(epochs=2, resume=resume)
    assert contents(run) == {left: before[left]}


@pytest.mark.parametrize("name", FILES[:2])
def test_a_run_whose_weights_are_damaged_does_not_go_on_as_if_they_were_not(name, start, kept):
    run, before = kept
    (run.path / name).write_bytes(before[name][:-100])
    with pytest.raises(CheckpointError, match=f"{name} cannot be loaded"):
        start(epochs=1, resume=True)


@pytest.mark.parametrize("part", ["model", "optimizer", "monitor", "history"])
def test_a_state_with_an_empty_part_is_refused(part, start, kept):
    run, _ = kept
    state = load_state(run.training_state)
    run.training_state.write_bytes(to_bytes({**state, part: type(state[part])()}))
    with pytest.raises(CheckpointError, match="is not the state of this network's training"):
        start(epochs=2, resume=True)


def test_weights_of_another_network_beside_the_state_are_refused(start, kept):
    run, _ = kept
    run.best_checkpoint.write_bytes(to_bytes({"x": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="is not the state of this network's training"):
        start(epochs=2, resume=True)


def test_fewer_epochs_than_there_are_is_another_setting(start):
    start(epochs=2)
    with pytest.raises(TrainingError, match="epochs was 2, now 1"):
        start(epochs=1, resume=True)


def test_a_folder_of_something_else_is_not_trained_into(start, runs):
    (runs / "run" / "tensorboard").mkdir(parents=True)
    (runs / "run" / "tensorboard" / "mine").write_text("mine")
    with pytest.raises(CheckpointError, match="its run.json, .* is missing"):
        start()
    assert (runs / "run" / "tensorboard" / "mine").exists()


def test_a_recipe_whose_name_is_a_path_stays_in_the_folder_of_runs(start, runs):
    with pytest.raises(TrainingError, match="is not one plain folder name"):
        start(run_name=None, name="../elsewhere")
    assert not (runs.parent / "elsewhere").exists()


@pytest.mark.parametrize("error", [MemoryError("no room"), OSError(28, "No space left on device"), SystemExit(1)])
def test_whatever_ends_a_run_is_written_down(error, start, monkeypatch, runs):
    add = Report.add

    def fail_in_the_second_epoch(self, row, trigger=0):
        add(self, row, trigger)
        if row["epoch"] == 2:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(Report, "add", fail_in_the_second_epoch)
        with pytest.raises(type(error)):
            start(epochs=3)
    record = Run(runs / "run").read_record()
    assert record["status"] == "failed" and record["error"].startswith(type(error).__name__)
    assert record["result"]["epochs"] == len(Run(runs / "run").read_history()) == 2
    for epochs in (2, 3):  # with nothing left to do, and with an epoch to go
        run = start(epochs=epochs, resume=True)
        assert run.read_record()["status"] == "finished" and "error" not in run.read_record()


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
        start(epochs=2, resume=True, **how)
    assert difference in str(refusal.value) and "another run_name" in str(refusal.value)
    assert contents(run) == before


@pytest.mark.parametrize("change", [{"dataset": "cifar10"}, {"digests": {"pixels": "sha256:00"}}])
def test_resuming_on_other_data_is_refused(change, start, kept, digits):
    run, before = kept
    with pytest.raises(TrainingError, match="(data|pixels) was "):
        start(epochs=2, resume=True, provenance=replace(digits.provenance, **change))
    assert contents(run) == before


def test_a_run_without_a_name_gets_one_that_tells_what_it_is(start, digits):
    run = start(run_name=None, seed=3)
    assert re.fullmatch(r"classic-digits-seed3-\d{8}-\d{6}", run.name)
    assert find_run("digits").path == run.path


def test_resume_without_a_name_goes_on_with_the_newest_run(start, kept):
    start(run_name="newer")
    run = start(run_name=None, resume=True, epochs=2)
    assert run.name == "newer" and len(run.read_history()) == 2


def test_resume_starts_a_run_that_does_not_exist_yet_and_says_so(start, capsys):
    assert len(start(resume=True).read_history()) == 1
    assert "The run 'run' has no completed epoch to go on from: it begins now." in capsys.readouterr().out


def test_leftovers_of_a_process_that_was_killed_while_it_wrote_are_cleaned_up(start, kept):
    run, _ = kept
    before = {path.name for path in run.path.iterdir()}
    (run.path / ".saving.partial").mkdir()
    (run.path / ".saving.partial" / "best_checkpoint.pth").write_bytes(b"half a fi")
    start(epochs=1, resume=True)  # nothing is left to train, so that nothing else renames it
    assert {path.name for path in run.path.iterdir()} == before


def test_a_state_that_is_damaged_is_refused_and_left_alone(start, kept):
    run, _ = kept
    run.training_state.write_bytes(run.training_state.read_bytes()[:-100])
    before = contents(run)
    with pytest.raises(CheckpointError, match="training_state.pt cannot be loaded"):
        start(epochs=2, resume=True)
    assert contents(run) == before


def test_a_record_that_is_damaged_is_refused_and_the_files_are_left_alone(start, kept):
    run, before = kept
    (run.path / "run.json").write_text('{"run_name": "run", "sta')
    with pytest.raises(CheckpointError, match=r"the run 'run': its run\.json.* is missing or damaged"):
        start(epochs=2, resume=True)
    assert contents(run) == before


@pytest.mark.parametrize("kind", ["a checkpoint", "of another network"])
def test_a_state_of_something_else_is_refused_in_words(kind, start, kept):
    run, _ = kept
    if kind == "a checkpoint":
        run.training_state.write_bytes(run.best_checkpoint.read_bytes())
    model = None if kind == "a checkpoint" else nn.Sequential(nn.Dropout(0.2), nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(CheckpointError, match="is not the state of this network's training") as refusal:
        start(model, epochs=2, resume=True)
    assert "another run_name" in str(refusal.value)


def test_a_run_says_one_line_an_epoch_and_nothing_is_written_over(start, capsys):
    start(epochs=3)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert [line[:10] for line in lines] == ["Epoch  1/3", "Epoch  2/3", "Epoch  3/3", "Finished ("]
    assert all(word in lines[0] for word in ("train loss", "valid loss", "valid accuracy", "lr 1e-03", "images/s"))
    assert "handwritten digits" in lines[-1], "the data is named beside the result"
    assert "\r" not in printed and "\x1b" not in printed


def test_the_record_says_what_the_run_was_made_of(start, digits):
    record = start(epochs=2, seed=9).read_record()
    assert record["recipe"] == {**CLASSIC.as_record(), "dropout": [0.2], "epochs": 2, "batch_size": 4}
    assert record["precision"] == "float32"
    assert (record["seed"], record["train_images"], record["valid_images"]) == (9, 10, 6)
    assert record["data"]["digests"] == digits.provenance.digests
    assert record["machine"]["versions"]["torch"] == torch.__version__ and record["machine"]["device"] == "cpu"


def test_a_schedule_over_all_steps_cannot_be_made_longer_afterwards(start):
    run = start(base=FAST)
    before = contents(run)
    with pytest.raises(TrainingError, match="epochs was 1, now 2"):
        start(base=FAST, epochs=2, resume=True)
    assert contents(run) == before


def test_the_record_has_the_values_of_the_batches_and_of_the_model_that_were_used(start):
    record = start(AlexNet((0.0, 0.1, 0.2, 0.3, 0.4)), base=FAST, dropout=CLASSIC.dropout).read_record()
    assert record["recipe"]["dropout"] == [0.0, 0.1, 0.2, 0.3, 0.4]
