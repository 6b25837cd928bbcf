"""The notebooks in a real JupyterLab: Run All, the stop button, a restart. Screenshots go to runs/browser/."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import nbformat
import pytest
from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("0?_*.ipynb"))
KOREAN = "ko/05_evaluation"  # the others have the code of the English ones as well
SCREENSHOTS = ROOT / "runs" / "browser"


def copy_notebooks(folder):
    """The notebooks without their outputs, which no test can then take for new ones. The package is installed."""
    (folder / "ko").mkdir(parents=True)
    for name in [*NAMES, KOREAN]:
        copy_notebook(folder, name)


def copy_notebook(folder, name, parameters=""):
    """`parameters` are lines that a reader adds to the cell with the parameters before Run All."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += f"\n{parameters}"
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The browser saves the notebooks that it runs, so these are not the reader's."""
    folder = tmp_path_factory.mktemp("project")
    copy_notebooks(folder / "notebooks")
    return folder


class Lab:
    """JupyterLab on a port of its own, with settings of its own, that opens on `folder`."""

    def __init__(self, folder, runs):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        own = {name: str(runs / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR")}
        own |= {"JUPYTERLAB_WORKSPACES_DIR": str(runs / "workspaces"), "RUNS_ROOT": str(runs), "TUTORIAL_SMOKE": "1"}
        environment = {key: value for key, value in os.environ.items() if key != "CIFAR10_ROOT"} | own
        extension = "@jupyterlab/apputils-extension:announcements"  # asks whether it may fetch news
        disable = [sys.executable, "-m", "jupyter", "labextension", "disable", "--level=user", extension]
        subprocess.run(disable, env=environment, check=True, capture_output=True)
        self.log = runs / "jupyterlab.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
                + [
                    "--IdentityProvider.token=",
                    "--ServerApp.port_retries=0",
                    "--ServerApp.disable_check_xsrf=True",  # or it refuses to shut kernels down for us
                    f"--ServerApp.root_dir={folder}",
                    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                ],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def wait_until(self, is_true, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if is_true():
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise AssertionError(f"not within {seconds} s")

    def ask(self, what, method="GET"):
        with urlopen(Request(f"{self.url}/api/{what}", method=method), timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def is_idle(self):
        return [kernel["execution_state"] for kernel in self.ask("kernels") if kernel["connections"]] == ["idle"]

    def shut_kernels_down(self):
        for session in self.ask("sessions"):
            self.ask(f"sessions/{session['id']}", "DELETE")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextmanager
def jupyterlab(folder, runs):
    runs.mkdir(exist_ok=True)
    lab = Lab(folder, runs)
    try:
        lab.wait_until(lambda: lab.ask("kernels") == [], 60)
        yield lab
    finally:
        lab.stop()


@pytest.fixture(scope="module")
def lab(project, tmp_path_factory):
    with jupyterlab(project, tmp_path_factory.mktemp("runs")) as lab:
        yield lab


@pytest.fixture
def page(browser, lab):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on(
        "console",
        lambda line: line.type == "error" and page.errors.append(f"{line.text} ({line.location['url']})"),
    )
    yield page
    page.close()
    lab.shut_kernels_down()


def open_notebook(page: Page, lab: Lab, path: str) -> None:
    page.goto(f"{lab.url}/lab/tree/{path}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=60_000)
    lab.wait_until(lab.is_idle, 60)
    page.wait_for_timeout(1000)  # or the first click is lost


def choose(page: Page, menu: str, command: str) -> None:
    page.click(f'.lm-MenuBar-item:has-text("{menu}")')
    page.click(f'.lm-Menu-item[data-command="{command}"]')


def wait_until_all_ran(page: Page, seconds: int, first: int = 1) -> None:
    """The code cells are numbered `first`, `first` + 1, ..., and none is still running."""
    page.wait_for_function(
        """first => {
            const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent);
            return prompts.length > 0 && prompts.every((text, i) => text === `[${first + i}]:`);
        }""",
        arg=first,
        timeout=1000 * seconds,
    )


def save(page: Page, lab: Lab, file: Path) -> nbformat.NotebookNode:
    """Save with the keyboard, and read what came to the disk."""
    before = file.stat().st_mtime_ns
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    lab.wait_until(lambda: file.stat().st_mtime_ns != before and is_whole(file), 20)
    return nbformat.read(file, as_version=4)


def is_whole(file: Path) -> bool:
    """JupyterLab writes into the file that is there."""
    try:
        return bool(json.loads(file.read_text(encoding="utf-8")))
    except ValueError:
        return False


def run_all(page: Page, lab: Lab, path: str, file: Path, seconds: int = 240) -> nbformat.NotebookNode:
    open_notebook(page, lab, path)
    choose(page, "Run", "runmenu:run-all")
    wait_until_all_ran(page, seconds)
    return save(page, lab, file)


def printed(notebook) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def assert_ran_without_errors(notebook) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count, f"not run: {cell.source}"
            for output in cell.outputs:
                assert output.output_type != "error", f"{cell.source}\n{output}"
                assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


def take_screenshot(page: Page, name: str) -> None:
    """All of the notebook in slices that can be looked at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.set_viewport_size({"width": 1280, "height": 2400})
    pane = page.locator(".jp-WindowedPanel-outer").first
    height = pane.evaluate("pane => pane.scrollHeight")
    shown = pane.evaluate("pane => pane.clientHeight")
    for number, top in enumerate(range(0, height, shown)):
        pane.evaluate("(pane, top) => pane.scrollTo(0, top)", top)
        page.wait_for_timeout(300)
        page.screenshot(path=SCREENSHOTS / f"{name.replace('/', '-')}-{number:02}.png")


def broken_pictures(page: Page) -> list[str]:
    return page.evaluate(
        """() => [...document.querySelectorAll('.jp-Notebook img:not(.cm-editor img)')]  // an editor has its own
            .filter(image => image.naturalWidth === 0 && !image.src.includes('colab-badge'))  // it is on another host
            .map(image => image.src.slice(0, 120))"""
    )


@pytest.mark.parametrize("name", [*NAMES, KOREAN])
def test_run_all_in_jupyterlab(name, page, lab, project):
    committed = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    notebook = run_all(page, lab, f"notebooks/{name}.ipynb", project / "notebooks" / f"{name}.ipynb")
    take_screenshot(page, name)
    assert_ran_without_errors(notebook)

    def pictures(notebook):
        return sum("image/png" in out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", []))

    assert pictures(notebook) >= pictures(committed) - name.endswith("05_evaluation")  # of mistakes, if it makes one
    assert broken_pictures(page) == []
    formulas = page.locator(".jp-MarkdownCell mjx-container")
    assert page.locator("mjx-merror").count() == 0
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    expected = len(re.findall(r"(?<![\\$`])\$[^$\n`]+\$", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)))
    assert formulas.count() >= expected
    assert all(size > 0 for size in formulas.evaluate_all("all => all.map(one => one.getBoundingClientRect().height)"))
    assert [error for error in page.errors if "colab-badge" not in error] == []  # it is on another host


def test_the_stop_button_ends_training_and_resume_goes_on(page, lab, project):
    file = project / "notebooks" / "04_train.ipynb"
    copy_notebook(file.parent, file.stem, 'epochs = 1000\nrun_name = "stopped"')
    open_notebook(page, lab, f"notebooks/{file.name}")
    choose(page, "Run", "runmenu:run-all")
    expect(page.locator(".jp-Notebook")).to_contain_text("Epoch  1/1000", timeout=240_000)
    page.click('[data-command="notebook:interrupt-kernel"]')
    wait_until_all_ran(page, 120)
    notebook = save(page, lab, file)
    assert_ran_without_errors(notebook)
    epochs = int(re.search(r"^Stopped: what (\d+) epochs? gave is kept .* resume = True", printed(notebook), re.M)[1])
    page.goto("about:blank")
    lab.shut_kernels_down()

    copy_notebook(file.parent, file.stem, f'epochs = {epochs + 1}\nrun_name = "stopped"\nresume = True')
    notebook = run_all(page, lab, f"notebooks/{file.name}", file)
    assert_ran_without_errors(notebook)
    assert len(re.findall(rf"^Epoch +\d+/{epochs + 1} ", printed(notebook), re.M)) == epochs + 1
    assert "Finished (all its epochs are done)" in printed(notebook)


def test_a_restarted_kernel_runs_it_all_again(page, lab, project):
    file = project / "notebooks" / "03_model_shapes.ipynb"
    run_all(page, lab, f"notebooks/{file.name}", file)
    choose(page, "Run", "runmenu:run-all")
    wait_until_all_ran(page, 240, first=1 + page.locator(".jp-CodeCell").count())
    choose(page, "Kernel", "runmenu:restart-and-run-all")
    page.click('.jp-Dialog button:has-text("Restart")')
    wait_until_all_ran(page, 240)
    notebook = save(page, lab, file)
    assert_ran_without_errors(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "from the first cell, in a new kernel"


def test_the_folder_of_notebooks_opened_alone(browser, tmp_path):
    """JupyterLab started inside of notebooks/: its server gives out nothing that lies beside them."""
    folder = tmp_path / "notebooks"
    copy_notebooks(folder)
    with jupyterlab(folder, tmp_path / "runs") as lab, browser.new_page() as page:
        notebook = run_all(page, lab, "03_model_shapes.ipynb", folder / "03_model_shapes.ipynb")
        assert_ran_without_errors(notebook)
        assert broken_pictures(page) == []
