"""The notebooks: as committed, as papermill runs them, from wherever they are started."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import chdir
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from fewer import do_fewer
from nbclient import NotebookClient
from papermill.cli import papermill as command

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
SIX = ["01_data", "02_visualization", "03_model_shapes", "04_train", "05_evaluation", "06_save_load"]  # the tutorial


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def up_to(name, text, folder):
    """A copy of a notebook that ends with the first code cell that has `text`; of others, those that it may need."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    do_fewer(cells := code_cells(notebook))
    end = next(i for i, cell in enumerate(cells) if text in cell.source)
    needed = re.compile(r"alexnet_cifar10\.(data|model|train|recipes|batches|runs|notebook)")
    notebook.cells = [cell for i, cell in enumerate(cells[: end + 1]) if i < 2 or needed.search(cell.source)]
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


TRAINS = "train(model, train_loader"


def papermill(notebook, output, *options, cwd=ROOT, runs=None):
    """Run one notebook as a user would, with the words of the README."""
    with chdir(cwd):  # in this process: papermill and what it needs take a second to import
        return CliRunner(env={"RUNS_ROOT": str(runs)}).invoke(command, [str(notebook), str(output), *options])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def test_the_six_come_first_and_each_is_in_both_readmes():
    assert [path.stem for path in NOTEBOOKS[:6]] == SIX
    for name, folder in {"README.md": "notebooks", "README.ko.md": "notebooks/ko"}.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        rows = re.findall(rf"^\| (\d) +\| \[(\w+)\]\({folder}/\2\.ipynb\)", text, re.M)
        assert rows == [(str(int(path.stem[:2])), path.stem) for path in NOTEBOOKS]


def test_is_built_like_a_lesson(path, notebook):
    markdown = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert markdown[0].startswith(f"# {int(path.stem[:2])} · ")
    assert len(re.findall(r"^- ", markdown[0].split("**You will learn**")[1].split("**You need**")[0], re.M)) == 3
    text = "\n".join(markdown)
    for part in ("## Recap", "## Exercises"):
        assert text.count(part) == 1
    exercises = text.split("## Exercises")[1]
    enough = 2 if path.stem == "09_several_devices" else 3  # a short one
    assert len(re.findall(r"^(?:### Exercise )?\d[. ]", exercises, re.M)) >= enough
    assert exercises.count("<details>") == exercises.count("</details>") >= 3


