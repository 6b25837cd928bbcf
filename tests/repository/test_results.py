"""Every figure about our own runs, wherever it is stated, is the one that the run wrote into results/."""

import ast
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import gpu_check
import ledger
import nbformat
import pytest
import yaml
from other_models import recipe_of

from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.recipes import RECIPES, Recipe, choose_recipe
from alexnet_cifar10.runs import Run

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
SHOWN_RUN = Run(RESULTS / "fast-42")  # in the committed notebooks 4, 5 and 6

ENTRIES = ledger.read_entries(RESULTS)
BENCHMARKS = ledger.read_benchmarks(RESULTS)

# What the original tutorial printed and we cite, and numbers in the text that are no results.
CITED = {"0.487", "0.544", "0.549", "0.555", "0.562", "0.837", "0.864", "0.865", "0.869", "0.874", "0.020"}
NOTEBOOKS = sorted(f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("0?_*.ipynb"))


def text_of(name):
    """The text of a file; of a notebook that of its Markdown cells."""
    if not name.endswith(".ipynb"):
        return (ROOT / name).read_text(encoding="utf-8")
    cells = nbformat.read(ROOT / name, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def printed(name):
    """All text that the cells of a notebook printed when it was committed."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


# --- the ledger ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.run.name)
def test_a_record_says_what_its_history_says(entry):
    record, history = entry.record, entry.run.read_history()
    best = max(history, key=lambda row: row["valid_accuracy"])
    assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
    assert record["run_name"] == entry.run.name and record["status"] == "finished"
    assert (record["train_images"], record["valid_images"]) == (40_000, 10_000)
    assert record["data"]["dataset"] == "cifar10"
    assert record["result"] == {
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "best_valid_accuracy": best["valid_accuracy"],
        "stopped_early": len(history) < record["recipe"]["epochs"],
        "seconds": pytest.approx(sum(row["seconds"] for row in history), abs=0.01),
    }


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.run.name)
def test_a_record_is_of_a_commit_and_of_a_recipe_that_can_be_made(entry):
    assert re.fullmatch("[0-9a-f]{40}", entry.record["git_commit"]), "trained with the committed code"
    recipe = Recipe(**entry.record["recipe"])  # whose values are used, or it would be refused
    assert recipe.as_record().items() >= entry.record["recipe"].items()


def test_the_page_of_the_ledger_is_derived_from_the_records():
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == ledger.document(ENTRIES, BENCHMARKS)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.run.name)
def test_every_run_was_tested(entry):
    assert entry.test["data"].startswith("CIFAR-10") and 0.1 < entry.test["accuracy"] < 1


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.run.name)
def test_the_command_of_a_run_is_the_one_that_makes_it_again(entry):
    """Read as papermill and notebook 4 read it."""
    words = shlex.split(entry.command)
    if entry.recipe["name"] not in RECIPES:
        assert words == ["python", "scripts/other_models.py", entry.run.name]
        return
    changes = yaml.safe_load(words.pop(words.index("-y") + 1))["changes"] if "-y" in words else {}
    words = [word for word in words if word != "-y"]
    asked = {name: value for option, name, value in zip(words[3::3], words[4::3], words[5::3], strict=True)}
    assert asked.pop("run_name") == entry.run.name and asked.pop("data") == "cifar10"
    assert int(asked.pop("seed")) == entry.record["seed"]
    changes |= {key: ast.literal_eval(value) for key, value in asked.items() if key != "recipe"}
    assert choose_recipe(asked["recipe"], **changes).as_record() == entry.recipe


def test_the_records_are_those_of_the_experiments():
    """So that Snakemake has nothing to do, and makes a run that is removed as it was."""
    recipes = {}
    for name, values in (item for group in ledger.read_experiments()["group"] for item in group["runs"].items()):
        recipes |= {f"{name}-{seed}": (recipe_of(values).as_record(), seed) for seed in values["seeds"]}
    assert recipes == {entry.run.name: (entry.recipe, entry.record["seed"]) for entry in ENTRIES}


def test_the_readme_has_the_rows_of_the_ledger():
    """Word by word, so that no digit of them can be another one."""
    for row in ledger.rows_for_the_readme(ENTRIES):
        assert row in text_of("README.md")


def test_the_readme_states_what_the_benchmark_measured():
    """Of the machine that the minutes are from."""
    processor = ledger.of_machine(ENTRIES, "classic")[0].chip
    (report,) = (report for _, report in BENCHMARKS if report["machine"]["processor"] == processor)
    original, _, fast = report["minutes"].values()
    share = report["share_of_product_rate"]["median"]
    minutes = f"{original['median']:.0f}", f"{fast['median']:.1f}"
    text = " ".join(text_of("README.md").split())
    assert all(f" {figure}" in text for figure in (*minutes, f"{share:.0%}"))
    ratios = [report["ratios"]["original / fast, time to result"] for _, report in BENCHMARKS]
    assert all(f" {ledger.measured(ratio, 1)}" in text for ratio in ratios)


def test_the_readme_states_what_was_measured_on_a_card():
    seconds = [60 * entry.minutes for entry in ENTRIES if entry.kind == "fast" and entry.accelerator]
    assert f"On an NVIDIA H100, `fast` trains in {sum(seconds) / len(seconds):.0f} seconds" in text_of("README.md")
    assert (RESULTS / "gpu" / "README.md").read_text(encoding="utf-8") == gpu_check.document(RESULTS / "gpu") + "\n"


@pytest.mark.parametrize("name", ["README.md", "README.ko.md", "CORRECTIONS.md", *NOTEBOOKS])
def test_no_accuracy_is_stated_that_nobody_measured(name):
    given = set(re.findall(r"\d\.\d{3,4}", (RESULTS / "README.md").read_text(encoding="utf-8")))
    given |= {f"{float(number):.3f}" for number in given}
    if name in NOTEBOOKS:
        given |= set(re.findall(r"\d\.\d{3,4}", printed(Path(name).stem)))
    stated = set(re.findall(r"(?<![\d.])0\.[1-9]\d{2,3}(?!\d)", text_of(name)))
    assert stated - given - CITED == set()


# "In this run" a text gives numbers that no cell printed: they stand in a figure, come from a solution, or are the
# difference of two that were printed.
NOT_PRINTED = {
    "02_visualization": {"4.2"},
    "05_evaluation": {"0.54", "0.47", "0.43", "5.8", "9.1", "0.053", "0.78", "0.76"},
    "07_faster": {"0.37", "0.14"},
    "08_what_it_sees": {"0.11", "0.49", "0.13"},
}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_the_text_says_of_this_run_is_what_its_cells_printed(name):
    """Or rounded, or a share as a percentage."""
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", printed(Path(name).stem))]
    others = CITED | NOT_PRINTED.get(Path(name).stem, set())
    others |= {f"{entry.valid:.3f}" for entry in ENTRIES} | {f"{entry.test['first_1000']:.3f}" for entry in ENTRIES}
    for paragraph in re.split(r"\n\s*\n", text_of(name)):
        if re.search("In th(is|e) run", paragraph):
            text = re.sub(r"\]\([^)]*\)|`[^`]*`", "", paragraph)
            for said in re.findall(r"(?<![\d.,-])\d+\.\d+|\d+(?= %)", text):
                digits = len(said.partition(".")[2])
                shown = {f"{scale * number:.{digits}f}" for number in numbers for scale in (1, 100)}
                assert said in shown | others, paragraph


def generated(path):
    """(what, cell) of each cell of a notebook that the ledger writes."""
    cells = nbformat.read(path, as_version=4).cells
    return [(cell.metadata.generated, cell) for cell in cells if "generated" in cell.metadata]


def test_notebooks_show_the_recipes_and_the_ablation_as_the_ledger_has_them():
    """Word by word; notebook 4 needs two, and notebook 7 all others."""
    cells = [pair for path in (ROOT / "notebooks").glob("0*.ipynb") for pair in generated(path)]
    assert {what for what, _ in cells} == set(ledger.GENERATED)
    for what, cell in cells:
        assert cell.source == ledger.GENERATED[what](ENTRIES).strip(), "run python scripts/ledger.py --write"
    in_7 = {what for what, _ in generated(ROOT / "notebooks" / "07_faster.ipynb")}
    assert in_7 == set(ledger.GENERATED) - {"tally of batches", "parts"}


def test_notebook_4_says_how_long_fast_takes():
    fast = [entry.minutes for entry in ledger.of_machine(ENTRIES, "classic") if entry.kind == "fast"]
    text = " ".join(text_of("notebooks/04_train.ipynb").split())
    assert f"it trains the recipe `fast`, which took about {sum(fast) / len(fast):.0f} minutes" in text


# --- the ledger's script, on runs of its own ----------------------------------------------------------------------


def write_record(folder, record):
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Two runs that differ in their seed, and one in which a value was changed."""
    record = json.loads((SHOWN_RUN.path / "run.json").read_text(encoding="utf-8"))
    fast = RECIPES["fast"].as_record()
    for name, recipe, seed, accuracy in (
        ("a", fast, 1, 0.81),
        ("b", fast, 2, 0.83),
        ("c", {**fast, "flip": False}, 1, 0.80),
        ("d", {**fast, "epochs": 20}, 1, 0.90),
    ):
        result = {"epochs": recipe["epochs"], "best_epoch": 1, "best_valid_accuracy": accuracy, "seconds": 60.0 * seed}
        (tmp_path / name).mkdir()
        write_record(tmp_path / name, {**record, "recipe": recipe, "seed": seed, "result": result})
    for name, change in (("e", {"train_images": 4000}), ("f", {"status": "interrupted"})):
        shutil.copytree(tmp_path / "a", tmp_path / name)
        write_record(tmp_path / name, Run(tmp_path / "a").read_record() | change)
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "run.json").write_text("{")
    shutil.copytree(tmp_path / "a", tmp_path / "h")
    write_record(tmp_path / "h", {**record, "recipe": {**fast, "dropout": [0.2]}})
    return tmp_path


