"""The files beside the notebooks and the package: Makefile, workflow, requirements, what names the repository."""

import json
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
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
needs_posix = pytest.mark.skipif(os.name == "nt", reason="a shell script with a stand-in for make on the PATH")


def make(*arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def make_targets() -> set[str]:
    return set(re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1].split())


def workflow(job: str, file: str = "ci.yml") -> dict:
    return yaml.safe_load((ROOT / ".github/workflows" / file).read_text())["jobs"][job]


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
    assert [step["run"] for step in job["steps"] if "run" in step and "if" not in step] == ["make ${{ matrix.target }}"]
    asked = set(re.findall(r"\btest[\w-]*", yaml.dump(job["strategy"]["matrix"])))
    assert asked == {target for target in make_targets() if target.startswith("test")}


@needs_posix
@pytest.mark.parametrize("python", ["3.13", "3.14"])
def test_each_monday_the_workflow_asks_what_colab_has(python, tmp_path):
    [step] = [step for step in workflow("test")["steps"] if "COLAB_PACKAGES" in step.get("run", "")]
    assert step["if"] == "github.event_name == 'schedule' && matrix.target == 'test-colab'"
    curl = tmp_path / "curl"
    answers = 'case "$2" in */os-info-gpu.txt) echo Python 3.13.15;; *) echo numpy==9.8 > "$4";; esac'
    curl.write_text(f"#!/bin/sh\n{answers}\n")
    curl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "GITHUB_ENV": "variables"}
    command = ["bash", "-eo", "pipefail", "-c", step["run"].replace("${{ matrix.python }}", python)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if python == "3.13":
        assert done.returncode == 0, done.stderr
        name, _, file = (tmp_path / "variables").read_text().strip().partition("=")
        assert name in (ROOT / "colab/test_colab.py").read_text()
        assert (tmp_path / file).read_text() == "numpy==9.8\n"
    else:
        assert done.returncode == 1
        assert "Colab's Python is no longer 3.14" in done.stdout
        assert not (tmp_path / "variables").exists()


def assert_links_agree_with_pyproject(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository, tag = project["urls"]["Repository"], f"v{project['version']}"
    file_at_tag = f"{repository}/blob/{tag}/"
    colab = file_at_tag.replace("https://github.com/", "https://colab.research.google.com/github/")
    kaggle = f"https://kaggle.com/kernels/welcome?src={file_at_tag}"
    names = [path.name for path in sorted((ROOT / "notebooks").glob("0*.ipynb"))]
    notebooks, korean = ([f"{folder}/{name}" for name in names] for folder in ("notebooks", "notebooks/ko"))
    opened = {"README.md": notebooks, "README.ko.md": korean} | {file: [file] for file in [*notebooks, *korean]}
    for file, targets in opened.items():
        text = (root / file).read_text(encoding="utf-8")
        badges = re.findall(r"\[!\[Open in \w+\]\([^)]+\)\]\((.+?)\)", text)
        sources = re.findall(r'git\+https.+?(?=\\?")', text)
        pages = re.findall(r"\((https://github\.com/[^/)]+/[^/)]+/blob/[^/)]+)/notebooks/", text)
        assert set(pages) <= {f"{repository}/blob/{tag}"}, file
        is_notebook = targets == [file]
        sites = [colab] if is_notebook else [colab, kaggle]
        assert badges == [site + name for name in targets for site in sites], file
        assert sources == ([f"git+{repository}@{tag}"] if is_notebook else []), file
        hidden = re.findall(r"<!-- \[!\[Open in \w+\]\([^)]+\)\]\(.+?\) -->", text)
        assert len(hidden) == (len(badges) if "/OWNER/" in repository else 0), f"{file}: badges that lead nowhere"
        assert not re.search(r'(?m)^ *"<!--.*-->[^\\"]', text), f"{file}: no Markdown where a comment begins the line"


def test_badges_and_first_cells_name_the_repository_and_version_of_pyproject():
    assert_links_agree_with_pyproject(ROOT)  # if not: python scripts/set_repository.py


def named_files() -> list[Path]:
    files = ["pyproject.toml", "README*.md", "notebooks/*.ipynb", "notebooks/ko/*.ipynb", "locale/**/*.po"]
    return [path for pattern in files for path in sorted(ROOT.glob(pattern))]


def copy_named_files(folder: Path) -> None:
    for file in named_files():
        (folder / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file.relative_to(ROOT))


def test_a_script_writes_the_name_and_version_of_a_fork_everywhere(tmp_path, monkeypatch):
    copy_named_files(tmp_path)
    monkeypatch.setattr(set_repository, "ROOT", tmp_path)
    pyproject = tmp_path / "pyproject.toml"
    before = pyproject.read_text(encoding="utf-8")
    pyproject.write_text(re.sub("(?m)^version = .*", 'version = "9.8.7"', before), encoding="utf-8")
    set_repository.main("some-one/my.fork")
    assert "/some-one/my.fork/blob/v9.8.7/" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert_links_agree_with_pyproject(tmp_path)
    pyproject.write_text(before, encoding="utf-8")
    set_repository.main()
    for file in named_files():
        assert (tmp_path / file.relative_to(ROOT)).read_bytes() == file.read_bytes(), "it changed something else"
    for name in ("nobody", "a/b/c", "a b/c"):
        with pytest.raises(SystemExit, match=f"Repository cannot be 'https://github.com/{name}', only .*/<name>"):
            set_repository.main(name)
    assert pyproject.read_text(encoding="utf-8") == before


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@y.z", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """What a user has whose new repository on GitHub, a bare one here, is still empty."""
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "github")
    git(tmp_path, "clone", "--quiet", "github", "clone")
    copy_named_files(tmp_path / "clone")
    (tmp_path / "clone/scripts").mkdir()
    shutil.copy(set_repository.__file__, tmp_path / "clone/scripts")
    return tmp_path / "clone"


def push(clone: Path) -> subprocess.CompletedProcess:
    """Push what there is to main; what the job says that follows, in a checkout of its own."""
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--allow-empty", "--message=work")
    git(clone, "push", "--quiet", "origin", "HEAD:main")
    return run_on_github(clone, workflow("tag")["steps"][-1]["run"])


def run_on_github(clone: Path, script: str) -> subprocess.CompletedProcess:
    """Run a step of the workflow as GitHub does: with the newest commit only, and with nobody's name for a new one."""
    checkout = clone.parent / "checkout"
    shutil.rmtree(checkout, ignore_errors=True)
    git(clone, "clone", "--quiet", "--depth=1", (clone.parent / "github").as_uri(), str(checkout))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GITHUB_REPOSITORY": "some-one/my.name",
    }
    command = ["bash", "-e", "-c", script]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)


