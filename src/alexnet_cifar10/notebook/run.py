"""A run for notebooks that need one: the reader's, or a short one that is trained now."""

import torch

from alexnet_cifar10 import say
from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.data import ImageSet, stratified_split
from alexnet_cifar10.device import seed_everything
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.notebook.parameters import is_smoke_run
from alexnet_cifar10.recipes import choose_recipe
from alexnet_cifar10.runs import Run, TrainingRun, find_run
from alexnet_cifar10.train import train


def find_or_train_run(images: ImageSet, device: torch.device, run_name: str | None = None) -> Run:
    """The run called `run_name`, or the newest on these images; where there is none, a short one is trained now."""
    if found := find_run(images.provenance.dataset, run_name):
        return found
    epochs, count = (1, 200) if is_smoke_run() else (2, 4000)
    train_indices, valid_indices = stratified_split(images.train.targets)
    recipe = choose_recipe("classic", epochs=epochs)
    train_loader = training_batches(images.train, train_indices[:count], recipe, device=device)
    valid_loader = DeviceLoader(images.train, valid_indices[: count // 4], batch_size=250, device=device)
    say(
        f"There is no run on {images.provenance.name} yet, so a short one is trained now (epochs: {epochs}, "
        f"{len(train_loader.labels)} images): enough to go on, not to be good. For a real one, run 04_train."
    )
    seed_everything(42)
    run = TrainingRun(images.provenance)
    train(AlexNet(recipe.dropout).to(device), train_loader, valid_loader, recipe, run)
    return run
