"""Files of a training run: written whole or not at all, loaded without running code from them."""

import errno
import io
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet_cifar10 import replace_file
from alexnet_cifar10.model import AlexNet


class CheckpointError(RuntimeError):
    """A file is not what it should be; the message names the file, what was found and what to do."""


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace files of `folder`, name -> content, at once: a kill or a full disk leaves all old ones or all new ones.

    One process at a time may do so in a folder. The files are written to disk in `.saving.partial/`. That it becomes
    `.saving/` is the moment that counts: then each is moved to its place, by `settle` if this process was killed.
    """
    partial, name = folder / ".saving.partial", "a file"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        settle(folder)
        partial.mkdir()
        for name, content in contents.items():
            with open(partial / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _replace(partial, folder / ".saving")
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise CheckpointError(
            f"{name} cannot be written into {folder}: {error.strerror or error}. What was saved before is untouched. "
            f"{'Free some space' if full else 'Choose a folder that can be written'} (RUNS_ROOT names that of runs)."
        ) from error
    settle(folder)


def settle(folder: Path, tries: int = 40) -> None:
    """Finish what a `write_together` that was killed had begun; another process may do the same meanwhile."""
    saving = folder / ".saving"
    for path in saving.glob("*") if not saving.is_symlink() else ():
        with suppress(FileNotFoundError):  # moved by another process
            _replace(path, folder / path.name, tries)
    with suppress(OSError):  # not there
        saving.rmdir()


def _replace(source: Path, target: Path, tries: int = 40) -> None:
    try:
        replace_file(source, target, tries)
    except PermissionError as error:
        raise CheckpointError(
            f"{target} cannot be replaced: close the program that has it open, then try again "
            "(training: resume = True)."
        ) from error


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """Tensors and plain values as the content of a file that `load_state` and `torch.load` read on any machine."""
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def checkpoint_bytes(state_dict: Mapping[str, Tensor]) -> bytes:
    """A plain `state_dict` as a file: contiguous tensors on the CPU, loadable by the original tutorial's class."""
    return to_bytes({key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()})


def save_checkpoint(state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Save a plain `state_dict`, whole or not at all."""
    write_together(path.parent, {path.name: checkpoint_bytes(state_dict)})


def load_state(path: Path) -> Any:
    """Load tensors and plain values onto the CPU: no code runs.

    Raises `CheckpointError` for a file that is not there, holds anything else, is of another kind, is not packed as
    PyTorch packs it, or has a single bit changed.
    """
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # not so what PyTorch wrote before 1.6, without checksums
            files = archive.infolist()
            odd = any(file.is_dir() or file.external_attr & 0x10 or file.compress_type for file in files)
            doubles = len({file.filename for file in files}) < len(files)
            if odd or doubles or sum(file.file_size for file in files) > len(content):
                raise zipfile.BadZipFile("PyTorch packs nothing so")
            if damaged := archive.testzip():  # PyTorch writes checksums, and does not look at them
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a damaged file raises nearly anything: RuntimeError, EOFError, KeyError, ...
        other = re.search(r"GLOBAL ([\w.]{1,80})", str(error))  # so PyTorch names a type or function
        why = f"it is damaged, or it is another kind of file ({type(error).__name__}). Make or copy it anew."
        if other:
            hint = "Where it was made, save the weights alone: torch.save(model.state_dict(), ...)."
            why = f"it holds {other[1]}, and what is neither can run code. {hint}"
        raise CheckpointError(f"{path} cannot be loaded as tensors and plain values: {why}") from error


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Load an `AlexNet`'s `state_dict` onto the CPU.

    It may lie under any key of what a training script saved (`{"model_state_dict": ..., "epoch": ...}`), and its keys
    may have a prefix in common, as those of `DataParallel`, `torch.compile` and Lightning have. Raises
    `CheckpointError` if keys, shapes or types are not an `AlexNet`'s, or a weight is not finite.
    """
    content = load_state(path)
    refused, expected = f"{path} is not an AlexNet of this tutorial: ", AlexNet().state_dict()
    found = dict(islice(_state_dicts(content, next(iter(expected))), 9))
    if len(found) > 1:
        raise CheckpointError(f"{path} holds several models {list(found)}: save one of them alone.")
    state_dict = next(iter(found.values()), dict(content) if isinstance(content, Mapping) else {})
    missing, unexpected = expected.keys() - state_dict.keys(), state_dict.keys() - expected.keys()
    if missing or unexpected:
        raise CheckpointError(
            f"{refused}of its {len(expected)} keys, {len(missing)} missing {sorted(missing)[:3]}; "
            f"{len(unexpected)} unknown {sorted(map(str, unexpected))[:3]}."
        )
    for key, tensor in expected.items():
        here, wanted = _describe(state_dict[key]), _describe(tensor)
        if here != wanted:
            raise CheckpointError(f"{refused}{key} is {here}, not {wanted}.")
        if not state_dict[key].isfinite().all():
            raise CheckpointError(f"{path}: {key} has values that are not finite: training failed; take another file.")
    return state_dict


def _state_dicts(content: Any, first_key: str, name: str = "", depth: int = 4) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of each model in a dictionary and those in it.

    Where a key ends with `first_key`, a model is all that has the prefix of that key, without it.
    """
    if not isinstance(content, Mapping) or depth == 0:
        return
    for prefix in (str(key).removesuffix(first_key) for key in content if str(key).endswith(first_key)):
        weights = {str(key).removeprefix(prefix): content[key] for key in content if str(key).startswith(prefix)}
        yield f"{name}{prefix}".rstrip(".") or "the file itself", weights
    for key, value in content.items():
        yield from _state_dicts(value, first_key, f"{name}{key}.", depth - 1)


def _describe(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def load_model(path: Path, device: torch.device) -> AlexNet:
    """An `AlexNet` with the weights of a checkpoint, on `device`, in `eval()` mode."""
    model = AlexNet()
    model.load_state_dict(load_checkpoint(path))
    return model.to(device).eval()
