"""`python -m alexnet_cifar10` with a small network and few images: in a process of a test, or by torchrun."""

import ctypes
import math
import os
import signal
import sys

import torch
from small_run import small_model
from torch import nn

from alexnet_cifar10 import __main__ as entry
from alexnet_cifar10 import train as training
from alexnet_cifar10.batches import DeviceLoader


def model_without_batch_norm():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 20), nn.Linear(20, 10))


def start(arguments, *, images=23, batch_norm=False, spoil=None, weights=None):
    """The command line `arguments`, on `images` digits; `spoil` is done to the second batch of epoch 2.

    The weights that this process ends with go to the file `weights`, without the running statistics; it ends here.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, whatever this was started from
    torch.set_num_threads(1)
    training.autocast_dtype = lambda device: torch.float32  # 16 bits would round other sums otherwise
    model = small_model() if batch_norm else model_without_batch_norm()
    entry.AlexNet = lambda dropout: model
    entry.stratified_split = lambda targets: (range(images), range(200, 206))
    if spoil:
        entry.training_batches = _spoilt(entry.training_batches, spoil)
    if weights:
        entry.train = lambda *words: (training.train(*words), torch.save(list(model.parameters()), weights))
    sys.argv[1:] = arguments
    entry.start()


def start_as(said, environment, arguments, how):
    """`start` in the environment that torchrun would give."""
    be(said, environment)
    start(arguments, **how)


def torchrun_as(said, environment, arguments, network):
    """`torchrun` itself, on the machine with that `network` namespace, if any."""
    from torch.distributed import run

    be(said, environment)
    if network:
        assert ctypes.CDLL(None).setns(os.open(f"/run/netns/{network}", os.O_RDONLY), 0) == 0
    run.main(arguments)


def be(said, environment):
    """What this process prints from now on goes to the file `said`."""
    os.environ.update(environment)
    file = os.open(said, os.O_WRONLY | getattr(os, "O_BINARY", 0))
    os.dup2(file, 1)
    os.dup2(file, 2)


def nan_at_its_end(images):
    images[-1] = math.nan


def fail_in(rank, error, images):
    if os.environ["RANK"] == rank:
        raise error("only here")


def fill_the_disk_of_the_first(images):
    import resource

    if os.environ["RANK"] == "0":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))


def _spoilt(training_batches, spoil):
    class Spoilt(DeviceLoader):
        def __iter__(self):
            for step, (images, labels) in enumerate(super().__iter__(), start=1):
                if (self.epoch, step) == (2, 2):
                    spoil(images)
                yield images, labels

    def spoilt_batches(*arguments, **more):
        loader = training_batches(*arguments, **more)
        loader.__class__ = Spoilt
        return loader

    return spoilt_batches


if __name__ == "__main__":
    start(sys.argv[1:])
