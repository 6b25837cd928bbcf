"""The runner of the notebooks, scripts/run_notebooks.py."""

import inspect
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import run_notebooks
import torch
from jupyter_client import AsyncKernelManager, KernelManager
from jupyter_client.connect import LocalPortCache

from alexnet_cifar10.runs import machine

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """The runner in a small clone, whose notebooks tests write themselves."""
    root = tmp_path / "그림 책"
    for folder in ("notebooks", "src/alexnet_cifar10"):
        (root / folder).mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.delenv("RUNS_ROOT", raising=False)
    monkeypatch.setattr(run_notebooks, "ROOT", root)
    return run_notebooks


def write_notebook(name: str, parameters: str, *cells: str) -> None:
    kernel = {"name": "elsewhere", "display_name": "Elsewhere", "language": "python"}  # as saved on another machine
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, f"notebooks/{name}.ipynb")


def tag_as_result(name: str) -> None:
    notebook = nbformat.read(f"notebooks/{name}.ipynb", as_version=4)
    notebook.cells[-1].metadata.tags = ["result"]
    nbformat.write(notebook, f"notebooks/{name}.ipynb")


RECORD = {
    "status": "finished",
    "data": {"dataset": "digits", "label": "handwritten digits"},
    "seed": 42,
    "number": 1,
    "machine": machine(torch.device("cpu")),
    "recipe": {"name": "classic", "epochs": 3},
    "result": {"best_epoch": 2, "best_valid_accuracy": 0.9375, "epochs": 3},
}


def executed_in(root=Path("runs/notebooks")):
    """Where the notebooks of the one call lie."""
    (folder,) = root.iterdir()
    return folder


