"""What a run says about itself while it trains: a line per epoch, a status line, TensorBoard's curves."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from alexnet_cifar10 import say

PROGRESS = ("Epoch ", "Finished ", "Stopped: ")  # how the lines begin that are printed below

# TensorBoard's charts: who writes, under which name, which column of history.csv. One name from two writers is one
# chart with two lines. "by epoch" heads a group, and tells what the page calls "Step"; the rate is not in it, so that
# the two charts that matter stand first, side by side. Longer names are cut off.
CURVES = (
    ("valid", "by epoch/accuracy (0 to 1)", "valid_accuracy"),
    ("train", "by epoch/loss per image", "train_loss"),
    ("valid", "by epoch/loss per image", "valid_loss"),
    ("train", "learning rate by epoch", "lr"),
)


class Report:
    """Prints the epochs of a run, and writes them for TensorBoard into `folder`, which is written anew."""

    def __init__(self, folder: Path, record: dict[str, Any], history: list[dict[str, float]]) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        recipe = record["recipe"]
        self.epochs, self.images = recipe["epochs"], record["train_images"]
        self.rate, self.show = 0.0, _status_line()
        shutil.rmtree(folder, ignore_errors=True)  # history.csv holds all that is shown: no point is there twice
        self.writers = {half: SummaryWriter(folder / half) for half in ("train", "valid")}
        # The tab HParams: what each run was, beside what it reached. As numbers they would be 16.000 and 0.0010000.
        shown = {"recipe": recipe["name"], **{key: str(recipe[key]) for key in ("batch_size", "learning_rate")}}
        experiment, start, _ = hparams(shown, {chart: None for writer, chart, _ in CURVES if writer == "valid"})
        for summary in (experiment, start):
            self.writers["valid"].file_writer.add_summary(summary)
        for row in history:
            self.add(row)

    def progress(self, batches: Iterable[tuple[Tensor, Tensor]], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pass batches on, and show how far the epoch is and how long it takes."""
        began = shown = time.perf_counter()
        seen = 0
        for images, labels in batches:
            yield images, labels
            now, seen = time.perf_counter(), seen + len(labels)
            self.rate = seen / (now - began)
            if now - shown > 1:
                shown, left = now, _duration((self.images - seen) / self.rate)
                done = f"{seen / self.images:4.0%} of epoch {epoch} of {self.epochs}"
                self.show(f"{done}, {self.rate:.0f} images/s, {left} to validation")

    def add(self, row: dict[str, float], trigger: int = 0) -> None:
        """One epoch: its line, and its points in TensorBoard."""
        for writer, chart, column in CURVES:
            self.writers[writer].add_scalar(chart, row[column], row["epoch"])
        for writer in self.writers.values():
            writer.flush()
        say(
            f"Epoch {row['epoch']:2d}/{self.epochs}  train loss {row['train_loss']:.3f}  "
            f"valid loss {row['valid_loss']:.3f}  valid accuracy {row['valid_accuracy']:.3f}  "
            f"lr {row['lr']:.0e}  {_duration(row['seconds'])}"
            + (f"  {self.rate:.0f} images/s" if self.rate else "")
            + (f"  trigger {trigger}" if trigger else "")
        )

    def close(self) -> None:
        self.show("The training has ended.")
        for writer in self.writers.values():
            writer.close()


def last_words(record: dict[str, Any], label: str, no_longer_falls: bool) -> str:
    """The last line of a run that finished or was interrupted; `label` says which images its numbers are about."""
    result, name = record["result"], record["run_name"]
    best = f"best validation accuracy {result['best_valid_accuracy'] or 0:.3f} in epoch {result['best_epoch']}"
    epochs = "1 epoch" if result["epochs"] == 1 else f"{result['epochs']} epochs"
    kept = f"what {epochs} gave is kept ({best})" if result["epochs"] else "no epoch was completed yet"
    if record["status"] == "interrupted":
        return f"Stopped: {kept}. To go on: resume = True with run_name = {name!r}."
    why = "early" if result["stopped_early"] else "all its epochs are done"
    why += ", the validation loss no longer falls" if no_longer_falls else ""
    return f"Finished ({why}): {best}. {label}; run {name!r}."


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _status_line() -> Callable[[str], None]:
    """A line that is written over in place: in a notebook an output that is updated; elsewhere nothing is shown."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "kernel"):
        return lambda text: None
    handle = ipython.display.display({"text/plain": ""}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)
