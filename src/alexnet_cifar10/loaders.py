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
    ) -> None:
        if indices is None:
            indices = range(len(dataset))
        if len(indices) == 0:
            raise ValueError("there are no images to make batches of: the list of indices is empty.")
        chosen = np.asarray(indices)
        self.images = torch.from_numpy(dataset.data[chosen]).to(device)  # uint8 [N, 32, 32, 3]
        self.labels = torch.tensor(dataset.targets)[chosen].to(device)  # int64 [N]
        self.scale = torch.tensor(255.0, device=device)  # CUDA would multiply by the inverse of a plain number
        self.batch_size = batch_size
        self.sampler = EpochSampler(len(chosen), seed) if shuffle else range(len(chosen))

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.tensor(list(self.sampler), device=self.images.device)
        for batch in order.split(self.batch_size):
            images = self.images[batch].permute(0, 3, 1, 2)  # uint8 [B, 3, 32, 32], channels last in memory
            yield images.to(torch.float32).div_(self.scale), self.labels[batch]
