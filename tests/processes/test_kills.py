"""Training in real processes: killed, interrupted, twice into one folder, on a full disk. Nothing is lost."""

import multiprocessing
import os
import random
import re
import signal
import sys
import time

import pytest
import torch
from small_run import assert_identical
from training_process import train_few_images

from alexnet_cifar10.runs import Run, find_run, load_checkpoint, load_state

# What a training imports, also late: else each process would take some seconds for it.
PRELOADED = ["alexnet_cifar10.train", "sklearn.datasets", "torch.utils.tensorboard", "torch._dynamo", "pytest"]


class Process:
    """`train_few_images` in a process, and what it says."""

    method = "forkserver" if sys.platform == "linux" else "spawn"  # the first starts in no time, others have it not

    def __init__(self, runs, said="said.txt", **how):
        context = multiprocessing.get_context(self.method)
        context.set_forkserver_preload(PRELOADED)
        self.said = runs / said
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


def epochs_in(runs, load=load_checkpoint):
    """Load every file of the run that is there, as a reader would; return the number of epochs that can be resumed."""
    run = Run(runs / "run")
    for checkpoint in (run.best_checkpoint, run.last_checkpoint):
        if checkpoint.exists():
            load(checkpoint)
    if (run.path / "run.json").exists():
        assert run.read_record()["run_name"] == "run"
    if (run.path / "history.csv").exists():
        history = run.read_history()
        assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
    return len(load_state(run.training_state)["history"]) if run.training_state.exists() else 0


def assert_goes_on_as_if_nothing_had_happened(runs, tmp_path, small=False):
    """One more epoch, and all of it is what a run without interruption gives."""
    epochs, undisturbed = epochs_in(runs, load_state) + 1, tmp_path / "undisturbed"
    for folder in (runs, undisturbed):
        with Process(folder, epochs=epochs, small=small) as process:
            assert process.wait() == 0
    assert_identical(Run(runs / "run"), Run(undisturbed / "run"))
    names = {path.name for path in (undisturbed / "run").iterdir()}
    assert {path.name for path in (runs / "run").iterdir()} == names, "no leftovers"


def test_twenty_kills_at_random_times_lose_nothing(tmp_path):
    with Process(tmp_path / "pace", epochs=10, small=True) as process:
        began = time.perf_counter()
        assert process.wait() == 0
    ten_epochs, chance, completed = time.perf_counter() - began, random.Random(20), [0]
    for _ in range(20 if Process.method == "forkserver" else 5):
        with Process(tmp_path / "runs", epochs=10_000, small=True) as process:
            time.sleep(chance.uniform(0, 1.5) * ten_epochs)
            assert process.process.is_alive()
        assert process.process.exitcode == KILLED
        completed.append(epochs_in(tmp_path / "runs", load_state))
    assert completed == sorted(completed) and completed[-1] > 5
    assert_goes_on_as_if_nothing_had_happened(tmp_path / "runs", tmp_path, small=True)


def test_a_kill_before_or_after_any_file_is_renamed_loses_nothing(tmp_path):
    completed = []
    for count in range(1, 13) if Process.method == "forkserver" else (4, 6):
        for after_it in (False, True):
            how = {"small": True, "die_at_rename": count, "after_it": after_it}
            with Process(tmp_path / "runs", epochs=10_000, **how) as process:
                assert process.wait() == (KILLED if os.name == "posix" else -KILLED)  # itself, not by its parent
            completed.append(epochs_in(tmp_path / "runs", load_state))
            assert_of_one_epoch(tmp_path / "runs")
    assert completed == sorted(completed) and completed[-1] > 1
    assert_goes_on_as_if_nothing_had_happened(tmp_path / "runs", tmp_path, small=True)


def assert_of_one_epoch(runs):
    """What notebooks 05 and 06 find is one epoch's: record, history, state, best and last weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS_ROOT", str(runs))
        run = find_run("digits")
    if run is None:  # no epoch was completed yet
        return
    result, history, state = run.read_record()["result"], run.read_history(), load_state(run.training_state)
    assert result["epochs"] == len(history) == len(state["history"])
    assert result["best_valid_accuracy"] == history[result["best_epoch"] - 1]["valid_accuracy"]
    last, best = load_state(run.last_checkpoint), load_state(run.best_checkpoint)
    assert all(torch.equal(last[key], value) for key, value in state["model"].items())
    assert result["best_epoch"] == state["monitor"]["best_epoch"]
    same = all(torch.equal(last[key], best[key]) for key in last)
    assert same == (result["best_epoch"] == len(history))


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


def test_eight_trainings_that_start_at_once_all_finish_and_each_is_told_its_own_result(tmp_path):
    """Half of them with a name, half without, with seeds of their own; in one folder of runs."""
    how = {"epochs": 2, "small": True, "resume": False}
    names = ["one", "two", "three", "four", None, None, None, None]
    started = [
        Process(tmp_path / "runs", said=f"said-{seed}.txt", name=name, seed=seed, **how)
        for seed, name in enumerate(names, start=40)
    ]
    found = set()
    for seed, (process, name) in enumerate(zip(started, names, strict=True), start=40):
        with process:
            assert process.wait() == 0
        said = process.said.read_text(encoding="utf-8")
        accuracy, told = re.search(r"best validation accuracy (\S+) in epoch .* run '(.*)'\.", said).groups()
        record = Run(tmp_path / "runs" / told).read_record()
        assert (name or told) == told and record["seed"] == seed
        assert f"{record['result']['best_valid_accuracy']:.3f}" == accuracy
        found.add(told)
    assert len(found) == len(names)


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
