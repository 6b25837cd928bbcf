"""The device: which one, its precision and memory layout, seeds, determinism."""

import os
import random

import numpy as np
import pytest
import torch

from alexnet_cifar10 import device as device_module
from alexnet_cifar10.device import (
    autocast_dtype,
    available_devices,
    deterministic,
    memory_format,
    pick_device,
    seed_everything,
)


@pytest.fixture
def machine_with(monkeypatch):
    """Pretend that the machine has this accelerator, and that a `broken` one takes no tensor."""

    def pretend(accelerator=None, broken=False):
        def ones(*size, device="cpu"):
            if broken and torch.device(device).type != "cpu":
                raise RuntimeError("CUDA driver version is insufficient")

        found = torch.device(accelerator) if accelerator else None
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator is not None)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: found)
        monkeypatch.setattr(device_module.torch, "ones", ones)

    return pretend


@pytest.mark.parametrize(
    ("there", "devices"),
    [
        ({}, ["cpu"]),
        ({"accelerator": "mps"}, ["mps", "cpu"]),
        ({"accelerator": "cuda"}, ["cuda", "cpu"]),
        ({"accelerator": "xpu"}, ["xpu", "cpu"]),
        ({"accelerator": "cuda", "broken": True}, ["cpu"]),
    ],
)
def test_auto_takes_the_accelerator_that_works_or_else_the_cpu(there, devices, machine_with):
    machine_with(**there)
    assert available_devices() == devices
    assert pick_device("auto") == pick_device() == torch.device(devices[0])
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("generation", "dtype"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)],
)
def test_a_graphics_card_computes_in_what_it_is_fast_at(generation, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    assert autocast_dtype(torch.device("cuda")) == dtype


@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 avx2\n", torch.bfloat16),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", torch.bfloat16),
        ("processor\t: 0\nflags\t\t: fpu avx512f avx2\n", torch.float32),
        (None, torch.float32),
    ],
)
def test_a_processor_computes_in_16_bits_only_where_it_can(cpuinfo, dtype, monkeypatch):
    def read_text(self):
        if cpuinfo is None:
            raise OSError("no such file")
        return cpuinfo

    monkeypatch.setattr(device_module.Path, "read_text", read_text)
    assert autocast_dtype(torch.device("cpu")) == dtype
    assert autocast_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize("name", ["cuda", "gpu", "", "CPU"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name, machine_with):
    machine_with("mps")
    with pytest.raises(ValueError, match=f"device = '{name}': PyTorch finds mps, cpu here; 'auto' takes the first"):
        pick_device(name)


def draw():
    return random.random(), float(np.random.rand()), torch.rand(3).tolist()


def test_seeds_fix_the_numbers_of_python_numpy_and_torch():
    seed_everything(5)
    first = draw()
    draw()
    seed_everything(5)
    assert draw() == first


def test_another_seed_or_epoch_has_nothing_in_common():
    drawn = []
    for seed, epoch in [(1, 0), (2, 0), (1, 1), (1, 2), (2, 1), (0, 1)]:
        seed_everything(seed, epoch)
        drawn.append(draw())
    for one_source in zip(*drawn, strict=True):
        assert len({str(numbers) for numbers in one_source}) == len(drawn)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_smallest_and_the_largest_seed_work(seed):
    seed_everything(seed, 10_000)


@pytest.mark.parametrize(
    ("device", "layout"),
    [("cpu", torch.channels_last), ("cuda", torch.channels_last), ("mps", torch.contiguous_format)],
)
def test_images_are_laid_out_as_each_device_computes_rightly(device, layout):
    assert memory_format(torch.device(device)) == layout


@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_a_cuda_device_uses_deterministic_algorithms_inside_and_what_it_used_before_outside(mode):
    def settings():
        fills = torch.utils.deterministic.fill_uninitialized_memory
        return torch.get_deterministic_debug_mode(), fills, torch.backends.cudnn.benchmark

    torch.set_deterministic_debug_mode(mode)
    before = settings()
    try:
        with deterministic(torch.device("cpu")):
            assert settings() == before
        with pytest.raises(ZeroDivisionError), deterministic(torch.device("cuda")):
            assert settings() == (2, False, False)
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"], "PyTorch refuses to multiply matrices without it"
            raise ZeroDivisionError
        assert settings() == before
    finally:
        torch.set_deterministic_debug_mode("default")
