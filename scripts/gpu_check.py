"""Measure this project on a GPU, in about a quarter of an hour: all that it says of GPUs, the most important first.

In a clone on that machine (Linux), with PyTorch, torchvision, scikit-learn, TensorBoard and matplotlib installed:

    python -m pip install papermill ipykernel nbval torchinfo filelock
    export PYTHONPATH=src CIFAR10_ROOT=~/cifar10           # without the folder of CIFAR-10 it is downloaded
    python scripts/gpu_check.py out                        # what was measured, as JSON and records; --minutes 14
    python scripts/gpu_check.py --table out                # the same as Markdown, such as results/gpu/README.md

Has it no network? `python -m pip download -d wheels papermill ipykernel nbval torchinfo filelock` on one with the same
Python, and there `python -m pip install --no-index --find-links wheels ...`. Without a GPU, or with --few, the same
is done with a few images: that shows that it runs, and measures nothing.
"""

import argparse
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ledger
import torch
from other_models import experiments, recipe_of, train_run

from alexnet_cifar10.data import DataError, load_images
from alexnet_cifar10.device import deterministic, pick_device
from alexnet_cifar10.recipes import FAST
from alexnet_cifar10.runs import CheckpointError, TrainingError, describe_machine, git_commit, machine

ROOT = Path(__file__).resolve().parent.parent
PRODUCTS = r"gemm|xmma|nvjet|cutlass|wgrad|dgrad|conv|mm$"  # names of what multiplies matrices
SHORTEST = 10  # seconds: with less left, nothing more is begun


@dataclass(frozen=True)
class Item:
    """What is measured, by which command, in how many seconds at most; its result is the last line with `shows`."""

    what: str
    seconds: int
    shows: str
    command: list[str]


def items(folder: Path, few: bool) -> dict[str, Item]:
    python, own = sys.executable, [sys.executable, __file__, str(folder), *(["--few"] if few else [])]
    data = ["-p", "data", "digits", "-p", "epochs", "1"] if few else ["-p", "data", "cifar10"]
    notebook = [python, "-m", "papermill", "notebooks/04_train.ipynb", str(folder / "04_train.ipynb")]
    notebook += ["--log-output", "-p", "recipe", "fast"]
    bench = [python, "scripts/bench.py", "--output", str(folder / "bench")]
    bench += ["--images", "64", "--rounds", "1"] if few else ["--images", "10240"]
    known = experiments()
    runs = {
        name: [f"{name}-{seed}" for seed in values["seeds"][: 1 if few else None]] for name, values in known.items()
    }
    fast, long = runs.pop("cuda-fast"), runs.pop("cuda-fast-long")
    timed = {
        entry.run.name for entry in ledger.read_entries(ledger.RESULTS) if entry.record["machine"]["device"] == "cpu"
    }
    rest = [run for same in runs.values() for run in same if run not in timed]
    kept, end = "validation accuracy|kept|: accuracy", 24 * 3600
    tests = [python, "-m", "pytest", "-q", "-o", "addopts=", "tests/test_cuda.py"]
    return {
        "tests": Item("the same bits again on CUDA, in all precisions", 120, "passed|failed|skipped", tests),
        "notebook": Item("notebook 4 whole, with fast", 120, kept, [*notebook, *data]),
        "loops": Item("the original's loop, classic and fast", 180, "original / fast", bench),
        "fast": Item("fast with 10 seeds", 180, kept, [*own, "--train", *fast]),
        "fast-long": Item("fast-long with 3 seeds", 300, kept, [*own, "--train", *long]),
        "profile": Item("where a step of fast spends its time", 60, "per step", [*own, "--profile"]),
        "rest": Item(
            "the other runs of the ledger",
            end,
            kept,
            [*own, "--train", *(["fast-sgd-42", "parts-no-batch-norm-42"] if few else rest)],
        ),
    }


