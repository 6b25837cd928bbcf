"""Where pixels come from: image sets and their split, CIFAR-10 on disk, the download."""

from alexnet_cifar10.data.cifar10 import LAYOUTS, DataError, find_root, read_cifar10
from alexnet_cifar10.data.download import download_cifar10
from alexnet_cifar10.data.sets import ADVICE, ImageDataset, ImageSet, Provenance, load_digits, stratified_split

__all__ = ["SOURCES", "DataError", "ImageDataset", "ImageSet", "Provenance", "load_images", "stratified_split"]
SOURCES = ("auto", "cifar10", "digits")


def load_images(source: str = "auto") -> ImageSet:
    """CIFAR-10 (from `$CIFAR10_ROOT` or `datasets/`, or else downloaded), the digits, or the first that can be had.

    Raises `DataError` if CIFAR-10 cannot be had or `$CIFAR10_ROOT` not be opened, `ValueError` for another source.
    """
    if source not in SOURCES:
        raise ValueError(f"data = {source!r}: it can be one of {', '.join(SOURCES)}.")
    if source == "digits":
        return load_digits()
    label, root = find_root()
    tried: dict[str, None] = {}  # each reason once
    for prepare in (lambda: None, lambda: download_cifar10(root, LAYOUTS)):
        try:
            prepare()
            return read_cifar10(label, root)
        except DataError as error:
            tried |= dict.fromkeys(error.args)
    if source == "cifar10":
        raise DataError("CIFAR-10 cannot be loaded:", *(f"- {reason}" for reason in tried), ADVICE)
    return load_digits(tuple(tried))
