"""The package as a whole: where it looks for folders, and which way its imports run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_cifar10 import named_folder, project_root
from alexnet_cifar10.runs import runs_root

SOURCE = Path(__file__).resolve().parent.parent / "src"
ROOMS = ("data", "runs", "notebook")


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "내 프로젝트"
    (folder / "src" / "alexnet_cifar10").mkdir(parents=True)
    (folder / "notebooks" / "deeper").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("start", [".", "notebooks", "notebooks/deeper", "src/alexnet_cifar10"])
def test_the_project_is_found_from_every_folder_in_it(start, project, monkeypatch):
    monkeypatch.chdir(project / start)
    assert project_root() == project.resolve()


def test_an_empty_folder_is_its_own_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path.resolve()


def test_runs_lie_in_the_project_wherever_the_kernel_runs(project, monkeypatch):
    monkeypatch.delenv("RUNS_ROOT")
    monkeypatch.chdir(project / "notebooks")
    assert runs_root() == project.resolve() / "runs"


def test_runs_root_names_another_folder_and_a_relative_one_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNS_ROOT", "my runs")
    assert runs_root() == tmp_path.resolve() / "my runs"
    monkeypatch.setenv("RUNS_ROOT", "")
    assert runs_root() == tmp_path.resolve() / "runs"


@pytest.mark.parametrize("start", [".", "notebooks"])
def test_a_relative_folder_is_the_same_one_wherever_the_kernel_runs(start, project, monkeypatch):
    monkeypatch.chdir(project / start)
    monkeypatch.setenv("RUNS_ROOT", "my runs")
    assert runs_root() == project.resolve() / "my runs"


@pytest.mark.parametrize("value", ['"C:\\runs"', "'/somewhere'"])
def test_quotes_around_a_folder_are_refused(value, monkeypatch):
    monkeypatch.setenv("RUNS_ROOT", value)
    with pytest.raises(ValueError, match="RUNS_ROOT = .*: set it without the quotes"):
        named_folder("RUNS_ROOT")


def imports():
    """(module, module that it imports) for all modules of the package, also where a function imports."""
    modules = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                for name in node.names:
                    longer = f"{node.module}.{name.name}"
                    yield module, longer if longer in modules else node.module
            elif isinstance(node, ast.Import):
                yield from ((module, name.name) for name in node.names if name.name in modules)


def test_imports_run_one_way_and_in_no_circle():
    below = {}
    for module, imported in imports():
        below.setdefault(module, set()).add(imported)
    assert len(below) > 10

    def reached(module, path=()):
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        for imported in below.get(module, ()):
            if not module.startswith(f"{imported}."):  # a package's own front
                reached(imported, (*path, module))

    for module in below:
        reached(module)


def test_no_import_runs_upward():
    """notebook/ and __main__ may import everything, a chapter neither, data/ and runs/ no chapter but these."""
    for module, imported in imports():
        room, other = ((name.split(".") + [""])[1] for name in (module, imported))
        assert other not in ("notebook", "__main__") or room in ("notebook", "__main__"), (module, imported)
        if room in ("data", "runs"):
            assert other in ("", room, "data", "model", "device"), (module, imported)


@pytest.mark.parametrize("module", ["train", "notebook.parameters"])
def test_what_is_not_used_is_not_imported(module):
    """Each kernel would wait for it."""
    heavy = {"torchvision", "sklearn", "requests", "tensorboard", "matplotlib"}
    code = f"import sys, alexnet_cifar10.{module}; print(*{heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
