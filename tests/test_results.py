"""Every figure about our own runs, wherever it is stated, is the one that the run wrote into results/."""

import re
from pathlib import Path

import nbformat
import pytest

from alexnet_cifar10.checkpoints import Run
from alexnet_cifar10.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
RUNS = [Run(path.parent) for path in sorted((ROOT / "results").glob("*/run.json"))]
CLASSIC_RUN = Run(ROOT / "results" / "classic-42")


def printed(name):
    """All text that the cells of a notebook printed when it was committed."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_record_says_what_its_history_says(run):
    record, history = run.read_record(), run.read_history()
    best = max(history, key=lambda row: row["valid_accuracy"])
    assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
    assert record["run_name"] == run.name and record["status"] == "finished"
    assert record["recipe"] == vars(RECIPES[record["recipe"]["name"]]), "a full run, with nothing changed"
    assert record["result"] == {
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "best_valid_accuracy": best["valid_accuracy"],
        "stopped_early": True,
        "seconds": pytest.approx(sum(row["seconds"] for row in history), abs=0.01),
    }


def test_notebook_4_shows_the_run():
    shown = re.findall(
        r"^Epoch +(\d+)/\d+  train loss (\S+)  valid loss (\S+)  valid accuracy (\S+)  lr (\S+)",
        printed("04_train"),
        re.M,
    )
    assert shown == [
        (
            str(row["epoch"]),
            f"{row['train_loss']:.3f}",
            f"{row['valid_loss']:.3f}",
            f"{row['valid_accuracy']:.3f}",
            f"{row['lr']:.0e}",
        )
        for row in CLASSIC_RUN.read_history()
    ]


def test_notebooks_5_and_6_use_its_weights():
    assert f"run {CLASSIC_RUN.name} | {CLASSIC_RUN.read_record()['result']}" in printed("05_evaluation")
    assert f"run {CLASSIC_RUN.name}\n" in printed("06_save_load")


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_the_readme_states_what_the_run_and_notebook_5_gave(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| \[`classic-42`\].*$", text, re.M)
    _, _, epochs, valid, test, time, _ = row.split("|")
    result = CLASSIC_RUN.read_record()["result"]
    assert epochs.strip() == str(result["epochs"])
    assert valid.strip() == f"{result['best_valid_accuracy']:.3f}"
    assert re.search(r"[\d.]+", time).group() == f"{result['seconds'] / 3600:.1f}"

    evaluation = printed("05_evaluation")
    first_1000, within = re.search(r"^first 1000 \(1000 images\): (\S+) ± ([\d.]+);", evaluation, re.M).groups()
    everything = float(re.search(r"^test loss \S+, test accuracy ([\d.]+);", evaluation, re.M).group(1))
    assert sorted(re.findall(r"0\.\d+", test)) == sorted([first_1000, f"{everything:.3f}"])
    assert f"± {within}" in text