def test_cells_are_small(notebook):
    lines = sorted(len(cell.source.splitlines()) for cell in code_cells(notebook))
    assert lines[-1] <= 25
    assert lines[len(lines) // 2] <= 6


def test_links_to_files_lead_somewhere(path, notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", text):
        assert (path.parent / target).exists(), target
    assert f"/notebooks/{path.name}" in text  # the Colab badge opens this notebook and no other


def test_has_one_cell_of_parameters_each_explained_and_checked(notebook):
    cells = code_cells(notebook)
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    lines = cells[tagged[0]].source.splitlines()
    names = [re.fullmatch(r"(\w+) = \S+ +# \S.*", line).group(1) for line in lines]
    check = cells[tagged[0] + 1].source
    assert re.findall(r'"(\w+)"', check.split("check_parameters(")[1]) == names


def test_was_committed_as_it_ran(path, notebook):
    assert path.stat().st_size < 1_000_000
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = json.dumps([cell.outputs for cell in cells])
    for what in ("/home/", "/root/", "/tmp/", "/work/", "C:\\\\", "widget-view", "Warning", '"error"', "\\r"):
        assert what not in outputs, what
    assert "CIFAR-10" in outputs and "handwritten digits" not in outputs


def test_every_figure_has_a_text_for_those_who_cannot_see_it(notebook):
    """In the metadata of its cell, where it outlives running the cell again; the HTML of nbconvert shows it."""
    for cell in code_cells(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert 20 < len(cell.metadata.get("alt", "")) < 250, cell.source


def test_notebook_6_shows_the_page_that_can_be_run():
    """nbval does not compare it: its colours depend on the version of Pygments."""
    cells = code_cells(nbformat.read(ROOT / "notebooks" / "06_save_load.ipynb", as_version=4))
    shown = [output.data["text/plain"] for cell in cells if "Code(" in cell.source for output in cell.outputs]
    assert shown == [(ROOT / "notebooks" / "one_page.py").read_text(encoding="utf-8").rstrip()]


def test_what_papermill_left_behind_is_not_tested(tmp_path):
    for name in ("conftest.py", "pyproject.toml", "tests/fewer.py", "notebooks/01_data.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for left in ("out.ipynb", "notebooks/out.ipynb", "runs/notebooks/01_data.ipynb"):
        (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "notebooks" / "01_data.ipynb", tmp_path / left)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    collected = {line.split("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert collected == {"notebooks/01_data.ipynb"}


def test_what_is_asked_for_is_trained_saved_and_loaded(tmp_path):
    words, runs = "-p recipe fast-long -p epochs 2 -p batch_size 32 -r run_name zwei".split(), tmp_path / "runs"
    trained = papermill(up_to("04_train", TRAINS, tmp_path), tmp_path / "out.ipynb", *words, runs=runs)
    assert trained.exit_code == 0, trained.output
    with open(runs / "zwei" / "history.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "train_loss", "valid_loss", "valid_accuracy", "lr", "seconds"]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    record = json.loads((runs / "zwei" / "run.json").read_text(encoding="utf-8"))
    recipe = record["recipe"]
    assert (recipe["name"], recipe["batch_size"], recipe["cutout"]) == ("fast-long", 32, 8)
    assert not recipe["flip"], "a mirrored digit is no digit"
    assert record["data"]["dataset"] == "digits"
    loads = up_to("05_evaluation", "find_or_train_run(", tmp_path)
    loaded = papermill(loads, tmp_path / "out.ipynb", "-r", "run_name", "zwei", runs=runs)
    assert loaded.exit_code == 0, loaded.output
    assert [path.name for path in runs.iterdir()] == ["zwei"], "no other run is trained"


@pytest.mark.skipif(os.name != "posix", reason="there, a kernel is interrupted by a signal")
def test_the_stop_button_ends_training_calmly_and_the_cells_below_still_work(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS_ROOT", str(tmp_path))
    notebook = nbformat.read(ROOT / "notebooks" / "04_train.ipynb", as_version=4)
    do_fewer(code_cells(notebook))
    parameters = next(cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", []))
    parameters.source += '\nepochs = 1000\nrun_name = "stopped"'
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    history = tmp_path / "stopped" / "history.csv"

    def press_stop():  # JupyterLab's button sends the kernel this signal
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not history.exists():
            time.sleep(0.05)
        os.kill(client.km.provisioner.pid, signal.SIGINT)

    thread = threading.Thread(target=press_stop, daemon=True)
    thread.start()
    client.execute()  # raises where a cell fails
    printed = "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)
    assert re.search(
        r"^Stopped: what 1 epoch gave is kept .* To go on: resume = True with run_name = 'stopped'\.$", printed, re.M
    )
    assert len(history.read_text().splitlines()) == 2
    assert json.loads((history.parent / "run.json").read_text(encoding="utf-8"))["recipe"]["name"] == "classic"
    assert {path.name for path in history.parent.glob("*.p*")} == {
        "best_checkpoint.pth",
        "last_checkpoint.pth",
        "training_state.pt",
    }


def test_a_bad_parameter_stops_the_run_before_data_is_loaded(tmp_path):
    """What else is refused: tests/notebook/test_parameters.py."""
    words = ("-p", "epohcs", "3")
    done = papermill(ROOT / "notebooks" / "04_train.ipynb", tmp_path / "out.ipynb", *words, runs=tmp_path / "runs")
    last_line = str(done.exception).strip().splitlines()[-1]
    assert done.exit_code != 0
    assert "ParameterError" in last_line and "did you mean epochs?" in last_line
    assert not (tmp_path / "runs").exists()


def test_runs_in_an_empty_folder_with_spaces_and_korean_letters(tmp_path):
    folder = tmp_path / "빈 폴더 mit Leerzeichen"
    folder.mkdir()
    loads = up_to("06_save_load", "find_or_train_run(", tmp_path)
    done = papermill(loads, folder / "out.ipynb", cwd=folder, runs=folder / "runs")
    assert done.exit_code == 0, done.output
    output = (folder / "out.ipynb").read_text(encoding="utf-8")
    assert "There is no run on handwritten digits yet" in output  # it says so, and trains a short one itself
    assert len(list((folder / "runs").glob("*/best_checkpoint.pth"))) == 1


def run_first_cell(folder, last_line="", **environment):
    """The first cell, in a Python that sees its standard library only: the package is nowhere."""
    cell = code_cells(nbformat.read(NOTEBOOKS[0], as_version=4))[0].source
    command = [sys.executable, "-I", "-S", "-c", f"{cell}\n{last_line}"]
    environment = os.environ | environment
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_first_cell_is_the_same_in_all_notebooks_and_fits_on_the_screen():
    cells = {code_cells(nbformat.read(path, as_version=4))[0].source for path in NOTEBOOKS}
    assert len(cells) == 1
    assert max(len(line) for line in cells.pop().splitlines()) <= 100  # JupyterLab in a window of 1280 pixels


@pytest.mark.parametrize("start", [".", "notebooks"])
def test_a_bare_clone_works_without_being_installed(start, tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "src").mkdir()
    shutil.copytree(ROOT / "src" / "alexnet_cifar10", tmp_path / "src" / "alexnet_cifar10")
    done = run_first_cell(tmp_path / start, "import alexnet_cifar10; print(alexnet_cifar10.__file__)")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).resolve() == tmp_path.resolve() / "src" / "alexnet_cifar10" / "__init__.py"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("connection", "unable to connect to 127.0.0.1"),
        ("tag", "pathspec 'v[0-9.]+' did not match"),
        ("git", "Cannot find command 'git'"),
    ],
)
def test_a_package_that_cannot_be_fetched_says_why_and_what_to_do(missing, reason, tmp_path):
    repository = tmp_path / re.search(r"git\+https://github\.com/(.+?)@", NOTEBOOKS[0].read_text(encoding="utf-8"))[1]
    repository.mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet"], cwd=repository, check=True)
    user = ["-c", "user.name=x", "-c", "user.email=x@y.z"]
    subprocess.run(["git", *user, "commit", "--quiet", "--allow-empty", "--message=x"], cwd=repository, check=True)
    instead = "git://127.0.0.1:1/" if missing == "connection" else f"{tmp_path.as_uri()}/"  # nobody listens on port 1
    environment = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_VALUE_0": "https://github.com/"}
    environment["GIT_CONFIG_KEY_0"] = f"url.{instead}.insteadOf"
    if missing == "git":
        environment["PATH"] = str(tmp_path)
    done = run_first_cell(tmp_path, **environment)
    assert done.returncode != 0
    assert re.search(reason, done.stderr)
    assert "The package could not be installed; pip's reason stands above." in done.stderr
    assert "run this cell again" in done.stderr.splitlines()[-2]
