"""scripts/setup.py and scripts/clean.py, in a small project that needs no network: a folder of wheels is its index."""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

import pip
import pytest

ROOT = Path(__file__).resolve().parent.parent
ON_WINDOWS = os.name == "nt"
needs_posix = pytest.mark.skipif(ON_WINDOWS, reason="links and shell scripts")

BUILD_BACKEND = '''\
"""Builds wheels by hand, and waits as long as a file called "wait" is there."""
import time, zipfile
from pathlib import Path

def build_editable(folder, config_settings=None, metadata_directory=None):
    Path("building").touch()
    for _ in range(600):
        time.sleep(0.05 * Path("wait").exists())
    return write_wheel(folder, "tiny", "1.0")

def write_wheel(folder, name, version):
    info, file = f"{name}-{version}.dist-info", f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder, file), "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n{info}/RECORD,,\\n")
    return file
'''
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tiny"
version = "1.0"
dependencies = [
    "other>=1.0",
]
"""


class Project:
    def __init__(self, root: Path):
        self.root, self.venv = root, root / ".venv"
        self.python = self.venv / ("Scripts/python.exe" if ON_WINDOWS else "bin/python")
        for folder in ("scripts", "wheels", "bin"):
            (root / folder).mkdir(parents=True)
        for script in ("setup.py", "clean.py"):
            shutil.copy(ROOT / "scripts" / script, root / "scripts")
        for name, text in {"backend.py": BUILD_BACKEND, "pyproject.toml": PYPROJECT}.items():
            self.write(name, text)
        self.require()
        exec(BUILD_BACKEND, backend := {})
        for version in ("1.0", "1.5", "2.0"):
            backend["write_wheel"](root / "wheels", "other", version)
        shutil.copytree(Path(pip.__file__).parent, root / "ready" / "pip")  # as ensurepip takes seconds
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        self.environment |= {"PATH": str(root / "bin"), "PYTHONPATH": str(root / "ready")}  # no uv
        self.environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PYTHONUTF8": "1"}
        self.environment["PIP_FIND_LINKS"] = (root / "wheels").as_uri()

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def require(self, text: str = "", constraints: str = "") -> None:
        self.write("requirements.txt", text)
        self.write("constraints.txt", constraints)

    def start(self, *options: str, python=sys.executable, script="setup.py", pretend="", **more) -> subprocess.Popen:
        """`pretend` is what every Python does first."""
        (self.root / "building").unlink(missing_ok=True)
        self.write("bin/sitecustomize.py", pretend)
        variables = self.environment | more
        variables["PYTHONPATH"] += os.pathsep + str(self.root / "bin")
        command, out = [python, self.root / "scripts" / script, *options], subprocess.PIPE
        return subprocess.Popen(command, env=variables, stdin=-3, stdout=out, stderr=-2, encoding="utf-8")

    def run(self, *options: str, fails: bool = False, **more) -> str:
        process = self.start(*options, **more)
        output, _ = process.communicate(timeout=120)
        assert (process.returncode != 0) == fails and "Traceback" not in output, output
        return output

    def version_of(self, module: str) -> str:
        code = f"import {module}; print({module}.version)"
        return subprocess.check_output([self.python, "-c", code], text=True).strip()

    def start_and_hold_while_building(self) -> subprocess.Popen:
        self.write("wait", "")
        process = self.start()
        while not (self.root / "building").exists():
            assert process.poll() is None, "the set-up never came to its build"
            time.sleep(0.05)
        return process


@pytest.fixture
def empty_project(tmp_path):
    return Project(tmp_path / "그림 책")


@pytest.fixture(scope="module")
def shared_project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("set-up") / "그림 책")


@pytest.fixture
def project(shared_project):
    """One that is complete."""
    shared_project.require()
    shared_project.run()
    return shared_project


def test_a_complete_environment_is_left_alone_without_a_word(project):
    project.write("pyproject.toml", PYPROJECT + '[tool.pytest.ini_options]\naddopts = ["-x"]\n')  # installs nothing
    assert project.run() == ""
    assert not any((project.root / trace).exists() for trace in ("building", "build", ".venv/tmp"))


@pytest.mark.parametrize("name", ["SIGKILL"] if ON_WINDOWS else ["SIGINT", "SIGTERM", "SIGKILL"])
def test_an_interrupted_set_up_is_finished_by_the_next_call(name, empty_project):
    if name == "SIGTERM":  # while it updates
        empty_project.run()
        empty_project.require("# changed\n")
    stopped = empty_project.start_and_hold_while_building()
    if ON_WINDOWS:
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(stopped.pid)], check=True)
    else:
        stopped.send_signal(getattr(signal, name))
    following = empty_project.start()
    if name == "SIGKILL" and not ON_WINDOWS:  # it killed the script only: pip works on
        assert "waiting for it" in following.stdout.readline()
    elif not ON_WINDOWS:
        assert "The same command will finish the job" in stopped.communicate(timeout=60)[0]
    (empty_project.root / "wait").unlink()
    assert "Making .venv" in following.communicate(timeout=120)[0]
    assert (empty_project.version_of("tiny"), empty_project.run()) == ("1.0", "")


def test_a_half_made_environment_is_made_anew_and_no_link_is_followed(project, tmp_path):
    (tmp_path / "precious").touch()
    (project.venv / ".done").write_text("")  # as after a kill at any time
    shutil.rmtree(project.python.parent)
    if not ON_WINDOWS:
        (project.venv / "elsewhere").symlink_to(tmp_path)
    assert "Making .venv" in project.run()
    assert project.version_of("tiny") == "1.0"
    assert (tmp_path / "precious").exists() and not (project.venv / "elsewhere").exists()


def test_changed_requirements_and_constraints_update_the_environment(project):
    project.require("# a comment\nother\n", constraints="other==1.0\n")
    assert "Making .venv" not in project.run()
    assert project.version_of("other") == "1.0"
    project.require("# a comment\nother\n", constraints="other==1.5\n")
    assert "Making .venv" not in project.run()
    assert (project.version_of("other"), project.run()) == ("1.5", "")


def test_two_set_ups_at_once_wait_for_each_other(project):
    project.require("# changed\n")
    first = project.start_and_hold_while_building()
    second = project.start()
    assert "waiting for it" in second.stdout.readline()
    (project.root / "wait").unlink()
    assert "Successfully installed" in first.communicate(timeout=120)[0]
    assert second.communicate(timeout=120)[0].strip(".") == "", "the second one did the work again"
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_failing_update_says_what_to_do_and_leaves_what_was_there(project):
    project.require("no-such-package==1.0\n")
    output = project.run(fails=True)
    for part in ("no-such-package", "HTTPS_PROXY", "PIP_INDEX_URL", "run the same command again"):
        assert part in output
    project.require("# corrected\n")
    assert "Making .venv" not in project.run()


def test_an_environment_made_by_hand_is_completed_also_without_pip_and_never_deleted(empty_project):
    empty_project.venv.mkdir()
    (empty_project.venv / "precious").touch()
    assert "was not made by this set-up: nothing in it is changed" in empty_project.run(fails=True)
    venv.create(empty_project.venv)  # as uv venv does it
    said = empty_project.run(fails=True, pretend="import sys; sys.modules['ensurepip'] = None", PYTHONPATH="")
    assert "no ensurepip to get it. On Debian and Ubuntu: sudo apt install python3-venv" in said
    empty_project.run(PYTHONPATH="")
    assert (empty_project.version_of("tiny"), empty_project.run()) == ("1.0", "")
    assert (empty_project.venv / "precious").exists()


def test_a_moved_folder_or_another_python_needs_a_new_environment(project):
    another = "import sys\nif sys.orig_argv[1].endswith('setup.py'): sys.version_info = (3, 99, 0)"
    assert project.run(pretend=another) == "", "what is there is good enough"
    assert "Making .venv" in project.run("--same-python", pretend=another)  # make PYTHON=python3.99
    project.python.unlink()  # as after an update of the system
    assert "Making .venv" in project.run()
    copy = Project(project.root / "copy")
    shutil.copytree(project.venv, copy.venv, symlinks=True)
    assert "Making .venv" in copy.run()
    assert str(copy.venv) in next(copy.venv.glob("*/*activate")).read_text("utf-8")


def test_oldest_and_newest_versions_get_an_environment_made_for_them(project):
    project.require("other==1.5\n")
    activated = sys.executable if ON_WINDOWS else str(project.python)
    for versions, version in (("oldest", "1.0"), ("newest", "2.0"), ("pinned", "1.5")):
        assert "Making .venv" in project.run("--versions", versions, python=activated)
        assert project.version_of("other") == version


@needs_posix
def test_with_uv_all_is_installed_in_one_call_and_the_oldest_versions_are_the_bounds_of_pyproject(empty_project):
    for file in ("requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, empty_project.root)
    empty_project.write("bin/uv", '#!/bin/sh\necho "uv $*"\n')
    (empty_project.root / "bin/uv").chmod(0o755)
    begin = f"uv pip install --python {empty_project.python} pip "
    assert begin + "-r requirements.txt -c constraints.txt --editable .\n" in empty_project.run()
    oldest = empty_project.run("--versions", "oldest").split()
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        assert text.replace(">=", "==") in oldest
    assert any(word.startswith("pytest==") for word in oldest)
    names = re.findall(r"(?m)^([\w-]+)==", (ROOT / "requirements.txt").read_text())
    assert f"{begin}--upgrade {' '.join(names)} --editable .\n" in empty_project.run("--versions", "newest")


@needs_posix
def test_nothing_behind_a_link_is_touched(project, empty_project):
    def state():
        return sorted((str(path), path.lstat().st_mtime_ns) for path in [project.venv, *project.venv.rglob("*")])

    before = state()
    empty_project.venv.symlink_to(project.venv)  # the environment of another clone
    for versions in ("pinned", "newest"):
        said = empty_project.run("--versions", versions, fails=True)
        assert f"{project.venv} is behind a link" in said and "of a link, only the link" in said
    empty_project.run("--yes", script="clean.py")
    assert not empty_project.venv.is_symlink() and state() == before


def test_an_old_python_says_what_is_needed(empty_project):
    for script in ("setup.py", "clean.py"):  # or it would be a SyntaxError there
        ast.parse((ROOT / "scripts" / script).read_text(encoding="utf-8"), feature_version=(3, 6))
    said = empty_project.run(fails=True, pretend="import sys; sys.version_info = (3, 10)")
    for part in ("Python 3.11 or newer is needed", sys.executable, "make run PYTHON=python3.12"):
        assert part in said
    for python in filter(None, (shutil.which(f"python3.{minor}") for minor in range(6, 11))):
        if subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            said = empty_project.run(fails=True, python=python, PATH=os.environ["PATH"])
            assert "Python 3.11 or newer is needed" in said
    assert not empty_project.venv.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="CUDA comes with the Linux wheels only")
def test_a_full_disk_says_how_much_is_needed_and_how_to_need_less(empty_project):
    free = "import shutil, types; shutil.disk_usage = lambda path: types.SimpleNamespace(free=3e9)"
    said = empty_project.run(fails=True, pretend=free)
    assert re.search("3.0 GB are free(.|\n)*7.0 GB(.|\n)*PIP_EXTRA_INDEX_URL", said)
    assert "Making .venv" in empty_project.run(pretend=free, PIP_EXTRA_INDEX_URL="file:///wheels/cpu")


def test_clean_asks_keeps_results_and_follows_no_link(empty_project, tmp_path):
    root = empty_project.root
    caches = ("src/alexnet_cifar10/__pycache__", "__pycache__", "../__pycache__")
    for folder in (".venv/lib", "runs/first", "datasets", *caches):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").touch()
    if not ON_WINDOWS:
        (root / "notebooks").symlink_to(tmp_path)
    assert "Nothing was removed" in empty_project.run(script="clean.py")  # nobody can be asked here
    assert (root / ".venv").exists()
    assert "This stays (ALL=1 removes it too): runs, datasets" in empty_project.run("--yes", script="clean.py")
    assert not (root / ".venv").exists() and not [*root.glob("**/__pycache__/file")]
    assert (root / "runs/first/file").exists() and (root / "datasets/file").exists()
    empty_project.run("--all", "--yes", script="clean.py")
    assert not (root / "runs").exists() and not (root / "datasets").exists()
    assert (root / "scripts/setup.py").exists() and (tmp_path / "__pycache__/file").exists()
    assert empty_project.run(script="clean.py") == "There is nothing to remove.\n"
