"""Train runs of experiments/experiments.toml, also on networks that are `AlexNet` but for one thing (their `model`).

.venv/bin/python scripts/other_models.py parts-softmax-42    and keep its record in results/
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ledger
import torch
from torch import Tensor, nn

from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.data import load_images, stratified_split
from alexnet_cifar10.device import pick_device, seed_everything
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.recipes import Recipe, choose_recipe
from alexnet_cifar10.runs import TrainingRun
from alexnet_cifar10.train import train


class GlobalAveragePooling(nn.Module):
    """Float maps [N, C, H, W] -> their means [N, C, 1, 1]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3), keepdim=True)  # AdaptiveAvgPool2d's gradient is not the same bits again on CUDA


def with_softmax(model: AlexNet) -> None:
    model.linear2 = nn.Sequential(model.linear2, nn.Softmax(dim=1))


def without_batch_norm(model: AlexNet) -> None:
    for block in list(model.children())[:5]:
        block[1] = nn.Identity()
    model.batch_norm = nn.Identity()


def with_average_pooling(model: AlexNet) -> None:
    model.conv_block5[-1], model.linear1 = GlobalAveragePooling(), nn.Linear(256, 512)


def with_1x1_kernels(model: AlexNet) -> None:
    for block in list(model.children())[:5]:
        block[0] = nn.Conv2d(block[0].in_channels, block[0].out_channels, kernel_size=1)


MODELS: dict[str, Callable[[AlexNet], None]] = {
    "softmax in forward": with_softmax,
    "no BatchNorm": without_batch_norm,
    "global average pooling": with_average_pooling,
    "1x1 kernels": with_1x1_kernels,
}


def experiments() -> dict[str, dict[str, Any]]:
    """The parameters and seeds of the ledger's runs, by name, also of those that wait to be trained."""
    file = ledger.read_experiments()
    return {name: values for group in file["group"] + file["waiting"] for name, values in group["runs"].items()}


def recipe_of(values: dict[str, Any], dataset: str = "cifar10") -> Recipe:
    """What a run of `experiments` is trained with; on another network, its recipe is named after both."""
    own = {key: value for key, value in values.items() if key not in ("recipe", "model", "changes", "seeds")}
    recipe = choose_recipe(values["recipe"], dataset, **own, **values.get("changes", {}))
    return replace(recipe, name=f"{recipe.name}, {values['model']}") if "model" in values else recipe


def train_run(name: str, values: dict[str, Any], data: str = "cifar10", results: Path = ledger.RESULTS) -> None:
    """What notebook 4 does, for the run `name` (which ends with its seed), and keep its record. Raises as they do."""
    device, images, seed = pick_device(), load_images(data), int(name.rpartition("-")[2])
    train_part, valid_part = stratified_split(images.train.targets)
    recipe = recipe_of(values, images.provenance.dataset)
    train_loader = training_batches(images.train, train_part, recipe, device=device, seed=seed)
    valid_loader = DeviceLoader(images.train, valid_part, batch_size=250, device=device)
    seed_everything(seed)
    network = AlexNet(recipe.dropout)
    if "model" in values:
        MODELS[values["model"]](network)
    run = TrainingRun(images.provenance, name, resume=True)
    train(network.to(device), train_loader, valid_loader, recipe, run)
    network.load_state_dict(torch.load(run.best_checkpoint, map_location=device, weights_only=True))
    ledger.keep(name, results, network)


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        train_run(asked, experiments()[asked.rpartition("-")[0]])
