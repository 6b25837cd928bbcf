"""Servers that misbehave, and limits that do not keep a test waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fault_server import Answer, Mirror

from alexnet_cifar10.data import download


@pytest.fixture(autouse=True)
def quick_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WINDOW": 5, "FLOOR": 1_000, "BACKOFF": 0.01}.items():
        monkeypatch.setattr(download, name, value)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test in which somebody waits in vain: not for long."""
    monkeypatch.setattr(download, "WINDOW", 0.3)


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mirror]]:
    """Make servers that end with the test, in an environment without mirrors and proxies of the user's own."""
    for name in ("CIFAR10_MIRROR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    made: list[Mirror] = []

    def make(*answers: Answer) -> Mirror:
        made.append(Mirror(*answers))
        return made[-1]

    yield make
    for mirror in made:
        mirror.close()
