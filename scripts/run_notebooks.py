"""Execute the notebooks in order, from the repository root, and keep the executed ones in runs/notebooks/.

    .venv/bin/python scripts/run_notebooks.py --recipe classic       (make run RECIPE=classic)

`--data`, `--recipe` and `--epochs` reach every notebook that has such a parameter. What 04_train trains here is what
the notebooks after it use, whatever else is trained meanwhile.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from alexnet_cifar10.data import DataError, load_images
from alexnet_cifar10.notebook.parameters import ParameterError, check_parameters, literal
from alexnet_cifar10.recipes import RECIPES, choose_recipe
from alexnet_cifar10.runs import Run, new_folder, runs_root
from alexnet_cifar10.runs.report import PROGRESS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = tuple(sorted(path.stem for path in (ROOT / "notebooks").glob("0?_*.ipynb")))
TRAINING = "04_train"


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    os.chdir(ROOT)
    os.environ.pop("MPLBACKEND", None)  # the kernels would show no pictures
    asked = {"data": options.data or "auto", "recipe": options.recipe, "epochs": literal(options.epochs or "None")}
    asked = {name: value for name, value in asked.items() if value is not None}
    try:
        check_parameters(asked, *asked)  # what 04 would refuse is refused here, before 01 begins
        provenance = load_images(asked["data"]).provenance
        output_folder = new_folder(runs_root() / "notebooks", f"{datetime.now():%Y%m%d-%H%M%S}")
    except (ParameterError, DataError, OSError, ValueError) as error:  # of RUNS_ROOT, say
        advice = ". Set RUNS_ROOT to a folder that can be written." if isinstance(error, OSError) else ""
        print(f"Nothing was run. {error}{advice}", file=sys.stderr)
        return 1

    print(provenance)
    print(f"\nNotebooks to run: {', '.join(options.notebooks)}")
    run = None
    if TRAINING in options.notebooks:
        recipe = choose_recipe(options.recipe, provenance.dataset, epochs=asked.get("epochs"))
        run = Run(runs_root() / f"{recipe.name}-{provenance.dataset}-{output_folder.name}")
        asked["run_name"] = run.name
        how_long = f"{'at most ' if recipe.patience is not None else ''}{recipe.epochs}"
        print(f"Training in {TRAINING}: recipe {recipe.name}, epochs: {how_long}")
    print("Other choices: make run RECIPE=classic EPOCHS=55 DATA=cifar10\n", flush=True)
    seconds: dict[str, float] = {}
    results: dict[str, str] = {}
    for name in options.notebooks:
        output = output_folder / f"{name}.ipynb"
        print(f"[{len(seconds) + 1}/{len(options.notebooks)}] {name}", flush=True)
        started = time.monotonic()
        reason = execute(f"notebooks/{name}.ipynb", output, asked, show_output=name == TRAINING)
        seconds[name] = time.monotonic() - started
        if reason:
            print(
                f"\n{name} stopped after {clock(seconds[name])}, {reason}\n"
                f"The notebook as far as it came: {shown(output)}",
                file=sys.stderr,
            )
            return 1
        results[name] = result_of(output)
        print(f"      done in {clock(seconds[name])}", flush=True)
    print_summary(seconds, results, output_folder, run)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Execute the notebooks in order into runs/notebooks/.")
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=f"only these, of: {', '.join(NOTEBOOKS)}")
    parser.add_argument("--data", help="auto, cifar10 or digits")
    parser.add_argument("--recipe", help=f"how 04_train trains: {', '.join(RECIPES)}")
    parser.add_argument("--epochs", help="how long 04_train trains")
    options = parser.parse_args(arguments)
    options.notebooks = options.notebooks or list(NOTEBOOKS)
    if missing := [name for name in options.notebooks if not (ROOT / "notebooks" / f"{name}.ipynb").is_file()]:
        parser.error(f"no notebook is called {', '.join(missing)}; write, for example, {TRAINING}")
    return options


def execute(notebook: str, output: Path, asked: dict[str, Any], show_output: bool, tries: int = 2) -> str:
    """Execute one notebook; return why it stopped before its end, or "" if it did not."""
    known = papermill.inspect_notebook(notebook)
    try:
        with signs_of_life() as terminal:
            papermill.execute_notebook(
                notebook,
                output,
                {name: value for name, value in asked.items() if name in known},
                kernel_name="python3",  # the one of this environment, whatever the notebook was last saved with
                progress_bar=False,
                stdout_file=terminal if show_output else None,
                # else every kernel warns on stderr that it talks to this process over TCP, which is local, and on a
                # busy machine one may report the interrupt that ends it
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
    except PapermillExecutionError as error:
        first_line = error.source.strip().partition("\n")[0]
        return f"in its cell [{error.exec_count}], which begins with: {first_line}\n{error.ename}: {error.evalue}"
    except DeadKernelError:
        return "as its kernel died: most often the memory was full. Close other programs, then run it again."
    except RuntimeError as error:  # nothing has run yet: another process took a port that was free a second before
        if tries and "Kernel died before replying" in str(error):
            return execute(notebook, output, asked, show_output, tries - 1)
        raise
    return ""


class Terminal:
    """Passes the progress lines of a notebook on, and remembers when it last did."""

    def __init__(self) -> None:
        self.unfinished = ""
        self.last = time.monotonic()

    def write(self, text: str) -> None:
        *lines, self.unfinished = (self.unfinished + text).split("\n")
        for line in lines:
            if line.startswith(PROGRESS):
                self.show(line)

    def flush(self) -> None:
        """papermill calls it after each write."""

    def show(self, line: str) -> None:
        print(f"      {line}", flush=True)
        self.last = time.monotonic()


@contextmanager
def signs_of_life(every: float = 60) -> Iterator[Terminal]:
    """A terminal for a notebook's output, on which a line appears also when the notebook is silent for long."""
    terminal, started, end = Terminal(), time.monotonic(), threading.Event()

    def watch() -> None:
        while not end.wait(min(every, 1)):
            if time.monotonic() - terminal.last >= every:
                terminal.show(f"... {clock(time.monotonic() - started)}, still at work")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield terminal
    finally:
        end.set()
        watcher.join()


