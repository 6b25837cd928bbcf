"""The folder of one training run: chosen, locked, resumed, saved, found again."""

import csv
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from alexnet_cifar10 import named_folder, project_root
from alexnet_cifar10.data import Provenance
from alexnet_cifar10.runs.files import CheckpointError, checkpoint_bytes, load_state, settle, to_bytes, write_together
from alexnet_cifar10.runs.machine import git_commit
from alexnet_cifar10.runs.report import Report

HISTORY_COLUMNS = ("epoch", "train_loss", "valid_loss", "valid_accuracy", "lr", "seconds")

MADE_OF = ("recipe", "seed", "train_images", "valid_images")  # what may not change when a run goes on


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says where, why and what to do."""


def runs_root() -> Path:
    """The folder that holds one folder per training run: `$RUNS_ROOT`, or `runs/` in the project."""
    return named_folder("RUNS_ROOT") or project_root() / "runs"


def is_run_name(value: Any) -> bool:
    """True for a plain folder name of at most 80 characters (240 bytes) that runs/ does not use itself."""
    is_plain = isinstance(value, str) and re.fullmatch(r"\w[\w .,+=-]{0,78}\w|\w", value) and len(value.encode()) <= 240
    return bool(is_plain) and value.casefold() != "notebooks"


def new_folder(root: Path, name: str) -> Path:
    """Make the folder `name` in `root`, or `name`-2, -3, ...: others may do the same in the same second."""
    root.mkdir(parents=True, exist_ok=True)
    path, count = root / name, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            count += 1
            path = root / f"{name}-{count}"


class Run:
    """The folder `runs/<name>/` of one training run.

    `best_checkpoint`: the `state_dict` of the epoch with the highest validation accuracy; `last_checkpoint`: that of
    the last completed epoch; `training_state`: all that resuming needs.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self.best_checkpoint, self.last_checkpoint = path / "best_checkpoint.pth", path / "last_checkpoint.pth"
        self.training_state, self.tensorboard = path / "training_state.pt", path / "tensorboard"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path == other.path

    def read_record(self) -> dict[str, Any]:
        """`run.json`: recipe, seed, data, machine, versions, result. Raises `CheckpointError` if it is not that."""
        try:
            record = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            data, result, recipe = record["data"], record["result"], record["recipe"]
            whole = (record["number"], record["seed"], recipe["epochs"], result["epochs"], result["best_epoch"])
            text = (record["status"], data["dataset"], record["machine"]["processor"])
            best = result["best_valid_accuracy"]
            kinds = any(type(value) is not str for value in text) or type(best) not in (float, type(None))
            if kinds or any(type(value) is not int or not 0 <= value < 2**53 for value in whole):
                raise TypeError("a value is of another kind")
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"the run {self.name!r}: its run.json, which says what was trained on what, is missing or damaged "
                f"({type(error).__name__}: {error})."
            ) from error
        return record

    def read_history(self) -> list[dict[str, float]]:
        """`history.csv`: a row per epoch, `HISTORY_COLUMNS`. Losses are means per image, `lr` is the first step's."""
        if not (self.path / "history.csv").exists():  # no epoch was completed yet
            return []
        try:
            with open(self.path / "history.csv", encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            numbers = HISTORY_COLUMNS[1:]
            return [{"epoch": int(row["epoch"])} | {key: float(row[key]) for key in numbers} for row in rows]
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise CheckpointError(f"the run {self.name!r}: its history.csv is damaged ({error}).") from error


def find_run(dataset: str, name: str | None = None) -> Run | None:
    """The run called `name`; without a name the newest on `dataset` ("cifar10" or "digits") that has a best model.

    The newest is the one that was started or resumed last. Returns None when there is none. Raises `CheckpointError`
    when the run that was named does not exist or was trained on other data.
    """
    found = {run.name: (run, record) for run, record, has_best in _runs() if has_best}
    if name is not None:
        if name not in found:
            raise CheckpointError(f"run_name = {name!r}: there is no such run. Runs: {', '.join(found) or 'none yet'}.")
        run, record = found[name]
        if isinstance(record, CheckpointError):
            raise record
        if record["data"]["dataset"] != dataset:
            hint = f"but the data loaded here is {dataset}. Set data or run_name so that they match."
            raise CheckpointError(f"run_name = {name!r}: this run was trained on {record['data']['dataset']}, {hint}")
        return run
    newest, number = None, -1
    for run, record in found.values():
        if isinstance(record, CheckpointError):
            print(f"Passed over: {record}")
        elif record["data"]["dataset"] == dataset and record["number"] >= number:
            newest, number = run, record["number"]
    return newest


def _runs() -> Iterator[tuple[Run, dict[str, Any] | CheckpointError, bool]]:
    """All runs, by name, each with its record or with what is wrong with that, and whether it has a best model."""
    for path in sorted(runs_root().glob("*/")):
        run = Run(path)
        try:
            settle(path)
            has_best = run.best_checkpoint.exists()
            yield run, run.read_record(), has_best
        except CheckpointError as error:
            yield run, error, has_best
        except OSError:  # somebody else's
            continue


class TrainingRun(Run):
    """A run that is trained now: what `train` needs of the world outside.

    With `resume`, the run called `name`, or the newest one on this data, goes on after its last completed epoch.
    """

    def __init__(self, provenance: Provenance, name: str | None = None, *, resume: bool = False) -> None:
        if name is not None and not is_run_name(name):
            raise TrainingError(f"run_name = {name!r}: it is not one plain folder name.")
        self.provenance, self.wanted, self.resume = provenance, name, resume
        self.history: list[dict[str, float]] = []
        self.report: Report | None = None

    @contextmanager
    def recording(self, used: dict[str, Any], state: dict[str, Any]) -> Iterator[None]:
        """Hold the folder, load `state` where the run goes on, and write down how it ends, whatever ends it.

        `used`: what the run is made of, and where it runs. `state`: all that has a `state_dict`, by name.
        """
        with self._folder(used):
            self.here = {key: value for key, value in used.items() if key not in MADE_OF}
            self._open(used, state)
            try:
                self.report = Report(self.tensorboard, self.record, self.history)
                yield
                self._end("finished")
            except KeyboardInterrupt:
                self._end("interrupted")
            except BaseException as error:
                with suppress(CheckpointError, OSError):  # the disk may be full: what matters is the first error
                    self._end("failed", f"{type(error).__name__}: {error}")
                if not isinstance(error, TrainingError):
                    raise
                epochs = len(self.history)
                kept = f"The checkpoints of epoch {epochs} are kept" if epochs else "No epoch was completed"
                raise TrainingError(f"Run {self.name!r}, epoch {epochs + 1}: {error} {kept}.") from error
            finally:
                if self.report:
                    self.report.close()

    def progress(self, batches: Iterable[tuple[Tensor, Tensor]], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pass the batches of an epoch on, and show how far it is."""
        if self.here:
            self._note_start(epoch)
        return self.report.progress(batches, epoch)

    def save(self, state: dict[str, Any], row: dict[str, float], *, is_best: bool, trigger: int) -> None:
        """Keep an epoch: all of its files, or after a kill or on a full disk all files of the epoch before it."""
        history = [*self.history, row]
        states = {name: part.state_dict() for name, part in state.items()}
        files = {"last_checkpoint.pth": checkpoint_bytes(states["model"])}
        if is_best:
            files["best_checkpoint.pth"] = files["last_checkpoint.pth"]
        files["training_state.pt"] = to_bytes({**states, "history": history})
        table = [HISTORY_COLUMNS, *([row[column] for column in HISTORY_COLUMNS] for row in history)]
        files["history.csv"] = "".join(",".join(map(str, line)) + "\n" for line in table).encode()
        self._write(files, "running", history)
        self.history = history
        self.report.add(row, trigger)

    @contextmanager
    def _folder(self, used: dict[str, Any]) -> Iterator[None]:
        """Hold the folder of the run called by its name, of the newest one to resume, or of a new one.

        No other process can train into it meanwhile; the system frees it when its owner dies, however it dies.
        """
        root, dataset = runs_root(), self.provenance.dataset
        newest = find_run(dataset) if self.resume and self.wanted is None else None
        name = self.wanted or (newest and newest.name)
        try:
            if name is None:
                stem = f"{used['recipe']['name']}-{dataset}-seed{used['seed']}-{datetime.now():%Y%m%d-%H%M%S}"
                if not is_run_name(stem):
                    raise TrainingError(f"{stem!r} is not one plain folder name: give the recipe another name.")
                super().__init__(new_folder(root, stem))
            else:
                super().__init__(root / name)
                self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout as error:
            hint = "wait for it, or choose another run_name."
            raise TrainingError(f"another process is training into the run {name!r}: {hint}") from error
        except OSError as error:
            hint = "Set the environment variable RUNS_ROOT to a folder that can be, or choose another run_name."
            raise TrainingError(f"{error.filename or root} cannot be written ({error.strerror}). {hint}") from error
        try:
            yield
        finally:
            lock.release()

    def _open(self, used: dict[str, Any], state: dict[str, Any]) -> None:
        """Begin the record of a new run, or load one that goes on; refuse what would overwrite or mix runs."""
        settle(self.path)
        shutil.rmtree(self.path / ".saving.partial", ignore_errors=True)  # of a process that was killed while it wrote
        files = (self.best_checkpoint, self.last_checkpoint, self.training_state, self.path / "history.csv")
        missing = [file.name for file in files if not file.exists()]
        if len(missing) == len(files):
            if {file.name for file in self.path.iterdir()} - {".lock"}:
                self.read_record()  # else it is not the folder of a run
            if self.resume:
                print(f"There is no run {self.name!r} to go on with: it begins now.")
            self.record = {"run_name": self.name} | {key: used[key] for key in MADE_OF}
            self.record |= {"data": self.provenance.as_record(), **self._place()}
            self.here = {}
        elif missing or not self.resume:
            hint = "To go on with it: resume = True. To train anew: another run_name, or None for a new name."
            if missing:
                hint = f"It cannot go on either, for its {missing[0]} is not there: train under another run_name."
            raise TrainingError(f"the run {self.name!r} exists, and it is not overwritten. {hint}")
        else:
            self.record = self.read_record()
            self._refuse_unless_same(used)
            self._load(state)
            self.record |= {key: used[key] for key in MADE_OF}
        # Runs are numbered as they are started and resumed: a clock may jump back, and this does not.
        self.record["number"] = 1 + max((r["number"] for _, r, _ in _runs() if isinstance(r, dict)), default=0)
        self._write({}, "running", self.history)

    def _load(self, state: dict[str, Any]) -> None:
        """Put model, optimiser and all else where the run stood; each of its files has to be of this network."""
        weights = [load_state(file) for file in (self.best_checkpoint, self.last_checkpoint)]
        saved = load_state(self.training_state)
        try:
            for checkpoint in weights:
                state["model"].load_state_dict(checkpoint)
            for name, part in state.items():
                if name != "scaler" or saved[name]:  # it is empty where no float16 was used
                    part.load_state_dict(saved[name])
            self.history = list(saved["history"])
            if self.history != self.read_history():
                raise ValueError("history.csv has other rows")
        except Exception as error:  # of another program, or of another network: KeyError, TypeError, RuntimeError, ...
            raise CheckpointError(
                f"{self.training_state} is not the state of this network's training ({type(error).__name__}: {error}). "
                "Go on with the network that it was saved from, or train anew under another run_name."
            ) from error

    def _refuse_unless_same(self, used: dict[str, Any]) -> None:
        """A run goes on with its own settings only; more epochs are welcome if the schedule does not depend on them."""

        def settings(record: Mapping[str, Any]) -> dict[str, Any]:
            data = {"data": record["data"]["dataset"], "digests of the data": record["data"].get("digests")}
            return {**record["recipe"], **data, **{key: record.get(key) for key in MADE_OF[1:]}}

        was, now = settings(self.record), settings({**used, "data": self.provenance.as_record()})
        if now["schedule"] == "plateau" and now["epochs"] >= self.record["result"]["epochs"]:
            was["epochs"] = now["epochs"]
        changed = [f"{key} was {was.get(key)!r}, now {now.get(key)!r}" for key in was | now if was.get(key) != now.get(key)]
        if changed:
            hint = "Set them back, or train anew under another run_name."
            raise TrainingError(f"the run {self.name!r} cannot be resumed with other settings: {'; '.join(changed)}. {hint}")

    def _place(self) -> dict[str, Any]:
        """When, where and with which code it is trained."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        return {"started": started, **self.here, "git_commit": git_commit()}

    def _note_start(self, epoch: int) -> None:
        """Write down that a run goes on, when there is something left to train."""
        self.record.pop("error", None)
        self.record["resumed"] = [*self.record.get("resumed", []), {"epoch": epoch, **self._place()}]
        self.here = {}
        self._write({}, "running", self.history)

    def _end(self, status: str, error: str | None = None) -> None:
        settle(self.path)
        self.history = self.read_history()  # an interrupt may have come between the disk and this list
        if error:
            self.record["error"] = error
        self._write({}, status, self.history)
        if self.report:
            self.report.end(self.record, self.provenance.label)

    def _write(self, files: dict[str, bytes], status: str, history: list[dict[str, float]]) -> None:
        """Write `run.json` with what `history` says, and `files`, together."""
        best = max(history, key=lambda row: row["valid_accuracy"], default={"epoch": 0, "valid_accuracy": None})
        result = {
            "epochs": len(history),
            "best_epoch": best["epoch"],
            "best_valid_accuracy": best["valid_accuracy"],
            "stopped_early": status == "finished" and len(history) < self.record["recipe"]["epochs"],
            "seconds": round(sum(row["seconds"] for row in history), 3),
        }
        record = {**self.record, "status": status, "result": result}
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        write_together(self.path, {**files, "run.json": text.encode()})
        self.record = record
