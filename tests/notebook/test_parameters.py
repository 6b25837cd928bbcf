"""The check of a notebook's parameters, with the values as papermill passes them."""

import base64
import math
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from papermill.cli import papermill

from alexnet_cifar10.notebook import parameters
from alexnet_cifar10.notebook.parameters import ParameterError, check_parameters

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("0*.ipynb"))

GOOD = {
    "data": ["auto", "cifar10", "digits"],
    "recipe": ["classic", "fast"],
    "epochs": [None, 1, 55, 10_000],
    "batch_size": [None, 2, 16, 50_000],
    "learning_rate": [None, 1e-3, 1, 10],
    "patience": [None, 0, 7],
    "changes": [{}, {"flip": False, "momentum": 0.9}],
    "seed": [0, 42, 2**32 - 1],
    "device": ["auto", "cpu"],
    "run_name": [None, "first", "run 1", "학습-1", "a.b", "a_b", "communicate", "x", "a" * 80, "학" * 80],
    "resume": [True, False],
}

NO_COUNT = [-1, 3.0, 2.5, math.nan, math.inf, True, False, "3", "null", "None", "true", "[1,2]", [1, 2], 10**9]
NO_NAME = ["", ".", "..", ".hidden", "a/b", "a\\b", "../a", "/tmp", "C:x", "a ", " a", "a.", "a\nb", "a\0", "a*", "a?"]

BAD = {
    "data": ["cifar", "CIFAR10", "null", "", None, 10, True, ["digits"], {}],
    "recipe": ["klassic", "CLASSIC", "null", 1, ["classic"]],
    "epochs": [0, *NO_COUNT],
    "batch_size": [0, 1, 50_001, *NO_COUNT],
    "learning_rate": [0, 0.0, -1e-3, 10.1, math.nan, math.inf, True, "1e-3", "null", [1e-3], 1j],
    "patience": NO_COUNT,
    "changes": [None, "{}", ["flip"], {"flop": True}, {"epochs": 3}, {"name": "mine"}],
    "seed": [None, 2**32, *NO_COUNT[:-1]],
    "device": ["gpu", "cuda:0", "CPU", "null", "", None, 0, True, ["cpu"]],
    "run_name": [*NO_NAME, "notebooks", "Notebooks", "a" * 81, "𠮷" * 61, 3, True],
    "resume": ["true", "false", "True", "null", "", None, 0, 1, [True]],
}


OPENINGS = ("one of ", "a whole number", "a number", "one plain", "True", "a dictionary")


def in_cases(values_of):
    return [pytest.param(name, value, id=f"{name}={value!r}"[:40]) for name in values_of for value in values_of[name]]


@pytest.fixture(autouse=True)
def a_plain_machine(monkeypatch):
    monkeypatch.setattr(parameters, "available_devices", lambda: ["cpu"])
    for variable in ("TUTORIAL_SMOKE", "MPLBACKEND"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def namespace():
    """A notebook's variables, all good."""
    return {name: values[0] for name, values in GOOD.items()}


def refusal(namespace, *names):
    with pytest.raises(ParameterError) as error:
        check_parameters(namespace, *names)
    return str(error.value)


def test_what_the_notebooks_say_themselves_passes_and_no_parameter_of_theirs_is_left_out_here():
    names = set()
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        at = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
        values = {}
        exec(cells[at].source, values)
        names |= values.keys() - {"__builtins__"}
        exec(cells[at + 1].source, values)
    assert names == GOOD.keys() == BAD.keys()


@pytest.mark.parametrize(("name", "value"), in_cases(GOOD))
def test_good_values_pass_and_stay_as_they_are(name, value, namespace):
    given = {**namespace, name: value}
    check_parameters(given, *GOOD)
    assert given == {**namespace, name: value}


@pytest.mark.parametrize(("name", "value"), in_cases(BAD))
def test_bad_values_are_refused_with_name_value_and_what_is_allowed(name, value, namespace):
    message = refusal({**namespace, name: value}, *GOOD)
    assert message.startswith(f"{name} = {value!r}")
    assert f"is not allowed; {name} is " in message
    assert message.split(f"; {name} is ")[1].startswith(OPENINGS)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("data", "mnist", "data is one of auto, cifar10, digits"),
        ("device", "cuda", "device is one of auto, cpu on this machine"),
        ("recipe", 1e3, "one of classic, fast"),
        ("epochs", True, "epochs = True (bool)"),
        ("epochs", 1.0, "a whole number from 1 to 10000, in digits only"),
        ("epochs", "[1]", "a whole number from 1 to 10000, in digits only"),
        ("epochs", "0", "epochs = '0' (a piece of text) is not allowed; epochs is a whole number from 1 to 10000"),
        ("seed", "{[1]: 2}", "seed = '{[1]: 2}' (a piece of text)"),  # Python reads it, and cannot make it
        ("run_name", -1, "one plain folder name"),  # no name as a text either
        ("run_name", "notebooks", "not notebooks"),
        ("resume", "true", "True or False, with a capital letter"),
    ],
)
def test_a_refusal_says_what_is_allowed_and_names_no_option_of_papermill_where_none_helps(name, value, said):
    message = refusal({name: value}, name)
    assert said in message and "papermill" not in message


