"""Snakemake trains what is missing, goes on after a kill, and makes page and pictures of it. `pytest experiments`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
THREE = """
[[group]]
question = "What do three recipes reach?"
design = "On the digits."
[group.runs]
classic = { data = "digits", recipe = "classic", epochs = 3, seeds = [1, 2] }
small = { data = "digits", recipe = "classic", epochs = 3, batch_size = 128, seeds = [1, 2] }
no-shift = { data = "digits", recipe = "fast", epochs = 3, changes = { shift = 0 }, seeds = [1, 2] }
"""
NAMES = [f"{name}-{seed}" for name in ("classic", "small", "no-shift") for seed in (1, 2)]


@pytest.fixture
def clone(tmp_path):
    """A copy of the committed repository with three experiments of its own, on the digits."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    (folder / "experiments" / "experiments.toml").write_text(THREE)
    return folder


def snakemake(clone, *options):
    places = {
        "PYTHONPATH": str(clone / "src"),
        "RUNS_ROOT": str(clone / "runs"),
        "XDG_CACHE_HOME": str(clone / ".cache"),
    }
    command = [sys.executable, "-m", "snakemake", "-s", "experiments/Snakefile", "--cores", "2", *options]
    return subprocess.Popen(
        command, cwd=clone, env={**os.environ, **places}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.1)


def test_nothing_is_to_do_where_all_records_are_there_and_of_a_missing_one_that_and_what_is_made_of_it(clone):
    subprocess.run(["git", "checkout", "-q", "experiments"], cwd=clone, check=True)
    assert "Nothing to be done" in snakemake(clone, "-n").communicate()[0]
    for file in (clone / "results" / "fast-43").iterdir():
        file.unlink()
    said = snakemake(clone, "-n").communicate()[0]
    jobs = {line.split()[0]: int(line.split()[1]) for line in said.splitlines() if line[:4] in ("run ", "ledg", "figu")}
    assert jobs == {"run": 1, "ledger": 1, "figures": 1} and "results/fast-43/test.json" in said


@pytest.mark.skipif(os.name == "nt", reason="a process group is killed as POSIX has it")
def test_three_recipes_with_two_seeds_are_trained_and_go_on_after_a_kill(clone):
    process = snakemake(clone)
    done = [clone / "results" / name / "test.json" for name in NAMES]
    states = [clone / "runs" / name / "training_state.pt" for name in NAMES]
    wait(lambda: sum(path.exists() for path in done) >= 2 and sum(path.exists() for path in states) == 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    first = {path: path.stat().st_mtime_ns for path in done if path.exists()}
    time.sleep(3)  # a kernel that has lost its parent ends

    process = snakemake(clone)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert all(path.stat().st_mtime_ns == changed for path, changed in first.items()), "what was done is not done again"
    records = [json.loads((path.parent / "run.json").read_text(encoding="utf-8")) for path in done]
    assert [record["result"]["epochs"] for record in records] == [3] * 6
    (resumed,) = (record for record in records if "resumed" in record)
    assert resumed["resumed"][0]["epoch"] > 1
    page = (clone / "results" / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}]({name})" in page for name in NAMES)
    assert "## What do three recipes reach?" in page
    assert "| fast, epochs 3, flip False, shift 0 | handwritten digits |" in page
    assert "Nothing to be done" in snakemake(clone, "-n").communicate()[0]
