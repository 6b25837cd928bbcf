"""The network of the page docs/demo.md: that of a run, with BatchNorm folded in and weights in int8; its pictures."""

import io
import json
import re
import runpy
import sys
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from export_network import export, fold, open_run, quantise
from PIL import Image

from alexnet_cifar10.batches import DeviceLoader
from alexnet_cifar10.data import load_images, stratified_split
from alexnet_cifar10.evaluate import evaluate
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.notebook.run import ready_run
from alexnet_cifar10.runs import CheckpointError, load_model, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PICTURES = json.loads(re.search(r"= (\{.*\});", (ROOT / "docs/demo/pictures.js").read_text("utf-8"), re.DOTALL)[1])


def network() -> AlexNet:
    """With BatchNorm as after a training: no mean is 0, no variance 1, no bias the same."""
    torch.manual_seed(0)
    model = AlexNet()
    for key, value in model.state_dict().items():
        if value.dim() == 1:
            value.uniform_(0.5, 1.5) if key.endswith("var") else value.normal_(1, 0.3)
    return model.eval()


@torch.no_grad()
def test_the_network_answers_the_same_without_batchnorm_and_nearly_the_same_in_int8():
    model, images = network(), torch.rand(4, 3, 32, 32)
    before = model(images)
    layers = fold(model)
    assert not any("BatchNorm" in type(module).__name__ for module in model.modules())
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)
    for layer in layers:
        weight = layer.weight.clone()
        parts = quantise(layer)
        assert parts["numbers"].abs().amax(dim=1).eq(127).all(), "each output channel uses the whole range"
        assert ((layer.weight - weight).flatten(1).abs() <= 0.501 * parts["scale"]).all()
    assert 0 < (model(images) - before).abs().max() < 0.05 * before.std()


def test_a_channel_of_zeros_stays_one():
    layer = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(layer.weight)
    assert quantise(layer)["numbers"].eq(0).all() and layer.weight.eq(0).all()


def test_the_script_holds_the_best_network_of_the_run(start):
    run, model = start(run_name="mine"), network()
    save_checkpoint(model.state_dict(), run.best_checkpoint)
    written = json.loads(export(run).removeprefix("const NETWORK = ").removesuffix(";\n"))
    accuracy = run.read_record()["result"]["best_valid_accuracy"]
    assert (written["run"], written["data"], written["accuracy"]) == ("mine", "digits", accuracy)
    for part, layer in zip(written["layers"], fold(model), strict=True):
        quantise(layer)
        numbers = np.frombuffer(b64decode(part["numbers"]), np.int8).reshape(len(layer.weight), -1)
        scale, bias = (np.frombuffer(b64decode(part[key]), np.float32) for key in ("scale", "bias"))
        np.testing.assert_array_equal(numbers * scale[:, None], layer.weight.flatten(1).numpy(force=True))
        np.testing.assert_array_equal(bias, layer.bias.numpy(force=True))


def test_a_run_is_named_by_folder_by_name_or_as_the_latest(start, runs):
    first, second = start(run_name="first"), start(run_name="second")
    assert open_run(str(first.path)).name == open_run("first").name == open_run("runs/first").name == "first"
    assert open_run("runs/latest").name == open_run("latest").name == "second"
    second.best_checkpoint.unlink()
    assert open_run("runs/latest").name == "first"
    with pytest.raises(CheckpointError, match=r"RUN=runs/third: there is no best_checkpoint.pth, .*학습 결과 1"):
        open_run("runs/third")


def test_without_a_run_it_is_the_ready_network_and_a_wrong_name_stops_the_build(tmp_path, monkeypatch):
    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["export_network.py", str(tmp_path / "new" / "weights.js"), *arguments])
        runpy.run_path(str(ROOT / "scripts/export_network.py"), run_name="__main__")

    call()
    assert (tmp_path / "new" / "weights.js").read_text() == export(ready_run())
    with pytest.raises(SystemExit, match="No network was put into the page. RUN=runs/nobody: there is no best_checkp"):
        call("runs/nobody")


def test_the_pictures_of_a_class_are_those_that_their_captions_name(outer_cifar10_root, monkeypatch):
    """By the answers of the network that the page has unless it is given another one; one class of the ten."""
    if outer_cifar10_root is None:
        pytest.skip("CIFAR-10 is not here: CIFAR10_ROOT is not set")
    monkeypatch.setenv("CIFAR10_ROOT", outer_cifar10_root)
    images, label = load_images("cifar10").train, 8
    valid = [index for index in stratified_split(images.targets)[1] if images.targets[index] == label]
    model = load_model(ready_run().best_checkpoint, torch.device("cpu"))
    for layer in fold(model):
        quantise(layer)
    loader = DeviceLoader(images, valid, batch_size=250, device=torch.device("cpu"))
    of_right = dict(zip(valid, evaluate(model, loader, torch.device("cpu")).probabilities[:, label], strict=True))
    shown = [picture["index"] for picture in PICTURES["cifar10"]["pictures"] if picture["label"] == label]
    near_half = min(of_right, key=lambda index: abs(of_right[index] - 0.5))
    assert shown == [max(of_right, key=of_right.get), near_half, min(of_right, key=of_right.get)]


@pytest.mark.parametrize("data", ["cifar10", "digits"])
def test_the_pictures_of_the_page_are_validation_images_three_of_each_class(data, outer_cifar10_root, monkeypatch):
    pictures = PICTURES[data]["pictures"]
    assert [picture["label"] for picture in pictures] == [label for label in range(10) for _ in range(3)]
    if data == "cifar10":
        if outer_cifar10_root is None:
            pytest.skip("CIFAR-10 is not here: CIFAR10_ROOT is not set")
        monkeypatch.setenv("CIFAR10_ROOT", outer_cifar10_root)
    images = load_images(data)
    assert tuple(PICTURES[data]["classes"]) == images.classes
    indices = [picture["index"] for picture in pictures]
    assert len(set(indices)) == 30 and set(indices) <= set(stratified_split(images.train.targets)[1])
    for picture, index in zip(pictures, indices, strict=True):
        assert picture["label"] == images.train.targets[index]
        content = b64decode(picture["src"].removeprefix("data:image/png;base64,"))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), images.train.data[index])
