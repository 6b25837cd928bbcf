"""The folder of one training run: chosen, locked, resumed, saved, found again."""

import csv
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alexnet_cifar10 import named_folder, project_root, say
from alexnet_cifar10.data import Provenance
from alexnet_cifar10.runs.files import CheckpointError, checkpoint_bytes, load_state, settle, to_bytes, write_together
from alexnet_cifar10.runs.machine import describe_machine
from alexnet_cifar10.runs.report import Report, last_words

HISTORY_COLUMNS = ("epoch", "train_loss", "valid_loss", "valid_accuracy", "lr", "seconds")

RUN_NAME = (  # what `is_run_name` allows
    "one plain folder name (at most 80 letters, digits and _, between them also spaces and . , + = -; not notebooks, "
    "con, nul, com1 or another name that Windows keeps for itself)"
)
HINT = "Move its folder away, or choose another run_name."


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says where, why and what to do."""


def runs_root() -> Path:
    """The folder that holds one folder per training run: `$RUNS_ROOT`, or `runs/` in the project."""
    return named_folder("RUNS_ROOT") or project_root() / "runs"


def is_run_name(value: Any) -> bool:
    """True for a folder name of at most 240 bytes that every system takes and runs/ does not use itself."""
    if not isinstance(value, str) or len(value.encode()) > 240:
        return False
    used = re.match(r"notebooks$|(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\.|$)", value, re.IGNORECASE)
    return bool(not used and re.fullmatch(r"\w[\w .,+=-]{0,78}\w|\w", value))


def new_folder(root: Path, name: str) -> Path:
    """Make the folder `name` in `root`, or `name`-2, -3, ...: others may do the same in the same second."""
    root.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        path = root / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            return path


class Run:
    """The folder `runs/<name>/` of one training run.

    `best_checkpoint`: the `state_dict` of the epoch with the highest validation accuracy; `last_checkpoint`: that of
    the last completed epoch; `training_state`: all that resuming needs.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self.best_checkpoint, self.last_checkpoint = path / "best_checkpoint.pth", path / "last_checkpoint.pth"
        self.training_state, self.history_csv = path / "training_state.pt", path / "history.csv"
        self.tensorboard = path / "tensorboard"

    def read_record(self) -> dict[str, Any]:
        """`run.json`: recipe, seed, data, machine, versions, result. Raises `CheckpointError` if it is not that."""
        try:
            record = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            data, result, recipe = record["data"], record["result"], record["recipe"]
            describe_machine(record["machine"])
            numbers = (record["number"], record["seed"], recipe["epochs"], result["epochs"], result["best_epoch"])
            more = record["status"], data["dataset"], data["label"], data.get("digests", {}), record.get("resumed", [])
            kinds = [type(value) for value in (*more, result["best_valid_accuracy"])]
            as_written = kinds == [str, str, str, dict, list, float if result["epochs"] else type(None)]
            if not as_written or any(type(value) is not int or not 0 <= value < 2**53 for value in numbers):
                raise TypeError("a value is of another kind")
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"the run {self.name!r}: its run.json, which says what was trained on what, is missing or damaged "
                f"({type(error).__name__}: {error}). {HINT}"
            ) from error
        return record

    def read_history(self) -> list[dict[str, float]]:
        """`history.csv`: a row per epoch, `HISTORY_COLUMNS`. Losses are means per image, `lr` is the first step's."""
        try:
            text = self.history_csv.read_text(encoding="utf-8") if self.history_csv.exists() else ""  # no epoch yet
            rows = csv.DictReader(text.splitlines())
            return [{key: float(row[key]) for key in HISTORY_COLUMNS} | {"epoch": int(row["epoch"])} for row in rows]
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise CheckpointError(f"the run {self.name!r}: its history.csv is damaged ({error!r}). {HINT}") from error


def find_run(dataset: str, name: str | None = None) -> Run | None:
    """The run called `name`; without a name the newest on `dataset` ("cifar10" or "digits") that has a best model.

    The newest is the one that was started or resumed last. Returns None when there is none. Raises `CheckpointError`
    when the run that was named does not exist, is damaged or was trained on other data.
    """
    found = {run.name: (run, record) for run, record in _runs() if os.path.isfile(run.best_checkpoint)}
    if name is None:
        for _, damaged in found.values():
            if isinstance(damaged, CheckpointError):
                say(f"Passed over: {damaged}")
        good = [(run, record) for run, record in found.values() if isinstance(record, dict)]
        newest = {record["number"]: run for run, record in good if record["data"]["dataset"] == dataset}
        return newest[max(newest)] if newest else None
    if name not in found:
        raise CheckpointError(f"run_name = {name!r}: no such run has a model. Runs: {', '.join(found) or 'none yet'}.")
    run, record = found[name]
    if isinstance(record, CheckpointError):
        raise record
    if record["data"]["dataset"] != dataset:
        hint = f"but the data loaded here is {dataset}. Set data or run_name so that they match."
        raise CheckpointError(f"run_name = {name!r}: this run was trained on {record['data']['dataset']}, {hint}")
    return run


