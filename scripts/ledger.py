"""The ledger of training runs: what each was made of, what it reached, and the command that makes it again.

.venv/bin/python scripts/ledger.py runs                     a table of the runs in a folder
.venv/bin/python scripts/ledger.py --keep fast-42 fast-43   test runs of runs/, and keep their records in results/
.venv/bin/python scripts/ledger.py --write                  results/README.md anew, and what notebooks show of it
"""

import argparse
import csv
import json
import math
import shlex
import shutil
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import nbformat
import yaml
from torch import nn

from alexnet_cifar10.batches import DeviceLoader
from alexnet_cifar10.data import DataError, load_images
from alexnet_cifar10.device import memory_format, pick_device
from alexnet_cifar10.evaluate import evaluate
from alexnet_cifar10.notebook.parameters import OF_RECIPE
from alexnet_cifar10.recipes import CLASSIC, FAST, RECIPES, VALUES_OF, Recipe
from alexnet_cifar10.runs import CheckpointError, Run, describe_machine, load_model, machine, runs_root

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"

HEAD = """# The ledger

Each folder here is one training run on CIFAR-10: its `run.json` and `history.csv` as the run wrote them, and in
`test.json` what its best weights answer on the test images. The tables below are written by
`python scripts/ledger.py --write` from these files alone, and tests fail where a digit in them is another one, or where
the README or a notebook states an accuracy that is not here.

**Validation** is the highest accuracy of all epochs on 10 000 images that are not trained on; by it recipes were
chosen, so it is a little too high. **Test** is measured once, in 32 bits, with the weights of that epoch: on the first
1000 test images, which are official pixels (two standard errors are about ± 0.02), and on all 10 000. Of the copy at
hand, images 1000–9999 had been saved again as JPEG, which makes them harder: that column cannot be compared with other
people's. Several seeds: the mean, and in brackets the lowest and the highest. **Minutes** are training and validation,
on the machine that the run names. It was now and then busy with other work: where one epoch in a `history.csv` is
much longer than its neighbours, this is the likely reason.
"""

TRIALS = """## What was tried for `fast`

Trials on the way to two epochs, with one seed each, so differences under about 0.005 may be chance (ten seeds of `fast`
differ by as much); all else as in `fast`. They were made with code that is not kept, on two cores of another machine:
no command here makes them again. The last but one is close to what `fast` became.
"""

LONG_TRIALS = """## What was tried for `fast-long`

24 epochs and seed 42 each, on an NVIDIA H100, seven at a time, by a script that is not kept; differences under about
0.005 may be chance, as with `fast`. All start from: batches of 256, rate 0.02, momentum 0.9, weight decay 0.025,
others_rate 0.5, whitening, shift 3, cutout 8, dropout 0.3 before the last layer, smoothing 0.1.
"""

SPEED = """## How fast a machine is

Measured by `make bench`, and kept here with `scripts/bench.py --output results/bench`: all ways take turns in one
process; medians over the rounds, and in brackets the lowest and the highest. `original` is the original's loop (one
image after the other through PIL, batches of 16, 32 bits), `bare` the steps of `classic` with nothing around them.
Times are those of so many epochs of 40 000 training and 10 000 validation images, computed from the rates; a ratio is
that of each round. Of the operations of a step, those of the network are counted, forward and backward, and not those
of the optimiser.
"""


