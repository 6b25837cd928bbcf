"""The checks of the notebooks' exercises. They say in words what is not right yet, and never stop a notebook."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_cifar10.evaluation import wilson_interval

__all__ = ["check"]


@dataclass(frozen=True)
class _Case:
    arguments: tuple[Any, ...]
    expected: Any
    hint: str  # what to think about when this case is wrong


def check(answer: Callable[..., Any]) -> None:
    """Print whether `answer`, the reader's function, does what the exercise of its name asks for."""
    print(_verdict(answer))


def _verdict(answer: Callable[..., Any]) -> str:
    name = answer.__name__
    if name not in _CASES:
        return f"There is no exercise called {name}; keep the name that the exercise gives."
    for case in _CASES[name]():
        call = f"{name}({', '.join(map(_short, case.arguments))})"
        arguments = deepcopy(case.arguments)
        try:
            given = answer(*arguments)
        except Exception as error:  # whatever the reader wrote
            return f"Not yet: {call} raised {type(error).__name__}: {error}"
        if given is None or given is ...:
            return f"Not yet: {name} returns nothing so far. (To print is not to return.)"
        if difference := _difference(given, case.expected):
            hint = "" if _wrong_kind(given, case.expected) else f" {case.hint}"  # it is about values
            return f"Not yet: {call} {difference}{hint}"
        if any(_difference(after, before) for after, before in zip(arguments, case.arguments, strict=True)):
            return f"Not yet: the answer to {call} is right, but {name} changed what it was given; make new values."
    return f"Right: {name} does what it should."


def _wrong_kind(given: Any, expected: Any) -> str:
    """What is wrong with the type of a value, in words; "" if nothing is."""
    for kind, name in ((dict, "a dictionary"), (Tensor, "a tensor"), (np.ndarray, "an array")):
        if isinstance(expected, kind) and not isinstance(given, kind):
            keys = f" with the keys {_short(list(expected))}" if kind is dict else ""
            return f"gave a {type(given).__name__}; return {name}{keys}."
    return ""


def _difference(given: Any, expected: Any) -> str:
    """What is wrong with a value, in words; "" if nothing is."""
    if kind := _wrong_kind(given, expected):
        return kind
    if isinstance(given, Tensor):
        given = given.detach()
    if isinstance(expected, dict):
        if given.keys() != expected.keys():
            return f"should have the keys {_short(list(expected))}."
        return next((f"[{k!r}] {d}" for k in expected if (d := _difference(given[k], expected[k]))), "")
    if isinstance(expected, Tensor | np.ndarray):
        if tuple(given.shape) != tuple(expected.shape):
            return f"gave the shape {tuple(given.shape)}, not {tuple(expected.shape)}."
        if given.dtype != expected.dtype:
            return f"gave {given.dtype}, not {expected.dtype}."
    if isinstance(expected, bool) or isinstance(given, bool | str) or isinstance(expected, str):
        return "" if given == expected else f"gave {_short(given)}, not {_short(expected)}."
    try:
        numbers, wanted = np.asarray(given, float), np.asarray(expected, float)
        if numbers.shape == wanted.shape and np.allclose(numbers, wanted, rtol=1e-4, atol=1e-6):
            return ""
    except (TypeError, ValueError):  # not numbers
        if repr(given) == repr(expected):
            return ""
    if _short(given) == _short(expected):
        return "has the right shape, but other values than it should."
    return f"gave {_short(given)}, not {_short(expected)}."


