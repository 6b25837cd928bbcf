"""For the tests of the package; ../conftest.py has what the notebooks need as well."""

import os
import sys

import pytest

OUTER_CIFAR10_ROOT = os.environ.get("CIFAR10_ROOT")


@pytest.fixture(scope="session", autouse=True)
def _no_threads_no_windows_no_waiting():
    """Small tensors gain nothing from threads, and on a busy machine they wait for each other; plots stay in memory.

    And nothing waits for the disk: what a power failure leaves, no test can see.
    """
    os.fsync = lambda descriptor: None
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "matplotlib" in sys.modules:
        sys.modules["matplotlib"].use("agg")


@pytest.fixture(scope="session")
def outer_cifar10_root():
    """CIFAR10_ROOT as it was set where the tests were started."""
    return OUTER_CIFAR10_ROOT


@pytest.fixture(autouse=True)
def _no_outer_cifar10(monkeypatch):
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """An empty folder of runs, for this test alone; its name is not an easy one."""
    folder = tmp_path / "학습 결과 1"
    monkeypatch.setenv("RUNS_ROOT", str(folder))
    return folder


@pytest.fixture(scope="session")
def digits():
    from alexnet_cifar10.data import load_images

    return load_images("digits")


@pytest.fixture
def start(runs, digits):
    """`small_run.start_with`, on the digits, into an empty folder of runs."""
    from small_run import start_with

    return start_with(digits)


class Trap:
    """Pickled, it makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def trap(tmp_path):
    """What a hostile file holds; `trap.path` appears when somebody opens it carelessly."""
    return Trap(tmp_path / "code-was-run")
