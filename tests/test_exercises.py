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
    "cross_entropy_by_hand": """
import torch


def cross_entropy_by_hand(logits, labels):
    probabilities = logits.exp() / logits.exp().sum(dim=1, keepdim=True)  # overflows
    return -probabilities[torch.arange(len(labels)), labels].log().mean()
""",
    "stopping_epoch": """
def stopping_epoch(valid_losses, patience):
    waited = 0
    for epoch in range(1, len(valid_losses)):
        waited = waited + 1 if valid_losses[epoch] > valid_losses[epoch - 1] else 0  # than the epoch before
        if waited > patience:
            return epoch + 1
    return 0
""",
    "momentum_step": """
def momentum_step(weight, gradient, velocity, learning_rate, momentum):
    return {"weight": weight - learning_rate * velocity, "velocity": momentum * velocity + gradient}  # the old one
""",
    "rate_at": """
def rate_at(step, peak, warm_up, total):
    return peak * step / warm_up if step < warm_up else peak * (total - step) / total  # from another height
""",
    "top_k_accuracy": """
def top_k_accuracy(probabilities, labels, k):
    best = probabilities.argsort(axis=1)[:, :k]  # the least probable ones come first
    return (best == labels[:, None]).any(axis=1).mean()
""",
    "precision": """
def precision(confusion):
    return confusion.diagonal() / confusion.sum(axis=1)  # by rows: that is the recall
""",
    "wilson_interval": """
def wilson_interval(correct, n):
    share = correct / n
    reach = 2 * (share * (1 - share) / n) ** 0.5  # the simple interval
    return share - reach, share + reach
""",
    "sign_test": """
import math


def sign_test(right_a, right_b):
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    m, few = only_a + only_b, min(only_a, only_b)
    return sum(math.comb(m, k) for k in range(few + 1)) / 2**m  # one side only
""",
    "best_temperature": """
def best_temperature(logits, labels, temperatures):
    return max(temperatures, key=lambda t: ((logits / t).argmax(dim=1) == labels).sum().item())
""",
    "count_bytes": """
def count_bytes(state_dict):
    return sum(4 * tensor.numel() for tensor in state_dict.values())  # as if all were float32
""",
    "strip_prefix": """
def strip_prefix(state_dict, prefix):
    return {key.lstrip(prefix): tensor for key, tensor in state_dict.items()}  # letters, not the prefix
""",
    "differences": """
def differences(a, b):
    return {key: (b[key] - a[key]).max().item() for key in a if not (a[key] == b[key]).all()}  # without its sign
""",
    "through_half": """
def through_half(state_dict):
    return {key: tensor.half().to(tensor.dtype) for key, tensor in state_dict.items()}  # counters as well
""",
    "average": """
def average(a, b):
    return {key: ((a[key] + b[key]) / 2).to(a[key].dtype) for key in a}  # counters as well
""",
}


# Wrong ideas that are right in many cases.
NEARLY_RIGHT = [
    ("output_size", "def output_size(n, kernel, stride, padding): return (n + 2 * padding - kernel + 1) // stride"),
    ("output_size", "def output_size(n, kernel, stride, padding): return (n - kernel) // stride + 1 + 2 * padding"),
    ("brightest_class", "def brightest_class(data, targets): return targets[data.mean(axis=(1, 2, 3)).argmax()]"),
    ("nearest", "def nearest(images, query): return abs(images.mean(axis=(1, 2, 3)) - query.mean()).argmin()"),
    (
        "to_tensor_by_hand",
        "import torch\ndef to_tensor_by_hand(array): return torch.from_numpy(array).permute(2, 0, 1) / array.max()",
    ),
    (
        "differences",
        "def differences(a, b):\n"
        "    apart = {key: (a[key] - b[key]).abs().max().item() for key in a}\n"
        "    return {key: difference for key, difference in apart.items() if difference > 0.1}",
    ),
    (
        "group_split",
        "def group_split(groups, fraction):\n"
        "    names = list(dict.fromkeys(groups))\n"
        "    chosen = names[: max(1, round(fraction * len(names)))]\n"
        "    sides = {'train': [], 'valid': []}\n"
        "    for i, group in enumerate(groups):\n"
        "        sides['valid' if group in chosen else 'train'].append(i)\n"
        "    return sides",
    ),
]


@pytest.mark.parametrize(("name", "code"), NEARLY_RIGHT, ids=lambda value: value if value.isidentifier() else "")
def test_a_wrong_idea_that_is_often_right_is_refused(name, code, capsys):
    refusal = verdict(name, code, capsys)
    assert refusal.startswith("Not yet: ") and "raised" not in refusal


@pytest.mark.parametrize(("name", "stub", "solution"), list(exercises()))
def test_solution_passes_and_stub_and_mistake_do_not(name, stub, solution, capsys):
    assert verdict(name, solution, capsys).startswith("Right: ")
    assert verdict(name, stub, capsys) == f"Not yet: {name} returns nothing so far. (To print is not to return.)"
    refusal = verdict(name, WRONG[name], capsys)
    assert refusal.startswith("Not yet: ") and "raised" not in refusal


def test_a_function_that_changes_its_arguments_is_told_so(capsys):
    in_place = """
def momentum_step(weight, gradient, velocity, learning_rate, momentum):
    velocity.mul_(momentum).add_(gradient)
    return {"weight": weight.sub_(learning_rate * velocity), "velocity": velocity}
"""
    assert "changed what it was given" in verdict("momentum_step", in_place, capsys)


def test_a_wrong_type_is_named_without_a_hint_about_values(capsys):
    answer = "def group_split(groups, fraction): return [2], [0]"
    assert verdict("group_split", answer, capsys).endswith(
        "gave a tuple; return a dictionary with the keys ['train', 'valid']."
    )


def test_an_answer_of_quite_another_kind_is_no_error(capsys):
    answer = "import numpy as np\ndef stratify_by_hand(targets, fraction): return np.array(['a', 'b'])"
    assert verdict("stratify_by_hand", answer, capsys).startswith("Not yet: ")


def test_another_name_and_an_error_are_said_in_words(capsys):
    assert "no exercise called mine" in verdict("mine", "def mine(): ...", capsys)
    name = next(iter(WRONG))
    assert "raised ZeroDivisionError" in verdict(name, f"def {name}(*_): return 1 / 0", capsys)
