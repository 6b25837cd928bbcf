"""Training runs on a few digits, for tests: started, compared, looked into."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.device import seed_everything
from alexnet_cifar10.recipes import CLASSIC
from alexnet_cifar10.runs import Run, TrainingRun, load_state
from alexnet_cifar10.train import train

CPU = torch.device("cpu")


def small_model():
    """A stand-in with the same kinds of layers as AlexNet, where it does not matter what learns."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4),
        nn.BatchNorm2d(4),
        nn.Dropout(0.2),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.Flatten(),
        nn.Linear(54, 10),
    )


def spoilt(spoil):
    """Batches that `spoil(epoch, step, images)` has changed, or not let through."""

    class Spoilt(DeviceLoader):
        def __iter__(self):
            for step, (images, labels) in enumerate(super().__iter__(), start=1):
                yield spoil(self.epoch, step, images), labels

    return Spoilt


def interrupted_in(epoch):
    """Batches of which the second of an epoch never comes: somebody presses the stop button."""

    def spoil(now, step, images):
        if (now, step) == (epoch, 2):
            raise KeyboardInterrupt
        return images

    return spoilt(spoil)


# Batches that turn infinite at the second step of the second epoch, as a bad data pipeline would make them.
poisoned = spoilt(lambda epoch, step, images: images * math.inf if (epoch, step) == (2, 2) else images)


def start_with(digits):
    """A function that trains on a few digits; every part of it can be changed."""

    def start(
        model=None,
        *,
        images=10,
        valid=range(20, 26),
        loader=DeviceLoader,
        seed=42,
        provenance=digits.provenance,
        run_name="run",
        resume=False,
        base=CLASSIC,
        device=CPU,
        **recipe,
    ):
        recipe = replace(base, **{"epochs": 1, "batch_size": 4, **recipe})
        seed_everything(seed)
        model = (model or small_model()).to(device)
        train_loader = training_batches(digits.train, range(images), recipe, device=device, seed=seed)
        train_loader.__class__ = loader
        run = TrainingRun(provenance, run_name, resume=resume)
        try:
            train(model, train_loader, DeviceLoader(digits.train, valid, batch_size=4, device=device), recipe, run)
        except KeyboardInterrupt:  # it would end the tests
            pytest.fail("the interrupt was not caught")
        return Run(run.path)

    return start


def numbers(run):
    """A run's history without the seconds."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.read_history()]


def state_without_seconds(run):
    def plain(value):
        if isinstance(value, torch.Tensor):
            return (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key != "seconds"}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(load_state(run.training_state))


def assert_identical(run, other):
    """Both checkpoints byte by byte, the losses to the last bit, and all that resuming needs."""
    assert numbers(run) == numbers(other)
    assert run.best_checkpoint.read_bytes() == other.best_checkpoint.read_bytes()
    assert run.last_checkpoint.read_bytes() == other.last_checkpoint.read_bytes()
    assert state_without_seconds(run) == state_without_seconds(other)


def contents(run):
    """Every byte of a run, but for the lock, TensorBoard's files (named by time), and run.json."""
    names = ("best_checkpoint.pth", "last_checkpoint.pth", "training_state.pt", "history.csv")
    return {name: (run.path / name).read_bytes() for name in names if (run.path / name).exists()}