@pytest.mark.parametrize(
    ("name", "value", "way"),
    [
        ("run_name", 42, "-r run_name 42 "),
        ("run_name", '"my run"', "-r run_name 'my run' "),  # quotes within quotes
        ("data", "'digits'", "-p data digits "),
        ("epochs", "3", "-p epochs 3 "),  # -r epochs 3
        ("epochs", "None", "-p epochs None "),
        ("learning_rate", "1e-3", "-p learning_rate 0.001 "),
        ("resume", "True", "-p resume True "),
        ("changes", "{'flip': False}", """-y '{"changes": {"flip": false}}' """),
    ],
)
def test_where_only_the_type_is_wrong_the_message_names_the_option_of_papermill_to_take(name, value, way):
    assert f"With papermill: {way}(" in refusal({name: value}, name)


def test_a_smoke_run_takes_the_digits_and_one_epoch_where_the_notebook_leaves_it_open(namespace, monkeypatch):
    for value in ("0", "", "true"):
        monkeypatch.setenv("TUTORIAL_SMOKE", value)
        check_parameters(namespace, *GOOD)
        assert (namespace["data"], namespace["epochs"]) == ("auto", None), value
    monkeypatch.setenv("TUTORIAL_SMOKE", "1")
    check_parameters(namespace, *GOOD)
    assert (namespace["data"], namespace["epochs"]) == ("digits", 1)
    asked = {"data": "cifar10", "epochs": 2}
    check_parameters(asked, *asked)
    assert asked == {"data": "cifar10", "epochs": 2}
    another = {"data": "auto", "epochs": None}  # here epochs is no parameter
    check_parameters(another, "data")
    assert another == {"data": "digits", "epochs": None}


SHOWN = (None, "", "module://matplotlib_inline.backend_inline", "inline", "nbAgg", "module://ipympl.backend_nbagg")
NOT_SHOWN = ("Agg", "agg", "pdf", "template", "module://matplotlib.backends.backend_svg", "TkAgg")


@pytest.mark.parametrize("backend", SHOWN + NOT_SHOWN)
def test_a_notebook_says_when_it_will_show_no_pictures(backend, namespace, monkeypatch, capsys):
    if backend is not None:
        monkeypatch.setenv("MPLBACKEND", backend)
    check_parameters(namespace, *GOOD)
    assert capsys.readouterr().out == "", "no notebook: nothing is missed"
    check_parameters({**namespace, "In": [""]}, *GOOD)
    line = f"MPLBACKEND = {backend}: this notebook shows no pictures. Start Jupyter or papermill without it.\n"
    assert capsys.readouterr().out == ("" if backend in SHOWN else line)


def injected(*texts):
    cells = [f"# Parameters\n{text}\n" for text in texts]
    return {"In": ["", "epohcs = 3", "x = 1  # Parameters\ny = 2", *cells, "check_parameters(globals(), ...)"]}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["epohcs = 3"], "epohcs: this notebook has no such parameter; did you mean epochs? It has data, epochs."),
        (["zzz = 1"], "zzz: this notebook has no such parameter. It has data, epochs."),
        (["data = 'digits'\nseed = 3"], "seed: this notebook has no such parameter"),  # another notebook has it
        (["epochs = = 3", "epohcs = 3", "epochs = 3"], "epohcs: this notebook has no such parameter"),
    ],
)
def test_an_injected_name_that_the_notebook_does_not_have_is_refused_with_those_there_are(texts, said, namespace):
    assert refusal({**namespace, **injected(*texts)}, "data", "epochs").startswith(said)