def test_seeds_stand_together_with_their_mean_and_spread(folder, capsys):
    assert ledger.main([str(folder)]) == 0
    out, err = capsys.readouterr()
    _, _, *rows = out.strip().splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| fast", "| fast, flip False", "| fast", "| fast, epochs 20"]
    assert "| 40,000 | 1, 2 | 2 | 0.8200 (0.8100–0.8300) | – | – | 1.5 (1.0–2.0) |" in rows[0]
    assert "| 4,000 | 1 | 2 |" in rows[2], "another number of images is another kind of run"
    assert "'g'" in err, "a damaged record is named, and does not hide the others"
    assert "h: dropout = [0.2]: it can be five numbers" in err, "nor does the one of another network"


@pytest.mark.parametrize(("seeds", "told"), [((1, 2, 3, 4), "1–4"), ((1, 2, 3, 7), "1, 2, 3, 7"), ((1, 2), "1, 2")])
def test_many_seeds_are_told_as_a_range_only_if_none_is_left_out(seeds, told, folder):
    entry = ledger.read_entries(folder)[0]
    same = [replace(entry, record=entry.record | {"seed": seed}) for seed in reversed(seeds)]
    assert ledger.figures(same, 3)[0] == told


@pytest.mark.parametrize("name", ["a;touch x", "$(x)", "with space"])
def test_a_command_can_be_pasted_into_a_shell(name, folder):
    (folder / "a").rename(folder / name)
    entry = next(entry for entry in ledger.read_entries(folder) if entry.run.name == name)
    assert shlex.split(entry.command)[-3:] == ["-r", "run_name", name]


