"""The device that the code runs on: which one, its precision and memory layout, random seeds, determinism."""

import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import torch

# cuBLAS gives the same bits again only with this set, and reads it when the first matrices are multiplied on the GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def available_devices() -> list[str]:
    """Names of the device types that this machine has: its accelerator ("cuda", "mps", ...) if there is one, "cpu"."""
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
        try:
            torch.ones(1, device=accelerator)  # fails on virtual Macs, with a driver that is too old, on a full card
            return [accelerator.type, "cpu"]
        except RuntimeError:
            pass
    return ["cpu"]


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The device called `name`, or with `"auto"` the fastest that this machine has.

    Raises `ValueError` when this machine has no such device.
    """
    names = available_devices()
    if name == "auto":
        return torch.device(names[0])
    if str(name) not in names:
        hint = ", of several GPUs the first of CUDA_VISIBLE_DEVICES." if "cuda" in names else "."
        raise ValueError(f"device = {str(name)!r}: PyTorch finds {', '.join(names)} here; 'auto' takes the first{hint}")
    return torch.device(name)


def autocast_dtype(device: torch.device) -> torch.dtype:
    """The type that `device` multiplies fastest in: bfloat16, float16, or float32 where it has no fast 16 bits."""
    if device.type == "cuda":
        generation = torch.cuda.get_device_capability(device)
        if generation >= (8, 0):
            return torch.bfloat16
        return torch.float16 if generation >= (7, 0) else torch.float32  # 7.0: the first with tensor cores
    # A processor that only emulates bfloat16 is slower with it. Only Linux tells what it has.
    features = set(processor_says("flags", "Features").split())  # on x86, on ARM
    if device.type == "cpu" and features & {"avx512_bf16", "amx_bf16", "bf16"}:
        return torch.bfloat16
    return torch.float32


def processor_says(*keys: str) -> str:
    """What Linux tells about the processor under one of these keys of /proc/cpuinfo; "" where it does not."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in keys:
                return value.strip()
    return ""


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Inside of it convolutions and matrix products are computed in `precision`; with float32 it does nothing."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout of image tensors on `device`: channels last on CPU and CUDA, as PyTorch advises; else contiguous.

    On MPS, PyTorch before mid-2026 computes wrong gradients of batch normalisation with channels last, or stops
    (github.com/pytorch/pytorch/issues/175189).
    """
    return torch.channels_last if device.type in ("cpu", "cuda") else torch.contiguous_format


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """One number for all of them, mixed so that seed 1, epoch 2 and seed 2, epoch 1 have nothing in common."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


def seed_everything(seed: int, epoch: int = 0, rank: int = 0) -> None:
    """Seed the random numbers of Python, NumPy and PyTorch (every device) with these numbers.

    Done before each epoch, it makes dropout depend on them alone, so that a resumed run needs no saved random state.
    """
    mixed = epoch_seed(seed, epoch, rank)
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Let a CUDA device use deterministic algorithms only: the same bits each time.

    On the CPU the same number of threads gives the same bits without it. Of other devices nobody promises it.
    """
    if device.type != "cuda":
        yield
        return
    settings = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    torch.set_deterministic_debug_mode("error")
    settings.fill_uninitialized_memory = False  # nobody reads it, and to fill it takes time
    torch.backends.cudnn.benchmark = False  # it would choose an algorithm by its speed in a short trial
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        settings.fill_uninitialized_memory, torch.backends.cudnn.benchmark = before[1:]