def result_of(executed: Path) -> str:
    """The last line of the cell with the tag "result", without what it says about the data; "" if there is none."""
    cells = nbformat.read(executed, as_version=4).cells
    outputs = [output for cell in cells if "result" in cell.metadata.get("tags", []) for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs).strip().rpartition("\n")[2].partition(";")[0]


def print_summary(seconds: dict[str, float], results: dict[str, str], output_folder: Path, run: Run | None) -> None:
    width = max(len(name) for name in seconds) + 2
    print(f"\n{'notebook':<{width}} {'time':>6}  result")
    for name, duration in (*seconds.items(), ("together", sum(seconds.values()))):
        print(f"{name:<{width}} {clock(duration):>6}  {results.get(name, '')}".rstrip())
    print(f"\nThe executed notebooks: {shown(output_folder)}{os.sep}")
    if run is None:
        return
    record = run.read_record()
    result, data = record["result"], record["data"]
    print(
        f"The training run: {shown(run.path)}{os.sep}\n"
        f"Best validation accuracy: {result['best_valid_accuracy']:.3f}, in epoch {result['best_epoch']} of "
        f"{result['epochs']}, on {data['label']}, seed {record['seed']}."
    )
    if data["dataset"] != "cifar10":
        print("This is not CIFAR-10, and no number here is about it. README.md tells where to put its files.")
    elif record["recipe"]["name"] != "classic":
        print("The original tutorial's own training, which takes hours without a GPU: make run RECIPE=classic")
    print("Look next: make lab, which opens the first notebook.")


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def shown(path: Path) -> str:
    """The path as a reader in the repository root would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a console that lacks a character shows ? in its place
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f"\nInterrupted. What was executed so far: {shown(runs_root() / 'notebooks')}", file=sys.stderr)
        sys.exit(130)