def test_a_command_gives_a_small_number_back(folder):
    """papermill reads YAML, where 5e-05 is a text."""
    record = Run(folder / "c").read_record()
    write_record(folder / "c", record | {"recipe": record["recipe"] | {"weight_decay": 5e-05}})
    (entry,) = (entry for entry in ledger.read_entries(folder) if entry.run.name == "c")
    words = shlex.split(entry.command)
    assert yaml.safe_load(words[words.index("-y") + 1])["changes"] == {"weight_decay": 5e-05, "flip": False}


def test_an_ablation_compares_with_all_seeds_of_fast(folder):
    ((key, usual, instead, values, gains),) = ledger.ablation(ledger.read_entries(folder))
    assert (key, usual, instead, values) == ("flip", "True", "False", [0.80])
    assert gains == pytest.approx([0.02]), "the mean of both seeds, and not that of the same seed, 0.81"


def test_what_a_value_gains_is_given_with_its_spread(folder):
    record = Run(folder / "c").read_record()
    result = record["result"] | {"best_valid_accuracy": 0.835}
    write_record(folder / "h", record | {"seed": 2, "result": result})
    table = ledger.table_of_ablation(ledger.read_entries(folder))
    assert "| `flip` | True | False | 2 | 0.8175 (0.8000–0.8350) | +0.0025 (-0.0150 to +0.0200) |" in table