def on_github(clone: Path) -> dict[str, str]:
    """ref -> commit"""
    return {ref: commit for commit, ref in map(str.split, git(clone, "ls-remote", "origin", "refs/*").splitlines())}


@needs_posix
def test_a_repository_names_itself_on_its_first_push(clone):
    assert push(clone).returncode == 0
    pushed = git(clone, "rev-parse", "HEAD")
    git(clone, "pull", "--quiet", "origin", "main")
    version = tomllib.loads((clone / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    named = on_github(clone)
    head = git(clone, "rev-parse", "HEAD")
    assert named == {"refs/heads/main": head, f"refs/tags/v{version}": head}
    assert git(clone, "rev-parse", "HEAD^") == pushed
    assert git(clone, "log", "-1", "--format=%an") == "github-actions[bot]"
    assert_links_agree_with_pyproject(clone)
    pyproject = (clone / "pyproject.toml").read_text(encoding="utf-8")
    assert 'Repository = "https://github.com/some-one/my.name"' in pyproject

    assert push(clone).returncode == 0, "the second push"
    assert on_github(clone) == {**named, "refs/heads/main": git(clone, "rev-parse", "HEAD")}, "only the user's commit"

    (clone / "pyproject.toml").write_text(pyproject.replace(f'"{version}"', '"9.8.7"'), encoding="utf-8")
    subprocess.run([sys.executable, clone / "scripts/set_repository.py"], check=True)
    assert push(clone).returncode == 0
    head = git(clone, "rev-parse", "HEAD")
    assert on_github(clone) == {**named, "refs/heads/main": head, "refs/tags/v9.8.7": head}, "a tag was moved"


@needs_posix
def test_where_the_workflow_may_not_push_to_main_it_says_what_to_do(clone):
    hook = clone.parent / "github/hooks/update"
    refuse = 'case $1:$(git log -1 --format=%an "$3") in */main:*bot*) echo main is protected; exit 1;; esac'
    hook.write_text(f"#!/bin/sh\n{refuse}\n")
    hook.chmod(0o755)
    refused = push(clone)
    assert refused.returncode == 1
    assert "main is protected" in refused.stderr
    assert "::error::main took no commit from this job" in refused.stdout
    assert on_github(clone) == {"refs/heads/main": git(clone, "rev-parse", "HEAD")}, "a tag, though nothing was named"
    said = re.search(r"python (scripts/set_repository.py) (\S+),", refused.stdout)
    subprocess.run([sys.executable, *said.groups()], cwd=clone, check=True)
    assert push(clone).returncode == 0
    assert_links_agree_with_pyproject(clone.parent / "checkout")
    assert set(on_github(clone).values()) == {git(clone, "rev-parse", "HEAD")}, "main and the tag"


@needs_posix
def test_the_site_of_the_first_push_has_the_name_already(clone):
    push(clone)
    git(clone, "push", "--quiet", "--force", "origin", "HEAD:main")  # what the job added is not there yet
    commands = [step["run"] for step in workflow("site", "site.yml")["steps"] if "run" in step]
    assert commands[1:] == ["make site"]
    assert run_on_github(clone, commands[0]).returncode == 0
    assert_links_agree_with_pyproject(clone.parent / "checkout")
    assert "some-one/my.name" in (clone.parent / "checkout/pyproject.toml").read_text(encoding="utf-8")


def test_the_container_of_an_editor_or_of_codespaces_is_set_up_by_make():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    make_, target = container["postCreateCommand"].split()
    assert make_ == "make" and target in make_targets()
    version = container["image"].removeprefix("python:")
    assert version in SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])


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