@dataclass(frozen=True)
class Entry:
    """One run: what it was made of, how it went, and what it reached on the test images (if it was tested)."""

    run: Run
    record: dict[str, Any]
    test: dict[str, Any] | None

    @property
    def recipe(self) -> dict[str, Any]:
        """The values that it was trained with; what did not exist then has its default."""
        return Recipe(**self.record["recipe"]).as_record()

    @property
    def changed(self) -> dict[str, Any]:
        """What the recipe of this name has otherwise, without what only another optimiser or schedule would use."""
        named = RECIPES[self.recipe["name"]].as_record() if self.recipe["name"] in RECIPES else self.recipe
        unused = {key for keys in VALUES_OF.values() for key in keys if self.recipe[key] is None}
        return {key: value for key, value in self.recipe.items() if named[key] != value and key not in unused}

    @property
    def machine(self) -> str:
        return describe_machine(self.record["machine"])

    @property
    def accelerator(self) -> str | None:
        return self.record["machine"]["accelerator"]

    @property
    def chip(self) -> str:
        """The card or the processor that computed."""
        return self.accelerator or self.record["machine"]["processor"]

    @property
    def images(self) -> tuple[str, str, int, int]:
        """What was trained and judged on: the data, and how many images of it."""
        data = self.record["data"]
        return (data["label"], data["caveat"], self.record["train_images"], self.record["valid_images"])

    @property
    def where(self) -> tuple[Any, ...]:
        """What two runs must share, so that only their recipes and seeds differ."""
        return (*self.images, self.machine)

    @property
    def valid(self) -> float:
        return self.record["result"]["best_valid_accuracy"]

    @property
    def minutes(self) -> float:
        return self.record["result"]["seconds"] / 60

    @property
    def seconds_per_epoch(self) -> float:
        return self.record["result"]["seconds"] / self.record["result"]["epochs"]

    @property
    def kind(self) -> str:
        """The recipe's name, and what of it was changed: runs that differ only in their seed have the same."""
        return ", ".join([self.recipe["name"], *(f"{key} {value}" for key, value in self.changed.items())])

    @property
    def command(self) -> str:
        if self.recipe["name"] not in RECIPES:  # another network
            return shlex.join(["python", "scripts/other_models.py", self.run.name])
        asked = {key: value for key, value in self.changed.items() if key in OF_RECIPE}
        asked = {"data": self.record["data"]["dataset"], "recipe": self.recipe["name"], **asked}
        asked["seed"] = self.record["seed"]
        words = ["papermill", "notebooks/04_train.ipynb", "out.ipynb"]
        words += [word for key, value in asked.items() for word in ("-p", key, str(value))]
        if others := {key: value for key, value in self.changed.items() if key not in OF_RECIPE}:
            words += ["-y", yaml.safe_dump({"changes": others}, default_flow_style=True, width=math.inf).strip()]
        return shlex.join([*words, "-r", "run_name", self.run.name])


def read_entries(folder: Path) -> list[Entry]:
    """All runs in a folder that finished."""
    entries = []
    for path in sorted(folder.glob("*/run.json")):
        run, test = Run(path.parent), path.with_name("test.json")
        try:
            record = run.read_record()
            Recipe(**record["recipe"])
        except (CheckpointError, ValueError, TypeError) as error:  # a recipe of another version, or network
            print(f"left out: {run.name}: {error}", file=sys.stderr)
            continue
        if record.get("status") == "finished":
            read = json.loads(test.read_text(encoding="utf-8")) if test.exists() else None
            entries.append(Entry(run, record, read))
    return entries


def read_experiments() -> dict[str, list[dict[str, Any]]]:
    """The groups of experiments/experiments.toml: `group`, whose runs are recorded, and `waiting`."""
    return {"waiting": [], **tomllib.loads((ROOT / "experiments" / "experiments.toml").read_text(encoding="utf-8"))}


def of_machine(entries: list[Entry], kind: str) -> list[Entry]:
    """The runs on the machine that most runs of this kind are from: times and digits depend on it."""
    machines = Counter(entry.machine for entry in entries if entry.kind == kind)
    usual = max(machines, key=machines.__getitem__, default=None)
    return [entry for entry in entries if entry.machine == usual]


