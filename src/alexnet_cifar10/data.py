"""Image sets, where they came from, and the stratified split.

CIFAR-10: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The digests of its files are
those that its page, its users and torchvision publish.
"""

import argparse
import hashlib
import html
import os
import pickle
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import CIFAR10
from torchvision.transforms.functional import to_tensor

from alexnet_cifar10.download import ADDRESS_FILE, ARCHIVES, DownloadError, download_cifar10
from alexnet_cifar10.environment import is_smoke_run, project_root

__all__ = ["SOURCES", "DataError", "ImageDataset", "ImageSet", "Provenance", "load_images", "stratified_split"]

SOURCES = ("auto", "cifar10", "digits")

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# The official Python version: a pickle a file. Its MD5s come with torchvision.
PYTHON_FOLDER = CIFAR10.base_folder

# The official binary version: 10 000 records a file, each one label byte and 3072 pixel bytes.
BINARY_FOLDER = "cifar-10-batches-bin"
BINARY_SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
RECORD_BYTES = 1 + 3 * 32 * 32

# Copies that are known not to be official, by SHA-256: what is different in them.
KNOWN_COPIES = {
    "62eb9a47a9e6daa0c294e2a4d46498ae338ae1d81f2e0781fb44ee329edf9f07": "test images 1000–9999 re-encoded as JPEG q75",
}


class DataError(RuntimeError):
    """The images that were asked for cannot be had from here; the message says why and what to do."""


@dataclass(frozen=True, repr=False)
class Provenance:
    """Where the images of an `ImageSet` came from. In a notebook it shows itself: a line, or a box for the sample."""

    dataset: str  # "CIFAR-10" or "handwritten digits"
    source: str  # where it was read
    official: bool  # every file has its published digest
    digests: dict[str, str]  # file -> "sha256:..." or "md5:..."
    caveat: str = ""  # what is different where the bytes are not official
    tried: tuple[str, ...] = ()  # why the sources before this one could not be used

    @property
    def label(self) -> str:
        """What to write beside every number and picture that comes from these images."""
        return f"{self.dataset} ({self.caveat})" if self.caveat else self.dataset

    def __repr__(self) -> str:
        if not self.tried:
            return f"{self.label}, from {self.source}"
        lines = [line for text in _sample_notice(self.tried) for line in textwrap.wrap(text, 86) or [""]]
        rule = "═" * 90
        return "\n".join([f"╔{rule}╗", *(f"║  {line:<86}  ║" for line in lines), f"╚{rule}╝"])

    def _repr_html_(self) -> str:
        if not self.tried:
            return html.escape(repr(self))
        title, *lines = (html.escape(text) for text in _sample_notice(self.tried))
        return (
            '<div style="border: 4px solid #d55e00; padding: 0.8em 1.2em; max-width: 50em">'
            f'<strong style="font-size: 1.3em">{title}</strong><br>{"<br>".join(lines)}</div>'
        )


def _sample_notice(tried: Sequence[str]) -> list[str]:
    return [
        "This is not CIFAR-10. Every number below is about handwritten digits.",
        "No copy of CIFAR-10 was found. So that you can go on, this notebook uses the sample that scikit-learn brings "
        "along: 1 797 real scans of the digits 0 to 9, enlarged to 32x32.",
        "What was tried:",
        *(f"• {reason}" for reason in tried),
        *_how_to_get_cifar10(),
    ]


def _how_to_get_cifar10() -> list[str]:
    return [
        "To use CIFAR-10, any of these:",
        "• with a network, run this again; CIFAR10_MIRROR may name another address that has one of the archives;",
        "• unpack cifar-10-python.tar.gz or cifar-10-binary.tar.gz into the folder datasets/ of this project;",
        "• or set the environment variable CIFAR10_ROOT to a folder that holds cifar-10-batches-py/ or "
        "cifar-10-batches-bin/.",
    ]


@dataclass(frozen=True, repr=False)
class ImageDataset(Dataset):
    """Images in memory, with the interface of `torchvision.datasets.CIFAR10`.

    `dataset[i]` is the pair (float32 image [3, 32, 32] in 0..1, int label).
    """

    data: np.ndarray  # uint8 [N, 32, 32, 3], 0..255
    targets: list[int]  # N labels
    classes: tuple[str, ...]  # name of each label

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_tensor(self.data[index]), self.targets[index]

    def __repr__(self) -> str:
        return f"ImageDataset: {len(self)} images, {len(self.classes)} classes"


@dataclass(frozen=True)
class ImageSet:
    """The images for training and validation, those for the test, and where they came from."""

    train: ImageDataset
    test: ImageDataset
    classes: tuple[str, ...]
    provenance: Provenance