def test_an_ablation_compares_the_same_images(folder):
    record = Run(folder / "c").read_record()
    write_record(folder / "c", record | {"train_images": 8000})
    assert ledger.ablation(ledger.read_entries(folder)) == []


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [
        ([0.77], "**Hardly chance**, because it is at least twice as much: no flip."),
        ([0.87], "**Hardly chance**, because it is at least twice as much, and `fast` is worse: no flip."),
        ([0.79], "**Perhaps chance**, because it is more, but not twice as much: no flip."),
        ([0.81], "**Cannot be told from chance**: no flip."),
        ([0.70, 0.84], "**Cannot be told from chance**: no flip."),  # the seeds disagree
    ],
)
def test_the_words_of_an_ablation_ask_what_chance_can_do(accuracies, words, folder):
    """The two seeds of `fast`, 0.81 and 0.83, differ by 0.02; their mean is 0.82."""
    record = Run(folder / "c").read_record()
    for seed, accuracy in enumerate(accuracies, start=1):
        (folder / f"c{seed}").mkdir()
        result = record["result"] | {"best_valid_accuracy": accuracy}
        write_record(folder / f"c{seed}", record | {"seed": seed, "result": result})
    shutil.rmtree(folder / "c")
    said = ledger.ablation_in_words(ledger.read_entries(folder))
    assert "the seeds of `fast` differ by 0.0200" in said and f"- {words}" in said
    shutil.rmtree(folder / "b")
    entries = ledger.read_entries(folder)
    assert "**One seed only**, which tells nothing about chance" in ledger.ablation_in_words(entries)


def test_the_tally_of_muon_gives_each_optimiser_the_best_of_its_rates(folder):
    record = Run(folder / "a").read_record()
    sgd = record["recipe"] | {"optimizer": "sgd", "weight_decay": None, "others_rate": None}
    for name, rate, accuracy in (("s", 0.08, 0.60), ("t", 0.01, 0.70), ("u", 0.02, 0.75)):
        (folder / name).mkdir()
        result = record["result"] | {"best_valid_accuracy": accuracy}
        write_record(folder / name, record | {"recipe": sgd | {"learning_rate": rate}, "result": result})
    said = ledger.tally_of_muon(ledger.read_entries(folder))
    assert "- Muon: 0.820 (0.810–0.830), seeds 1, 2" in said
    assert "- SGD with Muon's rate: 0.600, seed 1\n" in said
    assert "- SGD with 0.02, the best of 3 rates: 0.750, seed 1" in said and "Adam" not in said


def test_the_tally_of_batches_gives_each_size_the_best_rate_of_its_first_seed(folder):
    record = Run(folder / "a").read_record()
    for rate, seed, accuracy in ((0.001, 1, 0.70), (0.001, 2, 0.72), (0.003, 1, 0.71), (0.003, 2, 0.61)):
        (folder / f"batch-{rate}-{seed}").mkdir()
        recipe = record["recipe"] | {"batch_size": 32, "learning_rate": rate}
        result = record["result"] | {"best_valid_accuracy": accuracy, "seconds": 100.0 * seed}
        write_record(folder / f"batch-{rate}-{seed}", record | {"recipe": recipe, "seed": seed, "result": result})
    said = ledger.tally_of_batches(ledger.read_entries(folder))
    assert "| 32 | 0.710 (0.700–0.720) | 0.003 | 0.660 (0.610–0.710) | 75 (50–100) |" in said