def by_kind(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Runs that differ only in their seed, together."""
    kinds: dict[Any, list[Entry]] = {}
    for entry in entries:
        kinds.setdefault((entry.kind, entry.where, entry.record["precision"]), []).append(entry)
    return sorted(kinds.values(), key=lambda same: (same[0].recipe["name"], same[0].recipe["epochs"]))


def with_range(middle: float, lowest: float, highest: float, digits: int) -> str:
    return f"{middle:,.{digits}f} ({lowest:,.{digits}f}–{highest:,.{digits}f})"


def in_minutes(minutes: float) -> str:
    return f"{minutes:.{int(minutes < 10)}f}"


def spread(values: list[float], digits: int) -> str:
    """`mean (lowest–highest)`; of one value the value."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return with_range(mean(values), min(values), max(values), digits)


def gained(differences: list[float]) -> str:
    """The same of differences between accuracies, with their signs."""
    if len(differences) == 1:
        return f"{differences[0]:+.4f}"
    return f"{mean(differences):+.4f} ({min(differences):+.4f} to {max(differences):+.4f})"


def tested(entries: list[Entry], key: str, digits: int) -> str:
    values = [entry.test[key] for entry in entries if entry.test]
    return spread(values, digits) if values else "–"


def figures(same: list[Entry], digits: int) -> list[str]:
    """Of runs that differ only in their seed: seeds, epochs, accuracy on validation, first 1000 and all test images."""
    seeds = sorted(entry.record["seed"] for entry in same)
    is_long_row = len(seeds) > 3 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return [
        f"{seeds[0]}–{seeds[-1]}" if is_long_row else ", ".join(map(str, seeds)),
        ", ".join(sorted({str(entry.record["result"]["epochs"]) for entry in same})),
        spread([entry.valid for entry in same], digits),
        tested(same, "first_1000", 3),
        tested(same, "accuracy", digits),
    ]


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(row(cells) for cells in (head, ["---"] * len(head), *rows)) + "\n"


def table_of_kinds(entries: list[Entry], fast: dict[tuple[Any, ...], list[float]] | None = None) -> str:
    """A row for runs that differ only in their seed; `fast`: the accuracies from whose mean theirs are subtracted."""
    head = ["recipe", "data", "images", "seeds", "epochs", "validation"]
    head += ["test, first 1000", "test, all", "minutes", "on"]
    rows = []
    for same in by_kind(entries):
        times = spread([entry.minutes for entry in same], 1)
        images = [same[0].record["data"]["label"], f"{same[0].record['train_images']:,}"]
        rows.append([same[0].kind, *images, *figures(same, 4), times, same[0].chip])
        if fast is not None:
            gains = [mean(fast[entry.where]) - entry.valid for entry in same if entry.where in fast]
            rows[-1].append(gained(gains) if gains else "–")
    return table(head if fast is None else [*head, "`fast` minus this"], rows)


def of_fast(entries: list[Entry]) -> dict[tuple[Any, ...], list[float]]:
    """The validation accuracies of `fast` as it stands, one for each seed, by images and machine."""
    as_it_stands = [same for same in by_kind(entries) if same[0].recipe == FAST.as_record()]
    return {same[0].where: [entry.valid for entry in same] for same in as_it_stands}


def by_chance(entries: list[Entry]) -> float:
    """What the seeds of `fast` differ by on one machine, which is chance alone; 0 for one seed."""
    return max(max(seeds) - min(seeds) for seeds in of_fast(of_machine(entries, "fast")).values())


def in_words(value: Any) -> str:
    """A recipe's value for readers: five dropouts of 0 are none."""
    return "none" if isinstance(value, list) and not any(value) else str(value)


def in_its_place(key: str, usual: str, instead: str) -> str:
    """For readers, what a run had in place of a value of `fast`: "no flip", "momentum 0.9, not 0.6"."""
    name = key.replace("_", " ")
    if instead in ("False", "0", "0.0"):
        return f"no {name}"
    return f"with {name}" if usual == "none" else f"{name} {instead}, not {usual}"


def ablation(entries: list[Entry]) -> list[tuple[str, str, str, list[float], list[float]]]:
    """(value, what it is in `fast`, what it was changed to, validation accuracies, what the mean of `fast` gains).

    One row for each recipe that differs from `fast` in a single value, trained on the same images and machine.
    """
    fast, entries = FAST.as_record(), of_machine(entries, "fast")
    standard = of_fast(entries)
    rows = []
    for same in by_kind(entries):
        recipe = same[0].recipe  # a value that is None belongs to the optimiser or schedule that was changed
        changed = [key for key in fast if key != "name" and recipe[key] is not None and recipe[key] != fast[key]]
        is_ablation = recipe["name"] == "fast" and len(changed) == 1 and changed != ["epochs"]
        if is_ablation and same[0].where in standard:
            (key,) = changed
            values = [entry.valid for entry in same]
            gains = [mean(standard[same[0].where]) - value for value in values]
            rows.append((key, in_words(fast[key]), in_words(recipe[key]), values, gains))
    return sorted(rows, key=lambda row: -mean(row[4]))


def table_of_ablation(entries: list[Entry]) -> str:
    return table(
        ["value", "in `fast`", "instead", "seeds", "validation", "what it gains"],
        [
            [f"`{key}`", usual, instead, str(len(values)), spread(values, 4), gained(gains)]
            for key, usual, instead, values, gains in ablation(entries)
        ],
    )


def table_of_runs(entries: list[Entry]) -> str:
    return table(
        ["run", "validation", "best epoch", "machine", "precision", "commit", "command"],
        [
            [
                f"[{entry.run.name}]({entry.run.name})",
                f"{entry.valid:.4f}",
                f"{entry.record['result']['best_epoch']} of {entry.record['result']['epochs']}",
                entry.machine,
                entry.record["precision"],
                (entry.record["git_commit"] or "unknown")[:7],
                f"`{entry.command}`",
            ]
            for entry in entries
        ],
    )


def table_of_choices(entries: list[Entry]) -> str:
    """Which epoch is kept by the lowest validation loss, and which by the highest accuracy, in all long runs."""
    rows = []
    for entry in entries:
        history = entry.run.read_history()
        if len(history) >= 10:
            by_loss = min(history, key=lambda epoch: epoch["valid_loss"])
            by_accuracy = max(history, key=lambda epoch: epoch["valid_accuracy"])
            chosen = [f"{epoch['valid_accuracy']:.4f} (epoch {epoch['epoch']})" for epoch in (by_loss, by_accuracy)]
            more = by_accuracy["valid_accuracy"] - by_loss["valid_accuracy"]
            growth = by_accuracy["valid_loss"] / by_loss["valid_loss"] - 1
            rows.append([entry.run.name, *chosen, f"{more:+.4f}", f"{growth:+.0%}"])
    return table(["run", "by lowest loss: accuracy", "by highest accuracy", "gained accuracy", "grown loss"], rows)


def recipes_alone(entries: list[Entry]) -> list[list[Entry]]:
    """The runs by kind, without those that are there only to be compared with `fast`."""
    return [
        same for same in by_kind(entries) if same[0].recipe["name"] in RECIPES and same[0].changed.keys() <= {"epochs"}
    ]


def rows_for_the_readme(entries: list[Entry]) -> list[str]:
    """A row for each recipe: numbers alone, for every language."""
    return [
        row(
            [
                f"[`{same[0].kind}`](results/README.md)",
                *figures(same, 3),
                ", ".join([in_minutes(mean(entry.minutes for entry in same)), *filter(None, [same[0].accelerator])]),
            ]
        )
        for same in recipes_alone(entries)
    ]


def table_of_recipes(entries: list[Entry]) -> str:
    """The recipes as they stand, by the time that they take, for a notebook."""
    as_they_stand = [same for same in recipes_alone(of_machine(entries, "classic")) if not same[0].changed]
    rows = [(mean(entry.minutes for entry in same), same) for same in as_they_stand]
    return table(
        ["recipe", "seeds", "epochs", "best validation accuracy", "minutes"],
        [
            [f"`{same[0].kind}`", *figures(same, 3)[:3], in_minutes(minutes)]
            for minutes, same in sorted(rows, key=lambda row: -row[0])
        ],
    )


def ablation_in_words(entries: list[Entry]) -> str:
    """Which values of `fast` gain most, which differences chance could make, and, folded, the table."""
    rows, chance = ablation(entries), by_chance(entries)
    said: dict[str, list[str]] = {}
    for key, usual, instead, _, gains in rows:
        size = abs(mean(gains)) if min(gains) * max(gains) > 0 else 0  # where the seeds disagree, nothing is left
        side = "" if mean(gains) > 0 else ", and `fast` is worse"
        if not chance:
            told = "**One seed only**, which tells nothing about chance"
        elif size >= 2 * chance:
            told = f"**Hardly chance**, because it is at least twice as much{side}"
        elif size > chance:
            told = f"**Perhaps chance**, because it is more, but not twice as much{side}"
        else:
            told = "**Cannot be told from chance**"
        said.setdefault(told, []).append(in_its_place(key, usual, instead))
    most = "; ".join(f"{in_its_place(*row[:3])} ({mean(row[4]):.3f})" for row in rows if mean(row[4]) >= 0.01)
    most = f"Most is lost with {most}. With each of the others: less than 0.01.\n\n" if most else ""
    alone = (
        f"By chance alone, the seeds of `fast` differ by {chance:.4f}. What each run loses against their mean:\n\n"
        if chance
        else ""
    )
    words = "\n".join(f"- {told}: {'; '.join(names)}." for told, names in said.items())
    numbers = f"<details><summary>The numbers</summary>\n\n{table_of_ablation(entries)}\n</details>"
    return f"{most}{alone}{words}\n\n{numbers}"


def tally_of_bits(entries: list[Entry]) -> str:
    """How many of the minutes the 16 bits save, for a notebook."""
    kinds, entries = ("classic", "fast", "fast, autocast False"), of_machine(entries, "classic")
    classic, fast, slow = (mean(entry.minutes for entry in entries if entry.kind == kind) for kind in kinds)
    epochs = mean(entry.record["result"]["epochs"] for entry in entries if entry.kind == "classic")
    return (
        f"**Tally:** `classic` took {in_minutes(classic)} minutes, `fast` takes {in_minutes(fast)}, and "
        f"{in_minutes(slow)} with 32 bits. So half the bits make it {slow / fast:.1f} times as fast on this processor. "
        f"The rest is mostly {FAST.epochs} epochs in place of {epochs:.0f}."
    )


def tally_of_muon(entries: list[Entry]) -> str:
    """What other optimisers reach in the place of Muon: with its rate, and with the best of all rates tried."""
    entries = of_machine(entries, "fast")
    muon = next(same for same in by_kind(entries) if same[0].kind == "fast")
    told = [f"- Muon: {figures(muon, 3)[2]}, seeds {figures(muon, 3)[0]}"]
    for optimizer, name in (("sgd", "SGD"), ("adam", "Adam")):
        tried = {}  # learning rate -> the runs with it, one for each seed
        for same in by_kind(entries):
            run, changed = same[0], same[0].changed
            is_like_muon = (run.recipe["name"], run.images) == ("fast", muon[0].images)
            of_optimizer = changed.get("optimizer") == optimizer and changed.keys() <= {"optimizer", "learning_rate"}
            if is_like_muon and of_optimizer:
                tried[run.recipe["learning_rate"]] = same
        which = {FAST.learning_rate: "Muon's rate"}
        if len(tried) > 1:
            best = best_rate(tried)
            which[best] = f"{which.get(best, best)}, the best of {len(tried)} rates"
        for rate in [rate for rate in which if rate in tried]:
            seeds, _, reached, *_ = figures(tried[rate], 3)
            told.append(
                f"- {name} with {which[rate]}: {reached}, {'seeds' if len(tried[rate]) > 1 else 'seed'} {seeds}"
            )
    same_epochs = f"all after the same {FAST.epochs} epochs (not the same time), on an {muon[0].chip}"
    return "\n".join([f"**Tally:** the validation accuracy, {same_epochs}.\n", *told])


def by_batch_size(entries: list[Entry]) -> dict[int, dict[float, list[Entry]]]:
    """Batch size -> highest learning rate -> the runs of the experiment on batch sizes, one for each seed."""
    sizes: dict[int, dict[float, list[Entry]]] = {}
    for same in by_kind(entry for entry in entries if entry.run.name.startswith("batch-")):
        recipe = same[0].recipe
        sizes.setdefault(recipe["batch_size"], {})[recipe["learning_rate"]] = same
    return dict(sorted(sizes.items()))


def best_rate(rates: dict[float, list[Entry]]) -> float:
    """The one of the highest validation accuracy, by the seed that was trained with all of them."""
    return max(rates, key=lambda rate: min(rates[rate], key=lambda entry: entry.record["seed"]).valid)


def tally_of_batches(entries: list[Entry]) -> str:
    """What each batch size reached, for a notebook: with the rate of the original, and with the best rate tried."""
    usual, rows = CLASSIC.learning_rate, []
    for size, rates in by_batch_size(entries).items():
        reached = {rate: spread([entry.valid for entry in same], 3) for rate, same in rates.items()}
        seconds = spread([entry.seconds_per_epoch for entry in rates[usual]], 0)
        best = best_rate(rates)
        rows.append([str(size), reached[usual], str(best), reached[best], seconds])
    head = ["batch size", f"accuracy with rate {usual}", "best rate tried", "accuracy with it", "seconds an epoch"]
    return table(head, rows)


def table_of_parts(entries: list[Entry]) -> str:
    """What the network reaches with one of its parts changed, for a notebook: the best first."""
    kinds = by_kind(entry for entry in entries if entry.run.name.startswith("parts-"))
    kinds.sort(key=lambda same: -mean(entry.valid for entry in same))
    head = ["the network", "seeds", "validation accuracy"]
    rows = ([same[0].recipe["name"].partition(", ")[2] or "as it is", *figures(same, 3)[:3:2]] for same in kinds)
    return table(head, rows)


# Cells of notebooks that are written from the records, by what their metadata say under "generated".
GENERATED: dict[str, Callable[[list[Entry]], str]] = {
    "recipes": table_of_recipes,
    "ablation": ablation_in_words,
    "tally of bits": tally_of_bits,
    "tally of Muon": tally_of_muon,
    "tally of batches": tally_of_batches,
    "parts": table_of_parts,
}


def renew_in_notebooks(entries: list[Entry]) -> None:
    for path in (RESULTS.parent / "notebooks").glob("0*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        cells = [cell for cell in notebook.cells if "generated" in cell.metadata]
        for cell in cells:
            cell.source = GENERATED[cell.metadata.generated](entries).strip()
        if cells:
            nbformat.write(notebook, path)


def read_benchmarks(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """What scripts/bench.py kept, a file a machine."""
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("bench/*.json"))]


def measured(value: dict[str, float], digits: int = 0) -> str:
    """`median (lowest–highest)` of a figure of the benchmark."""
    return with_range(value["median"], value["lowest"], value["highest"], digits)


def section_of_benchmark(path: Path, report: dict[str, Any]) -> str:
    """What one machine does, as tables; the picture beside the file shows the same."""
    minutes = {}
    for what, value in report["minutes"].items():
        name, epochs = what.split(", ")
        minutes[name] = f"{epochs}: {measured(value, 1)}"
    share = {key: 100 * value for key, value in report["share_of_product_rate"].items()}
    share_of = f"share of the rate of {report['precision_of_fast']} matrix products that a step of fast reaches: %"
    rest = {f"{what}: ratio": measured(value, 2) for what, value in report["ratios"].items()}
    rest[share_of] = measured(share)
    if memory := report["peak_memory_gb"]:
        rest["peak memory of the benchmark, with batches of up to 1024: GB"] = f"{memory:.2f}"
    return "\n".join(
        [
            f"### {describe_machine(report['machine'])}\n",
            "![Images per second of each way, the time to the result, and how the speed of fast changes with the "
            f"number of images, the batch size and the threads](bench/{path.stem}.png)\n",
            table(
                ["way", "training, images per second", "evaluation, images per second", "time to the result, minutes"],
                [
                    [
                        f"`{name}`",
                        measured(rate),
                        measured(report["evaluation_images_per_second"][name]),
                        minutes.get(name, "–"),
                    ]
                    for name, rate in report["training_images_per_second"].items()
                ],
            ),
            table(["figure", "median (lowest–highest)"], map(list, rest.items())),
        ]
    )


def document(entries: list[Entry], benchmarks: list[tuple[Path, dict[str, Any]]]) -> str:
    """The text of results/README.md: a table for each question that the experiments answer."""
    parts, left = [HEAD], entries
    experiments = read_experiments()
    for group in experiments["group"]:
        runs = {f"{name}-{seed}" for name, values in group["runs"].items() for seed in values["seeds"]}
        parts += [f"## {group['question']}\n", f"{group['design']}\n"]
        answers = [entry for entry in entries if entry.run.name in runs]
        are_changes_of_fast = {entry.recipe["name"] for entry in answers if entry.changed} == {"fast"}
        parts += [table_of_kinds(answers, of_fast(entries) if are_changes_of_fast else None)]
        left = [entry for entry in left if entry.run.name not in runs]
    parts += ["## Is the best epoch that of the lowest loss, or of the highest accuracy?\n"]
    parts += ["From the `history.csv` of the runs with at least ten epochs, on the validation images that choose.\n"]
    parts += [table_of_choices(entries)]
    for said, name in ((TRIALS, "trials.csv"), (LONG_TRIALS, "long_trials.csv")):
        with (ROOT / "results" / name).open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        parts += [said, table(head, rows)]
    waiting = (f"- **{group['question']}** {group['design']}" for group in experiments["waiting"])
    parts += ["## Not measured yet\n", *waiting, ""]
    if left:
        parts += ["## Other runs\n", table_of_kinds(left)]
    parts += ["## Run by run\n", table_of_runs(entries), SPEED]
    parts += [section_of_benchmark(path, report) for path, report in benchmarks]
    return "\n".join(parts)


def keep(name: str, results: Path | None = None, model: nn.Module | None = None) -> None:
    """Test the best weights of a run of runs/ (or `model` with them), and keep its records in `results`.

    Raises `CheckpointError` for a run that is not there, not finished, of other data, or that no command makes again,
    and `DataError` without data.
    """
    run, device = Run(runs_root() / name), pick_device()
    record = run.read_record()
    if record["status"] != "finished":
        raise CheckpointError(f"the run {name!r} is not finished ({record['status']}): resume it first.")
    if model is None and record["recipe"]["name"] not in RECIPES:
        raise CheckpointError(
            f"no command makes the run {name!r} again: there is no recipe {record['recipe']['name']!r}. Train one of "
            f"{', '.join(RECIPES)} with the parameter changes of notebook 4."
        )
    images = load_images(record["data"]["dataset"])
    if images.provenance.digests != record["data"]["digests"]:
        raise CheckpointError(f"the run {name!r} was trained on other data than is here.")
    loader = DeviceLoader(images.test, batch_size=250, device=device)
    model = model or load_model(run.best_checkpoint, device).to(memory_format=memory_format(device))
    test = evaluate(model, loader, device)
    right = test.predictions == test.labels
    folder = (results or RESULTS) / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("run.json", "history.csv"):
        shutil.copyfile(run.path / file, folder / file)
    written = {
        "accuracy": test.accuracy,
        "first_1000": float(right[:1000].mean()),
        "data": images.provenance.label_test,
        "machine": machine(device),
    }
    (folder / "test.json").write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{name}: accuracy {written['accuracy']:.4f}, first 1000 {written['first_1000']:.3f}; {written['data']}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The ledger of training runs.")
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS, help="a folder of runs; else results/")
    parser.add_argument(
        "--keep", nargs="+", metavar="RUN", default=[], help="names of runs in runs/, to go into results/"
    )
    parser.add_argument("--write", action="store_true", help="write results/README.md anew")
    options = parser.parse_args(arguments)
    failed = False
    for name in options.keep:
        try:
            keep(name)
        except (CheckpointError, DataError) as error:
            print(f"{name} was not kept: {error}", file=sys.stderr)
            failed = True
    if options.write:
        entries = read_entries(RESULTS)
        (RESULTS / "README.md").write_text(document(entries, read_benchmarks(RESULTS)), encoding="utf-8")
        renew_in_notebooks(entries)
    if options.write or options.keep:
        return int(failed)
    entries = read_entries(options.folder)
    if not entries:
        print(f"There is no finished run in {options.folder}.", file=sys.stderr)
        return 1
    print(table_of_kinds(entries))
    return 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a console that lacks a character shows ? in its place
    sys.exit(main())
