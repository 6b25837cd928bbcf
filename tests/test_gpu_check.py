"""The measurement of a GPU: what takes too long is ended, the next is measured, and all of it is told."""

import json
import os
import sys
from dataclasses import replace

import pytest
import torch

from alexnet_cifar10.data import ImageDataset
from alexnet_cifar10.model import AlexNet

pytestmark = pytest.mark.skipif(os.name == "nt", reason="process groups are ended as POSIX has it")


@pytest.fixture
def gpu_check():
    import gpu_check  # here, as each worker would wait for what it imports

    return gpu_check


def test_one_that_exceeds_its_limit_is_ended_and_the_next_one_is_measured(gpu_check, tmp_path, monkeypatch, capsys):
    pid = tmp_path / "pid"
    todo = {
        "endless": gpu_check.Item("never ends", 1, "", ["sh", "-c", f"sleep 60 & echo $! > {pid}; wait"]),
        "profile": gpu_check.items(tmp_path, few=True)["profile"],
        "late": gpu_check.Item("too late", 1, "", ["true"]),
    }
    monkeypatch.setattr(gpu_check, "SHORTEST", 58.9)  # so that of a minute too little is left for the third
    report = gpu_check.check(todo, tmp_path, few=True, minutes=1)
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")) == report
    items = report["items"]
    assert items["endless"]["status"] == "ended after 1 s" and "ended after 1 s" in capsys.readouterr().out
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert items["profile"]["status"] == "done", (tmp_path / "profile.log").read_text()
    assert items["late"] == {"what": "too late", "status": "not measured yet"}
    found = json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))
    assert 0.2 < found["matrix products' share of the kernels' time"] < 1 and found["kernels per step"] > 100
    text = gpu_check.document(tmp_path)
    assert "\nNot measured yet on a GPU: never ends; where a step of fast spends its time; too late.\n" in text
    assert "| milliseconds per step |" in text


def test_runs_are_kept_as_the_ledger_keeps_them_and_not_made_twice(
    gpu_check, digits, runs, tmp_path, monkeypatch, capsys
):
    def first(images, count):
        return ImageDataset(images.data[:count], images.targets[:count], images.classes)

    few = replace(digits, train=first(digits.train, 300), test=first(digits.test, 20))
    for module in ("ledger", "other_models"):
        monkeypatch.setattr(sys.modules[module], "load_images", lambda source: few)
    names = ["fast-43", "parts-softmax-42"]
    assert gpu_check.train(names, tmp_path, few=True)
    said = capsys.readouterr().out
    assert all(f"{name}: accuracy" in said for name in names)
    kept = gpu_check.ledger.read_entries(tmp_path / "results")
    told = [(entry.run.name, entry.record["seed"], entry.recipe["name"]) for entry in kept]
    assert told == [("fast-43", 43, "fast"), ("parts-softmax-42", 42, "classic, softmax in forward")]
    assert gpu_check.train(names, tmp_path, few=True)
    assert capsys.readouterr().out == ""


def test_a_network_differs_from_alexnet_in_what_its_name_says(gpu_check):
    other_models = sys.modules["other_models"]
    pictures = torch.rand(2, 3, 32, 32)

    def changed(name):
        torch.manual_seed(1)
        network = AlexNet()
        other_models.MODELS[name](network)
        assert network(pictures).shape == (2, 10), "it trains"
        return network.eval()

    assert torch.allclose(changed("softmax in forward")(pictures).sum(dim=1), torch.ones(2))
    assert not any("batch_norm" in key or ".1." in key for key in changed("no BatchNorm").state_dict())
    pooled = changed("global average pooling")
    upside_down = pooled.conv_block5[-1](pictures.flip(2))
    assert torch.allclose(upside_down, pooled.conv_block5[-1](pictures)), "it does not know where something was"
    kernels = [weight.shape[2:] for weight in changed("1x1 kernels").parameters() if weight.ndim == 4]
    assert kernels == [(1, 1)] * 5
