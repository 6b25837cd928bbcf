"""A run for notebooks that need one: the reader's, the one that comes with the tutorial, or a short one trained now."""

import atexit
import hashlib
import json
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import torch

from alexnet_cifar10 import project_root, say
from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.data import ImageSet, stratified_split
from alexnet_cifar10.device import seed_everything
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.notebook.parameters import is_smoke_run
from alexnet_cifar10.recipes import choose_recipe
from alexnet_cifar10.runs import CheckpointError, Run, TrainingRun, find_run
from alexnet_cifar10.runs.files import save_checkpoint
from alexnet_cifar10.train import train

READY = "fast-long.safetensors"  # in weights/: made by scripts/keep_weights.py, as is its digest
SHA256 = "d4087804a0281238dad0da2b2c5d0b9403d676c543ea416052413dbd3e186ab9"


def find_or_train_run(images: ImageSet, device: torch.device, run_name: str | None = None) -> Run:
    """The run called `run_name`, or the newest on these images; else `ready_run`, or a short training."""
    if found := find_run(images.provenance.dataset, run_name):
        return found
    if images.provenance.dataset == "cifar10":
        run = ready_run()
        say(f"There is no run on CIFAR-10 yet, so this is {run.name}, which comes with the tutorial.")
        return run
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


def ready_run() -> Run:
    """The run whose weights come with the tutorial, in a folder that lasts as long as this program.

    They are taken from weights/ in the clone. Elsewhere, as on Colab, they are fetched once, from the tag of this
    version. Raises `CheckpointError` if they cannot be had, or are not the ones of this version.
    """
    from safetensors import safe_open

    file, hint = project_root() / "weights" / READY, "`git checkout -- weights` in the clone's folder brings it back."
    if not file.exists():
        file, hint = (
            Path(torch.hub.get_dir()) / "checkpoints" / f"{SHA256[:8]}-{READY}",
            "Delete it: it is fetched again.",
        )
        if not file.exists():
            fetch(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != SHA256:
        raise CheckpointError(f"{file} is not the file of this version: its sha256 is {digest}, not {SHA256}. {hint}")
    folder = tempfile.mkdtemp(prefix="alexnet-cifar10-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with safe_open(file, "pt") as content:
        records = json.loads(content.metadata()["run"])
        weights = {key: content.get_tensor(key) for key in content.keys()}
    run = Run(Path(folder) / records.pop("name"))
    run.path.mkdir()
    for name, text in records.items():
        (run.path / name).write_text(text, encoding="utf-8", newline="\n")
    whole = {key: weight.float() if weight.is_floating_point() else weight for key, weight in weights.items()}
    save_checkpoint(whole, run.best_checkpoint)
    return run


def fetch(file: Path) -> None:
    """Download the ready weights from the tag of this version. Raises `CheckpointError`, and keeps no other file."""
    try:
        package = metadata("alexnet-cifar10")
        repository = next(url for url in package.get_all("Project-URL") if "Repository" in url).split(", ")[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        address = f"{repository}/raw/v{package['Version']}/weights/{READY}"
        torch.hub.download_url_to_file(address, str(file), hash_prefix=SHA256, progress=False)
    except (OSError, RuntimeError, PackageNotFoundError) as error:  # RuntimeError: another digest
        raise CheckpointError(
            "There is no run on CIFAR-10 yet, and the weights that come with the tutorial cannot be had: "
            f'{error}. Train in notebook 4, or set data = "digits".'
        ) from error
