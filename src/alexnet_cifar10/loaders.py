"""Mini-batches: PyTorch's `DataLoader`, and batches made on the device from a tensor held there."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from alexnet_cifar10.data import ImageDataset
from alexnet_cifar10.environment import epoch_seed

__all__ = ["DeviceLoader", "EpochSampler", "make_data_loader"]


class EpochSampler(Sampler[int]):
    """A random order of `count` indices, another one each epoch, fixed by `(seed, epoch)` alone.

    `set_epoch` is called before each epoch, as for `torch.utils.data.DistributedSampler`.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        # its own generator: the order does not depend on what else drew random numbers, nor the other way round
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
        yield from torch.randperm(self.count, generator=generator).tolist()


def make_data_loader(
    dataset: Dataset, batch_size: int, *, shuffle: bool = False, seed: int = 42, num_workers: int = 0
) -> DataLoader:
    """A `DataLoader` over any dataset, whose order is fixed by `(seed, epoch)`, whatever `num_workers` is."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), seed) if shuffle else None,
        num_workers=num_workers,
        generator=torch.Generator(),  # without it, each epoch would take one number from the stream that dropout uses
    )


class DeviceLoader:
    """Batches from images that are held on the device as uint8, instead of decoding one image after the other.

    Iterating gives (float32 images [B, 3, 32, 32] in 0..1, int64 labels [B]): for the same seed, epoch and indices the
    very numbers that `make_data_loader` gives. 40 000 images take 123 MB.

    With `flip`, about half of the images are mirrored left to right, and in the next epoch the others (Jordan, "94% on
    CIFAR-10 in 3.29 Seconds on a Single GPU", 2024). With `shift`, each is moved by up to that many pixels in both
    directions, anew each epoch; what would be empty is filled with the mirror image of the border. With `cutout`, a
    square with sides of that many pixels is then made grey, anew each epoch; its middle may be any pixel, so that part
    of it can lie outside (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
    2017). All are fixed by the seed and by the epoch of `sampler.set_epoch`, and so need `shuffle`. Raises
    `ValueError` without it, for a shift or cutout that is not 0..31, and for no indices.
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
        if indices is None:
            indices = range(len(dataset))
        if len(indices) == 0:
            raise ValueError("there are no images to make batches of: the list of indices is empty.")
        if not 0 <= shift < 32:
            raise ValueError(f"shift = {shift}: an image of 32 pixels can be moved by 0 to 31 of them.")
        if not 0 <= cutout < 32:
            raise ValueError(f"cutout = {cutout}: of an image of 32 pixels a square of 0 to 31 can be made grey.")
        if (flip or shift or cutout) and not shuffle:
            raise ValueError(
                "flip, shift and cutout change with the epoch, which only a loader with shuffle=True is told."
            )
        chosen = np.asarray(indices)
        self.images = torch.from_numpy(dataset.data[chosen]).to(device)  # uint8 [N, 32, 32, 3]
        self.labels = torch.tensor(dataset.targets)[chosen].to(device)  # int64 [N]
        self.scale = torch.tensor(255.0, device=device)  # CUDA would multiply by the inverse of a plain number
        self.batch_size = batch_size
        self.sampler = EpochSampler(len(chosen), seed) if shuffle else range(len(chosen))
        self.seed = seed
        self.flip = flip
        self.shift = shift
        self.cutout = cutout

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.tensor(list(self.sampler), device=self.images.device)
        places = self._places() if self.flip or self.shift else None
        holes = self._holes() if self.cutout else None
        for batch in order.split(self.batch_size):
            if places is None:
                images = self.images[batch]  # uint8 [B, 32, 32, 3]
            else:
                rows, columns = places[:, batch]  # int64 [B, 32] each
                images = self.images[batch[:, None, None], rows[:, :, None], columns[:, None, :]]
            if holes is not None:
                rows, columns = holes[:, batch]  # bool [B, 32] each
                images.masked_fill_((rows[:, :, None] & columns[:, None, :])[..., None], 128)
            images = images.permute(0, 3, 1, 2)  # [B, 3, 32, 32], channels last in memory
            yield images.to(torch.float32).div_(self.scale), self.labels[batch]

    def _places(self) -> Tensor:
        """For each row and each column of each image, the one that it is taken from: int64 [2, N, 32], in 0..31."""
        count, epoch = len(self.labels), self.sampler.epoch
        places = torch.arange(32).expand(2, count, 32)
        if self.shift:
            # its own generator, as for the order; of another stream, so that the two have nothing in common
            generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch) ^ 1)
            by = torch.randint(-self.shift, self.shift + 1, (2, count, 1), generator=generator)
            places = (places + by).abs()  # -1 is 1, -2 is 2, ...
            places = 31 - (31 - places).abs()  # ... and 32 is 30, 33 is 29, ...
        if self.flip:
            generator = torch.Generator().manual_seed(epoch_seed(self.seed, 0) ^ 2)  # the same in every epoch
            mirrored = torch.randint(0, 2, (count, 1), generator=generator) == epoch % 2
            places = torch.stack([places[0], torch.where(mirrored, 31 - places[1], places[1])])
        return places.to(self.images.device)

    def _holes(self) -> Tensor:
        """For each row and each column of each image, whether the grey square lies in it: bool [2, N, 32]."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.sampler.epoch) ^ 3)  # a stream of its own
        middle = torch.randint(0, 32, (2, len(self.labels), 1), generator=generator)
        distance = torch.arange(32) - (middle - self.cutout // 2)  # from the square's first row or column
        return ((0 <= distance) & (distance < self.cutout)).to(self.images.device)
