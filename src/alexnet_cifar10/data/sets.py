"""Image sets in memory and where they came from, the handwritten digits, and the stratified split."""

import hashlib
import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

ADVICE = (
    "To use CIFAR-10, run this again with a network (CIFAR10_MIRROR may name one more address), or "
    "put cifar-10-python.tar.gz or cifar-10-binary.tar.gz, as it is or unpacked, into datasets/ of this project (or, "
    "where the environment variable CIFAR10_ROOT is set, into the folder that it names)."
)


@dataclass(frozen=True, repr=False)
class Provenance:
    """Where the images of an `ImageSet` came from. In a notebook it shows itself: a line, or a box for the sample."""

    dataset: str  # "cifar10" or "digits"
    name: str  # the same for people
    source: str  # where it was read
    digests: dict[str, str]  # file -> "sha256:..." or "md5:..."
    caveats: dict[str, str] = field(default_factory=dict)  # file that is not official -> what is different in it
    tried: tuple[str, ...] = ()  # why CIFAR-10 could not be had

    @property
    def label(self) -> str:
        """What to write beside each number and picture that comes from training or validation images."""
        caveats = [text for file, text in self.caveats.items() if not file.startswith("test")]
        return f"{self.name} ({'; '.join(caveats)})" if caveats else self.name

    @property
    def label_test(self) -> str:
        """What to write beside each number and picture that comes from test images."""
        return f"{self.name} ({'; '.join(self.caveats.values())})" if self.caveats else self.name

    def as_record(self) -> dict[str, object]:
        """What a run writes down about its images; they are official if each file has its published digest."""
        record = {key: getattr(self, key) for key in ("dataset", "label", "source", "digests")}
        return record | {"official": not self.caveats, "caveat": "; ".join(self.caveats.values())}

    def __repr__(self) -> str:  # in ASCII, apart from the names of folders: consoles differ in what else they have
        if not self.tried:
            return f"{self.label_test}, from {self.source}"
        notice = (
            "This is not CIFAR-10. Every number below is about handwritten digits.",
            "So that you can go on, the sample that scikit-learn brings along is used: 1797 real scans of the digits 0 "
            "to 9, enlarged to 32x32.",
            "CIFAR-10 could not be had:",
            *(f"- {reason}" for reason in self.tried),
            ADVICE,
        )
        lines = [f"#  {line:<86}  #" for text in notice for line in textwrap.wrap(text, 86, break_on_hyphens=False)]
        return "\n".join(["#" * 92, *lines, "#" * 92])

    def _repr_html_(self) -> str:
        shown = html.escape(repr(self))
        return f'<pre style="border: 4px solid #d55e00; padding: 1em">{shown}</pre>' if self.tried else shown


@dataclass(frozen=True, repr=False)
class ImageDataset(torch.utils.data.Dataset):
    """Images in memory, with the interface of `torchvision.datasets.CIFAR10`.

    `dataset[i]` is the pair (float32 image [3, 32, 32] in 0..1, int label).
    """

    data: np.ndarray  # uint8 [N, 32, 32, 3], 0..255
    targets: list[int]  # N labels
    classes: tuple[str, ...]  # name of each label

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.data[index]).permute(2, 0, 1).contiguous() / 255, self.targets[index]


@dataclass(frozen=True)
class ImageSet:
    """The images for training and validation, those for the test, and where they came from."""

    train: ImageDataset
    test: ImageDataset
    classes: tuple[str, ...]
    provenance: Provenance


def load_digits(tried: tuple[str, ...] = ()) -> ImageSet:
    """The handwritten digits of scikit-learn, enlarged from 8x8 to 32x32, the same grey in three channels.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """
    from sklearn import datasets  # here, as its import takes a second that is not needed with CIFAR-10

    digits = datasets.load_digits()
    grey = torch.from_numpy(digits.images)[:, None] * (255 / 16)  # [1797, 1, 8, 8]: 0..16 becomes 0..255
    large = torch.nn.functional.interpolate(grey, size=(32, 32), mode="bilinear")  # [1797, 1, 32, 32]
    data = large.round().to(torch.uint8).permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy()  # [1797, 32, 32, 3]
    targets, classes = digits.target.tolist(), tuple("0123456789")
    train, test = (ImageDataset(data[half], [targets[i] for i in half], classes) for half in stratified_split(targets))
    digests = {"pixels": f"sha256:{hashlib.sha256(data.tobytes()).hexdigest()}"}
    provenance = Provenance("digits", "handwritten digits", "scikit-learn's embedded sample", digests, tried=tried)
    return ImageSet(train, test, classes, provenance)


def stratified_split(targets: Sequence[int], valid_fraction: float = 0.2, seed: int = 42) -> tuple[list[int], ...]:
    """Split indices 0..N-1 in two, each class in the same proportion: (train_indices, valid_indices).

    With CIFAR-10's labels and the default values this is the original tutorial's split.
    """
    from sklearn.model_selection import train_test_split

    return tuple(train_test_split(range(len(targets)), stratify=targets, test_size=valid_fraction, random_state=seed))
