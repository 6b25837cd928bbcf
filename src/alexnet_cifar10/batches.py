"""Mini-batches, made on the device from images that are held there; flips, shifts and cutouts (augmentation)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from alexnet_cifar10.data import ImageDataset
from alexnet_cifar10.device import epoch_seed, memory_format
from alexnet_cifar10.parallel import world
from alexnet_cifar10.recipes import Recipe, check_value

MADE_WITH = ("batch_size", "flip", "shift", "cutout")  # what batches are made with, under the names of `Recipe`


class DeviceLoader:
    """Batches from images that are held on the device as uint8, instead of decoding one image after the other.

    Iterating gives (float32 images [B, 3, 32, 32] in 0..1, int64 labels [B]): the numbers of `dataset[i]`. 40 000
    images take 123 MB. With `shuffle`, for training, the order changes with the epoch of `set_epoch`, and a last batch
    with a single image for a process is left out, as batch normalisation cannot take the variance of one value.

    Augmentation, also anew in each epoch: with `flip` about half of the images are mirrored left to right, and in the
    next epoch the others (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024). `shift` moves each by up to
    that many pixels in both directions; what would be empty is filled with the mirror image of the border. `cutout`
    makes a square with sides of that many pixels grey; its middle may be any pixel, so that part of it can lie outside
    (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017).

    Seed and epoch alone fix all of it. Raises `ValueError` for no indices, for a shift or cutout that is not 0..31, and
    for augmentation without `shuffle`.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int,
        device: torch.device,
        shuffle: bool = False,
        seed: int = 42,
        flip: bool = False,
        shift: int = 0,
        cutout: int = 0,
    ) -> None:
        chosen = np.arange(len(dataset)) if indices is None else np.asarray(indices)
        if len(chosen) == 0:
            raise ValueError("there are no images to make batches of: the list of indices is empty.")
        check_value("shift", shift)
        check_value("cutout", cutout)
        if (flip or shift or cutout) and not shuffle:
            raise ValueError("flip, shift and cutout change with the epoch: they need a loader with shuffle=True.")
        self.images = torch.from_numpy(dataset.data[chosen]).to(device)  # uint8 [N, 32, 32, 3]
        self.labels = torch.tensor(dataset.targets)[chosen].to(device)  # int64 [N]
        self.scale = torch.tensor(255.0, device=device)  # CUDA would multiply by the inverse of a plain number
        self.layout = memory_format(device)
        self.batch_size, self.shuffle, self.seed, self.epoch = batch_size, shuffle, seed, 0
        self.flip, self.shift, self.cutout = flip, shift, cutout

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of this epoch, as `torch.utils.data.DistributedSampler` does."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.labels), self.batch_size)
        return whole + (rest >= (2 * world() if self.shuffle else 1))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, device = len(self.labels), self.images.device
        order = torch.randperm(count, generator=self._generator(0)) if self.shuffle else torch.arange(count)
        order = order.to(device)
        places = self._places() if self.flip or self.shift else None
        holes = self._holes() if self.cutout else None
        for batch in order.split(self.batch_size)[: len(self)]:
            if places is None:
                images = self.images[batch]  # uint8 [B, 32, 32, 3]
            else:
                rows, columns = places[:, batch]  # int64 [B, 32] each
                images = self.images[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
            if holes is not None:
                rows, columns = holes[:, batch]  # bool [B, 32] each
                images.masked_fill_((rows[:, :, None] & columns[:, None, :])[..., None], 128)
            images = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.layout)  # [B, 3, 32, 32]
            yield images.div_(self.scale), self.labels[batch]

    def _generator(self, stream: int, epoch: int | None = None) -> torch.Generator:
        """Random numbers fixed by seed, epoch and stream alone: what else draws random numbers does not matter."""
        return torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch if epoch is None else epoch) ^ stream)

    def _places(self) -> Tensor:
        """For each row and each column of each image, the one that it is taken from: int64 [2, N, 32], in 0..31."""
        count, device = len(self.labels), self.images.device
        places = torch.arange(32, device=device).expand(2, count, 32)
        if self.shift:
            by = torch.randint(-self.shift, self.shift + 1, (2, count, 1), generator=self._generator(1))
            places = (places + by.to(device)).abs()  # -1 is 1, -2 is 2, ...
            places = 31 - (31 - places).abs()  # ... and 32 is 30, 33 is 29, ...
        if self.flip:
            half = torch.randint(0, 2, (count, 1), generator=self._generator(2, epoch=0))  # the same in every epoch
            mirrored = (half == self.epoch % 2).to(device)
            places = torch.stack([places[0], torch.where(mirrored, 31 - places[1], places[1])])
        return places

    def _holes(self) -> Tensor:
        """For each row and each column of each image, whether the grey square lies in it: bool [2, N, 32]."""
        device = self.images.device
        middle = torch.randint(0, 32, (2, len(self.labels), 1), generator=self._generator(3)).to(device)
        distance = torch.arange(32, device=device) - (middle - self.cutout // 2)  # from its first row or column
        return (0 <= distance) & (distance < self.cutout)


def training_batches(
    dataset: ImageDataset, indices: Sequence[int] | None, recipe: Recipe, *, device: torch.device, seed: int = 42
) -> DeviceLoader:
    """The batches that `recipe` trains on: its size, flips, shifts and cutouts, in an order fixed by `seed`."""
    made_with = {key: getattr(recipe, key) for key in MADE_WITH}
    return DeviceLoader(dataset, indices, device=device, shuffle=True, seed=seed, **made_with)
