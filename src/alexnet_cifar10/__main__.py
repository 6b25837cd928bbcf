"""Train without a notebook: `python -m alexnet_cifar10 --recipe fast`. The options are the parameters of notebook 4.

By two processes: `torchrun --standalone --local-addr=localhost --nproc_per_node=2 -m alexnet_cifar10 --recipe fast`.
On a processor, torchrun gives each of them one core; `OMP_NUM_THREADS=4` before it gives each four.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter

import torch

from alexnet_cifar10 import say
from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.data import DataError, ImageSet, load_images, stratified_split
from alexnet_cifar10.device import pick_device, seed_everything
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.notebook.parameters import OF_RECIPE, check_parameters, literal, rule
from alexnet_cifar10.parallel import on_first, rank, together, world
from alexnet_cifar10.recipes import Recipe, choose_recipe
from alexnet_cifar10.runs import CheckpointError, TrainingError, TrainingRun
from alexnet_cifar10.train import train


def prepare() -> tuple[Namespace, ImageSet, Recipe]:
    """What one process does for all: read and check the command line, load the images or download them."""
    parser = ArgumentParser("alexnet_cifar10", formatter_class=RawDescriptionHelpFormatter, description=__doc__)
    for name in ("data", "recipe", *OF_RECIPE, "changes", "seed", "device", "run_name"):
        kind = str if name == "run_name" else literal
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=rule(name, None)[1])
    parser.add_argument("--resume", action="store_true", help="go on with the run called RUN_NAME, or with the newest")
    parser.set_defaults(data="auto", changes={}, seed=42, device="auto")
    options = parser.parse_args()
    if world() > 1 and options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"  # MPS cannot add up gradients
    check_parameters(vars(options), *vars(options))
    images = load_images(options.data)
    say(repr(images.provenance))
    changes = {key: vars(options)[key] for key in OF_RECIPE} | options.changes
    return options, images, choose_recipe(options.recipe, images.provenance.dataset, **changes)


def start() -> None:
    with together():
        try:
            options, images, recipe = on_first(prepare)
            device, (train_part, valid_part) = pick_device(options.device), stratified_split(images.train.targets)
            train_loader = training_batches(images.train, train_part, recipe, device=device, seed=options.seed)
            valid_loader = DeviceLoader(images.train, valid_part, batch_size=250, device=device)
            seed_everything(options.seed)
            run = TrainingRun(images.provenance, options.run_name, resume=options.resume)
            train(AlexNet(recipe.dropout).to(device), train_loader, valid_loader, recipe, run)
            if run.was_interrupted:
                sys.exit(130)  # as a shell says of Ctrl-C: what comes after && is not started
        except (ValueError, DataError, TrainingError, CheckpointError) as error:
            if rank() > 0:
                raise
            print(error, file=sys.stderr, flush=True)
            sys.exit(1)


if __name__ == "__main__":
    start()