def test_notebooks_run_in_order_and_the_summary_names_accuracy_and_data(runner, capfd, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")  # with which a notebook has no pictures
    only_data = (
        "import os\nassert data == 'digits' and 'epochs' not in globals() and 'inline' in os.environ['MPLBACKEND']"
    )
    write_notebook("01_data", "data = 'auto'", only_data, "print('quiet')\nprint('0.100 right; digits')")
    tag_as_result("01_data")
    write_notebook(
        "04_train",
        "data = 'auto'\nepochs = None\nrun_name = None",
        "from pathlib import Path\nassert Path('runs/notebooks').exists(), 'not run from the root'",
        "print('a lesson'); print('Epoch 1 of', epochs)",
        f"run = Path('runs', run_name)\nrun.mkdir()\n(run / 'run.json').write_text({json.dumps(RECORD)!r});",
    )
    reads = "from pathlib import Path\nassert Path('runs', run_name, 'run.json').exists()"
    write_notebook("05_evaluation", "run_name = None", reads)
    assert runner.main(["01_data", "04_train", "05_evaluation", "--data", "digits", "--epochs", "3"]) == 0
    out, err = capfd.readouterr()
    assert "Epoch 1 of 3" in out and "quiet" not in out and "a lesson" not in out
    assert re.search(r"\n01_data +\d:\d\d  0\.100 right\n04_train +\d:\d\d\n05_evaluation +\d:\d\d\ntogether ", out)
    assert "Best validation accuracy: 0.938, in epoch 2 of 3, on handwritten digits, seed 42." in out
    assert "This is not CIFAR-10" in out
    assert err == "", "the kernels are not quiet"
    executed = nbformat.read(executed_in() / "01_data.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "quiet\n0.100 right; digits\n"


def test_calls_at_the_same_time_keep_what_each_has_trained_and_executed(runner, tmp_path):
    """Each is a process that writes its own accuracy, waits for the others, and reads it again in the next notebook."""
    write_notebook(
        "04_train",
        "data = 'auto'\nepochs = None\nrun_name = None",
        "import json, time\nfrom pathlib import Path\nrun = Path('runs', run_name)\nrun.mkdir()",
        f"record = {RECORD!r}\nrecord['result']['best_valid_accuracy'] = epochs / 10",
        "(run / 'run.json').write_text(json.dumps(record))",
        "while len(list(Path('runs').glob('*/run.json'))) < 2:\n    time.sleep(0.05)",
    )
    asserted = "json.loads(Path('runs', run_name, 'run.json').read_text())['result']['best_valid_accuracy']"
    write_notebook("05_evaluation", "run_name = None", f"import json\nfrom pathlib import Path\nprint({asserted})")
    code = (
        "import pathlib, run_notebooks, sys; run_notebooks.ROOT = pathlib.Path.cwd(); run_notebooks.main(sys.argv[1:])"
    )
    paths = os.pathsep.join([str(ROOT / "scripts"), str(ROOT / "src")])
    calls = [
        subprocess.Popen(
            [sys.executable, "-c", code, "04_train", "05_evaluation", "--data", "digits", "--epochs", str(epochs)],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for epochs in (3, 7)
    ]
    for epochs, call in zip((3, 7), calls, strict=True):
        out, _ = call.communicate(timeout=120)
        assert call.returncode == 0 and f"Best validation accuracy: 0.{epochs}00" in out
        folder = Path(re.search(r"The executed notebooks: (\S+)", out)[1])
        printed = nbformat.read(folder / "05_evaluation.ipynb", as_version=4).cells[-1].outputs[0].text
        assert printed == f"0.{epochs}\n"


@pytest.mark.parametrize(
    ("dataset", "asked", "trained"),
    [
        ("cifar10", [], "fast, epochs: 2"),
        ("digits", [], "classic, epochs: at most 10"),
        ("cifar10", ["--epochs", "55"], "classic, epochs: at most 55"),
        ("cifar10", ["--recipe", "classic"], "classic, epochs: at most 55"),
    ],
)
def test_without_choices_training_suits_the_data(dataset, asked, trained, runner, monkeypatch, capsys):
    """The notebook is given what was asked, and decides by the same rule."""
    provenance = SimpleNamespace(dataset=dataset)
    monkeypatch.setattr(runner, "load_images", lambda source: SimpleNamespace(provenance=provenance))
    given = {}
    monkeypatch.setattr(runner, "execute", lambda notebook, output, asked, show_output: given.update(asked) or "ended.")
    write_notebook("04_train", "data = 'auto'")
    assert runner.main(["04_train", *asked]) == 1
    words = dict(zip(asked[::2], asked[1::2], strict=True))
    assert given.get("recipe") == words.get("--recipe") and given.get("epochs") in (None, 55)
    assert f"recipe {trained}\n" in capsys.readouterr().out


def test_a_failing_notebook_is_named_and_those_after_it_do_not_run(runner, capfd):
    write_notebook("02_visualization", "data = 'auto'", "1 + 1", "# the third\nraise ValueError('no such picture')")
    write_notebook("06_save_load", "data = 'auto'", "1 + 1")
    assert runner.main(["02_visualization", "06_save_load", "--data", "digits"]) == 1
    error = capfd.readouterr().err
    for part in ("02_visualization stopped", "[4]", "# the third", "ValueError: no such picture", "runs/notebooks"):
        assert part in error.replace(os.sep, "/")
    assert [path.name for path in executed_in().iterdir()] == ["02_visualization.ipynb"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kernels have ports")
@pytest.mark.parametrize("manager", [KernelManager, AsyncKernelManager])
def test_two_kernels_that_tests_start_at_once_share_no_address(manager):
    """nbval's and papermill's: none of them listens yet when the other asks what is free."""
    kernels = [manager(), manager()]
    for kernel in kernels:
        kernel.write_connection_file()
        kernel.cleanup_connection_file()
    addresses = [f"{kernel.ip}-{port}" for kernel in kernels for port in kernel.ports]
    assert len(set(addresses)) == 10 and all(Path(address).is_absolute() for address in addresses)


def test_a_kernel_whose_port_was_taken_is_started_again(runner, monkeypatch):
    """jupyter_client asks for free ports, and the kernel takes them a second later: here, another process is faster."""
    find, answers = LocalPortCache.find_available_port, []
    monkeypatch.setattr(AsyncKernelManager, "__init__", inspect.unwrap(AsyncKernelManager.__init__))

    def busy_at_first(self, ip):
        answers.append(listener.getsockname()[1] if not answers else find(self, ip))
        return answers[-1]

    write_notebook("01_data", "data = 'auto'", "1 + 1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(LocalPortCache, "find_available_port", busy_at_first)
        assert runner.main(["01_data", "--data", "digits"]) == 0
    assert len(answers) > 5, "a kernel has five ports"


def test_a_bad_choice_stops_before_the_first_notebook(runner, capsys):
    write_notebook("01_data", "data = 'auto'")
    assert runner.main(["01_data", "--epochs", "many"]) == 1
    assert "epochs = 'many'" in capsys.readouterr().err
    assert runner.main(["01_data", "--data", "imagenet"]) == 1
    assert "data = 'imagenet'" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_all_notebooks_are_run_in_the_order_of_their_numbers(runner):
    numbers = [int(name[:2]) for name in runner.NOTEBOOKS]
    assert numbers == list(range(1, 1 + len(list((ROOT / "notebooks").glob("*.ipynb"))))) and len(numbers) > 6


def test_each_notebook_has_a_result_for_the_summary(runner):
    for name in runner.NOTEBOOKS:
        result = runner.result_of(ROOT / "notebooks" / f"{name}.ipynb")
        assert result and "CIFAR-10" not in result, name


def test_a_silent_notebook_shows_that_it_works(runner, capsys):
    with runner.signs_of_life(every=0.2) as terminal:
        terminal.write("Epoch 1\nEpo")
        terminal.write("ch 2\n")
        time.sleep(0.5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["      Epoch 1", "      Epoch 2"]
    assert "still at work" in lines[2]
