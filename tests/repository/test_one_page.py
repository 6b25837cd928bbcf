"""The whole program on one page: plain PyTorch that gives what the package's `train` gives, to the last bit."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.data import ImageDataset, ImageSet, load_images, stratified_split
from alexnet_cifar10.device import seed_everything
from alexnet_cifar10.evaluate import evaluate
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.recipes import choose_recipe
from alexnet_cifar10.runs import TrainingRun, load_checkpoint, load_model
from alexnet_cifar10.train import train

PAGE = Path(__file__).resolve().parents[2] / "notebooks" / "one_page.py"
CPU = torch.device("cpu")


def start(folder, *words):
    """Run the file as a reader would, on the CPU and with as many threads as this process has."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(PAGE), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def run_here(monkeypatch, *words):
    """What the file has defined at its end, on the CPU, without the seconds for another Python and its imports."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [PAGE.name, *words])
    return runpy.run_path(str(PAGE))


def make_cifar10(folder):
    """Six small files of the binary version of CIFAR-10, and the images that are in them."""
    folder.mkdir()
    rng, parts = np.random.default_rng(0), []
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels, labels = rng.integers(0, 256, (23, 3072), dtype=np.uint8), [*range(10), *range(10), 0, 1, 2]
        np.insert(pixels, 0, labels, axis=1).tofile(folder / f"{name}.bin")
        parts.append(ImageDataset(pixels.reshape(23, 3, 32, 32).transpose(0, 2, 3, 1), labels, tuple("0123456789")))
    data = np.concatenate([part.data for part in parts[:5]])
    whole = ImageDataset(data, [label for part in parts[:5] for label in part.targets], parts[0].classes)
    return ImageSet(whole, parts[5], whole.classes, load_images("digits").provenance)


def test_its_first_epoch_is_that_of_classic_to_the_last_bit(tmp_path, runs):
    images = make_cifar10(tmp_path / "cifar-10-batches-bin")
    page = start(tmp_path, "cifar-10-batches-bin", "1")

    train_indices, valid_indices = stratified_split(images.train.targets)
    recipe = choose_recipe("classic", epochs=1)
    seed_everything(42)
    train_loader = training_batches(images.train, train_indices, recipe, device=CPU)
    valid_loader = DeviceLoader(images.train, valid_indices, batch_size=250, device=CPU)
    run = TrainingRun(images.provenance, "classic")
    train(AlexNet(recipe.dropout), train_loader, valid_loader, recipe, run)
    (row,) = run.history
    test_loader = DeviceLoader(images.test, batch_size=250, device=CPU)
    test = evaluate(load_model(run.best_checkpoint, CPU), test_loader, CPU)

    printed, errors = page.communicate(timeout=600)
    assert errors == ""
    assert printed.splitlines() == [
        f"1: train {row['train_loss']:.6f}, valid {row['valid_loss']:.6f}, accuracy {row['valid_accuracy']:.4f}",
        f"test accuracy {test.accuracy:.4f}",
    ]
    ours, theirs = load_checkpoint(run.best_checkpoint), load_checkpoint(tmp_path / "best.pth")
    assert list(ours) == list(theirs)
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_its_digits_their_parts_and_what_it_says_of_them_are_those_of_the_package(
    digits, tmp_path, monkeypatch, capsys
):
    torch.save(AlexNet().state_dict(), tmp_path / "best.pth")
    monkeypatch.chdir(tmp_path)
    page = run_here(monkeypatch, "digits", "0")  # no epoch: it tests the weights that are there
    train_indices, valid_indices = stratified_split(digits.train.targets)
    for part, images, indices in (
        ("train", digits.train, train_indices),
        ("valid", digits.train, valid_indices),
        ("test", digits.test, list(range(len(digits.test)))),
    ):
        its, labels = page["images"][page[part]], page["labels"][page[part]]
        assert torch.equal(its, torch.stack([images[i][0] for i in indices]))
        assert labels.tolist() == [images.targets[i] for i in indices]
        if part != "train":
            ours = evaluate(page["model"], DeviceLoader(images, indices, batch_size=250, device=CPU), CPU)
            assert page["evaluate"](its, labels) == (ours.loss, ours.accuracy)
    assert capsys.readouterr().out == f"test accuracy {ours.accuracy:.4f}\n"


def test_it_is_one_page_and_needs_nothing_of_ours():
    text = PAGE.read_text(encoding="utf-8")
    assert 60 <= len(text.splitlines()) <= 80
    assert max(map(len, text.splitlines())) <= 100  # JupyterLab in a window of 1280 pixels
    assert set(re.findall(r"^(?:import|from) (\w+)", text, re.M)) == {
        *("sys", "collections"),
        *("numpy", "torch", "sklearn"),
    }


def test_without_words_it_says_how_it_is_called(monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        run_here(monkeypatch)
    assert "python one_page.py digits 3" in stopped.value.code
    assert "cs.toronto.edu/~kriz/cifar-10-binary.tar.gz" in stopped.value.code