def _runs() -> Iterator[tuple[Run, dict[str, Any] | CheckpointError]]:
    """All runs, by name, each with its record or with what is wrong with it."""
    for path in sorted(runs_root().glob("*/")):
        run = Run(path)
        try:
            record = run.read_record()
            with suppress(OSError):  # somebody else's
                settle(path, tries=1)  # now, so that the history is at least of the record's epoch
            if not record["result"]["best_epoch"] <= record["result"]["epochs"] <= len(run.read_history()):
                raise CheckpointError(f"the run {run.name!r}: its history.csv lacks epochs of its run.json. {HINT}")
        except CheckpointError as error:
            record = error
        yield run, record


class TrainingRun(Run):
    """A run that is trained now: what `train` needs of the world outside.

    With `resume`, the run called `name`, or the newest one on this data, goes on after its last completed epoch.
    """

    def __init__(self, provenance: Provenance, name: str | None = None, *, resume: bool = False) -> None:
        super().__init__(runs_root() / (name or ".new"))  # without a name, `begin` finds one
        self.provenance, self.wanted, self.resume = provenance, name, resume
        self.history: list[dict[str, float]] = []
        self.began = False  # true when it has written a file
        self.was_interrupted = False
        self.progress = lambda batches, epoch: batches  # until there is a report, which only the first process has

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Write down how the run ends, whatever ends it. Ctrl-C and the stop button end it calmly."""
        with ExitStack() as self.held:
            try:
                yield
                self._end("finished")
            except KeyboardInterrupt:
                self.was_interrupted = True
                self._end("interrupted")
            except BaseException as error:
                if not self.began:
                    raise
                with suppress(CheckpointError, OSError):  # the disk may be full: what matters is the first error
                    self._end("failed", error=f"{type(error).__name__}: {error}")
                if isinstance(error, TrainingError):
                    epochs = len(self.history)
                    kept = "What earlier epochs gave is kept" if epochs else "No epoch was completed"
                    error.args = (f"Run {self.name!r}, epoch {epochs + 1}: {error} {kept}.",)
                raise

    def begin(self, made_of: dict[str, Any], place: dict[str, Any]) -> None:
        """Hold the folder and begin the record, or read that of a run which goes on; refuse to overwrite or mix runs.

        `made_of`: what may not change when a run goes on. `place`: when, where and with which code it is trained now.
        """
        kind = f"{made_of['recipe']['name']}-{self.provenance.dataset}-seed{made_of['seed']}"
        self._hold_folder(f"{kind}-{datetime.now():%Y%m%d-%H%M%S}")
        settle(self.path)
        files = (self.best_checkpoint, self.last_checkpoint, self.training_state)
        missing = [file.name for file in files if not file.exists()]
        if len(missing) == len(files) and not self.history_csv.exists():
            if {file.name for file in self.path.iterdir()} - {".lock", ".saving.partial"}:
                self.read_record()  # else it is not the folder of a run
            if self.resume:
                say(f"The run {self.name!r} has no completed epoch to go on from: it begins now.")
            data, self.place = self.provenance.as_record(), {}
            self.record = {"run_name": self.name, "status": "running", **made_of, "data": data, **place}
            self._write({})
        elif missing or not self.resume:
            hint = "To go on with it: resume = True. To train anew: another run_name, or None for a new name."
            if missing:
                hint = f"It cannot go on either: its {missing[0]} is not there. Train under another run_name."
            raise TrainingError(f"the run {self.name!r} exists, and it is not overwritten. {hint}")
        else:
            self.record, self.place = self.read_record(), place
            self._refuse_unless_same(made_of)
            self.record |= {"run_name": self.name, "status": "running", **made_of}
            self.record.pop("error", None)

    def load(self, state: dict[str, Any]) -> list[dict[str, float]]:
        """Put `state`, name -> what has a `state_dict`, where a run stood that goes on; return and print its epochs."""
        self.state = state
        if not self.began:
            best, last = load_state(self.best_checkpoint), load_state(self.last_checkpoint)
            saved = load_state(self.training_state)
            try:
                for checkpoint in (best, last):
                    state["model"].load_state_dict(checkpoint)
                for name, part in state.items():
                    if name != "scaler" or saved[name]:  # it is empty where no float16 was used
                        part.load_state_dict(saved[name])
                self.history = list(saved["history"])
                table = self._table()
                if len(self.history) != self.record["result"]["epochs"]:
                    raise ValueError("run.json is of another epoch")
            except Exception as error:  # of another program, of another network: KeyError, TypeError, RuntimeError, ...
                raise CheckpointError(
                    f"{self.training_state} is not the state of this network's training ({type(error).__name__}: "
                    f"{error}). Go on with the network that it was saved from, or train anew under another run_name."
                ) from error
            self._write(table)
        self.report = Report(self.tensorboard, self.record, self.history)
        self.progress = self.report.progress
        self.held.callback(self.report.close)
        return self.history

    def save(self, row: dict[str, float], *, is_best: bool, trigger: int) -> list[dict[str, float]]:
        """Keep an epoch: all of its files, or after a kill or on a full disk all files of the epoch before it."""
        self.history = [*self.history, row]
        if self.place:  # the first epoch since it goes on
            self.record["resumed"] = [*self.record.get("resumed", []), {"epoch": row["epoch"], **self.place}]
            self.place = {}
        states = {name: part.state_dict() for name, part in self.state.items()}
        files = {"last_checkpoint.pth": checkpoint_bytes(states["model"])}
        if is_best:
            files["best_checkpoint.pth"] = files["last_checkpoint.pth"]
        self._write({**files, "training_state.pt": to_bytes({**states, "history": self.history}), **self._table()})
        self.report.add(row, trigger)
        return self.history

    def _table(self) -> dict[str, bytes]:
        lines = [HISTORY_COLUMNS, *([row[column] for column in HISTORY_COLUMNS] for row in self.history)]
        return {"history.csv": "".join(",".join(map(str, line)) + "\n" for line in lines).encode()}

    def _hold_folder(self, new_name: str) -> None:
        """Hold the folder named, the newest to resume, or a new one; the system frees it when its owner dies."""
        name = new_name if self.wanted is None else self.wanted
        if not is_run_name(name):
            raise TrainingError(f"the run name {name!r} is not {RUN_NAME}.")
        newest = find_run(self.provenance.dataset) if self.resume and self.wanted is None else None
        try:
            if self.wanted is None:
                super().__init__(newest.path if newest else new_folder(runs_root(), name))
            self.path.mkdir(parents=True, exist_ok=True)
            self.held.enter_context(FileLock(self.path / ".lock", timeout=0))
        except Timeout as error:
            hint = "wait for it, or choose another run_name."
            raise TrainingError(f"another process is training into the run {self.name!r}: {hint}") from error
        except OSError as error:
            why = f"{error.filename or self.path} cannot be written ({error.strerror})."
            raise TrainingError(f"{why} Set the environment variable RUNS_ROOT to another folder.") from error

    def _refuse_unless_same(self, made_of: dict[str, Any]) -> None:
        """A run goes on with its own settings only; more epochs are welcome if the schedule does not depend on them."""

        def settings(data: dict[str, Any], recipe: dict[str, Any], **others: Any) -> dict[str, Any]:
            return {**recipe, **others, "data": data["dataset"], **data.get("digests", {})}

        was, now = settings(**self.record), settings(self.provenance.as_record(), **made_of)
        if now["schedule"] == "plateau" and now["epochs"] >= self.record["result"]["epochs"]:
            was["epochs"] = now["epochs"]
        differing = [key for key in now if was.get(key) != now[key]]
        if differing:
            changed = "; ".join(f"{key} was {was.get(key)!r}, now {now[key]!r}" for key in differing)
            hint = "Set them back, or train anew under another run_name."
            raise TrainingError(f"the run {self.name!r} cannot be resumed with other settings: {changed}. {hint}")

    def _end(self, status: str, **error: str) -> None:
        if not self.began:  # nor does it ever in a process that is not the first of several
            if status == "interrupted":
                say("Stopped before the training began: nothing has changed.")
            return
        settle(self.path)
        # an interrupt may have come before the last epoch was on the disk
        self.history = self.history[: self.read_record()["result"]["epochs"]]
        self.record |= {"status": status, **error}
        self._write({})
        if status != "failed":
            no_longer_falls = status == "finished" and self.state["monitor"].should_stop
            say(last_words(self.record, self.provenance.label, no_longer_falls))

    def _write(self, files: dict[str, bytes]) -> None:
        """Write `files` together with `run.json`, in which the result is what the history says."""
        best = max(self.history, key=lambda row: row["valid_accuracy"], default={"epoch": 0, "valid_accuracy": None})
        is_short = len(self.history) < self.record["recipe"]["epochs"]
        self.record["result"] = {
            "epochs": len(self.history),
            "best_epoch": best["epoch"],
            "best_valid_accuracy": best["valid_accuracy"],
            "stopped_early": self.record["status"] == "finished" and is_short,
            "seconds": round(sum(row["seconds"] for row in self.history), 3),
        }
        if not self.began:  # runs are numbered as they are started and resumed: a clock may jump back
            self.record["number"] = 1 + max((r["number"] for _, r in _runs() if isinstance(r, dict)), default=0)
        text = json.dumps(self.record, indent=2, ensure_ascii=False) + "\n"
        write_together(self.path, {**files, "run.json": text.encode()})
        self.began = True
