"""Train without a notebook: `python -m alexnet_cifar10 --recipe fast`. The options are the parameters of notebook 4.

By two processes: `torchrun --standalone --nproc_per_node=2 -m alexnet_cifar10 --recipe fast`.
"""

import argparse
import ast
import sys
from dataclasses import replace

import torch

from alexnet_cifar10 import say
from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.data import DataError, ImageSet, load_images, stratified_split
from alexnet_cifar10.device import pick_device, seed_everything
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.notebook.parameters import OF_RECIPE, check_parameters
from alexnet_cifar10.parallel import on_first, rank, together, world
from alexnet_cifar10.recipes import choose_recipe
from alexnet_cifar10.runs import CheckpointError, TrainingError, TrainingRun
from alexnet_cifar10.train import train

OPTIONS = {
    **{"data": str, "recipe": str, "epochs": int, "batch_size": int, "learning_rate": float, "patience": int},
    **{"changes": ast.literal_eval, "seed": int, "device": str, "run_name": str},
}


def options_and_images() -> tuple[argparse.Namespace, ImageSet]:
    """What one process does for all: read and check the command line, load the images or download them."""
    parser = argparse.ArgumentParser("alexnet_cifar10", description=__doc__, allow_abbrev=False)
    for name, kind in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind)
    parser.add_argument("--resume", action="store_true")
    parser.set_defaults(data="auto", changes={}, seed=42, device="auto")
    options = parser.parse_args()
    if world() > 1 and options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"  # MPS cannot add up gradients
    check_parameters(vars(options), *vars(options))
    images = load_images(options.data)
    say(repr(images.provenance))
    return options, images


def main() -> None:
    options, images = on_first(options_and_images)
    changes = {key: vars(options)[key] for key in OF_RECIPE} | options.changes
    recipe = choose_recipe(options.recipe, images.provenance.dataset, **changes)
    if images.provenance.dataset != "cifar10":
        recipe = replace(recipe, flip=False)  # a mirrored 2 is no 2
    device, (train_indices, valid_indices) = pick_device(options.device), stratified_split(images.train.targets)
    train_loader = training_batches(images.train, train_indices, recipe, device=device, seed=options.seed)
    valid_loader = DeviceLoader(images.train, valid_indices, batch_size=250, device=device)
    seed_everything(options.seed)
    run = TrainingRun(images.provenance, options.run_name, resume=options.resume)
    train(AlexNet(recipe.dropout).to(device), train_loader, valid_loader, recipe, run)


def start() -> None:
    with together():
        try:
            main()
        except (ValueError, DataError, TrainingError, CheckpointError) as error:
            if rank() > 0:
                raise
            print(error, file=sys.stderr, flush=True)
            sys.exit(1)


if __name__ == "__main__":
    start()
