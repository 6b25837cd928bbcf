"""Batches: the same numbers whichever loader makes them, in an order that seed and epoch fix."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.data import ImageDataset
from alexnet_cifar10.recipes import LONG

CPU = torch.device("cpu")
INDICES = [5, 3, 900, 12, 77, 4, 1200, 8, 6, 100]


def in_batches(loader, epoch=None):
    if epoch is not None:
        loader.set_epoch(epoch)
    return [(images.clone(), labels) for images, labels in loader]


def equal(some, others):
    return len(some) == len(others) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(some, others, strict=True)
    )


def test_batches_are_those_that_pytorchs_loader_makes(digits):
    """Of the same images in the same order, whatever `num_workers` is."""
    ours = DeviceLoader(digits.train, INDICES, batch_size=4, device=CPU)
    assert torch.cat([labels for _, labels in ours]).tolist() == [digits.train.targets[i] for i in INDICES]
    for workers in (0, 1):
        assert equal(in_batches(ours), in_batches(DataLoader(Subset(digits.train, INDICES), 4, num_workers=workers)))
    shuffled = DeviceLoader(digits.train, INDICES, batch_size=4, device=CPU, shuffle=True, seed=7)
    pairs = [pair for batch in in_batches(ours) for pair in zip(*batch, strict=True)]
    one_by_one = {image.numpy().tobytes(): int(label) for image, label in pairs}
    for images, labels in in_batches(shuffled, epoch=1):
        assert [one_by_one[image.numpy().tobytes()] for image in images] == labels.tolist()


def test_every_grey_level_is_the_number_that_to_tensor_gives():
    every_level = np.arange(3 * 1024, dtype=np.uint32).astype(np.uint8).reshape(1, 32, 32, 3)  # 0..255, twelve times
    dataset = ImageDataset(every_level, [0], ("one",))
    ((images, _),) = DeviceLoader(dataset, batch_size=1, device=CPU)
    assert torch.equal(images[0], dataset[0][0])
    assert images.min() == 0 and images.max() == 1


def test_last_batch_is_short_and_no_image_is_lost_or_doubled(digits):
    loader = DeviceLoader(digits.train, INDICES, batch_size=4, device=CPU, shuffle=True)
    batches = in_batches(loader)
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert len(loader) == 3
    seen = torch.cat([images for images, _ in batches]).sum(dim=(1, 2, 3))
    all_of_them = torch.stack([digits.train[i][0] for i in INDICES]).sum(dim=(1, 2, 3))
    torch.testing.assert_close(seen.sort().values, all_of_them.sort().values)


def test_all_images_are_taken_when_no_indices_are_named(digits):
    assert len(DeviceLoader(digits.test, batch_size=100, device=CPU).labels) == len(digits.test)


def test_no_indices_at_all_are_refused(digits):
    with pytest.raises(ValueError, match="no images"):
        DeviceLoader(digits.train, [], batch_size=4, device=CPU)


def test_order_is_fixed_by_seed_and_epoch_alone(digits):
    dataset = ImageDataset(digits.train.data[:50], list(range(50)), digits.classes)

    def order(seed, epoch):
        loader = DeviceLoader(dataset, batch_size=10, device=CPU, shuffle=True, seed=seed)
        torch.rand(epoch)  # what others draw does not matter
        return torch.cat([labels for _, labels in in_batches(loader, epoch)]).tolist()

    assert order(1, 1) == order(1, 1)
    orders = [order(1, 1), order(1, 2), order(2, 1), order(0, 3)]
    assert all(sorted(one) == list(range(50)) for one in orders)
    assert len({tuple(one) for one in orders}) == 4


def test_an_epochs_order_takes_nothing_from_the_random_numbers_of_dropout(digits):
    loader = DeviceLoader(digits.train, INDICES, batch_size=4, device=CPU, shuffle=True, flip=True, shift=2, cutout=3)
    torch.manual_seed(3)
    untouched = torch.get_rng_state()
    in_batches(loader, epoch=1)
    assert torch.equal(torch.get_rng_state(), untouched)


def test_a_recipe_makes_its_batches(digits):
    loader = training_batches(digits.train, INDICES, LONG, device=CPU, seed=5)
    assert (loader.batch_size, loader.flip, loader.shift, loader.cutout) == (LONG.batch_size, True, 3, 8)
    assert (loader.shuffle, loader.seed, len(loader.labels)) == (True, 5, len(INDICES))


@pytest.mark.parametrize(("shuffle", "sizes"), [(True, [4, 4]), (False, [4, 4, 1])])
def test_a_last_batch_of_one_image_is_left_out_in_training_only(shuffle, sizes, digits):
    loader = DeviceLoader(digits.train, range(9), batch_size=4, device=CPU, shuffle=shuffle)
    assert [len(labels) for _, labels in loader] == sizes and len(loader) == len(sizes)


@pytest.fixture
def few(digits):
    """Forty images that look unlike their mirror images."""
    chance = np.random.default_rng(0)
    return ImageDataset(chance.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), list(range(40)), digits.classes)


def augmented(dataset, epoch, batch_size=7, **how):
    """All images of an epoch in the order of the dataset, uint8 [N, 32, 32, 3]."""
    loader = DeviceLoader(dataset, batch_size=batch_size, device=CPU, shuffle=True, **how)
    loader.set_epoch(epoch)
    batches = list(loader)
    images, labels = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    assert images.dtype == torch.float32 and images.shape[1:] == (3, 32, 32)
    return images[labels.argsort()].mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def test_half_of_the_images_are_mirrored_and_the_other_half_in_the_next_epoch(few):
    epochs = [augmented(few, epoch, flip=True) for epoch in (1, 2, 3)]
    mirrored = [[bool((seen[i] == few.data[i, :, ::-1]).all()) for i in range(40)] for seen in epochs]
    as_it_is = [[bool((seen[i] == few.data[i]).all()) for i in range(40)] for seen in epochs]
    assert mirrored[0] == as_it_is[1] == mirrored[2] and as_it_is[0] == mirrored[1]
    assert all(m != a for m, a in zip(mirrored[0], as_it_is[0], strict=True))
    assert 8 < sum(mirrored[0]) < 32


@pytest.mark.parametrize("flip", [False, True])
def test_shifts_are_crops_of_the_image_with_a_mirrored_border(flip, few):
    padded = np.pad(few.data, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    offsets = set()
    for epoch in (1, 2, 3, 4):
        for i, seen in enumerate(augmented(few, epoch, shift=2, flip=flip)):
            found = [
                (dy, dx)
                for dy in range(5)
                for dx in range(5)
                for crop in (padded[i, dy : dy + 32, dx : dx + 32],)
                if (seen == crop).all() or (flip and (seen == crop[:, ::-1]).all())
            ]
            assert len(found) == 1
            offsets.update(found)
    assert len(offsets) == 25, "all of them come, 160 times 25 at random"


def test_a_shift_may_be_as_large_as_the_image_allows(few):
    assert augmented(few, 1, shift=31).shape == (40, 32, 32, 3)
    for shift in (-1, 32):
        with pytest.raises(ValueError, match=f"shift = {shift}: .* from 0 to 31"):
            DeviceLoader(few, batch_size=4, device=CPU, shuffle=True, shift=shift)


def test_cutout_makes_a_square_grey_that_may_lie_partly_outside(few):
    few = ImageDataset(few.data // 2, few.targets, few.classes)  # nothing in them is that grey
    corners, whole = set(), 0
    for epoch in range(1, 81):
        seen = augmented(few, epoch, cutout=6)
        grey = (seen == 128).all(axis=3)
        assert (seen[~grey] == few.data[~grey]).all(), "all else is as it was"
        for hole in grey:
            rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
            assert hole.sum() == len(rows) * len(columns), "a rectangle without gaps"
            for line in (rows, columns):
                assert len(line) == line[-1] - line[0] + 1
                assert len(line) == 6 or (3 <= len(line) < 6 and (line[0] == 0 or line[-1] == 31))
            corners.add((rows[0], columns[0]))
            whole += len(rows) == len(columns) == 6
    assert 0.65 < whole / 3200 < 0.75, "of 32 x 32 middles 27 x 27 keep the square inside"
    assert len(corners) > 600


def test_cutout_comes_on_top_of_flips_and_shifts(few):
    plain = augmented(few, 2, flip=True, shift=3)
    seen = augmented(few, 2, flip=True, shift=3, cutout=10)
    grey = (seen == 128).all(axis=3)
    assert grey.reshape(40, -1).any(axis=1).all()
    assert (seen[~grey] == plain[~grey]).all()


@pytest.mark.parametrize("how", [{}, {"flip": True}])
def test_a_cutout_of_one_epoch_is_not_there_in_the_next(how, few):
    loader = DeviceLoader(few, batch_size=4, device=CPU, shuffle=True, cutout=10, **how)
    for epoch in (1, 2):
        loader.set_epoch(epoch)
        list(loader)
    assert (loader.images.numpy() == few.data).all()


def test_a_cutout_leaves_some_of_the_image(few):
    for cutout in (-1, 32):
        with pytest.raises(ValueError, match=f"cutout = {cutout}: .* from 0 to 31"):
            DeviceLoader(few, batch_size=4, device=CPU, shuffle=True, cutout=cutout)


@pytest.mark.parametrize("how", [{"flip": True}, {"shift": 1}, {"cutout": 1}])
def test_augmentation_needs_an_epoch(how, few):
    with pytest.raises(ValueError, match="shuffle=True"):
        DeviceLoader(few, batch_size=4, device=CPU, **how)


@pytest.mark.parametrize("how", [{"flip": True}, {"shift": 2}, {"cutout": 5}])
def test_augmentation_is_fixed_by_seed_and_epoch_alone(how, few):
    first = augmented(few, 3, **how, seed=1)
    torch.rand(5)
    assert (augmented(few, 3, **how, seed=1, batch_size=40) == first).all()
    assert (augmented(few, 4, **how, seed=1) != first).any()
    assert (augmented(few, 3, **how, seed=2) != first).any()