def load_images(source: str = "auto") -> ImageSet:
    """Load an image set into memory.

    `"auto"` takes the first of: CIFAR-10 in `$CIFAR10_ROOT`, CIFAR-10 in the project's `datasets/`, and the sample of
    handwritten digits that scikit-learn brings along. `"cifar10"` and `"digits"` ask for one of them.
    Files that are not the official ones are used only from `$CIFAR10_ROOT`, where the user named them.

    Raises `DataError` when `"cifar10"` cannot be had, and `ValueError` for any other source.
    """
    if source not in SOURCES:
        raise ValueError(f"data = {source!r}: it can be one of {', '.join(SOURCES)}.")
    if source == "digits" or (source == "auto" and is_smoke_run()):
        return _load_digits()
    tried: list[str] = []
    for name, root in _cifar10_roots():
        if images := _find_cifar10(name, root, tried):
            return images
    name, root = _cifar10_roots()[0]
    # a folder that is there and cannot be used is left alone: the other archive unpacks to another one
    missing = [archive for archive in ARCHIVES if not (root / archive.folder).exists()]
    try:
        download_cifar10(root, archives=missing, report=partial(print, flush=True))
    except DownloadError as error:
        tried.extend(error.reasons)
    else:
        if images := _find_cifar10(name, root, tried):
            return images
    if source == "cifar10":
        raise DataError("\n".join(["CIFAR-10 cannot be loaded:", *(f"• {r}" for r in tried), *_how_to_get_cifar10()]))
    return _load_digits(tuple(tried))


def _cifar10_roots() -> list[tuple[str, Path]]:
    """Name and place of each folder in which CIFAR-10 is looked for; into the first it is downloaded."""
    roots = [("datasets/", project_root() / "datasets")]
    if named := os.environ.get("CIFAR10_ROOT"):
        root = Path(named).expanduser()
        if not root.exists():  # a relative path is meant from the project, also where the kernel runs in notebooks/
            root = project_root() / root
        if root.name in (PYTHON_FOLDER, BINARY_FOLDER):
            root = root.parent
        roots.insert(0, ("$CIFAR10_ROOT", root))
    return roots


def _find_cifar10(name: str, root: Path, tried: list[str]) -> ImageSet | None:
    """CIFAR-10 from what is in `root`; None, and the reasons added to `tried`, if nothing there can be used."""
    layouts = [layout for layout in _layouts() if (root / layout.folder).is_dir()]
    if not layouts:
        where = f"{name} = {os.environ['CIFAR10_ROOT']}" if name.startswith("$") else name
        tried.append(f"{where} holds neither {PYTHON_FOLDER}/ nor {BINARY_FOLDER}/.")
    for layout in layouts:
        try:
            return _read_cifar10(name, root / layout.folder, layout)
        except DataError as error:
            tried.append(str(error))
    return None


@dataclass(frozen=True)
class _Layout:
    """One of the two published forms of CIFAR-10."""

    name: str
    folder: str
    algorithm: str  # of the published digests
    digests: dict[str, str]  # training files, then the test file
    parse: Callable[[bytes], tuple[np.ndarray, list[int]]]  # a file's bytes -> pixels uint8 [N, 3072], N labels
    is_code: bool  # reading it can run what is in it


def _layouts() -> tuple[_Layout, _Layout]:
    python_md5 = dict([*CIFAR10.train_list, *CIFAR10.test_list])
    return (
        _Layout("Python version", PYTHON_FOLDER, "md5", python_md5, _parse_pickle, is_code=True),
        _Layout("binary version", BINARY_FOLDER, "sha256", BINARY_SHA256, _parse_records, is_code=False),
    )


def _parse_pickle(content: bytes) -> tuple[np.ndarray, list[int]]:
    batch = pickle.loads(content, encoding="latin1")  # only ever of the official bytes: see _read_cifar10
    return batch["data"], batch["labels"]