def test_a_notebook_is_written_anew_where_it_shows_the_records(folder, monkeypatch):
    for name in "abc":
        shutil.copytree(folder / name, folder / "results" / name)
    (folder / "notebooks").mkdir()
    path = folder / "notebooks" / "07.ipynb"
    shows, mine = (nbformat.v4.new_markdown_cell(text) for text in ("of before", "mine"))
    shows.metadata["generated"] = "ablation"
    nbformat.write(nbformat.v4.new_notebook(cells=[shows, mine]), path)
    monkeypatch.setattr(ledger, "RESULTS", folder / "results")
    assert ledger.main(["--write"]) == 0
    written, mine = nbformat.read(path, as_version=4).cells
    assert "| value |" in written.source and "of before" not in written.source and mine.source == "mine"


def test_a_folder_without_runs_is_named(tmp_path, capsys):
    assert ledger.main([str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_a_run_is_tested_and_kept(tmp_path, monkeypatch, capsys, runs, start):
    start(AlexNet(), images=20, run_name="mine", seed=1)
    monkeypatch.setattr(ledger, "RESULTS", tmp_path / "results")
    assert ledger.main(["--keep", "mine"]) == 0
    kept = tmp_path / "results" / "mine"
    for file in ("run.json", "history.csv"):
        assert (kept / file).read_bytes() == (runs / "mine" / file).read_bytes()
    test = json.loads((kept / "test.json").read_text(encoding="utf-8"))
    assert 0 <= test["accuracy"] <= 1 and test["data"] == "handwritten digits"
    assert ledger.main(["--write"]) == 0
    assert "[mine](mine)" in (tmp_path / "results" / "README.md").read_text(encoding="utf-8")
    shutil.rmtree(kept)
    record = Run(runs / "mine").read_record()
    write_record(runs / "mine", record | {"recipe": record["recipe"] | {"name": "own"}})
    assert ledger.main(["--keep", "mine"]) == 1 and not kept.exists()
    assert "no command makes the run 'mine' again" in (said := capsys.readouterr().err) and "no recipe 'own'" in said
    shutil.rmtree(runs / "mine")
    assert ledger.main(["--keep", "mine"]) == 1


# --- the notebooks' own outputs -----------------------------------------------------------------------------------


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
        for row in SHOWN_RUN.read_history()
    ]


def test_notebooks_5_and_6_use_its_weights():
    result = {key: value for key, value in SHOWN_RUN.read_record()["result"].items() if key != "seconds"}
    lines = "".join(f"{name:20} {value}\n" for name, value in {"run": SHOWN_RUN.name, **result}.items())
    assert lines in printed("05_evaluation")
    assert f"run {SHOWN_RUN.name}\n" in printed("06_save_load")


def test_notebook_5_prints_the_tested_accuracy():
    test = json.loads((SHOWN_RUN.path / "test.json").read_text(encoding="utf-8"))
    evaluation = printed("05_evaluation")
    assert f"test accuracy {test['accuracy']:.4f};" in evaluation
    assert re.search(rf"test accuracy {test['first_1000']:.3f} ± 0\.02\d, 1000 images;", evaluation)


def test_notebook_6_says_what_half_the_bits_cost():
    (float16, bfloat16) = re.findall(r"^torch\.b?float16 +\S+ +(\d+) +(\d+) +(\d+) ", printed("06_save_load"), re.M)
    text = " ".join(text_of("notebooks/06_save_load.ipynb").split())
    assert f"{float16[0]} of 10 000 answers change with `float16`, and {bfloat16[0]} with `bfloat16`" in text
    lost = {int(wrong) - int(right) for _, right, wrong in (float16, bfloat16)}
    assert ("The accuracy falls by a single image both times." in text) == (lost == {1})


def test_notebook_6_says_which_epochs_the_picture_shows():
    """images/which_epoch.png is drawn from the same run."""
    history = Run(RESULTS / "classic-42").read_history()
    lowest = min(history, key=lambda row: row["valid_loss"])
    highest = max(history, key=lambda row: row["valid_accuracy"])
    assert highest == history[-1]
    text = " ".join(text_of("notebooks/06_save_load.ipynb").split())
    more = round(10_000 * (highest["valid_accuracy"] - lowest["valid_accuracy"]))
    grown = highest["valid_loss"] / lowest["valid_loss"] - 1
    epochs = f"From epoch {lowest['epoch']} to epoch {highest['epoch']}"
    assert f"{epochs} the loss grows by {grown:.0%}".replace("%", " %") in text
    assert f"still {more} more of the 10 000 images are right" in text
