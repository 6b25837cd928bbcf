"""The files beside the notebooks and the package: Makefile, workflow, requirements, what names the repository."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import set_repository
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
needs_posix = pytest.mark.skipif(os.name == "nt", reason="a shell script with a stand-in for make on the PATH")


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
    for versions in ("oldest", "newest"):
        assert f"setup.py  --versions {versions}\n" in make("-n", f"test-{versions}").stdout
    assert make("-n", "clean", "ALL=1", "YES=1").stdout.endswith("clean.py --all --yes\n")
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
    names = [path.name for path in sorted((ROOT / "notebooks").glob("0*.ipynb"))]
    notebooks, korean = ([f"{folder}/{name}" for name in names] for folder in ("notebooks", "notebooks/ko"))
    opened = {"README.md": notebooks, "README.ko.md": korean} | {file: [file] for file in [*notebooks, *korean]}
    for file, targets in opened.items():
        text = (root / file).read_text(encoding="utf-8")
        badges = re.findall(r"\((https://colab\.research\.google\.com/github/.+?)\)", text)
        sources = re.findall(r'git\+https.+?(?=\\?")', text)
        pages = re.findall(r"\((https://github\.com/[^/)]+/[^/)]+/blob/[^/)]+)/notebooks/", text)
        assert set(pages) <= {f"{repository}/blob/{tag}"}, file
        assert badges == [opens + name for name in targets], file
        assert sources == ([f"git+{repository}@{tag}"] if targets == [file] else []), file


def test_badges_and_first_cells_name_the_repository_and_version_of_pyproject():
    assert_links_agree_with_pyproject(ROOT)  # if not: python scripts/set_repository.py


def test_a_script_writes_the_name_and_version_of_a_fork_everywhere(tmp_path, monkeypatch):
    files = [ROOT / "pyproject.toml", *ROOT.glob("README*.md"), *ROOT.glob("notebooks/**/0*.ipynb")]
    (tmp_path / "notebooks/ko").mkdir(parents=True)
    for file in files:
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    monkeypatch.setattr(set_repository, "ROOT", tmp_path)
    pyproject = tmp_path / "pyproject.toml"
    before = pyproject.read_text(encoding="utf-8")
    changed = re.sub('https://github.com/.+?"', 'https://github.com/some-one/my.fork"', before)
    pyproject.write_text(re.sub("(?m)^version = .*", 'version = "9.8.7"', changed), encoding="utf-8")
    set_repository.main()
    assert "/some-one/my.fork/blob/v9.8.7/" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert_links_agree_with_pyproject(tmp_path)
    pyproject.write_text(before, encoding="utf-8")
    set_repository.main()
    for file in files:
        assert (tmp_path / file.relative_to(ROOT)).read_bytes() == file.read_bytes(), "it changed something else"
    pyproject.write_text(before.replace("https://github.com/", "https://example.org/"), encoding="utf-8")
    with pytest.raises(SystemExit, match="Repository is 'https://example.org/.*not https://github.com/<owner>/<name>"):
        set_repository.main()


@needs_make
@needs_posix
def test_the_newest_versions_that_pass_are_named(tmp_path):
    stand_in = tmp_path / "python"
    pins = (ROOT / "requirements.txt").read_text().split()
    freeze = ["torch==99.0", "Typing_Extensions==98.1", *(pin for pin in pins if re.match(r"(?!torch=)[\w-]+==", pin))]
    stand_in.write_text("#!/bin/sh\nprintf '%s\\r\\n' " + " ".join(freeze))
    stand_in.chmod(0o755)
    commands = make("-n", "test-newest", f"VENV_PYTHON={stand_in}").stdout
    last = commands[commands.rindex("echo ") :]
    said = subprocess.run(["sh", "-c", last], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.endswith("then make constraints): torch==99.0 Typing-Extensions==98.1\n")


def pins_of(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and line[0] != "#"]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in pins.values())
    return pins


def test_requirements_are_exact_pins_within_the_bounds_of_pyproject():
    pins = pins_of("requirements.txt")
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        bound = Requirement(text)
        assert bound.specifier.contains(pins[bound.name]), f"{text}, but requirements.txt pins {pins[bound.name]}"


def test_constraints_hold_the_pins_of_both_requirements_and_no_address():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for name, version in {**pins_of("requirements.txt"), **pins_of("requirements-dev.txt")}.items():
        assert f"{canonicalize_name(name)}=={version}" in lines, "run make constraints"
    for line in lines:
        pin = Requirement(line)  # name, version, and perhaps for which systems
        assert not pin.url and not pin.extras and re.fullmatch(r"==\d[\w.]*", str(pin.specifier)), line


def test_the_conda_environment_refers_to_files_that_exist():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "alexnet-cifar10" and "pip" in environment["dependencies"]
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.txt", "-c constraints.txt", "-e ."]}
    assert all((ROOT / file).is_file() for file in ("requirements.txt", "constraints.txt", "pyproject.toml"))
    assert not any("=" in str(d).replace(">=", "") for d in environment["dependencies"]), "pins stand elsewhere"


def test_the_corrections_name_sections_that_are_there():
    text = (ROOT / "CORRECTIONS.md").read_text(encoding="utf-8")
    named = re.findall(r'\]\((notebooks/\w+\.ipynb)\), "([^"]+)"', text)
    assert len(named) >= 6
    for notebook, section in named:
        assert f"# {section}" in (ROOT / notebook).read_text(encoding="utf-8"), (notebook, section)
