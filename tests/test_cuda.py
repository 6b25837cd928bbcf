"""On a CUDA device: the same bits again, also by a run that goes on, in all precisions. Skipped where there is none."""

import pytest
import torch
from small_run import assert_identical, interrupted_in, numbers

import alexnet_cifar10.train as training
from alexnet_cifar10.batches import training_batches
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.recipes import CLASSIC, LONG

CUDA = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [
        (CLASSIC, torch.float32),
        (LONG, torch.float32),  # with all that recipes have
        (LONG, torch.bfloat16),
        (LONG, torch.float16),
    ],
)
def test_the_same_command_and_a_resumed_run_give_the_same_bytes(recipe, precision, start, monkeypatch):
    monkeypatch.setattr(training, "autocast_dtype", lambda device: precision)

    def run(name, **more):
        torch.manual_seed(1)
        few = {"images": 400, "valid": range(400, 500), "epochs": 3, "batch_size": 16, "device": CUDA}
        return start(AlexNet(), run_name=name, base=recipe, **few, **more)

    whole = run("whole")
    assert whole.read_record()["precision"].startswith(str(precision).removeprefix("torch."))
    losses = [row["train_loss"] for row in numbers(whole)]
    assert losses[2] < losses[0], "it learns"
    assert_identical(run("again"), whole)
    run("stopped", loader=interrupted_in(2))
    assert_identical(run("stopped", resume=True), whole)


def test_batches_are_those_of_the_processor(digits):
    def batches(device):
        return list(training_batches(digits.train, range(300), LONG, device=device))

    for (images, labels), (same_images, same_labels) in zip(batches(CUDA), batches(torch.device("cpu")), strict=True):
        assert images.is_cuda and torch.equal(images.cpu(), same_images) and torch.equal(labels.cpu(), same_labels)
