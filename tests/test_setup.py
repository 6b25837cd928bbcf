"""What `make run` and `make test` stand on: the set-up, the runner of the notebooks, the files beside them."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / "scripts" / "setup_environment.py"
RUNNER = ROOT / "scripts" / "run_notebooks.py"

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
needs_posix = pytest.mark.skipif(os.name == "nt", reason="a shell script with a stand-in for make on the PATH")


def load(script: Path) -> ModuleType:
    """A script as a module of its own, without its entry in `sys.modules`."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the set-up, in a small project that needs no network ---------------------------------------------------------

BUILD_BACKEND = '''\
"""Builds the wheel by hand, and waits as long as a file called "wait" is there."""
import time, zipfile
from pathlib import Path

def build_editable(folder, config_settings=None, metadata_directory=None):
    Path("building").touch()
    for _ in range(600):
        if not Path("wait").exists():
            break
        time.sleep(0.05)
    write_wheel(folder, "tiny", "1.0")
    return "tiny-1.0-py3-none-any.whl"

def write_wheel(folder, name, version):
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(Path(folder, f"{name}-{version}-py3-none-any.whl"), "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
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

[tool.pytest.ini_options]
testpaths = ["tests"]
"""


class Project:
    """A project with the real set-up script, an empty requirements.txt, and a folder of wheels instead of an index."""

    def __init__(self, root: Path):
        self.root = root
        self.python = root / load(SETUP).VENV_PYTHON.relative_to(ROOT)
        (root / "scripts").mkdir(parents=True)
        (root / "wheels").mkdir()
        self.script = Path(shutil.copy(SETUP, root / "scripts"))
        (root / "backend.py").write_text(BUILD_BACKEND)
        (root / "pyproject.toml").write_text(PYPROJECT)
        self.require("")
        for version in ("1.0", "1.5", "2.0"):
            load(root / "backend.py").write_wheel(root / "wheels", "other", version)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
            **{"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (root / "wheels").as_uri()},
        }

    def require(self, text: str) -> None:
        (self.root / "requirements.txt").write_text(text)

    def start(self, *options: str, python: str = sys.executable) -> subprocess.Popen:
        command = [python, str(self.script), *options]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )

    def set_up(self, *options: str, python: str = sys.executable) -> str:
        process = self.start(*options, python=python)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        return output

    def version_of(self, module: str) -> str:
        code = f"import {module}; print({module}.version)"
        return subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    def hold_builds(self) -> None:
        (self.root / "building").unlink(missing_ok=True)
        (self.root / "wait").touch()

    def wait_until_building(self) -> None:
        deadline = time.monotonic() + 60
        while not (self.root / "building").exists():
            assert time.monotonic() < deadline, "the set-up never came to its build"
            time.sleep(0.05)

    def release_builds(self) -> None:
        (self.root / "wait").unlink()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("set-up") / "그림 책")


def test_a_set_up_that_was_killed_is_finished_by_the_next_call(project):
    project.hold_builds()
    killed = project.start()
    project.wait_until_building()
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(killed.pid)], check=True)
        following = project.start()
    else:
        killed.kill()  # the script only: its pip works on
        following = project.start()
        assert "waiting for it" in following.stdout.readline()
    project.release_builds()
    output, _ = following.communicate(timeout=120)
    assert following.returncode == 0, output
    assert "Removing a .venv that cannot be used" in output and ".venv is complete" in output
    assert project.version_of("tiny") == "1.0"


def test_a_complete_environment_is_left_alone(project):
    project.set_up()
    pyproject = project.root / "pyproject.toml"
    pyproject.write_text(pyproject.read_text() + 'addopts = ["--strict-markers"]\n')  # nothing to install for that
    assert project.set_up() == ""
    assert not (project.root / "build").exists()


def test_changed_requirements_update_the_environment(project):
    project.set_up()
    project.require("# a comment\nother==1.5\n")
    assert "Updating .venv" in project.set_up()
    assert project.version_of("other") == "1.5"
    assert project.set_up() == ""


def test_two_set_ups_at_once_wait_for_each_other(project):
    project.set_up()
    (project.root / "requirements.txt").open("a").write("# changed\n")
    project.hold_builds()
    first = project.start()
    project.wait_until_building()
    second = project.start()
    assert "waiting for it" in second.stdout.readline()
    project.release_builds()
    assert ".venv is complete" in first.communicate(timeout=120)[0]
    assert second.communicate(timeout=120)[0] == "", "the second one did the work again"
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_failing_update_says_what_to_do_and_leaves_what_was_there(project):
    project.set_up()
    project.require("no-such-package==1.0\n")
    failing = project.start()
    output, _ = failing.communicate(timeout=120)
    assert failing.returncode == 1
    assert "no-such-package" in output and "run the same command again" in output
    assert "Traceback" not in output
    project.require("# corrected\n")
    assert "Updating .venv" in project.set_up()


def test_an_environment_made_by_hand_is_completed(project):
    project.set_up()
    load(project.script).MARKER.unlink()  # as after `python -m venv .venv` and `pip install`
    assert "Updating .venv" in project.set_up()
    assert project.set_up() == ""


def test_a_moved_folder_or_another_python_needs_a_new_environment(project, monkeypatch):
    project.set_up()
    moved = project.root.with_name("moved")
    project.root.rename(moved)
    try:
        assert load(moved / "scripts" / SETUP.name).next_step("pinned", same_python=False) == "make"
    finally:
        moved.rename(project.root)
    script = load(project.script)
    monkeypatch.setattr(script.sys, "version_info", (3, 99))
    assert script.next_step("pinned", same_python=False) == "nothing"  # what is there is good enough
    assert script.next_step("pinned", same_python=True) == "make"  # PYTHON=python3.99


def test_oldest_and_newest_versions_get_an_environment_made_for_them(project):
    project.require("other==1.5\n")
    for versions, version in (("oldest", "1.0"), ("newest", "2.0"), ("pinned", "1.5")):
        assert "Removing a .venv that cannot be used" in project.set_up("--versions", versions)
        assert project.version_of("other") == version


def test_an_environment_that_is_not_ours_is_never_deleted(tmp_path):
    project = Project(tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "precious").touch()
    process = project.start()
    assert "was not made by this set-up" in process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert (tmp_path / ".venv" / "precious").exists()


# --- what the set-up says ------------------------------------------------------------------------------------------


def test_an_old_python_says_what_is_needed(tmp_path, monkeypatch):
    ast.parse(SETUP.read_text(encoding="utf-8"), feature_version=(3, 6))  # or it would be a SyntaxError there
    setup = load(SETUP)
    monkeypatch.setattr(setup, "MINIMUM_PYTHON", (3, 99))
    with pytest.raises(SystemExit) as stop:
        setup.check_python()
    for part in ("Python 3.99 or newer is needed", sys.executable, "make run PYTHON=python3.12"):
        assert part in stop.value.code
    project = Project(tmp_path)
    for name in ("python3.6", "python3.7", "python3.8", "python3.9", "python3.10"):
        if shutil.which(name) and subprocess.run([name, "-c", ""], capture_output=True).returncode == 0:
            process = project.start(python=name)
            assert "Python 3.11 or newer is needed" in process.communicate(timeout=60)[0]
            assert process.returncode == 1


def test_a_missing_venv_module_says_which_package_has_it(monkeypatch):
    setup = load(SETUP)
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object())
    with pytest.raises(SystemExit, match="lacks its module ensurepip(.|\n)*apt install python3-venv"):
        setup.check_python()


def test_a_full_disk_says_how_much_is_needed_and_how_to_need_less(monkeypatch, tmp_path):
    setup = load(SETUP)
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda path: SimpleNamespace(free=3e9))
    setup.check_space(2.0)
    with pytest.raises(SystemExit, match="3.0 GB are free(.|\n)*7.0 GB(.|\n)*PIP_EXTRA_INDEX_URL"):
        setup.check_space(7.0)


@pytest.mark.skipif((sys.platform, os.name) != ("linux", "posix"), reason="CUDA comes with the Linux wheels only")
def test_an_index_of_cpu_wheels_is_seen(monkeypatch):
    setup = load(SETUP)
    monkeypatch.setattr(setup, "VENV_PYTHON", sys.executable)
    monkeypatch.setattr(setup.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///wheels/cpu")
    assert setup.brings_no_cuda()
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///wheels/gpu")
    assert not setup.brings_no_cuda()


def test_clean_asks_and_keeps_results(tmp_path, monkeypatch, capsys):
    project = Project(tmp_path)
    for folder in (".venv/lib", "runs/first", "datasets", "src/alexnet_cifar10/__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    assert "Nothing was removed" in project.set_up("--clean")  # nobody can be asked here
    assert (tmp_path / ".venv").exists()
    assert "This stays" in project.set_up("--clean", "--yes")
    assert not (tmp_path / ".venv").exists() and not (tmp_path / "src/alexnet_cifar10/__pycache__").exists()
    assert (tmp_path / "runs/first/file").exists() and (tmp_path / "datasets/file").exists()
    project.set_up("--clean", "--all", "--yes")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "datasets").exists()
    assert project.script.exists()


# --- the runner of the notebooks -----------------------------------------------------------------------------------


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """The runner in a small clone, whose notebooks tests write themselves."""
    root = tmp_path / "그림 책"
    for folder in ("notebooks", "src/alexnet_cifar10"):
        (root / folder).mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.delenv("RUNS_ROOT", raising=False)
    module = load(RUNNER)
    monkeypatch.setattr(module, "ROOT", root)
    return module


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


def test_notebooks_run_in_order_and_the_summary_names_accuracy_and_data(runner, capfd):
    record = {
        "data": {"dataset": "handwritten digits", "label": "handwritten digits"},
        "seed": 42,
        "started": "2024-01-01T00:00:00+00:00",
    }
    record["result"] = {"best_epoch": 2, "best_valid_accuracy": 0.9375, "epochs": 3}
    only_data = "assert data == 'digits' and 'epochs' not in globals()"
    write_notebook("01_data", "data = 'auto'", only_data, "print('quiet')\nprint('0.100 right; digits')")
    tag_as_result("01_data")
    write_notebook(
        "04_train",
        "data = 'auto'\nepochs = None",
        "from pathlib import Path\nassert Path('runs/notebooks/01_data.ipynb').exists(), 'not run from the root'",
        "print('a lesson'); print('Epoch 1 of', epochs)",
        "Path('runs/first').mkdir(); Path('runs/latest').write_text('first\\n')",
        f"_ = Path('runs/first/run.json').write_text({json.dumps(record)!r})",
    )
    assert runner.main(["01_data", "04_train", "--data", "digits", "--epochs", "3"]) == 0
    out, err = capfd.readouterr()
    assert "Epoch 1 of 3" in out and "quiet" not in out and "a lesson" not in out
    assert re.search(r"\n01_data +\d:\d\d  0\.100 right\n04_train +\d:\d\d\ntogether ", out), "notebook, time, result"
    assert "Best validation accuracy: 0.938, in epoch 2 of 3, on handwritten digits, seed 42." in out
    assert "This is not CIFAR-10" in out
    assert err == "", "the kernels are not quiet"
    executed = nbformat.read("runs/notebooks/01_data.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "quiet\n0.100 right; digits\n"


@pytest.mark.parametrize(
    ("dataset", "asked", "trained"),
    [
        ("CIFAR-10", [], ("fast", None)),
        ("handwritten digits", [], ("classic", 10)),
        ("CIFAR-10", ["--epochs", "55"], (None, 55)),  # None: as the notebook has it
        ("CIFAR-10", ["--recipe", "classic"], ("classic", None)),
    ],
)
def test_without_choices_training_suits_the_data(dataset, asked, trained, runner, monkeypatch, capsys):
    provenance = SimpleNamespace(dataset=dataset)
    monkeypatch.setattr(runner, "load_images", lambda source: SimpleNamespace(provenance=provenance))
    given = {}
    monkeypatch.setattr(runner, "execute", lambda notebook, output, asked, show_output: given.update(asked) or "ended.")
    write_notebook("04_train", "data = 'auto'")
    assert runner.main(["04_train", *asked]) == 1
    assert (given.get("recipe"), given.get("epochs")) == trained
    assert f"recipe {trained[0] or 'classic'}, " in capsys.readouterr().out


def test_a_failing_notebook_is_named_and_those_after_it_do_not_run(runner, capfd):
    write_notebook("02_visualization", "data = 'auto'", "1 + 1", "# the third\nraise ValueError('no such picture')")
    write_notebook("06_save_load", "data = 'auto'", "1 + 1")
    assert runner.main(["02_visualization", "06_save_load", "--data", "digits"]) == 1
    error = capfd.readouterr().err
    for part in ("02_visualization stopped", "[4]", "# the third", "ValueError: no such picture", "runs/notebooks"):
        assert part in error.replace(os.sep, "/")
    assert Path("runs/notebooks/02_visualization.ipynb").exists()
    assert not Path("runs/notebooks/06_save_load.ipynb").exists()


def test_a_bad_choice_stops_before_the_first_notebook(runner, capsys):
    write_notebook("01_data", "data = 'auto'")
    assert runner.main(["01_data", "--epochs", "many"]) == 1
    assert "epochs = 'many'" in capsys.readouterr().err
    assert runner.main(["01_data", "--data", "imagenet"]) == 1
    assert "data = 'imagenet'" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_all_six_notebooks_are_run(runner):
    assert list(runner.NOTEBOOKS) == sorted(path.stem for path in (ROOT / "notebooks").glob("0?_*.ipynb"))


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


# --- the files beside them -----------------------------------------------------------------------------------------


def make(*arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def make_targets() -> set[str]:
    return set(re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1].split())


def workflow(job: str) -> dict:
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"][job]


@needs_make
def test_make_alone_lists_the_targets_a_line_each():
    targets = make_targets() - {"help", "dev", "python"}
    lines = make().stdout.splitlines()
    assert {line.split()[1] for line in lines} == targets
    assert len(lines) == len(targets)


@needs_make
def test_make_passes_choices_on_and_names_a_python_that_is_missing():
    commands = make("-n", "run", "EPOCHS=2", "DATA=digits", "RECIPE=classic").stdout
    assert 'run_notebooks.py --data "digits" --recipe "classic" --epochs "2"' in commands
    assert "--same-python" not in commands and "--same-python" in make("-n", "run", f"PYTHON={sys.executable}").stdout
    assert "setup_environment.py  --versions oldest\n" in make("-n", "test-oldest").stdout
    missing = make("setup", "PYTHON=python3.999")
    assert missing.returncode != 0
    assert "There is no python3.999 here" in missing.stdout


@needs_make
def test_make_tensorboard_opens_where_the_runs_are():
    assert '--logdir "runs"' in make("-n", "tensorboard", "RUNS_ROOT=").stdout
    assert '--logdir "/else where"' in make("-n", "tensorboard", "RUNS_ROOT=/else where").stdout


def test_the_makefile_is_for_every_sh():
    text = (ROOT / "Makefile").read_text()
    assert not re.search(r"\[\[|<\(|&>|\bsource\b|\bfunction\b|^SHELL", text, re.MULTILINE)


@needs_posix
def test_ci_calls_make_test_from_anywhere(tmp_path):
    stand_in = tmp_path / "make"
    stand_in.write_text('#!/bin/sh\necho "$PWD: make $*"; exit 3\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ci = subprocess.run(["bash", ROOT / ".ci/run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ci.stdout == f"{ROOT}: make test\n"
    assert ci.returncode == 3


def test_the_workflow_makes_the_targets_that_test():
    job = workflow("test")
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make ${{ matrix.target }}"]
    asked = set(re.findall(r"\btest[\w-]*", yaml.dump(job["strategy"]["matrix"])))
    assert asked == {target for target in make_targets() if target.startswith("test")}


@needs_posix
def test_the_workflow_tags_a_version_once(tmp_path):
    def git(*arguments, cwd=tmp_path / "clone"):
        return subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True).stdout

    git("init", "--quiet", "--bare", "github", cwd=tmp_path)
    git("clone", "--quiet", "github", "clone", cwd=tmp_path)
    tagged = []
    for version in ("0.1.0", "0.1.0", "0.2.0"):
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        (tmp_path / "clone/pyproject.toml").write_text(re.sub("(?m)^version = .*", f'version = "{version}"', text))
        git("add", ".")
        git("-c", "user.name=x", "-c", "user.email=x@y.z", "commit", "--quiet", "--allow-empty", "--message", version)
        subprocess.run(["bash", "-e", "-c", workflow("tag")["steps"][-1]["run"]], cwd=tmp_path / "clone", check=True)
        tagged.append(git("ls-remote", "--tags", "origin").split())
    assert tagged[0] == tagged[1], "a tag that is there was moved"
    assert tagged[2] == [*tagged[0], git("rev-parse", "HEAD").strip(), "refs/tags/v0.2.0"]


def assert_links_agree_with_pyproject(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository, tag = project["urls"]["Repository"], f"v{project['version']}"
    opens = repository.replace("https://github.com/", "https://colab.research.google.com/github/") + f"/blob/{tag}/"
    notebooks = [f"notebooks/{path.name}" for path in sorted((ROOT / "notebooks").glob("0*.ipynb"))]
    for file in ("README.md", "README.ko.md", *notebooks):
        text = (root / file).read_text(encoding="utf-8")
        badges = re.findall(r"\((https://colab\.research\.google\.com/github/.+?)\)", text)
        sources = re.findall(r'git\+https.+?(?=\\?")', text)
        is_notebook = file in notebooks
        assert badges == [opens + name for name in ([file] if is_notebook else notebooks)], file
        assert sources == ([f"git+{repository}@{tag}"] if is_notebook else []), file


def test_badges_and_first_cells_name_the_repository_and_version_of_pyproject():
    assert_links_agree_with_pyproject(ROOT)  # if not: python scripts/set_repository.py


def test_a_script_writes_the_name_and_version_of_a_fork_everywhere(tmp_path, monkeypatch):
    files = [ROOT / "pyproject.toml", *ROOT.glob("README*.md"), *ROOT.glob("notebooks/*.ipynb")]
    (tmp_path / "notebooks").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    script = load(ROOT / "scripts" / "set_repository.py")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    pyproject = tmp_path / "pyproject.toml"
    before = pyproject.read_text(encoding="utf-8")
    changed = re.sub('https://github.com/.+?"', 'https://github.com/some-one/my.fork"', before)
    pyproject.write_text(re.sub("(?m)^version = .*", 'version = "9.8.7"', changed), encoding="utf-8")
    script.main()
    assert "/some-one/my.fork/blob/v9.8.7/" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert_links_agree_with_pyproject(tmp_path)
    pyproject.write_text(before, encoding="utf-8")
    script.main()
    for file in files:
        assert (tmp_path / file.relative_to(ROOT)).read_bytes() == file.read_bytes(), "it changed something else"
    pyproject.write_text(before.replace("https://github.com/", "https://example.org/"), encoding="utf-8")
    with pytest.raises(SystemExit, match="Repository is 'https://example.org/.*not https://github.com/<owner>/<name>"):
        script.main()


def test_requirements_are_exact_pins_within_the_bounds_of_pyproject():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in pins.values())
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        bound = Requirement(text)
        assert bound.specifier.contains(pins[bound.name]), f"{text}, but requirements.txt pins {pins[bound.name]}"
    newest = load(SETUP).what_to_install("newest")
    assert newest == ["--upgrade", "--upgrade-strategy", "eager", *pins]


def test_the_oldest_versions_are_the_bounds_of_pyproject():
    oldest = load(SETUP).what_to_install("oldest")
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        assert text.replace(">=", "==") in oldest
    assert any(pin.startswith("pytest==") for pin in oldest)


def test_the_conda_environment_refers_to_files_that_exist():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "alexnet-cifar10" and "pip" in environment["dependencies"]
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.txt", "-e ."]}
    assert (ROOT / "requirements.txt").is_file() and (ROOT / "pyproject.toml").is_file()
    assert not any("=" in str(d).replace(">=", "") for d in environment["dependencies"]), "pins stand elsewhere"
