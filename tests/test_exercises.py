"""The exercises of the notebooks: each solution is right, each stub is not yet, and a plausible mistake is refused."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("0*.ipynb"))


def exercises():
    """(name of the function, its stub, its solution) of each exercise, as they stand in the notebooks."""
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        for task, stub, check in zip(cells, cells[1:], cells[2:], strict=False):
            if task.cell_type == "markdown" and re.match(r"### Exercise \d", task.source):
                solution = re.search(r"Solution</summary>.*?```python\n(.*?)```", task.source, re.S).group(1)
                name = re.fullmatch(r"check\((\w+)\)", check.source.strip()).group(1)
                yield pytest.param(name, stub.source, solution, id=f"{path.stem}-{name}")


def verdict(name, code, capsys):
    """What the check of an exercise prints when the reader's cell holds `code`, and nothing else was run."""
    exec(f"from alexnet_cifar10.exercises import check\n{code}\ncheck({name})", {})
    return capsys.readouterr().out.strip().splitlines()[-1]


# A mistake that a reader could make, for each exercise.
WRONG = {
    "to_tensor_by_hand": """
import torch


def to_tensor_by_hand(array):
    return torch.from_numpy(array).reshape(3, *array.shape[:2]) / 255
""",
    "leaked": """
def leaked(train_images, valid_images):
    return int((train_images[: len(valid_images)] == valid_images).all(axis=(1, 2, 3)).sum())
""",
    "stratify_by_hand": """
def stratify_by_hand(targets, fraction):
    return list(range(round(fraction * len(targets))))
""",
    "group_split": """
def group_split(groups, fraction):
    cut = round(fraction * len(groups))
    return {"train": list(range(cut, len(groups))), "valid": list(range(cut))}
""",
    "to_picture": """
import torch


def to_picture(tensor):
    return (tensor.permute(1, 2, 0) * 255).to(torch.uint8).numpy()
""",
    "brightest_class": """
import numpy as np


def brightest_class(data, targets):
    return max(set(targets), key=lambda label: data[np.array(targets) == label].sum())
""",
    "nearest": """
def nearest(images, query):
    return int(((images - query) ** 2).sum(axis=(1, 2, 3)).argmin())
""",
    "shift_image": """
import torch


def shift_image(image, down, right):
    return torch.roll(image, (down, right), dims=(1, 2))
""",
    "output_size": """
def output_size(n, kernel, stride, padding):
    return (n + padding - kernel) // stride + 1  # padding on one side only
""",
    "convolve": """
import torch


def convolve(image, weight, bias):
    k = weight.shape[-1]
    height, width = image.shape[1] - k + 1, image.shape[2] - k + 1
    result = torch.zeros(len(weight), height, width)
    for row in range(height):
        for column in range(width):
            result[:, row, column] = (image[:, row : row + k, column : column + k] * weight).sum(dim=(1, 2, 3))
    return result  # the bias is forgotten
""",
    "small_or_large": """
def small_or_large(kernel, channels):
    layers = kernel // 3  # as if the fields lay side by side
    return {"layers": layers, "small": layers * 9 * channels**2, "large": kernel * kernel * channels**2}
""",
    "channel_means": """
def channel_means(features):
    return features.mean(dim=(1, 2))  # over channels and height, not over height and width
""",
}


@pytest.mark.parametrize(("name", "stub", "solution"), list(exercises()))
def test_solution_passes_and_stub_and_mistake_do_not(name, stub, solution, capsys):
    assert verdict(name, solution, capsys).startswith("Right: ")
    assert verdict(name, stub, capsys) == f"Not yet: {name} returns nothing so far."
    refusal = verdict(name, WRONG[name], capsys)
    assert refusal.startswith("Not yet: ") and "raised" not in refusal


def test_another_name_and_an_error_are_said_in_words(capsys):
    assert "no exercise called mine" in verdict("mine", "def mine(): ...", capsys)
    name = next(iter(WRONG))
    assert "raised ZeroDivisionError" in verdict(name, f"def {name}(*_): return 1 / 0", capsys)
