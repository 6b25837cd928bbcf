"""What a run writes down about the machine and the code."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from alexnet_cifar10.runs import describe_machine, machine
from alexnet_cifar10.runs.machine import git_commit

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "alexnet_cifar10"
ASK = """
import sys
from alexnet_cifar10.runs.machine import git_commit
for _ in sys.stdin:
    print(git_commit(), flush=True)
"""


def test_one_line_says_what_machine_this_is():
    line = describe_machine(machine(torch.device("cpu")))
    assert "\n" not in line and "device: cpu" in line and torch.__version__ in line
    assert f"{torch.get_num_threads()} threads" in line


def test_versions_name_what_the_numbers_depend_on():
    versions = machine(torch.device("cpu"))["versions"]
    assert versions["torch"] == torch.__version__
    assert {"python", "numpy", "scikit-learn", "alexnet-cifar10"} <= versions.keys()


def test_a_machine_without_git_is_fine(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


@pytest.fixture
def git(tmp_path):
    """Calls git in a clone, if there is git."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "homework.txt").write_text("1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return git


@contextmanager
def a_kernel_with(folder):
    """A function that asks the package's copy in `folder`, in a process that runs elsewhere."""
    command, environment = [sys.executable, "-c", ASK], os.environ | {"PYTHONPATH": str(folder)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=Path.home(), env=environment, text=True, **pipes) as process:

        def ask():
            process.stdin.write("?\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield ask


def test_the_commit_is_that_of_the_package_and_says_when_its_files_differ(tmp_path, git):
    source, index = tmp_path / "src", tmp_path / ".git" / "index"
    shutil.copytree(PACKAGE, source / "alexnet_cifar10", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".gitignore").write_text("__pycache__\n")
    model = source / "alexnet_cifar10" / "model.py"
    with a_kernel_with(source) as commit:
        assert commit() == "None", "unpacked in a clone of something else"
        git("add", ".")
        git("commit", "-q", "-m", "second")
        assert commit() == git("rev-parse", "HEAD")
        (tmp_path / "homework.txt").write_text("2\n")
        model.touch()
        before = index.read_bytes()
        assert commit() == git("rev-parse", "HEAD"), "its own files are what they were"
        assert index.read_bytes() == before, "to ask must not get in the way of a commit that is made meanwhile"
        model.write_text(model.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
        assert commit() == git("rev-parse", "HEAD") + "+changes"