def check(todo: dict[str, Item], folder: Path, few: bool, minutes: float) -> dict[str, Any]:
    """Do one after the other while there is time; what is done is in the folder at once, whatever comes then."""
    end, here = time.monotonic() + 60 * minutes, machine(pick_device())
    done = {name: {"what": item.what, "status": "not measured yet"} for name, item in todo.items()}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    report = {"machine": here, "few": few, "date": date, "git_commit": git_commit(), "items": done}
    print(describe_machine(here), flush=True)
    for name, item in todo.items():
        began = time.monotonic()
        if end - began >= SHORTEST:
            log = folder / f"{name}.log"
            status = in_time(item.command, min(item.seconds, end - began), log)
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            result = ([line for line in lines if re.search(item.shows, line)] or lines or [""])[-1]
            done[name] |= {"status": status, "seconds": round(time.monotonic() - began, 1), "result": result}
        (folder / "gpu.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(*(done[name].get(key, "") for key in ("status", "seconds", "what", "result")), sep=" | ", flush=True)
    return report


def in_time(command: list[str], seconds: float, log: Path) -> str:
    """Run it in a process of its own; then nothing of it is left, nor of what it started."""
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return "failed" if process.wait(seconds) else "done"
        except subprocess.TimeoutExpired:
            return f"ended after {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def train(names: list[str], folder: Path, few: bool) -> bool:
    """Train the runs without a record here, the shortest first, and keep their records as the ledger does."""
    os.environ["RUNS_ROOT"] = str(folder / "runs")
    data, known, results, good = "digits" if few else "cifar10", experiments(), folder / "results", True
    runs = {name: known[name.rpartition("-")[0]] | ({"epochs": 1} if few else {}) for name in names}
    recipes = {name: recipe_of(values, data) for name, values in runs.items()}
    for name in sorted(names, key=lambda name: (recipes[name].epochs / recipes[name].batch_size, name)):
        if (results / name / "test.json").exists():
            continue
        try:
            train_run(name, runs[name], data, results)
        except (CheckpointError, DataError, TrainingError) as error:  # the others may still do
            print(f"{name} was not kept: {error}", flush=True)
            good = False
    return good


def profile(folder: Path, few: bool) -> None:
    """What the device does in steps of `fast`: how many kernels, how much of the time, how much of it for products."""
    from bench import Bench, seconds

    device, steps = pick_device(), 1 if few else 20
    images = load_images("digits" if few else "cifar10").train
    learn, _ = Bench(images, device).work(FAST, steps * FAST.batch_size)
    with deterministic(device):
        learn()  # the first time chooses algorithms and takes memory
        usual = seconds(learn)
        with torch.profiler.profile() as seen:
            learn()
    if device.type == "cuda":
        seen.export_chrome_trace(str(folder / "trace.json.gz"))
        with gzip.open(folder / "trace.json.gz", "rt") as file:
            events = json.load(file)["traceEvents"]
        kernels = [(event["name"], event["dur"]) for event in events if event.get("cat") == "kernel"]
    else:  # operators, each without those that it calls
        kernels = [(event.name, event.self_cpu_time_total) for event in seen.events()]
    times: dict[str, float] = {}
    for name, microseconds in kernels:
        times[name] = times.get(name, 0) + microseconds
    busy, products = sum(times.values()), sum(times[name] for name in times if re.search(PRODUCTS, name))
    top = sorted(times, key=lambda name: -times[name])[:8]
    found = {
        "kernels per step": len(kernels) / steps,
        "milliseconds per step": 1e3 * usual / steps,
        "kernels' share of this time": busy / 1e6 / usual,
        "matrix products' share of the kernels' time": products / busy,
        "top": {name: times[name] / 1e3 / steps for name in top},
    }
    (folder / "profile.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(", ".join(f"{key} {value:.2f}" for key, value in found.items() if key != "top"))


def missing(report: dict[str, Any]) -> str:
    """Which figures of a GPU are not there: all, if there was none."""
    left = [item["what"] for item in report["items"].values() if report["few"] or item["status"] != "done"]
    return f"Not measured yet on a GPU: {'; '.join(left)}." if left else "All was measured."


def document(folder: Path) -> str:
    """Markdown of what is in the folder, as far as it is there."""
    report = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    keys = ["what", "status", "seconds", "result"]
    told = [[str(item.get(key, "–")).replace("|", "/") for key in keys] for item in report["items"].values()]
    parts = ["# Measured on a GPU\n", f"{describe_machine(report['machine'])}\n", f"{missing(report)}\n"]
    parts += [ledger.table(keys, told)]
    if entries := ledger.read_entries(folder / "results"):
        parts += ["## Runs\n", ledger.table_of_kinds(entries)]
    parts += [ledger.section_of_benchmark(*benchmark) for benchmark in ledger.read_benchmarks(folder)]
    if (folder / "profile.json").exists():
        found = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
        top = {f"`{name[:80]}`: ms per step": value for name, value in found.pop("top").items()}
        rows = [[key, f"{value:.2f}"] for key, value in {**found, **top}.items()]
        parts += ["## A step of `fast`\n", ledger.table(["figure", "value"], rows)]
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure this project on a GPU.")
    parser.add_argument("folder", type=Path, help="for what is measured")
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--few", action="store_true", help="a few images, to see that it runs")
    parser.add_argument("--table", action="store_true", help="print what is in the folder, as Markdown")
    parser.add_argument("--train", nargs="+", metavar="NAME-SEED", help=argparse.SUPPRESS)  # an item, in its process
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder, few = options.folder.resolve(), options.few or pick_device().type == "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    if options.train:
        return int(not train(options.train, folder, few))
    if options.profile:
        profile(folder, few)
    elif options.table:
        print(document(folder))
    else:
        print(missing(check(items(folder, few), folder, few, options.minutes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
