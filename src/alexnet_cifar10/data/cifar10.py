"""CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009) on disk, verified and read."""

import hashlib
import os
import pickle
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_cifar10 import named_folder, project_root
from alexnet_cifar10.data.sets import ImageDataset, ImageSet, Provenance

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD_BYTES = 1 + 3 * 32 * 32  # of the binary version: a label, then the red, green and blue plane
ADDRESS_FILE = "downloaded_from.txt"  # beside the files: the address that they came from

# The archive, the training files 1 to 5, the test file.
# MD5: https://www.cs.toronto.edu/~kriz/cifar.html, torchvision. SHA-256, sizes: as stated alike by several users.
MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
SHA256 = {
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
KNOWN_COPIES = {  # that are not official, by SHA-256: what is different in them
    "62eb9a47a9e6daa0c294e2a4d46498ae338ae1d81f2e0781fb44ee329edf9f07": "test images 1000-9999 re-encoded as JPEG q75",
}


@dataclass(frozen=True)
class Layout:
    """One of the two published forms of CIFAR-10: an archive, the folder that it unpacks to, and the files in that."""

    name: str
    archive: str
    size: int  # of the archive, in bytes
    folder: str
    algorithm: str  # of the digests
    digests: dict[str, str]  # the archive's, then the files'
    is_pickle: bool  # loading a pickle can run code that is in it


LAYOUTS = (
    Layout("Python version", "cifar-10-python.tar.gz", 170_498_071, "cifar-10-batches-py", "md5", MD5, True),
    Layout("binary version", "cifar-10-binary.tar.gz", 170_052_171, "cifar-10-batches-bin", "sha256", SHA256, False),
)


class DataError(RuntimeError):
    """The images that were asked for cannot be had from here. `args`: one line for each reason, and what to do."""

    def __str__(self) -> str:
        return "\n".join(self.args)


def find_root() -> tuple[str, Path]:
    """The folder of CIFAR-10 as messages call it, and its path: `$CIFAR10_ROOT` where that is set, else `datasets/`.

    Raises `DataError` if the folder that `$CIFAR10_ROOT` names cannot be opened: it is used or refused, never replaced.
    """
    try:
        named = named_folder("CIFAR10_ROOT")
        if named is not None:
            os.scandir(named).close()
    except (OSError, ValueError) as error:  # also quotes, and "~" of a user who does not exist
        raise DataError(str(error), "Set CIFAR10_ROOT to a folder that is there, or unset it for datasets/.") from error
    if named is None:
        return "datasets/", project_root() / "datasets"
    is_inner = named.name in [layout.folder for layout in LAYOUTS]  # the files' own folder is accepted too
    return "$CIFAR10_ROOT", named.parent if is_inner else named


def read_cifar10(label: str, root: Path) -> ImageSet:
    """CIFAR-10 from the first layout in `root` that can be used. Raises `DataError` if none can."""
    reasons: list[str] = []
    for layout in LAYOUTS:
        if os.path.isdir(root / layout.folder):
            try:
                return _read_layout(label, root / layout.folder, layout)
            except DataError as error:
                reasons.append(f"{error} Move {layout.folder}/ away, and unpack or download a fresh one.")
    raise DataError(*(reasons or [f"{label} ({root}) holds neither {LAYOUTS[0].folder}/ nor {LAYOUTS[1].folder}/."]))


def _read_layout(label: str, folder: Path, layout: Layout) -> ImageSet:
    """Read each file once. Bytes that are not official are parsed only if the user named the folder; pickles never."""
    digests, caveats, parts = {}, {}, []
    for file, official in list(layout.digests.items())[1:]:
        where = f"{label}: {layout.folder}/{file}"
        try:
            content = (folder / file).read_bytes()
        except OSError as error:
            raise DataError(f"{where} cannot be read ({error.strerror}).") from error
        digest = hashlib.new(layout.algorithm, content).hexdigest()
        if digest != official:
            if layout.is_pickle or label == "datasets/":
                pickled = " It is a pickle, which can run code, so it was not opened." if layout.is_pickle else ""
                found = f"its {layout.algorithm} is {digest}, not {official}"
                raise DataError(f"{where} is not the official file ({found}).{pickled}")
            caveats[file] = KNOWN_COPIES.get(digest, f"{file} is not the official file")
        digests[file] = f"{layout.algorithm}:{digest}"
        if layout.is_pickle:
            batch = pickle.loads(content, encoding="latin1")  # the official bytes: others do not come this far
            parts.append((batch["data"], batch["labels"]))
        else:
            parts.append(_parse_records(content, where))
    source = f"{label}, {layout.name}"
    with suppress(OSError), (folder / ADDRESS_FILE).open(errors="replace") as address:
        source += f", downloaded from {ascii(address.readline(150).strip())[1:-1]}"  # foreign text
    provenance = Provenance("cifar10", "CIFAR-10", source, digests, caveats)
    return ImageSet(_join(parts[:-1]), _join(parts[-1:]), CIFAR10_CLASSES, provenance)  # the test file is the last


def _parse_records(content: bytes, where: str) -> tuple[np.ndarray, list[int]]:
    if not content or len(content) % RECORD_BYTES:
        raise DataError(f"{where} has {len(content)} bytes, not a whole number of {RECORD_BYTES}-byte records.")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    if records[:, 0].max() >= len(CIFAR10_CLASSES):
        raise DataError(f"{where} has the label {records[:, 0].max()}; CIFAR-10's are 0 to 9.")
    return records[:, 1:], records[:, 0].tolist()


def _join(parts: list[tuple[np.ndarray, list[int]]]) -> ImageDataset:
    """Pixels uint8 [N, 3072], colour after colour, and labels, as a dataset."""
    images = [pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for pixels, _ in parts]
    targets = [label for _, labels in parts for label in labels]
    data = np.concatenate(images, out=np.empty((len(targets), 32, 32, 3), np.uint8))
    return ImageDataset(data, targets, CIFAR10_CLASSES)
