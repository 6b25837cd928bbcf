"""The check of a notebook's parameters, before any data is loaded: a typing error would cost hours of training.

papermill only warns of a name that the notebook does not have, and passes `true`, `null` and `[1,2]` on as strings.
"""

import ast
import difflib
import json
import os
import re
from contextlib import suppress
from shlex import quote
from typing import Any, get_args

from alexnet_cifar10.data import SOURCES
from alexnet_cifar10.device import available_devices
from alexnet_cifar10.recipes import RECIPES, Recipe
from alexnet_cifar10.runs.run import RUN_NAME, is_run_name

OF_RECIPE = ("epochs", "batch_size", "learning_rate", "patience")  # parameters that are values of the recipe
CHANGES = [value for value in Recipe.__annotations__ if value not in ("name", *OF_RECIPE)]  # the others


class ParameterError(ValueError):
    """A parameter is unknown or has a value that is not allowed; the message names it and says what is."""


def is_smoke_run() -> bool:
    """True when `TUTORIAL_SMOKE=1` is set: the digits and one epoch, so that a test takes seconds."""
    return os.environ.get("TUTORIAL_SMOKE") == "1"


def literal(text: str) -> Any:
    """What a text is in Python, such as 3 or {"flip": False}, or else the text: the check says what is wrong then."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check_parameters(namespace: dict[str, Any], *names: str) -> None:
    """Check the parameters `names` of a notebook, whose `globals()` are `namespace`.

    In a smoke run, `data` "auto" then becomes "digits", and `epochs` None becomes 1.
    Raises `ParameterError` for a name that papermill set and the notebook does not have, and for a value not allowed.
    """
    # papermill 2.7 begins its cell so, with one parameter a line; what --inject-paths adds is called PAPERMILL_...
    injected = "\n".join(cell for cell in namespace.get("In", ()) if cell.startswith("# Parameters\n"))
    for name in re.findall(r"^(?!PAPERMILL_)(\w+) = ", injected, re.MULTILINE):
        if name not in names:
            hint = "".join(f"; did you mean {near}?" for near in difflib.get_close_matches(name, names, n=1)) or "."
            raise ParameterError(f"{name}: this notebook has no such parameter{hint} It has {', '.join(names)}.")
    for name in names:
        if name not in namespace:
            raise ParameterError(f"{name}: it is not set; run the cell with the parameters first.")
        is_allowed, allowed = rule(name, value := namespace[name])
        if not is_allowed:
            kind = "a piece of text" if isinstance(value, str) else type(value).__name__
            message = f"{name} = {value!r} ({kind}) is not allowed; {name} is {allowed}."
            with suppress(Exception):  # would it be right as a text, or as what the text says, if it says anything?
                meant = ast.literal_eval(value) if isinstance(value, str) else str(value)
                if rule(name, meant)[0]:
                    option = f"{'-r' if name == 'run_name' else '-p'} {name} {quote(str(meant))}"
                    if name == "changes":
                        option = f"-y {quote(json.dumps({name: meant}))}"
                    message += f" Write {name} = {meant!r}. With papermill: {option} (-p reads numbers, -r keeps text)."
            raise ParameterError(message)
    backend = os.environ.get("MPLBACKEND", "inline")
    if "In" in namespace and not re.search("inline|ipympl|nbagg|notebook|widget|^$", backend, re.IGNORECASE):
        print(f"MPLBACKEND = {backend}: this notebook shows no pictures. Start Jupyter or papermill without it.")
    for name, usual, short in (("data", "auto", "digits"), ("epochs", None, 1)):
        if is_smoke_run() and name in names and namespace[name] == usual:
            namespace[name] = short


def rule(name: str, value: Any) -> tuple[bool, str]:
    """Whether a parameter may have this value, and in words what it may have."""
    none, whole, real = value is None, type(value) is int, type(value) in (int, float)  # True is an int for isinstance
    digits, own = "in digits only", "or None for the recipe's own"
    devices = ["auto", *available_devices()] if name == "device" else []  # to ask wakes the GPU
    if name in ("epochs", "batch_size", "patience"):
        lowest, highest = get_args(Recipe.__annotations__[name])[1:]
        return none or (
            whole and lowest <= value <= highest
        ), f"a whole number from {lowest} to {highest}, {digits}, {own}"
    return {
        "data": (value in SOURCES, f"one of {', '.join(SOURCES)}"),
        "recipe": (none or value in list(RECIPES), f"one of {', '.join(RECIPES)}, or None"),
        "changes": (
            type(value) is dict and value.keys() <= set(CHANGES),
            f"a dictionary with keys out of {', '.join(CHANGES)}",
        ),
        "learning_rate": (none or (real and 0 < value <= 10), f"a number above 0, at most 10, {own}"),
        "device": (str(value) in devices, f"one of {', '.join(devices)} on this machine"),  # or the torch.device itself
        "seed": (whole and 0 <= value < 2**32, f"a whole number from 0 to {2**32 - 1}, {digits}"),
        "run_name": (none or is_run_name(value), f"{RUN_NAME}, or None"),
        "resume": (type(value) is bool, "True or False, with a capital letter"),
    }[name]
