"""A training run on a few images, as a process of its own: what kills it must not kill the test."""

import os
import signal
from contextlib import redirect_stdout
from dataclasses import replace

import torch
from small_run import small_model

from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.data import load_images
from alexnet_cifar10.device import seed_everything
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.recipes import CLASSIC
from alexnet_cifar10.runs import TrainingRun
from alexnet_cifar10.train import train


def train_few_images(
    runs, said, ready, *, epochs, name="run", seed=42, resume=True, small=False, die_at_rename=None, after_it=False,
    largest_file=None,
):  # fmt: skip
    """Train or resume the run `name` in the folder `runs`; what it prints goes to the file `said`.

    `ready`, one end of a pipe, gets a message when training is about to begin. The network is AlexNet or a `small`
    one. The process can be told to kill itself at its n-th renaming of a file, and to have no room for a file above
    some number of bytes.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, whatever this was started from
    os.environ["RUNS_ROOT"] = str(runs)
    torch.set_num_threads(1)
    images, cpu = load_images("digits"), torch.device("cpu")
    with open(said, "a", encoding="utf-8", buffering=1) as file, redirect_stdout(file):
        if largest_file is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        if die_at_rename is not None:
            _die_at_rename(die_at_rename, after_it)
        seed_everything(seed)
        ready.send("ready")
        try:
            recipe = replace(CLASSIC, epochs=epochs, batch_size=2, patience=10_000)
            train(
                small_model() if small else AlexNet(),
                training_batches(images.train, range(5), recipe, device=cpu, seed=seed),
                DeviceLoader(images.train, range(20, 24), batch_size=4, device=cpu),
                recipe,
                TrainingRun(images.provenance, name, resume=resume),
            )
        except RuntimeError as error:
            print(f"{type(error).__name__}: {error}")
        print("The cells below go on.")


def _die_at_rename(count, after_it):
    replace_file, left = os.replace, count

    def count_down(source, target):
        nonlocal left
        left -= 1
        if left == 0 and not after_it:
            _die()
        replace_file(source, target)
        if left == 0:
            _die()

    os.replace = count_down


def _die():
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has only the second, as hard
