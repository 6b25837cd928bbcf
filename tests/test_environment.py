"""Where the code runs: folders, device, seeds, and what a run writes down about the machine."""

import os
import random
import subprocess

import numpy as np
import pytest
import torch

from alexnet_cifar10 import environment
from alexnet_cifar10.environment import (
    autocast_dtype,
    available_devices,
    describe_machine,
    deterministic,
    git_commit,
    is_smoke_run,
    pick_device,
    project_root,
    runs_root,
    seed_everything,
    versions,
)


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "내 프로젝트"
    (folder / "src" / "alexnet_cifar10").mkdir(parents=True)
    (folder / "notebooks" / "deeper").mkdir(parents=True)
    return folder


@pytest.fixture
def machine_with(monkeypatch):
    """Pretend that the machine has these accelerators, and that `broken` ones take no tensor."""

    def pretend(cuda=False, mps=False, broken=()):
        def ones(*size, device="cpu"):
            if device in broken:
                raise RuntimeError(f"{device}: out of memory")
            return torch.empty(*size)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch, "ones", ones)

    return pretend


@pytest.mark.parametrize("start", [".", "notebooks", "notebooks/deeper", "src/alexnet_cifar10"])
def test_the_project_is_found_from_every_folder_in_it(start, project, monkeypatch):
    monkeypatch.chdir(project / start)
    assert project_root() == project.resolve()


def test_an_empty_folder_is_its_own_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path.resolve()


def test_runs_lie_in_the_project_wherever_the_kernel_runs(project, monkeypatch):
    monkeypatch.delenv("RUNS_ROOT")
    monkeypatch.chdir(project / "notebooks")
    assert runs_root() == project.resolve() / "runs"


def test_runs_root_names_another_folder_and_a_relative_one_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNS_ROOT", "my runs")
    assert runs_root() == tmp_path.resolve() / "my runs"
    monkeypatch.setenv("RUNS_ROOT", "")
    assert runs_root() == tmp_path.resolve() / "runs"


def test_only_the_value_1_makes_a_smoke_run(monkeypatch):
    for value, smoke in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("TUTORIAL_SMOKE", value)
        assert is_smoke_run() is smoke
    monkeypatch.delenv("TUTORIAL_SMOKE")
    assert not is_smoke_run()


@pytest.mark.parametrize(
    ("there", "devices"),
    [
        ({}, ["cpu"]),
        ({"mps": True}, ["mps", "cpu"]),
        ({"cuda": True, "mps": True}, ["cuda", "mps", "cpu"]),
        ({"cuda": True, "mps": True, "broken": ["cuda"]}, ["mps", "cpu"]),
        ({"mps": True, "broken": ["mps"]}, ["cpu"]),
    ],
)
def test_auto_takes_the_first_of_cuda_mps_and_cpu_that_works(there, devices, machine_with):
    machine_with(**there)
    assert available_devices() == devices
    assert pick_device("auto") == pick_device() == torch.device(devices[0])
    assert pick_device("cpu") == torch.device("cpu")


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

    monkeypatch.setattr(environment.Path, "read_text", read_text)
    assert autocast_dtype(torch.device("cpu")) == dtype
    assert autocast_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize("name", ["cuda", "gpu", "", "CPU"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name, machine_with):
    machine_with(mps=True)
    with pytest.raises(ValueError, match=f"device = '{name}': this machine has mps, cpu; 'auto' takes the first"):
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


def test_one_line_says_what_machine_this_is():
    line = describe_machine(torch.device("cpu"))
    assert "\n" not in line and "device: cpu" in line and torch.__version__ in line
    assert f"{torch.get_num_threads()} threads" in line


def test_versions_name_what_the_numbers_depend_on(monkeypatch):
    assert versions()["torch"] == torch.__version__
    assert {"python", "numpy", "torchvision", "scikit-learn"} <= versions().keys()

    def not_installed(name):
        raise environment.PackageNotFoundError(name)

    monkeypatch.setattr(environment, "version", not_installed)
    assert versions()["alexnet-cifar10"] == "not installed"


def test_the_commit_is_none_outside_of_a_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None


def test_a_machine_without_git_is_fine(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_the_commit_says_when_the_code_differs_from_it(project, monkeypatch):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(project), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = project / "src" / "alexnet_cifar10" / "model.py"
    code.write_text("x = 1\n")
    try:
        git("init", "-q")
    except OSError:
        pytest.skip("git is not installed")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.chdir(project / "notebooks")
    assert git_commit() == git("rev-parse", "HEAD")
    code.write_text("x = 2\n")
    assert git_commit() == git("rev-parse", "HEAD") + "+changes"


def test_a_cuda_device_uses_deterministic_algorithms_inside_and_what_it_used_before_outside():
    def flags():
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark

    before = flags()
    with deterministic(torch.device("cpu")):
        assert flags() == before
    with pytest.raises(ZeroDivisionError), deterministic(torch.device("cuda")):
        assert flags() == (True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"], "PyTorch refuses to multiply matrices without it"
        raise ZeroDivisionError
    assert flags() == before
