"""What a run writes down about the machine, the versions and the commit that its numbers came from."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from alexnet_cifar10.device import processor_says


def machine(device: torch.device) -> dict[str, Any]:
    """What seconds depend on, and numbers in their last digits."""
    libraries = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("numpy", "scikit-learn", "alexnet-cifar10"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:  # the package is used from its folder, without being installed
            libraries[name] = "not installed"
    return {
        "device": device.type,
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processor": processor_says("model name") or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "versions": libraries,
    }


def here_and_now(device: torch.device, precision: torch.dtype) -> dict[str, Any]:
    """When, where, in which precision and with which code a run is trained."""
    computed_in = str(precision).removeprefix("torch.")
    if device.type == "cuda" and precision == torch.float32 and torch.backends.cudnn.allow_tf32:
        computed_in += " (convolutions in TF32 where the card has it)"
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"started": started, "machine": machine(device), "precision": computed_in, "git_commit": git_commit()}


def describe_machine(found: dict[str, Any]) -> str:
    """One line from `machine(device)`."""
    threads = f"{found['threads']} threads" if found["device"] == "cpu" else None
    parts = (found["accelerator"], found["processor"], threads, found["system"])
    with_what = "Python {python}, torch {torch}".format(**found["versions"])
    return f"{', '.join(filter(None, parts))}; {with_what}; device: {found['device']}"


def git_commit() -> str | None:
    """The commit that this package's files are of, with `+changes` if they differ from it; None outside of a clone."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not so in a clone of something else that it lies in
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
