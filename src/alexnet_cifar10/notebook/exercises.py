"""The checks of the notebooks' exercises. They say in words what is not right yet, and never stop a notebook."""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from inspect import isgeneratorfunction
from typing import Any

import numpy as np
from torch import Tensor

from alexnet_cifar10.notebook import cases


def check(answer: Callable[..., Any]) -> None:
    """Print whether `answer`, the reader's function, does what the exercise of its name asks for."""
    print(_verdict(answer))


def _verdict(answer: Callable[..., Any]) -> str:
    name = getattr(answer, "__name__", _short(answer))  # what is no function has no name
    if not isgeneratorfunction(make_cases := getattr(cases, name, None)):
        return f"There is no exercise called {name}; keep the name that the exercise gives."
    for arguments, expected, hint in make_cases():
        call = f"{name}({', '.join(map(_short, arguments))})"
        passed = deepcopy(arguments)  # what one answer does to them is not what the next case begins with
        try:
            given = answer(*passed)
        except Exception as error:  # whatever the reader wrote
            return f"Not yet: {call} raised {type(error).__name__}: {error}"
        if given is None or given is ...:
            return f"Not yet: {name} returns nothing so far. (To print is not to return.)"
        if difference := _difference(given, expected):
            return f"Not yet: {call} {difference}" + ("" if "; return " in difference else f" {hint}")
        if any(_difference(after, before) for after, before in zip(passed, arguments, strict=True)):
            return f"Not yet: the answer to {call} is right, but {name} changed what it was given; make new values."
    return f"Right: {name} does what it should."


def _difference(given: Any, expected: Any) -> str:
    """What is wrong with a value, in words; "" if nothing is."""
    for kind, name in ((dict, "a dictionary"), (Tensor, "a tensor"), (np.ndarray, "an array")):
        if isinstance(expected, kind) and not isinstance(given, kind):
            keys = f" with the keys {_short(list(expected))}" if kind is dict else ""
            return f"gave a {type(given).__name__}; return {name}{keys}."
    if isinstance(expected, dict):
        if given.keys() != expected.keys():
            return f"should have the keys {_short(list(expected))}."
        return next((f"[{key!r}] {d}" for key in expected if (d := _difference(given[key], expected[key]))), "")
    if isinstance(expected, Tensor | np.ndarray):
        if tuple(given.shape) != tuple(expected.shape):
            return f"gave the shape {tuple(given.shape)}, not {tuple(expected.shape)}."
        if given.dtype != expected.dtype:
            return f"gave {given.dtype}, not {expected.dtype}."
    with suppress(Exception):  # what does not become an array is not right, whatever the reader made
        values = np.asarray(given.detach() if isinstance(given, Tensor) else given)
        is_close = values.dtype.kind in "biufc" and np.allclose(values, expected, rtol=1e-4, atol=1e-6)
        if values.shape == np.shape(expected) and (is_close or np.array_equal(values, expected)):
            return ""
    if _short(given) == _short(expected):
        return "has the right shape, but other values than it should."
    return f"gave {_short(given)}, not {_short(expected)}."


def _short(value: Any) -> str:
    """A value in a few words: long arrays by their shape, functions by their name."""
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    is_array = isinstance(value, Tensor | np.ndarray | np.generic)
    text = repr(value.tolist() if is_array else value)
    if is_array and len(text) > 60:
        return f"{type(value).__name__} {tuple(value.shape)}"
    return text if len(text) <= 80 else f"{text[:77]}..."