def test_injected_names_that_the_notebook_has_and_own_variables_of_other_cells_pass(namespace):
    check_parameters({**namespace, **injected('data = "digits"\nepochs = 3\nrun_name = None')}, *GOOD)


def test_a_cell_of_parameters_that_was_not_run_is_noticed():
    said = refusal({"data": "digits"}, "data", "seed")
    assert said == "seed: it is not set; run the cell with the parameters first."


@pytest.fixture
def notebook(tmp_path):
    """A notebook with a cell of parameters, their check, and the check of a notebook that has one of them only."""
    cells = [
        'data = "auto"\nepochs = None\nrun_name = None',
        "from alexnet_cifar10.notebook.parameters import check_parameters\n"
        'check_parameters(globals(), "data", "epochs", "run_name")\nprint(data, epochs, run_name)',
        'check_parameters(globals(), "data")',
    ]
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    content.cells[0].metadata.tags = ["parameters"]
    content.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(content, tmp_path / "notebook.ipynb")
    return tmp_path / "notebook.ipynb"


@pytest.fixture
def with_options(notebook, tmp_path, capsys):
    """Run the cells that papermill makes of the notebook, given some options; what they print."""

    def run(*options):
        command = [str(notebook), str(tmp_path / "out.ipynb"), "--prepare-only", *options]
        CliRunner().invoke(papermill, command, catch_exceptions=False)
        cells = [cell.source for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[:3]]
        namespace = {"In": ["", *cells]}
        for cell in cells:
            exec(cell, namespace)
        return capsys.readouterr().out.strip()

    return run


def test_the_options_of_papermill_itself_are_no_parameters(with_options, tmp_path):
    (tmp_path / "more.yaml").write_text("epochs: 3")
    as_base64 = base64.b64encode(b"{data: cifar10, epochs: 7}").decode()
    assert with_options("--inject-paths") == "auto None None"
    assert with_options("--inject-input-path", "-p", "epochs", "3") == "auto 3 None"
    assert with_options("--inject-output-path", "-y", "{data: digits, run_name: '42'}") == "digits None 42"
    assert with_options("--inject-paths", "--report-mode", "-f", str(tmp_path / "more.yaml")) == "auto 3 None"
    assert with_options("--inject-paths", "-b", as_base64, "-r", "run_name", "42") == "cifar10 7 42"


def test_a_misspelt_name_is_refused_whatever_option_of_papermill_it_comes_by(with_options, tmp_path):
    (tmp_path / "more.yaml").write_text("epohcs: 3")
    for options in (
        ("-p", "epohcs", "3"),
        ("-r", "epohcs", "3"),
        ("-y", "epohcs: {a: [1, 2]}"),
        ("-f", str(tmp_path / "more.yaml")),
        ("-b", base64.b64encode(b"epohcs: 3").decode()),
    ):
        with pytest.raises(ParameterError, match=r"epohcs: .* did you mean epochs\?"):
            with_options("--inject-paths", *options)


def test_what_papermill_makes_of_a_text_is_refused_with_the_way_to_keep_it(with_options):
    for text in ("42", "1e3", "1_000", "True", "nan"):
        with pytest.raises(ParameterError, match=r"With papermill: -r run_name \w"):
            with_options("-p", "run_name", text)
        assert with_options("-r", "run_name", text) == f"auto None {text}"
    assert with_options("-p", "run_name", "2024-01-01") == "auto None 2024-01-01"


def test_a_notebook_that_papermill_executes_is_checked_the_same_way(notebook, tmp_path):
    command = [str(notebook), str(tmp_path / "out.ipynb"), "--inject-paths", "-p", "epochs", "3"]
    done = CliRunner().invoke(papermill, command)
    *_, checked, other = (cell for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells if cell.cell_type == "code")
    assert checked.outputs[0].text == "auto 3 None\n"
    assert done.exit_code and other.outputs[0].evalue.startswith("epochs: this notebook has no such parameter")