def _short(value: Any) -> str:
    """A value in a few words: long arrays by their shape."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor | np.ndarray):
        text = repr(value.tolist())
        return text if len(text) <= 60 else f"{type(value).__name__} {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- the exercises ----------------------------------------------------------------------------------------------------


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def _to_tensor_by_hand() -> list[_Case]:
    dark = _image(2) // 2
    return [
        _Case(
            (_image(seed),),
            torch.from_numpy(_image(seed)).permute(2, 0, 1) / 255,
            "Colour first, then height and width; values from 0 to 1.",
        )
        for seed in (0, 1)
    ] + [_Case((dark,), torch.from_numpy(dark).permute(2, 0, 1) / 255, "Divide by 255, also where no pixel is bright.")]


def _leaked() -> list[_Case]:
    some, others = (np.random.default_rng(seed).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8) for seed in (2, 3))
    elsewhere = np.concatenate([some[[3, 0]], others[:2]])
    return [
        _Case((some, elsewhere), 2, "A copy may stand at any place: look for each validation image among all others."),
        _Case((some, others), 0, "These sets have no image in common."),
        _Case((some, some[[5, 5, 1]]), 3, "Count validation images; one that is there twice counts twice."),
        _Case((some[[0, 0]], some[:1]), 1, "Count validation images, not pairs: this one is in training twice."),
        _Case((some, some[:, ::-1]), 0, "The same bytes in another order are another image."),
    ]


def _stratify_by_hand() -> list[_Case]:
    return [
        _Case(([0] * 5 + [1] * 5, 0.2), [0, 5], "Each class gives a fifth of its own images, here one."),
        _Case(([1, 0, 1, 0, 1, 0, 1, 0], 0.5), [0, 1, 2, 3], "The first half of each class, sorted by index."),
        _Case(([0] * 20 + [3] * 6, 0.3), [0, 1, 2, 3, 4, 5, 20, 21], "Round the number of each class: 1.8 becomes 2."),
        _Case(([0] * 7, 0.2), [0], "Round to the nearest: 1.4 becomes 1."),
    ]


def _group_split() -> list[_Case]:
    pairs = [name for name in ("ann", "bob", "cem", "dia", "eva") for _ in range(2)]
    mixed = ["ann", "bob", "ann", "cem", "bob", "ann", "cem", "bob"]
    return [
        _Case((pairs, 0.2), {"train": [2, 3, 4, 5, 6, 7, 8, 9], "valid": [0, 1]}, "The first person alone is enough."),
        _Case((mixed, 0.25), {"train": [1, 3, 4, 6, 7], "valid": [0, 2, 5]}, "All images of a person go to one side."),
        _Case(
            (["ann"] * 6 + ["bob", "cem", "dia"], 0.5),
            {"train": [6, 7, 8], "valid": [0, 1, 2, 3, 4, 5]},
            "Count images, not persons: ann alone has more than half.",
        ),
        _Case((mixed, 0.5), {"train": [3, 6], "valid": [0, 1, 2, 4, 5, 7]}, "Go on until there are enough images."),
    ]


def _to_picture() -> list[_Case]:
    return [
        _Case(
            (torch.from_numpy(_image(seed)).permute(2, 0, 1) / 255 - 0.5 + 0.5,),  # with the errors of a computation
            _image(seed),
            "Colour last; and round before you make whole numbers, or some become one too small.",
        )
        for seed in (0, 1)
    ]


def _brightest_class() -> list[_Case]:
    grey = np.array([10, 40, 10, 200, 10, 30], np.uint8)
    images = np.broadcast_to(grey[:, None, None, None], (6, 4, 4, 3)).copy()
    return [
        _Case((images, [2, 0, 2, 1, 2, 0]), 1, "Image 3 is by far the brightest, and its label is 1."),
        _Case((images, [0, 1, 0, 0, 0, 2]), 0, "Image 3 lifts the mean of class 0, though the others are dark."),
        _Case((images[[1, 0, 0, 5, 5, 5]], [4, 2, 2, 3, 3, 3]), 4, "Take means, not sums: many are not bright."),
        _Case((images[[0] * 6 + [3, 1, 1]], [0] * 7 + [1, 1]), 1, "One bright image does not make its class bright."),
    ]


def _nearest() -> list[_Case]:
    def flat(*values: int) -> np.ndarray:
        return np.stack([np.full((4, 4, 3), value, np.uint8) for value in values])

    spot = flat(100, 100, 112)
    spot[1, 0, 0] = 130  # far at one place, equal elsewhere
    checkers = flat(100, 100)
    checkers[0, ::2] -= 90
    checkers[0, 1::2] += 90  # as bright as the query on average, and far from it at every place
    checkers[1] += 10
    return [
        _Case((flat(10, 50, 200), flat(60)[0]), 1, "Which grey is next to 60? Return its place."),
        _Case((flat(99, 116, 150), flat(100)[0]), 0, "uint8 counts from 255 back to 0: make floats first."),
        _Case((checkers, flat(100)[0]), 1, "Compare place by place, not the mean brightness."),
        _Case((spot[1:], flat(100)[0]), 0, "All values of an image count, not only the one that differs most."),
    ]


def _shift_image() -> list[_Case]:
    image = torch.from_numpy(_image(4)[:5, :5]).permute(2, 0, 1) / 255  # [3, 5, 5]

    def moved(down: int, right: int) -> Tensor:
        result = torch.zeros_like(image)
        for y in range(5):
            for x in range(5):
                if 0 <= y - down < 5 and 0 <= x - right < 5:
                    result[:, y, x] = image[:, y - down, x - right]
        return result

    return [
        _Case((image, 0, 0), image.clone(), "A shift by nothing changes nothing."),
        _Case((image, 2, 0), moved(2, 0), "Down by 2: the two top rows are black, and row 2 is the old row 0."),
        _Case((image, 0, 1), moved(0, 1), "Right by 1: the left column is black."),
        _Case((image, -1, -2), moved(-1, -2), "Negative means up and left; what leaves does not come back."),
    ]


def _output_size() -> list[_Case]:
    return [
        _Case((32, 3, 1, 1), 32, "Add the padding on both sides, take the kernel away, and count the first place too."),
        _Case((32, 3, 2, 0), 15, "Divide by the stride and round down: a window that sticks out is left out."),
        _Case((15, 5, 1, 0), 11, "Without padding, a kernel of 5 costs 4."),
        _Case((33, 3, 2, 0), 16, "First divide, then add the first place: 30 by 2 is 15."),
        _Case((64, 7, 4, 3), 16, "The padding belongs to the input: add it before you divide."),
    ]


def _convolve() -> list[_Case]:
    def case(shape: tuple[int, ...], outputs: int, k: int, hint: str) -> _Case:
        generator = torch.Generator().manual_seed(k)
        image = torch.randn(shape, generator=generator)
        weight = torch.randn((outputs, shape[0], k, k), generator=generator)
        bias = torch.arange(1.0, outputs + 1)
        return _Case((image, weight, bias), torch.nn.functional.conv2d(image[None], weight, bias)[0], hint)

    return [
        case((1, 3, 3), 1, 3, "Here the kernel fits once: multiply, sum over all axes but the first, add the bias."),
        case((2, 5, 7), 3, 3, "The picture may be wider than high, and the input channels are added up."),
        case((3, 4, 4), 2, 1, "The kernel may have any size: take it from the shape of weight."),
    ]


def _small_or_large() -> list[_Case]:
    hint = "The first 3x3 sees 3 pixels, each further one 2 more; from C to C channels there are C · C kernels."
    return [
        _Case((3, 8), {"layers": 1, "small": 576, "large": 576}, hint),
        _Case((5, 64), {"layers": 2, "small": 73_728, "large": 102_400}, hint),
        _Case((7, 10), {"layers": 3, "small": 2700, "large": 4900}, hint),
    ]


def _channel_means() -> list[_Case]:
    def case(*shape: int) -> _Case:
        features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        hint = "One number for each image and channel: the mean over height and width, and over nothing else."
        return _Case((features,), features.mean(dim=(2, 3)), hint)

    return [case(2, 3, 4, 4), case(1, 5, 7, 3)]


def _cross_entropy_by_hand() -> list[_Case]:
    def case(logits: list[list[float]], labels: list[int], hint: str) -> _Case:
        expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels))
        return _Case((torch.tensor(logits), torch.tensor(labels)), expected, hint)

    return [
        case([[0.0] * 10], [3], "Ten equal logits make ten probabilities of 1/10: the loss is ln 10."),
        case([[2.0, 1.0, -1.0], [0.5, 0.0, 3.0]], [0, 1], "Take the mean over the images, each with its own label."),
        case([[1000.0, 0.0], [-1000.0, 1000.0]], [0, 0], "Subtract the largest logit before the exponential."),
    ]


def _stopping_epoch() -> list[_Case]:
    return [
        _Case(([1.0, 0.9, 0.95, 0.96, 0.97], 2), 5, "Epochs 3, 4 and 5 lie above epoch 2, and 3 is more than 2."),
        _Case(([1.0, 0.5, 0.9, 0.8, 0.7, 0.6], 3), 6, "Compare with the lowest loss so far, not with the last one."),
        _Case(([1.0, 1.1, 0.9, 1.2, 0.8], 1), 0, "Each new low starts the count anew; here it never gets above 1."),
        _Case(([0.7, 0.7, 0.7], 0), 0, "A loss that equals the lowest is not above it."),
    ]


def _momentum_step() -> list[_Case]:
    def case(learning_rate: float, momentum: float, hint: str) -> _Case:
        weight, gradient, velocity = (torch.tensor(x) for x in ([1.0, -2.0], [0.5, 0.25], [2.0, -1.0]))
        new = momentum * velocity + gradient
        answer = {"weight": weight - learning_rate * new, "velocity": new}
        return _Case((weight, gradient, velocity, learning_rate, momentum), answer, hint)

    return [
        case(0.1, 0.0, "Without momentum it is plain gradient descent, and the velocity is the gradient."),
        case(0.1, 0.9, "The new velocity is 0.9 times the old one plus the gradient; move with the new one."),
        case(0.5, 0.5, "The learning rate multiplies the velocity when the weight moves, not inside the velocity."),
    ]


def _rate_at() -> list[_Case]:
    return [
        _Case((0, 0.4, 10, 50), 0.0, "At the start the rate is 0."),
        _Case((5, 0.4, 10, 50), 0.2, "Half of the warm-up: half of the peak."),
        _Case((10, 0.4, 10, 50), 0.4, "After the warm-up it is at its peak."),
        _Case((30, 0.4, 10, 50), 0.2, "It falls from step warm_up to step total: at 30 half of that way is done."),
        _Case((50, 0.4, 10, 50), 0.0, "At the end it is 0 again."),
    ]


def _top_k_accuracy() -> list[_Case]:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1], [0.25, 0.35, 0.4]])
    labels = np.array([0, 2, 0, 0])
    return [
        _Case((probabilities, labels, 1), 0.5, "With k = 1 it is the accuracy: only the most probable class counts."),
        _Case((probabilities, labels, 2), 0.75, "An image counts if its class is one of its two most probable ones."),
        _Case((probabilities, labels, 3), 1.0, "Among all three classes, the true one is always there."),
    ]


def _precision() -> list[_Case]:
    return [
        _Case((np.array([[4, 1], [0, 5]]),), np.array([1.0, 5 / 6]), "Class 1 is the answer 6 times, right 5 times."),
        _Case(
            (np.array([[8, 2, 0], [1, 6, 3], [1, 0, 9]]),),
            np.array([0.8, 0.75, 0.75]),
            "The diagonal, divided by the sum of each column (not of each row).",
        ),
    ]


def _wilson_interval() -> list[_Case]:
    return [
        _Case(
            (50, 100),
            wilson_interval(50, 100),
            "The middle is (c + 2) / (n + 4), here one half; the reach is below a tenth.",
        ),
        _Case(
            (30, 30), wilson_interval(30, 30), "No mistake in 30 images is no proof: the lower end lies at about 0.88."
        ),
        _Case((0, 10), wilson_interval(0, 10), "With no right answer the lower end is 0, and the upper one is not."),
        _Case((8700, 10_000), wilson_interval(8700, 10_000), "Divide by n + 4 outside of the root, and by n inside."),
    ]


def _sign_test() -> list[_Case]:
    def case(only_a: int, only_b: int, probability: float, hint: str) -> _Case:
        right_a = np.repeat([True, True, False, False], [5, only_a, only_b, 3])
        right_b = np.repeat([True, False, True, False], [5, only_a, only_b, 3])
        return _Case((right_a, right_b), probability, hint)

    return [
        case(4, 0, 2 / 2**4, "Four heads of four have 1/16; four tails are as uneven, so double it."),
        case(1, 5, 2 * 7 / 2**6, "At most 1 of 6: that is 0 or 1, on both sides."),
        case(3, 3, 1.0, "Nothing is more even than 3 and 3, and no probability is above 1."),
        case(0, 0, 1.0, "If they never differ, nothing speaks against luck: 1."),
    ]


def _best_temperature() -> list[_Case]:
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0], [0.0, 4.0]])
    one_wrong, all_right = torch.tensor([0, 1, 0, 0]), torch.tensor([0, 1, 0, 1])
    hint = "Divide the logits by each temperature, and compare the mean cross-entropy; the accuracy stays the same."
    return [
        _Case((logits, one_wrong, [0.5, 1.0, 2.0, 4.0, 8.0]), 4.0, f"Too sure with one of four wrong. {hint}"),
        _Case((logits, all_right, [4.0, 2.0, 0.5, 1.0]), 0.5, f"All right: the surer, the better. {hint}"),
    ]


def _count_bytes() -> list[_Case]:
    return [
        _Case(({"weight": torch.zeros(6)},), 24, "Six numbers of float32, with four bytes each."),
        _Case(({"weight": torch.zeros(6), "steps": torch.tensor(7)},), 32, "A whole number of int64 takes eight."),
        _Case(({"weight": torch.zeros(5).half()},), 10, "Ask each tensor how many bytes an element takes."),
        _Case(({},), 0, "No tensors take no bytes."),
    ]


def _strip_prefix() -> list[_Case]:
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    return [
        _Case(({"module.a": one, "module.b": two}, "module."), {"a": one, "b": two}, "Take the prefix off each key."),
        _Case(({"module.model.a": one}, "module."), {"model.a": one}, "Take off the prefix, not all of its letters."),
        _Case(({"a.module.b": one, "c": two}, "module."), {"a.module.b": one, "c": two}, "Only at the beginning."),
    ]


def _differences() -> list[_Case]:
    a = {"weight": torch.tensor([1.0, 2.0]), "bias": torch.tensor([0.5]), "steps": torch.tensor(10)}
    return [
        _Case((a, {**a, "bias": torch.tensor([0.75])}), {"bias": 0.25}, "Only the bias differs, by 0.25."),
        _Case((a, {**a, "weight": torch.tensor([-2.0, 2.5])}), {"weight": 3.0}, "Absolute differences; the largest."),
        _Case((a, {**a, "bias": torch.tensor([0.501])}), {"bias": 0.001}, "A small difference is a difference."),
        _Case((a, {**a, "steps": torch.tensor(14)}), {"steps": 4}, "Whole numbers may differ, too."),
        _Case((a, dict(a)), {}, "If nothing differs, the dictionary is empty."),
    ]


def _through_half() -> list[_Case]:
    return [
        _Case(
            ({"weight": torch.tensor([0.5, 0.1, 2049.0])},),
            {"weight": torch.tensor([0.5, 0.0999755859375, 2048.0])},
            "To float16 and back to float32: 0.1 and 2049 are rounded.",
        ),
        _Case(({"steps": torch.tensor(70_001)},), {"steps": torch.tensor(70_001)}, "Leave whole numbers as they are."),
    ]


def _average() -> list[_Case]:
    a = {"weight": torch.tensor([1.0, 4.0]), "steps": torch.tensor(10)}
    b = {"weight": torch.tensor([3.0, 0.0]), "steps": torch.tensor(13)}
    return [
        _Case(
            (a, b),
            {"weight": torch.tensor([2.0, 2.0]), "steps": torch.tensor(10)},
            "The mean for floating-point tensors; whole numbers are those of a.",
        ),
        _Case(({"bias": torch.tensor(1.0)}, {"bias": torch.tensor(1.0)}), {"bias": torch.tensor(1.0)}, "Divide by 2."),
    ]


# exercise -> its cases, made only when they are asked for
_CASES: dict[str, Callable[[], list[_Case]]] = {
    # 01_data
    "to_tensor_by_hand": _to_tensor_by_hand,
    "leaked": _leaked,
    "stratify_by_hand": _stratify_by_hand,
    "group_split": _group_split,
    # 02_visualization
    "to_picture": _to_picture,
    "brightest_class": _brightest_class,
    "nearest": _nearest,
    "shift_image": _shift_image,
    # 03_model_shapes
    "output_size": _output_size,
    "convolve": _convolve,
    "small_or_large": _small_or_large,
    "channel_means": _channel_means,
    # 04_train
    "cross_entropy_by_hand": _cross_entropy_by_hand,
    "stopping_epoch": _stopping_epoch,
    "momentum_step": _momentum_step,
    "rate_at": _rate_at,
    # 05_evaluation
    "top_k_accuracy": _top_k_accuracy,
    "precision": _precision,
    "wilson_interval": _wilson_interval,
    "sign_test": _sign_test,
    "best_temperature": _best_temperature,
    # 06_save_load
    "count_bytes": _count_bytes,
    "strip_prefix": _strip_prefix,
    "differences": _differences,
    "through_half": _through_half,
    "average": _average,
}
