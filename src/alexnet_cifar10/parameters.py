"""The check of a notebook's parameters, before any data is loaded.

papermill only warns about a name that the notebook does not have, and it passes `true`, `null` and `[1,2]` on as
strings; a typing error would cost hours of training with the wrong value.
"""

import ast
import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from alexnet_cifar10.data import SOURCES
from alexnet_cifar10.environment import available_devices
from alexnet_cifar10.recipes import RECIPES

__all__ = ["ParameterError", "check_parameters"]


class ParameterError(ValueError):
    """A parameter is unknown or has a value that is not allowed; the message names it and says what is."""


def check_parameters(namespace: Mapping[str, Any], *names: str) -> None:
    """Check the parameters `names` of a notebook, whose `globals()` are `namespace`.

    Raises `ParameterError` for a parameter that papermill set and the notebook does not have, and for one of `names`
    whose type or value is not allowed.
    """
    for name in _injected_names(namespace.get("In", ())):
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise ParameterError(f"{name}: this notebook has no such parameter{hint} It has {', '.join(names)}.")
    for name in names:
        if name not in namespace:
            raise ParameterError(f"{name}: it is not set; run the cell with the parameters first.")
        is_allowed, allowed = _CHECKS[name]
        value = namespace[name]
        if not is_allowed(value):
            text = " (a piece of text)" if isinstance(value, str) else f" ({type(value).__name__})"
            raise ParameterError(f"{name} = {value!r}{text} is not allowed; {name} is {allowed()}.")


def _injected_names(cells: list[str]) -> list[str]:
    """Names that are assigned in the cells that papermill adds; it begins each of them with `# Parameters`."""
    injected = [ast.parse(cell).body for cell in cells if cell.startswith("# Parameters\n")]
    return [target.id for body in injected for line in body for target in getattr(line, "targets", [])]


def _is_whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high  # True is an int for isinstance


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _is_rate(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value <= 10


def _is_folder_name(value: Any) -> bool:
    """One plain folder name on every system, and not one that runs/ uses itself."""
    if not isinstance(value, str) or not value or len(value.encode()) > 200:
        return False
    bad = value[0] in ". " or value[-1] in ". " or value.lower() in ("latest", "notebooks") or not value.isprintable()
    return (
        not bad
        and not re.search(r'[/\\:*?"<>|]', value)
        and not re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)", value)
    )


# parameter -> (is this value allowed?, what is allowed, in words)
_CHECKS: dict[str, tuple[Callable[[Any], bool], Callable[[], str]]] = {
    "data": (lambda value: value in SOURCES, lambda: f"one of {', '.join(SOURCES)}"),
    "recipe": (lambda value: isinstance(value, str) and value in RECIPES, lambda: f"one of {', '.join(RECIPES)}"),
    "epochs": (_or_none(_is_whole(1, 10_000)), lambda: "a whole number from 1 to 10000, or None for the recipe's own"),
    # batch normalisation takes the variance over a batch: one image has none
    "batch_size": (_or_none(_is_whole(2, 50_000)), lambda: "a whole number from 2 to 50000, or None for the recipe's"),
    "learning_rate": (_or_none(_is_rate), lambda: "a number above 0, at most 10, or None for the recipe's own"),
    "patience": (_or_none(_is_whole(0, 10_000)), lambda: "a whole number from 0 to 10000, or None for the recipe's"),
    "seed": (_is_whole(0, 2**32 - 1), lambda: f"a whole number from 0 to {2**32 - 1}"),
    "device": (
        lambda value: isinstance(value, str) and value in ("auto", *available_devices()),
        lambda: f"one of auto, {', '.join(available_devices())} on this machine",
    ),
    "run_name": (
        _or_none(_is_folder_name),
        lambda: "one plain folder name (not a path, not latest or notebooks), or None",
    ),
    "resume": (lambda value: type(value) is bool, lambda: "True or False, with a capital letter"),
}
