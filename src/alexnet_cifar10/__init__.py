"""CIFAR-10 with AlexNet in PyTorch: what the notebooks import.

Each file in this folder is a chapter: model, batches, optim, recipes, train, parallel, evaluate, plots, device. Behind
them are three rooms that no chapter needs to be read with: data/ (where pixels come from), runs/ (what a run leaves on
disk) and notebook/ (what only notebooks call). Imports run one way: notebook/, then the chapters, then data/ and runs/
(which need the chapters model and device).
`python -m alexnet_cifar10` trains without a notebook.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path


def project_root() -> Path:
    """The clone that the working directory lies in, or the working directory itself (Colab, an empty folder)."""
    here = Path.cwd()
    inside = ("src/alexnet_cifar10", "notebooks")
    return next((path for path in (here, *here.parents) if all(os.path.isdir(path / part) for part in inside)), here)


def named_folder(variable: str) -> Path | None:
    """The folder that an environment variable names, or None; a relative path starts at `project_root()`.

    Raises `ValueError` for quotes around the path, which Windows passes on as a part of it, or an unknown user's ~.
    """
    value = os.environ.get(variable, "")
    path = os.path.expanduser(value)
    if path[:1] in ("'", '"', "~"):
        raise ValueError(f"{variable} = {value}: set it without the {'~' if path[0] == '~' else 'quotes'}.")
    return project_root() / path if path else None


def say(text: str) -> None:
    """Print, and stop no work by it: letters that a console lacks become escapes, and one that is gone is no error."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with suppress(OSError, ValueError):  # a pipe whose reader has ended, a full disk, a closed file
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def replace_file(source: Path, target: Path, tries: int = 40) -> None:
    """`os.replace`, tried for two seconds: Windows refuses it while another program has the file, or one in it, open.

    Raises `PermissionError` if it was refused each time.
    """
    for _ in range(tries - 1):
        with suppress(PermissionError):
            return os.replace(source, target)
        time.sleep(0.05)
    os.replace(source, target)
