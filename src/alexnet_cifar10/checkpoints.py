"""A training run's files on disk: written whole or not at all, loaded without running code from them."""

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from alexnet_cifar10.environment import runs_root
from alexnet_cifar10.model import AlexNet

__all__ = [
    "HISTORY_COLUMNS",
    "CheckpointError",
    "Run",
    "find_run",
    "load_checkpoint",
    "load_model",
    "load_state",
    "save_checkpoint",
    "save_state",
    "write_text",
]

HISTORY_COLUMNS = ("epoch", "train_loss", "valid_loss", "valid_accuracy", "lr", "seconds")


class CheckpointError(RuntimeError):
    """A file is not what it should be; the message names the file, what was found and what to do."""


@dataclass(frozen=True)
class Run:
    """The folder `runs/<name>/` of one training run."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def best_checkpoint(self) -> Path:
        """The `state_dict` of the epoch with the highest validation accuracy."""
        return self.path / "best_checkpoint.pth"

    @property
    def last_checkpoint(self) -> Path:
        """The `state_dict` of the last completed epoch."""
        return self.path / "last_checkpoint.pth"

    @property
    def training_state(self) -> Path:
        """All that resuming needs."""
        return self.path / "training_state.pt"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def has_epochs(self) -> bool:
        """True when at least one epoch of it was completed and saved."""
        history = self.path / "history.csv"
        return history.exists() and len(history.read_bytes().splitlines()) > 1

    def read_record(self) -> dict[str, Any]:
        """`run.json`: recipe, seed, data, machine, versions, result. Raises `CheckpointError` if it is not that."""
        try:
            record = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            _ = record["data"]["dataset"], record["started"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"the run {self.name!r}: its run.json, which says what was trained on what, is missing or damaged "
                f"({type(error).__name__}: {error})."
            ) from error
        return record

    def write_record(self, record: Mapping[str, Any]) -> None:
        write_text(self.path / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    def read_history(self) -> list[dict[str, float]]:
        """`history.csv`: a row an epoch, `HISTORY_COLUMNS`. Losses are means per image, `lr` is the first step's."""
        with open(self.path / "history.csv", encoding="utf-8", newline="") as file:
            return [
                {"epoch": int(row["epoch"])} | {key: float(row[key]) for key in HISTORY_COLUMNS[1:]}
                for row in csv.DictReader(file)
            ]

    def write_history(self, rows: list[dict[str, float]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path / "history.csv", text.getvalue())


def find_run(dataset: str, name: str | None = None) -> Run | None:
    """The run called `name`; without a name the newest finished or unfinished run on `dataset` that has a best model.

    Returns None when there is no run on that data yet. Raises `CheckpointError` when the run that was named does not
    exist or was trained on other data.
    """
    if name is not None:
        run = Run(runs_root() / name)
        if not run.best_checkpoint.exists():
            names = ", ".join(sorted(r.name for r in _all_runs())) or "none yet"
            raise CheckpointError(f"run_name = {name!r}: there is no such run. Runs: {names}.")
        if (trained_on := run.read_record()["data"]["dataset"]) != dataset:
            raise CheckpointError(
                f"run_name = {name!r}: this run was trained on {trained_on}, but the data loaded here is {dataset}. "
                "Set data or run_name so that they match."
            )
        return run
    started: dict[str, Run] = {}
    for run in _all_runs():
        try:
            record = run.read_record()
        except CheckpointError:  # not a folder of ours
            continue
        if record["data"]["dataset"] == dataset:
            started[record["started"]] = run
    return started[max(started)] if started else None


def _all_runs() -> list[Run]:
    return [Run(path.parent) for path in runs_root().glob("*/best_checkpoint.pth")]


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write to another name, flush to disk, rename: a reader, or a kill at any moment, finds all of it or none."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path.name} cannot be written into {path.parent}: {error.strerror or error}. What was saved before is "
            "untouched. Free some space, or set the environment variable RUNS_ROOT to another folder."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    _write_whole(path, lambda file: file.write(text.encode("utf-8")))


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Save tensors and plain values, so that `load_state` can read them on any machine."""
    content = io.BytesIO()  # in memory first: PyTorch would hide why a disk does not take the file
    torch.save(state, content)
    _write_whole(path, lambda file: file.write(content.getbuffer()))


def load_state(path: Path) -> dict[str, Any]:
    """Load what `save_state` wrote, onto the CPU. Only tensors and plain values are read: no code runs.

    Raises `CheckpointError` for a file that is not there, is of another kind, or has a single bit changed.
    """
    try:
        content = io.BytesIO(path.read_bytes())
        if zipfile.is_zipfile(content):  # not so what PyTorch wrote before 1.6
            with zipfile.ZipFile(content) as archive:
                if damaged := archive.testzip():  # PyTorch writes checksums, and does not look at them
                    raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        content.seek(0)
        return torch.load(content, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist.") from error
    except Exception as error:  # a damaged file raises nearly anything: RuntimeError, EOFError, KeyError, ...
        raise CheckpointError(
            f"{path} cannot be loaded as tensors and plain values: it is damaged, or it is another kind of file "
            f"({type(error).__name__})."
        ) from error


def save_checkpoint(state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Save a plain `state_dict`: contiguous tensors on the CPU, loadable by the original tutorial's class."""
    save_state({key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()}, path)


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Load an `AlexNet`'s `state_dict` onto the CPU.

    It may be wrapped as training scripts do: as `{"state_dict": ...}` or `{"model": ...}`, and with the prefixes that
    `DataParallel` and `torch.compile` add to its keys. Raises `CheckpointError` if keys, shapes or types are not an
    `AlexNet`'s.
    """
    state_dict = _unwrap(load_state(path))
    expected = AlexNet().state_dict()
    missing, unexpected = expected.keys() - state_dict.keys(), state_dict.keys() - expected.keys()
    if missing or unexpected:
        raise CheckpointError(
            f"{path} is not an AlexNet of this tutorial: of its {len(expected)} keys {len(missing)} are missing "
            f"{sorted(missing)[:3]} and {len(unexpected)} are unknown {sorted(map(str, unexpected))[:3]}."
        )
    for key, tensor in expected.items():
        found, wanted = _describe(state_dict[key]), _describe(tensor)
        if found != wanted:
            raise CheckpointError(f"{path} is not an AlexNet of this tutorial: {key} is {found}, not {wanted}.")
    return state_dict


def _unwrap(content: Any) -> dict[str, Any]:
    """The `state_dict` inside of what a training script saved; {} if there is none."""
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    state_dict = dict(content) if isinstance(content, Mapping) else {}
    for prefix in ("module.", "_orig_mod.", "module."):  # DataParallel, torch.compile, one around the other
        if state_dict and all(str(key).startswith(prefix) for key in state_dict):
            state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    return state_dict


def _describe(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def load_model(path: Path, device: torch.device) -> AlexNet:
    """An `AlexNet` with the weights of a checkpoint, on `device`, in `eval()` mode."""
    model = AlexNet()
    model.load_state_dict(load_checkpoint(path))
    return model.to(device).eval()
