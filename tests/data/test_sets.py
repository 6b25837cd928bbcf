"""Image sets in memory: labels and records of where they came from, the digits, and the split."""

from collections import Counter

import numpy as np
import torch
from sklearn.datasets import load_digits

from alexnet_cifar10.data import ImageDataset, Provenance, load_images, stratified_split
from alexnet_cifar10.data.cifar10 import KNOWN_COPIES


def test_an_image_is_the_tensor_that_torchvision_makes_of_it():
    from torchvision.transforms.functional import to_tensor  # here, as each worker would wait two seconds for it

    levels = np.arange(256, dtype=np.uint8).repeat(12).reshape(1, 32, 32, 3)  # every value there is
    image, label = ImageDataset(levels, [3], tuple("abcd"))[0]
    assert torch.equal(image, to_tensor(levels[0])) and image.dtype == torch.float32
    assert image.is_contiguous() and label == 3


# --- where they came from -----------------------------------------------------------------------------------------


def test_a_caveat_stands_where_it_is_true():
    """A test number also depends on the training images; a training picture does not on the test images."""
    training, test = {"data_batch_3.bin": "not official"}, {"test_batch.bin": "re-encoded"}
    for caveats, label, label_test in (
        ({}, "CIFAR-10", "CIFAR-10"),
        (test, "CIFAR-10", "CIFAR-10 (re-encoded)"),
        (training, "CIFAR-10 (not official)", "CIFAR-10 (not official)"),
        (training | test, "CIFAR-10 (not official)", "CIFAR-10 (not official; re-encoded)"),
    ):
        provenance = Provenance("cifar10", "CIFAR-10", "datasets/", {}, caveats)
        assert (provenance.label, provenance.label_test) == (label, label_test)
        assert repr(provenance) == provenance._repr_html_() == f"{label_test}, from datasets/"
        record = provenance.as_record()
        assert record["caveat"] == "; ".join(caveats.values()) and record["official"] == (not caveats)


def test_what_is_recorded_says_all_but_what_was_tried_before():
    provenance = Provenance("digits", "digits", "a sample", {"pixels": "sha256:1"}, tried=("http://example.org: no",))
    record = {"dataset": "digits", "label": "digits", "source": "a sample", "official": True, "caveat": ""}
    assert provenance.as_record() == record | {"digests": {"pixels": "sha256:1"}}


def test_what_is_shown_can_be_printed_on_every_console_and_is_safe_html():
    for caveat in KNOWN_COPIES.values():
        assert repr(Provenance("cifar10", "CIFAR-10", "datasets/", {}, {"test_batch": caveat})).isascii()
    box = Provenance("digits", "digits", "a sample", {}, tried=("<script>alert(1)</script>",))
    assert repr(box).isascii() and "<script>" in repr(box) and "<script>" not in box._repr_html_()


# --- the sample ---------------------------------------------------------------------------------------------------


def test_the_digits_are_scikit_learns_each_once_enlarged(digits):
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.train.data.shape == (1437, 32, 32, 3) and digits.train.data.dtype == np.uint8
    assert Counter(digits.train.targets + digits.test.targets) == Counter(load_digits().target.tolist())
    assert (digits.train.data[..., 0] == digits.train.data[..., 2]).all(), "grey"
    small = digits.train.data[:, :, :, 0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))  # back to 8x8
    scans = load_digits().images * (255 / 16)
    nearest = np.abs(small[:50, None] - scans[None]).mean(axis=(2, 3)).argmin(axis=1)
    assert load_digits().target[nearest].tolist() == digits.train.targets[:50]


def test_the_digits_are_the_same_every_time(digits):
    again = load_images("digits")
    assert again.provenance == digits.provenance
    assert np.array_equal(again.train.data, digits.train.data)


# --- the split ----------------------------------------------------------------------------------------------------


def test_the_split_takes_every_index_once_and_the_same_share_of_each_class():
    targets = [0] * 50 + [1] * 100 + [2] * 30
    train, valid = stratified_split(targets)
    assert sorted([*train, *valid]) == list(range(180))
    assert Counter(targets[i] for i in valid) == {0: 10, 1: 20, 2: 6}
    assert (train, valid) == stratified_split(targets) != stratified_split(targets, seed=43)