def _parse_records(content: bytes) -> tuple[np.ndarray, list[int]]:
    if not content or len(content) % RECORD_BYTES:
        raise DataError(
            f"has {len(content)} bytes, not a whole number of {RECORD_BYTES}-byte records; it is cut short."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    if records[:, 0].max() >= len(CIFAR10_CLASSES):
        raise DataError(f"has the label {records[:, 0].max()}; CIFAR-10's are 0 to 9.")
    return records[:, 1:], records[:, 0].tolist()


def _read_cifar10(name: str, folder: Path, layout: _Layout) -> ImageSet:
    """Read each file once: the bytes whose digest is right, and no others, are parsed."""
    digests, caveats, parts = {}, [], []
    for file, official in layout.digests.items():
        where = f"{name}: {layout.folder}/{file}"
        try:
            content = (folder / file).read_bytes()
        except OSError as error:
            raise DataError(f"{where} cannot be read ({error.strerror}).") from error
        digest = hashlib.new(layout.algorithm, content).hexdigest()
        digests[file] = f"{layout.algorithm}:{digest}"
        if digest != official:
            if layout.is_code or name != "$CIFAR10_ROOT":
                pickled = "It is a pickle, which can run code, so it was not opened. " if layout.is_code else ""
                raise DataError(
                    f"{where} is not the official file (its {layout.algorithm} is {digest}, not {official}). {pickled}"
                    f"Move {layout.folder}/ away, and unpack or download a fresh one."
                )
            caveats.append(KNOWN_COPIES.get(digest, f"{file} is not the official file"))
        try:
            parts.append(layout.parse(content))
        except DataError as error:
            raise DataError(f"{where} {error}") from error
    test = _join([parts.pop()])
    train = _join(parts)
    source = f"{name}, {layout.name}"
    if (folder / ADDRESS_FILE).is_file():
        source += f", downloaded from {(folder / ADDRESS_FILE).read_text(encoding='utf-8').strip()}"
    provenance = Provenance("CIFAR-10", source, not caveats, digests, "; ".join(caveats))
    return ImageSet(train, test, CIFAR10_CLASSES, provenance)


def _join(parts: list[tuple[np.ndarray, list[int]]]) -> ImageDataset:
    """Pixels uint8 [N, 3072] and labels as a dataset. Empties `parts` as it goes: no image is in memory twice."""
    data = np.empty((sum(len(labels) for _, labels in parts), 32, 32, 3), np.uint8)
    targets: list[int] = []
    while parts:
        pixels, labels = parts.pop(0)
        planes = pixels.reshape(-1, 3, 32, 32)  # colour after colour on disk, [N, 32, 32, 3] in memory
        data[len(targets) : len(targets) + len(labels)] = planes.transpose(0, 2, 3, 1)
        targets += labels
    return ImageDataset(data, targets, CIFAR10_CLASSES)


def _load_digits(tried: tuple[str, ...] = ()) -> ImageSet:
    """The handwritten digits of scikit-learn, enlarged from 8x8 to 32x32, the same grey in three channels.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """
    digits = load_digits()
    grey = torch.from_numpy(digits.images)[:, None] * (255 / 16)  # [1797, 1, 8, 8]: 0..16 becomes 0..255
    large = torch.nn.functional.interpolate(grey, size=(32, 32), mode="bilinear")  # [1797, 1, 32, 32]
    data = large.round().to(torch.uint8).permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy()  # [1797, 32, 32, 3]
    targets = digits.target.tolist()
    classes = tuple(str(name) for name in digits.target_names)
    train, test = (ImageDataset(data[half], [targets[i] for i in half], classes) for half in stratified_split(targets))
    digest = hashlib.sha256(data.tobytes()).hexdigest()
    source = "scikit-learn's embedded sample"
    provenance = Provenance("handwritten digits", source, True, {"pixels": f"sha256:{digest}"}, tried=tried)
    return ImageSet(train, test, classes, provenance)


def stratified_split(
    targets: Sequence[int], valid_fraction: float = 0.2, seed: int = 42
) -> tuple[list[int], list[int]]:
    """Split indices 0..N-1 in two, each class in the same proportion: (train_indices, valid_indices).

    With CIFAR-10's labels and the default values this is the original tutorial's split.
    """
    train_indices, valid_indices = train_test_split(
        range(len(targets)), stratify=targets, test_size=valid_fraction, random_state=seed
    )
    return train_indices, valid_indices


def main() -> None:
    """Say what is there, where, and whether it is verified; with `--download`, fetch CIFAR-10 if it is not there."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_cifar10.data", description=main.__doc__)
    parser.add_argument("--download", action="store_true", help="fetch CIFAR-10 where it is not there yet")
    if parser.parse_args().download:
        provenance = load_images("cifar10").provenance
        print(f"CIFAR-10 is there: {provenance}")
        return
    for name, root in _cifar10_roots():
        tried: list[str] = []
        if images := _find_cifar10(name, root, tried):
            verified = "every file verified" if images.provenance.official else "NOT the official files"
            tried.append(f"{images.provenance}: {verified}")
        print(f"{name} ({root})", *tried, sep="\n  ")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(str(error))
