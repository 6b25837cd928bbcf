"""The benchmark: every way runs, and what is kept is what was measured."""

import json
import os

import pytest
import torch

from alexnet_cifar10.runs import describe_machine


@pytest.fixture
def bench():
    import bench  # here, as each worker would wait two seconds for its torchvision

    return bench


def test_a_short_benchmark_keeps_a_report_and_a_picture(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "PRODUCT_SIZE", 1024)
    assert bench.main(["--images", "16", "--rounds", "2", "--output", str(tmp_path)]) == 0
    (report,) = (json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.json"))
    (picture,) = tmp_path.glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert describe_machine(report["machine"]) in capsys.readouterr().out
    assert set(report["training_images_per_second"]) == {"original", "bare", "classic", "fast"}
    for key in ("training_images_per_second", "evaluation_images_per_second", "minutes", "ratios"):
        assert all(0 < value["lowest"] <= value["median"] <= value["highest"] for value in report[key].values())
    assert 0 < report["share_of_product_rate"]["median"] < 2
    assert os.name == "nt" or report["peak_memory_gb"] > 0
    assert set(report["growth"]) == {"images", "batch_size", "threads"}


def test_the_operations_of_an_image_are_those_of_its_layers(bench):
    sizes = [(32, 3, 96), (15, 96, 256), (7, 256, 384), (7, 384, 384), (7, 384, 256)]
    layers = [side**2 * 9 * inputs * outputs for side, inputs, outputs in sizes] + [2304 * 512, 512 * 10]
    first = layers[0]  # nobody asks for the gradient of the image
    assert bench.operations_per_image() == pytest.approx(2 * (3 * sum(layers) - first))


def test_the_original_reads_images_as_torchvision_does(bench, digits):
    image, label = bench.PilDataset(digits.train)[3]
    expected, same = digits.train[3]
    assert torch.equal(image, expected) and label == same
