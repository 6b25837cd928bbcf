"""The check of a notebook's parameters, with the values as papermill passes them."""

import math

import pytest
import torch

from alexnet_cifar10.parameters import _CHECKS, ParameterError, check_parameters

GOOD = {
    "data": ["auto", "cifar10", "digits"],
    "recipe": ["classic", "fast"],
    "epochs": [None, 1, 55, 10_000],
    "batch_size": [None, 2, 16, 50_000],
    "learning_rate": [None, 1e-3, 1, 10],
    "patience": [None, 0, 7],
    "seed": [0, 42, 2**32 - 1],
    "device": ["auto", "cpu"],
    "run_name": [None, "first", "run 1", "학습-1", "a.b", "communicate", "console", "a" * 200],
    "resume": [True, False],
}

NO_COUNT = [-1, 3.0, 2.5, math.nan, math.inf, True, False, "3", "null", "None", "true", "[1,2]", [1, 2], 10**9]
NO_NAME = ["", ".", "..", ".hidden", "a/b", "a\\b", "../a", "/tmp", "C:x", "a ", " a", "a.", "a\nb", "a\0", "a*", "a?"]

BAD = {
    "data": ["cifar", "CIFAR10", "null", "", None, 10, True, ["digits"], {}],
    "recipe": ["klassic", "CLASSIC", "null", None, 1, ["classic"]],
    "epochs": [0, *NO_COUNT],
    "batch_size": [0, 1, 50_001, *NO_COUNT],
    "learning_rate": [0, 0.0, -1e-3, 10.1, math.nan, math.inf, True, "1e-3", "null", [1e-3], 1j],
    "patience": NO_COUNT,
    "seed": [None, 2**32, *NO_COUNT[:-1]],
    "device": ["gpu", "cuda:0", "CPU", "null", "", None, 0, True, ["cpu"]],
    "run_name": [*NO_NAME, "latest", "Latest", "notebooks", "CON", "nul.txt", "lpt1", "a" * 201, "학" * 67, 3, True],
    "resume": ["true", "false", "True", "null", "", None, 0, 1, [True]],
}


def in_cases(values_of):
    return [pytest.param(name, value, id=f"{name}={value!r}"[:40]) for name in values_of for value in values_of[name]]


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def namespace():
    """A notebook's variables, all good."""
    return {name: values[0] for name, values in GOOD.items()}


def test_every_parameter_has_good_and_bad_values_here():
    assert GOOD.keys() == BAD.keys() == _CHECKS.keys()


@pytest.mark.parametrize(("name", "value"), in_cases(GOOD))
def test_good_values_pass(name, value, namespace):
    check_parameters({**namespace, name: value}, *GOOD)


@pytest.mark.parametrize(("name", "value"), in_cases(BAD))
def test_bad_values_are_refused_with_name_value_and_what_is_allowed(name, value, namespace):
    with pytest.raises(ParameterError) as refusal:
        check_parameters({**namespace, name: value}, *GOOD)
    message = str(refusal.value)
    assert message.startswith(f"{name} = {value!r}")
    assert f"is not allowed; {name} is " in message
    assert message.split(f"; {name} is ")[1].startswith(("one of ", "a whole number", "a number", "one plain", "True"))


def test_the_message_tells_text_from_the_value_it_looks_like(namespace):
    with pytest.raises(ParameterError, match=r"epochs = '3' \(a piece of text\)"):
        check_parameters({**namespace, "epochs": "3"}, *GOOD)
    with pytest.raises(ParameterError, match=r"epochs = True \(bool\)"):
        check_parameters({**namespace, "epochs": True}, *GOOD)


def test_allowed_values_are_listed(namespace):
    with pytest.raises(ParameterError, match="data is one of auto, cifar10, digits"):
        check_parameters({**namespace, "data": "mnist"}, *GOOD)
    with pytest.raises(ParameterError, match="device is one of auto, cpu on this machine"):
        check_parameters({**namespace, "device": "cuda"}, *GOOD)


def injected(text):
    return {"In": ["", "import torch", f"# Parameters\n{text}\n", "check_parameters(globals(), ...)"]}


def test_an_injected_name_that_the_notebook_does_not_have_is_refused_with_the_nearest_one(namespace):
    with pytest.raises(ParameterError, match=r"epohcs: this notebook has no such parameter; did you mean epochs\?"):
        check_parameters({**namespace, **injected("epohcs = 3"), "epohcs": 3}, *GOOD)


def test_an_injected_name_that_resembles_nothing_is_refused_with_those_there_are(namespace):
    with pytest.raises(ParameterError, match="zzz: this notebook has no such parameter. It has data, epochs"):
        check_parameters({**namespace, **injected("zzz = 1")}, "data", "epochs")


def test_a_name_that_another_notebook_has_is_refused_in_this_one(namespace):
    with pytest.raises(ParameterError, match="epochs: this notebook has no such parameter"):
        check_parameters({**namespace, **injected("data = 'digits'\nepochs = 3")}, "data", "seed")


def test_injected_names_that_the_notebook_has_pass(namespace):
    check_parameters({**namespace, **injected('data = "digits"\nepochs = 3\nrun_name = None')}, *GOOD)


def test_own_variables_of_other_cells_are_no_parameters(namespace):
    check_parameters({**namespace, "In": ["", "epohcs = 3", "x = 1  # Parameters\ny = 2"]}, *GOOD)


def test_a_cell_of_parameters_that_was_not_run_is_noticed():
    with pytest.raises(ParameterError, match="seed: it is not set; run the cell with the parameters first"):
        check_parameters({"data": "digits"}, "data", "seed")


def test_a_parameter_error_is_a_value_error():
    assert issubclass(ParameterError, ValueError)
