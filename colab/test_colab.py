"""The notebooks as Colab opens them: one file in an empty folder, Colab's packages, the package fetched by its tag.

    make test-colab        (or: pytest colab; -k oldest-04_train for one of them)

Each version of PyTorch gets an environment of its own, which takes minutes and gigabytes. GitHub is a `git daemon` on
this machine, which serves what lies in this clone. Where this is not Colab: Python is the one that runs the tests,
PyTorch is PyPI's build, and of Colab's packages only those that the notebooks meet are there: pip-freeze.gpu.txt names
them. Their versions are those of the file that $COLAB_PACKAGES names, if it is set.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TAG = f"v{PROJECT['version']}"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.ipynb")) + [
    "ko/03_model_shapes",
    "ko/06_save_load",
]


def pins(file):
    """name -> the line `name==version` of it. Colab's builds of PyTorch (+cu128) are not on PyPI."""
    lines = re.findall(r"^(([\w.-]+)==[^+\s]+)", Path(file).read_text(encoding="utf-8"), re.MULTILINE)
    return {name: line for line, name in lines}


LIST = ROOT / "colab/pip-freeze.gpu.txt"
TODAY = pins(os.environ.get("COLAB_PACKAGES") or LIST)
COLAB = [TODAY[name] for name in pins(LIST) if not name.startswith("torch")]  # KeyError: Colab no longer has it
TORCH = {
    "oldest": [text.replace(">=", "==") for text in PROJECT["dependencies"] if re.match("torch(vision)?>", text)],
    "colab": [TODAY["torch"], TODAY["torchvision"]],
    "newest": ["torch", "torchvision"],
}


@pytest.fixture(scope="module", params=TORCH)
def python(request):
    """The Python of an environment with Colab's packages and one of the versions of PyTorch."""
    with TemporaryDirectory(prefix=f".venv-colab-{request.param}-", dir=ROOT) as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        pip = [python, "-m", "pip", "install", "--quiet", "--no-compile"]  # most of PyTorch is never imported
        subprocess.run([*pip, *COLAB], check=True)
        # Not in one call: PyTorch 2.13 and later need a newer setuptools, and pip would take an older PyTorch instead.
        subprocess.run([*pip, *TORCH[request.param]], check=True)
        alone = [*pip, "--dry-run", "--ignore-installed", "--report=-", *TORCH[request.param]]
        found = [one["metadata"] for one in json.loads(subprocess.check_output(alone))["install"]]
        wanted = [f"{one['name']}=={one['version']}" for one in found if one["name"] in ("torch", "torchvision")]
        wanted += COLAB if request.param == "colab" else []
        assert set(wanted) <= packages(python), f"not all of {wanted} are there"
        site_packages = subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        (Path(site_packages.strip()) / "google" / "colab").mkdir(parents=True)
        (Path(site_packages.strip()) / "google" / "colab" / "__init__.py").touch()
        yield python


@pytest.fixture(scope="module")
def github(tmp_path_factory):
    """A server that holds this clone, changes that are not committed yet included, under the tag of its version."""

    def git(*arguments, cwd=ROOT):
        return subprocess.check_output(["git", *arguments], cwd=cwd, text=True).strip()

    folder = tmp_path_factory.mktemp("github")
    served = folder / PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    commit = git("stash", "create") or git("rev-parse", "HEAD")
    git("clone", "--quiet", "--bare", str(ROOT), str(served))
    git("tag", "--force", TAG, commit, cwd=served)
    git("config", "uploadpack.allowFilter", "true", cwd=served)  # as GitHub: pip asks for no more than it needs
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["git", "daemon", f"--base-path={folder}", "--export-all", "--listen=127.0.0.1", f"--port={port}"]
    server = subprocess.Popen(command, cwd=folder)
    address = f"git://127.0.0.1:{port}/"
    repository = address + served.relative_to(folder).as_posix()
    for _ in range(100):
        if subprocess.run(["git", "ls-remote", "--quiet", repository], capture_output=True).returncode == 0:
            break
        time.sleep(0.1)
    yield SimpleNamespace(address=address, commit=commit, server=server)
    server.terminate()
    server.wait(timeout=10)


def packages(python):
    """What pip lists, one line a package."""
    return set(subprocess.check_output([python, "-m", "pip", "list", "--format=freeze"], text=True).splitlines())


def execute(python, notebook, folder, github_address):
    """Run All, in an empty folder; the file is saved with its outputs. Returns it as well."""
    file = Path(shutil.copy(ROOT / "notebooks" / f"{notebook}.ipynb", folder))
    ours = ("RUNS_ROOT", "CIFAR10_ROOT", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in ours} | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # as Colab sets it
        "TUTORIAL_SMOKE": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{github_address}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
    }
    command = [python.parent / "jupyter-execute", "--inplace", "--timeout=300", file.name]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")
    return done, file


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_first_cell_fetches_the_package_and_the_notebook_runs_to_its_end(notebook, python, github, tmp_path):
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", PROJECT["name"], "torchinfo"], check=True)
    before = packages(python)
    done, file = execute(python, notebook, tmp_path, github.address)
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in nbformat.read(file, 4).cells if cell.cell_type == "code"]
    assert cells[0].outputs == []
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    after = packages(python)
    assert before <= after, "Colab's own packages were changed"
    assert {line.split("==")[0] for line in after - before} == {PROJECT["name"], "torchinfo"}
    where = "from importlib.metadata import distribution as d; print(d('alexnet-cifar10').read_text('direct_url.json'))"
    installed = json.loads(subprocess.check_output([python, "-c", where], text=True))
    assert installed["url"] == PROJECT["urls"]["Repository"]
    assert installed["vcs_info"] == {"vcs": "git", "requested_revision": TAG, "commit_id": github.commit}


def test_a_failed_fetch_stops_the_notebook_and_says_what_to_do(python, github, tmp_path):
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", PROJECT["name"]], check=True)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens here
        done, _ = execute(python, "01_data", tmp_path, f"git://127.0.0.1:{closed.getsockname()[1]}/")
    assert done.returncode != 0
    assert "unable to connect to 127.0.0.1" in done.stderr, "git's own words"
    assert "The package could not be installed; pip's reason stands above" in done.stderr
    assert "ModuleNotFoundError" not in done.stderr
