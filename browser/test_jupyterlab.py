"""The six notebooks in a real JupyterLab: Run All, the stop button, a restart. Screenshots go to runs/browser/."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import requests
from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("0?_*.ipynb"))
SCREENSHOTS = ROOT / "runs" / "browser"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what a reader has: the browser saves the notebooks that it runs."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("notebooks", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
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
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
            + [
                "--IdentityProvider.token=",
                f"--ServerApp.root_dir={folder}",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.wait_until(lambda: self.ask("kernels") == [], 60)

    def wait_until(self, is_true, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if is_true():
                    return
            except requests.RequestException:
                pass
            time.sleep(0.3)
        raise AssertionError(f"not within {seconds} s")

    def ask(self, what):
        answer = requests.get(f"{self.url}/api/{what}", timeout=5)
        answer.raise_for_status()
        return answer.json()

    def is_idle(self):
        return [kernel["execution_state"] for kernel in self.ask("kernels") if kernel["connections"]] == ["idle"]

    def shut_kernels_down(self):
        for session in self.ask("sessions"):
            requests.delete(f"{self.url}/api/sessions/{session['id']}", timeout=30)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def lab(project, tmp_path_factory):
    lab = Lab(project, tmp_path_factory.mktemp("runs"))
    yield lab
    lab.stop()


@pytest.fixture
def page(browser, lab):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.console_errors = []
    page.on("console", lambda line: page.console_errors.append(line.text) if line.type == "error" else None)
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


def wait_until_all_ran(page: Page, seconds: int) -> None:
    """Each code cell has its number, and none is still running."""
    page.wait_for_function(
        """() => {
            const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent);
            return prompts.length > 0 && prompts.every(text => /\\[\\d+\\]/.test(text));
        }""",
        timeout=1000 * seconds,
    )


def save(page: Page, file: Path) -> nbformat.NotebookNode:
    """Save with the keyboard, and read what came to the disk."""
    before = file.stat().st_mtime_ns
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    deadline = time.monotonic() + 20
    while file.stat().st_mtime_ns == before and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    return nbformat.read(file, as_version=4)


def run_all(page: Page, lab: Lab, path: str, file: Path, seconds: int = 240) -> nbformat.NotebookNode:
    open_notebook(page, lab, path)
    choose(page, "Run", "runmenu:run-all")
    wait_until_all_ran(page, seconds)
    return save(page, file)


def printed(notebook) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def assert_ran_without_errors(notebook) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count, cell.source
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
        page.screenshot(path=SCREENSHOTS / f"{name}-{number:02}.png")


def broken_pictures(page: Page) -> list[str]:
    return page.evaluate(
        """() => [...document.querySelectorAll('.jp-Notebook img:not(.cm-editor img)')]  // an editor has its own
            .filter(image => image.naturalWidth === 0 && !image.src.includes('colab-badge'))  // it is on another host
            .map(image => image.src.slice(0, 120))"""
    )


@pytest.mark.parametrize("name", NAMES)
def test_run_all_in_jupyterlab(name, page, lab, project):
    committed = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    notebook = run_all(page, lab, f"notebooks/{name}.ipynb", project / "notebooks" / f"{name}.ipynb")
    take_screenshot(page, name)
    assert_ran_without_errors(notebook)

    def pictures(notebook):
        return sum("image/png" in out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", []))

    assert pictures(notebook) >= pictures(committed) - (name == "05_evaluation")  # of mistakes, if it makes one
    assert broken_pictures(page) == []
    formulas = page.locator(".jp-MarkdownCell mjx-container")
    assert page.locator("mjx-merror").count() == 0
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    expected = len(re.findall(r"(?<![\\$`])\$[^$\n`]+\$", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)))
    assert formulas.count() >= expected
    assert all(size > 0 for size in formulas.evaluate_all("all => all.map(one => one.getBoundingClientRect().height)"))
    ours = [error for error in page.console_errors if "notebooks/" in error]
    assert ours == []


def set_parameters(file: Path, text: str) -> None:
    """Add lines to the cell with the parameters, as a reader would before Run All."""
    notebook = nbformat.read(ROOT / "notebooks" / file.name, as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "\n" + text
    nbformat.write(notebook, file)


def test_the_stop_button_ends_training_and_resume_goes_on(page, lab, project):
    file = project / "notebooks" / "04_train.ipynb"
    set_parameters(file, 'epochs = 1000\nrun_name = "stopped"')
    open_notebook(page, lab, f"notebooks/{file.name}")
    choose(page, "Run", "runmenu:run-all")
    expect(page.locator(".jp-Notebook")).to_contain_text("Epoch  1/1000", timeout=240_000)
    page.click('[data-command="notebook:interrupt-kernel"]')
    wait_until_all_ran(page, 120)
    notebook = save(page, file)
    assert_ran_without_errors(notebook)
    epochs = int(re.search(r"^Stopped: what (\d+) epochs? gave is kept .* resume = True", printed(notebook), re.M)[1])
    page.goto("about:blank")
    lab.shut_kernels_down()

    set_parameters(file, f'epochs = {epochs + 1}\nrun_name = "stopped"\nresume = True')
    notebook = run_all(page, lab, f"notebooks/{file.name}", file)
    assert_ran_without_errors(notebook)
    assert len(re.findall(rf"^Epoch +\d+/{epochs + 1} ", printed(notebook), re.M)) == epochs + 1
    assert "Finished (all its epochs are done)" in printed(notebook)


def test_a_restarted_kernel_runs_it_all_again(page, lab, project):
    file = project / "notebooks" / "03_model_shapes.ipynb"
    run_all(page, lab, f"notebooks/{file.name}", file)
    choose(page, "Kernel", "runmenu:restart-and-run-all")
    page.click('.jp-Dialog button:has-text("Restart")')
    page.wait_for_timeout(2000)
    wait_until_all_ran(page, 240)
    notebook = save(page, file)
    assert_ran_without_errors(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "from the first cell, in a new kernel"


def test_the_folder_of_notebooks_opened_alone(browser, tmp_path):
    """JupyterLab started inside of notebooks/, which then sees nothing beside it."""
    folder = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder)
    lab, page = Lab(folder, tmp_path / "runs"), browser.new_page()
    try:
        notebook = run_all(page, lab, "03_model_shapes.ipynb", folder / "03_model_shapes.ipynb")
        assert_ran_without_errors(notebook)
        assert broken_pictures(page) == []
    finally:
        page.close()
        lab.stop()
