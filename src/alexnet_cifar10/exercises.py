"""The checks of the notebooks' exercises. They say in words what is not right yet, and never stop a notebook."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
        try:
            given = answer(*case.arguments)
        except Exception as error:  # whatever the reader wrote
            return f"Not yet: {call} raised {type(error).__name__}: {error}"
        if given is None or given is ...:
            return f"Not yet: {name} returns nothing so far."
        difference = _difference(given, case.expected)
        if difference:
            return f"Not yet: {call} {difference} {case.hint}"
    return f"Right: {name} does what it should."


def _difference(given: Any, expected: Any) -> str:
    """What is wrong with a value, in words; "" if nothing is."""
    if isinstance(given, Tensor):
        given = given.detach()
    if isinstance(expected, dict):
        if not isinstance(given, dict) or given.keys() != expected.keys():
            return f"should have the keys {_short(list(expected))}."
        return next((f"[{k!r}] {d}" for k in expected if (d := _difference(given[k], expected[k]))), "")
    if isinstance(expected, Tensor | np.ndarray):
        if not isinstance(given, type(expected)):
            return f"gave a {type(given).__name__}, not a {type(expected).__name__}."
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
        pass
    if _short(given) == _short(expected):
        return "has the right shape, but other values than it should."
    return f"gave {_short(given)}, not {_short(expected)}."


def _short(value: Any) -> str:
    """A value in a few words: long arrays by their shape."""
    if isinstance(value, Tensor | np.ndarray):
        text = repr(value.tolist())
        return text if len(text) <= 60 else f"{type(value).__name__} {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- the exercises ----------------------------------------------------------------------------------------------------


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def _to_tensor_by_hand() -> list[_Case]:
    return [
        _Case(
            (_image(seed),),
            torch.from_numpy(_image(seed)).permute(2, 0, 1) / 255,
            "Colour first, then height and width; values from 0 to 1.",
        )
        for seed in (0, 1)
    ]


def _leaked() -> list[_Case]:
    some, others = (np.random.default_rng(seed).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8) for seed in (2, 3))
    elsewhere = np.concatenate([some[[3, 0]], others[:2]])
    return [
        _Case((some, elsewhere), 2, "A copy may stand at any place: look for each validation image among all others."),
        _Case((some, others), 0, "These sets have no image in common."),
        _Case((some, some[[5, 5, 1]]), 3, "Count validation images; one that is there twice counts twice."),
        _Case((some, some[:, ::-1]), 0, "The same bytes in another order are another image."),
    ]


def _stratify_by_hand() -> list[_Case]:
    return [
        _Case(([0] * 5 + [1] * 5, 0.2), [0, 5], "Each class gives a fifth of its own images, here one."),
        _Case(([1, 0, 1, 0, 1, 0, 1, 0], 0.5), [0, 1, 2, 3], "The first half of each class, sorted by index."),
        _Case(([0] * 20 + [3] * 6, 0.3), [0, 1, 2, 3, 4, 5, 20, 21], "Round the number of each class: 1.8 becomes 2."),
    ]


def _group_split() -> list[_Case]:
    pairs = [name for name in ("ann", "bob", "cem", "dia", "eva") for _ in range(2)]
    mixed = ["ann", "bob", "ann", "cem", "bob", "ann", "cem", "bob"]
    return [
        _Case((pairs, 0.2), {"train": [2, 3, 4, 5, 6, 7, 8, 9], "valid": [0, 1]}, "The first person alone is enough."),
        _Case((mixed, 0.25), {"train": [1, 3, 4, 6, 7], "valid": [0, 2, 5]}, "All images of a person go to one side."),
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
    ]


def _nearest() -> list[_Case]:
    def flat(*values: int) -> np.ndarray:
        return np.stack([np.full((4, 4, 3), value, np.uint8) for value in values])

    spot = flat(100, 100, 112)
    spot[1, 0, 0] = 130  # far at one place, equal elsewhere
    return [
        _Case((flat(10, 50, 200), flat(60)[0]), 1, "Which grey is next to 60?"),
        _Case((flat(99, 116, 150), flat(100)[0]), 0, "uint8 counts from 255 back to 0: make floats first."),
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
}
