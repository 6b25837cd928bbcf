"""Where the code runs: folders, device, random seeds, and one line that says what machine this is."""

import os
import platform
import random
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

# cuBLAS gives the same bits again only with this set, and reads it when it is first used
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

__all__ = [
    "autocast",
    "autocast_dtype",
    "available_devices",
    "describe_machine",
    "deterministic",
    "epoch_seed",
    "git_commit",
    "is_smoke_run",
    "pick_device",
    "project_root",
    "runs_root",
    "seed_everything",
    "versions",
]


def is_smoke_run() -> bool:
    """True when `TUTORIAL_SMOKE=1` is set: the digits and one epoch, so that a test takes seconds."""
    return os.environ.get("TUTORIAL_SMOKE") == "1"


def project_root() -> Path:
    """The clone that the working directory lies in, or the working directory itself (Colab, an empty folder)."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "src" / "alexnet_cifar10").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here


def runs_root() -> Path:
    """The folder that holds one folder a training run: `$RUNS_ROOT`, or `runs/` in the project."""
    named = os.environ.get("RUNS_ROOT")
    return Path(named).expanduser().absolute() if named else project_root() / "runs"


def available_devices() -> list[str]:
    """Names of the device types that this machine has, the fastest first; `"cpu"` is always the last."""
    accelerators = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [name for name, is_there in accelerators.items() if is_there and _can_allocate(name)] + ["cpu"]


def _can_allocate(device: str) -> bool:
    """False where a device is there but cannot be used: virtual Macs, a driver that is too old, a card that is full."""
    try:
        torch.ones(1, device=device)
    except RuntimeError:
        return False
    return True


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`, or with `"auto"` the fastest that this machine has.

    Raises `ValueError` when this machine has no such device.
    """
    names = available_devices()
    if name == "auto":
        return torch.device(names[0])
    if name not in names:
        raise ValueError(f"device = {name!r}: this machine has {', '.join(names)}; 'auto' takes the first of them.")
    return torch.device(name)


def autocast_dtype(device: torch.device) -> torch.dtype:
    """The type that `device` multiplies fastest in: bfloat16, float16, or float32 where it has no fast 16 bits."""
    if device.type == "cuda":
        generation = torch.cuda.get_device_capability(device)
        if generation >= (8, 0):
            return torch.bfloat16
        return torch.float16 if generation >= (7, 0) else torch.float32  # 7.0: the first with tensor cores
    # a processor that only emulates bfloat16 is slower with it; how it is called, Linux tells
    if device.type == "cpu" and _processor_features() & {"avx512_bf16", "amx_bf16", "bf16"}:
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Inside of it convolutions and matrix products are computed in `precision`; with float32 it does nothing."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def epoch_seed(seed: int, epoch: int) -> int:
    """One number for `(seed, epoch)`, mixed so that seed 1, epoch 2 and seed 2, epoch 1 have nothing in common."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Start the random numbers of Python, NumPy and PyTorch (every device) at a point fixed by `(seed, epoch)`.

    Seeding again before each epoch makes an epoch's dropout and augmentation depend on these two numbers alone,
    so that a resumed run needs no saved random state.
    """
    mixed = epoch_seed(seed, epoch)
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Let a CUDA device use only algorithms that give the same bits each time; elsewhere they are used anyway."""
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it would choose an algorithm by its speed in a short trial
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def versions() -> dict[str, str]:
    """Version of Python and of each library that the numbers of a run depend on."""
    libraries = {"torch": torch.__version__, "numpy": np.__version__}
    for name in ("torchvision", "scikit-learn", "alexnet-cifar10"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:  # the package is used from its folder, without being installed
            libraries[name] = "not installed"
    return {"python": platform.python_version(), **libraries}


def _processor_says(*keys: str) -> str:
    """What Linux tells about the processor under one of these keys; "" where it does not."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in keys:
                return value.strip()
    except OSError:
        pass
    return ""


def _processor_features() -> set[str]:
    return set(_processor_says("flags", "Features").split())  # on x86, on ARM


def _processor_name() -> str:
    return _processor_says("model name") or platform.processor() or platform.machine()


def describe_machine(device: torch.device) -> str:
    """One line: the accelerator if `device` is one, the processor, its threads, the system and the versions."""
    accelerator = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return (
        f"{accelerator}{_processor_name()}, {torch.get_num_threads()} threads, {platform.system()}; "
        f"Python {platform.python_version()}, torch {torch.__version__}; device: {device.type}"
    )


def git_commit() -> str | None:
    """The commit of the project's clone, with `+changes` if files differ from it; None outside a clone."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project_root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "src") else "")
    except (OSError, subprocess.SubprocessError):
        return None
