"""The training loop: epochs, validation, early stopping, best and last checkpoint, resume."""

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from alexnet_cifar10.checkpoints import (
    CheckpointError,
    Run,
    find_run,
    load_state,
    save_checkpoint,
    save_state,
    write_text,
)
from alexnet_cifar10.data import ImageSet, Provenance, stratified_split
from alexnet_cifar10.environment import (
    autocast,
    autocast_dtype,
    describe_machine,
    deterministic,
    git_commit,
    is_smoke_run,
    runs_root,
    seed_everything,
    versions,
)
from alexnet_cifar10.evaluation import evaluate
from alexnet_cifar10.loaders import DeviceLoader
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.optimizers import Muon
from alexnet_cifar10.recipes import DEFAULTS, Recipe, choose_recipe

__all__ = [
    "Monitor",
    "TrainingError",
    "find_or_train_run",
    "make_optimizer",
    "make_scaler",
    "one_cycle",
    "train",
    "train_one_epoch",
]

NOT_FINITE = "not a finite number. A lower learning_rate often helps."

# TensorBoard's charts: who writes, under which name, which column of history.csv. One name from two writers is one
# chart with two lines. "by epoch" heads a group of charts; nothing else in the page tells what it calls "Step". The
# rate is not in that group, so that the two charts that matter stand first, side by side; their names are cut off if
# longer.
CURVES = (
    ("valid", "by epoch/accuracy (0 to 1)", "valid_accuracy"),
    ("train", "by epoch/loss per image", "train_loss"),
    ("valid", "by epoch/loss per image", "valid_loss"),
    ("train", "learning rate by epoch", "lr"),
)


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says where, why and what to do."""


@dataclass
class Monitor:
    """Best model and early stopping, from two numbers an epoch: the original tutorial's rules.

    The best model is the one with the highest validation accuracy. Training stops when the validation loss has been
    above its lowest value for more than `patience` epochs in a row (never, if that is None); `trigger` counts them.
    """

    patience: int | None
    min_loss: float = math.inf
    max_accuracy: float = -1.0
    best_epoch: int = 0
    trigger: int = 0

    def update(self, epoch: int, valid_loss: float, valid_accuracy: float) -> None:
        if valid_accuracy > self.max_accuracy:
            self.max_accuracy, self.best_epoch = valid_accuracy, epoch
        if valid_loss > self.min_loss:
            self.trigger += 1
        else:
            self.min_loss, self.trigger = valid_loss, 0

    @property
    def should_stop(self) -> bool:
        return self.patience is not None and self.trigger > self.patience


def train_one_epoch(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    optimizer: Optimizer,
    after_step: Callable[[int], None] = lambda seen: None,
    *,
    label_smoothing: float = 0.0,
    precision: torch.dtype = torch.float32,
    scaler: GradScaler | None = None,
) -> float:
    """Learn once from every image of `loader`; return the training loss, mean per image in nats.

    `after_step` is called with the number of images seen so far. `label_smoothing`, 0..1, is the share of each label
    that goes to all classes alike; it counts in the loss that is returned. `precision` is the type that
    convolutions and matrix products are computed in; float16 needs a `scaler`, or small gradients become 0. Raises
    `TrainingError`, with the step, when a loss is not a finite number.
    """
    device = next(model.parameters()).device
    scaler = scaler or GradScaler(device.type, enabled=False)
    model.train()
    losses, sizes, seen = [], [], 0
    for images, labels in loader:
        if len(labels) == 1:
            continue  # a last batch of one image: BatchNorm cannot take the variance of one value
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        with autocast(device, precision):
            loss = F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())
        sizes.append(len(labels))
        seen += len(labels)
        after_step(seen)
        if device.type == "cpu" and not math.isfinite(loss.item()):
            break  # on an accelerator a look at every loss would wait for it, so there the epoch runs to its end
    return _mean_per_image(losses, sizes)


def _mean_per_image(losses: list[Tensor], sizes: list[int]) -> float:
    """Mean over images of losses that are means over batches of these sizes."""
    if not losses:
        raise TrainingError("no training step was made: training needs at least two images.")
    values = torch.stack(losses).cpu().double()
    not_finite = (~values.isfinite()).nonzero()
    if len(not_finite):
        step = int(not_finite[0])
        raise TrainingError(f"the training loss of step {step + 1} is {values[step].item()}, {NOT_FINITE}")
    return float(values @ torch.tensor(sizes).double()) / sum(sizes)


def train(
    model: nn.Module,
    train_loader: DataLoader | DeviceLoader,
    valid_loader: DataLoader | DeviceLoader,
    recipe: Recipe,
    *,
    provenance: Provenance,
    seed: int = 42,
    run_name: str | None = None,
    resume: bool = False,
) -> Run:
    """Train `model` on the device it is on, and keep everything in the run folder that is returned.

    After each epoch the folder holds the best and the last checkpoint, the history and all that resuming needs. An
    interrupt (Ctrl-C, the stop button) ends training at the next batch; what the completed epochs gave stays.
    With `resume`, a run that exists goes on after its last completed epoch as if it had never stopped: to the last bit
    the same numbers, on the same machine with the same versions and number of threads. Nothing is promised for others.

    `train_loader` makes the recipe's batches, flips, shifts and cutouts, in an order that `seed` fixes, and `model` has
    its dropout; they are not set here. What is trained in 16 bits is also validated in them.

    Raises `TrainingError` when they differ from the recipe, when the run exists and `resume` is False, when the run to
    resume was another one, when another process trains into its folder, or when a loss is not finite; and
    `CheckpointError` when a file of the run is damaged, or cannot be written.
    """
    train_images = len(train_loader.sampler)
    if recipe.epochs < 1:
        raise TrainingError(f"epochs = {recipe.epochs}: training needs at least one epoch.")
    if recipe.batch_size > train_images:
        raise TrainingError(f"batch_size = {recipe.batch_size}: there are only {train_images} training images.")
    if len(valid_loader.sampler) == 0:
        raise TrainingError("there are no validation images: the best model could not be told.")
    _refuse_unless_made_for(recipe, seed, model, train_loader)
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)
    precision = autocast_dtype(device) if recipe.autocast else torch.float32
    optimizer = make_optimizer(model, recipe, precision)
    scheduler = _make_scheduler(optimizer, recipe, steps=recipe.epochs * len(train_loader))
    each_step = recipe.schedule == "one-cycle"
    scaler = make_scaler(device, precision)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    if scaler.is_enabled():
        parts["scaler"] = scaler
    monitor = Monitor(recipe.patience)
    history: list[dict[str, float]] = []
    settings = {
        "recipe": recipe.as_record(),
        "seed": seed,
        "data": {"label": provenance.label, **asdict(provenance)},
        "train_images": train_images,
        "valid_images": len(valid_loader.sampler),
    }
    run = _name_run(run_name, settings, resume)
    with _only_process(run), deterministic(device):
        if run.training_state.exists():
            _refuse_unless_same(run, settings, resume)
            monitor, history = _load_training_state(run, parts)
        elif run.has_epochs():
            raise TrainingError(
                f"the run {run.name!r} exists, and it is not overwritten. It cannot go on either, for its "
                f"{run.training_state.name} is not there: train under another run_name."
            )
        elif resume:
            print(f"There is no run {run.name!r} to go on with: it begins now.")

        def done() -> bool:
            return len(history) >= recipe.epochs or monitor.should_stop

        log = _RunLog(run, settings, history, device, precision, done())
        try:
            while not done():
                epoch = len(history) + 1
                seed_everything(seed, epoch)  # an epoch's order of images and dropout depend on these two alone
                if hasattr(train_loader.sampler, "set_epoch"):
                    train_loader.sampler.set_epoch(epoch)
                lr = optimizer.param_groups[0]["lr"]
                show_progress = log.start_epoch(epoch)

                def after_step(seen: int) -> None:
                    if each_step:
                        scheduler.step()
                    show_progress(seen)

                train_loss = train_one_epoch(
                    model,
                    train_loader,
                    optimizer,
                    after_step,
                    label_smoothing=recipe.label_smoothing,
                    precision=precision,
                    scaler=scaler,
                )
                with autocast(device, precision):
                    valid = evaluate(model, valid_loader, device)
                if not math.isfinite(valid.loss):
                    raise TrainingError(f"the validation loss is {valid.loss}, {NOT_FINITE}")
                monitor.update(epoch, valid.loss, valid.accuracy)
                if not each_step:
                    scheduler.step(valid.loss)

                row = {
                    "epoch": epoch,
                    "train_loss": train_loss,
                    "valid_loss": valid.loss,
                    "valid_accuracy": valid.accuracy,
                    "lr": lr,
                    "seconds": round(log.seconds_in_epoch(), 3),
                }
                if monitor.best_epoch == epoch:
                    save_checkpoint(model.state_dict(), run.best_checkpoint)
                save_checkpoint(model.state_dict(), run.last_checkpoint)
                state = {name: part.state_dict() for name, part in parts.items()}
                save_state({**state, "monitor": asdict(monitor), "history": [*history, row]}, run.training_state)
                history.append(row)  # not before: an epoch counts when it is saved, whenever an interrupt comes
                log.end_epoch(history, monitor)
            log.finish("finished", history, monitor)
        except KeyboardInterrupt:
            log.finish("interrupted", history, monitor)
        except TrainingError as error:
            log.finish("failed", history, monitor)
            kept = f"The checkpoints of epoch {len(history)} are kept" if history else "No epoch was completed"
            raise TrainingError(f"Run {run.name!r}, epoch {len(history) + 1}: {error} {kept}.") from error
        finally:
            log.close()
    return run


def _refuse_unless_made_for(
    recipe: Recipe, seed: int, model: nn.Module, train_loader: DataLoader | DeviceLoader
) -> None:
    """`train` sets none of these values; a record that names others than there were would not be true."""
    wanted = {**vars(recipe), "seed": seed}
    made = {"batch_size": train_loader.batch_size, "seed": getattr(train_loader.sampler, "seed", seed)}
    made |= {key: getattr(train_loader, key, DEFAULTS[key]) for key in ("flip", "shift", "cutout")}
    if isinstance(model, AlexNet):
        made["dropout"] = tuple(model.dropout)
    for key, value in made.items():
        if value != wanted[key]:
            maker = "AlexNet" if key == "dropout" else "DeviceLoader"
            raise TrainingError(
                f"a run of the recipe {recipe.name!r} with seed {seed} has {key} = {wanted[key]}, here it is {value}: "
                f"{maker}({key}={wanted[key]}, ...) makes what it needs."
            )


def make_optimizer(model: nn.Module, recipe: Recipe, precision: torch.dtype) -> Optimizer:
    """The recipe's optimiser of all weights of `model`, whose products are computed in `precision`."""
    if recipe.optimizer == "adam":
        return Adam(model.parameters(), lr=recipe.learning_rate)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    hidden = {id(parameter) for parameter in matrices[1:-1]}  # Muon is not for the first and the last layer
    groups = [
        {
            "params": [p for p in parameters if id(p) in hidden],
            "orthogonal": recipe.optimizer == "muon",
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in parameters if id(p) not in hidden]},
    ]
    # float16 has too small a range for it
    precision = torch.bfloat16 if precision == torch.bfloat16 else torch.float32
    return Muon(groups, lr=recipe.learning_rate, momentum=recipe.momentum, precision=precision)


def make_scaler(device: torch.device, precision: torch.dtype) -> GradScaler:
    """What float16 needs, so that small gradients do not become 0; for other types it does nothing."""
    return GradScaler(device.type, init_scale=1024, enabled=precision == torch.float16)


def one_cycle(step: int, steps: int, warm_up: float) -> float:
    """Share of the highest learning rate, 0..1, at step 0 ... `steps` - 1: up in a straight line, and down in another.

    `warm_up` is the share of the steps that goes up. After Smith and Topin, "Super-Convergence", 2017.
    """
    rise = max(1, round(warm_up * steps))
    return min((step + 1) / rise, (steps - step) / (steps - rise + 1))


def _make_scheduler(optimizer: Optimizer, recipe: Recipe, steps: int) -> LambdaLR | ReduceLROnPlateau:
    if recipe.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, mode="min", factor=recipe.plateau_factor, patience=recipe.plateau_patience)
    return LambdaLR(optimizer, lambda step: one_cycle(step, steps, recipe.warm_up))


def _name_run(run_name: str | None, settings: dict[str, Any], resume: bool) -> Run:
    """The run called `run_name`; without a name the newest one to resume, or else a new one."""
    root = runs_root()
    latest = root / "latest"
    if run_name is None and resume and latest.exists():
        run_name = latest.read_text(encoding="utf-8").strip()
    if run_name is None:
        dataset = "cifar10" if settings["data"]["dataset"] == "CIFAR-10" else "digits"
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        run_name = f"{settings['recipe']['name']}-{dataset}-seed{settings['seed']}-{now}"
    return Run(root / run_name)


def _refuse_unless_same(run: Run, settings: dict[str, Any], resume: bool) -> None:
    """Let a run that exists be continued by the same settings only; more epochs are welcome if the schedule lets them.

    Compared is what was written down: an older run's recipe has fewer values, and the defaults stand in for them.
    """
    if not resume:
        raise TrainingError(
            f"the run {run.name!r} exists, and it is not overwritten. To go on with it: resume = True. To train anew "
            "beside it: another run_name, or None for a new name."
        )

    def flat(record: dict[str, Any]) -> dict[str, Any]:
        data = {"data": record["data"]["dataset"], "digests of the data": record["data"].get("digests")}
        counts = {key: record.get(key) for key in ("seed", "train_images", "valid_images")}
        recipe = {**DEFAULTS, **(record.get("recipe") or {"name": None})}
        if settings["recipe"]["schedule"] == "plateau":
            recipe.pop("epochs", None)
        return {**recipe, **data, **counts}

    was, now = flat(run.read_record()), flat(settings)
    changed = [f"{key} was {was[key]!r}, now {now.get(key)!r}" for key in was if was[key] != now.get(key)]
    if changed:
        raise TrainingError(
            f"the run {run.name!r} cannot be resumed with other settings: {'; '.join(changed)}. Set them back, or "
            "train anew under another run_name."
        )


def _load_training_state(run: Run, parts: dict[str, Any]) -> tuple[Monitor, list[dict[str, float]]]:
    """Put model, optimiser and schedule where the run stood; return its monitor and history."""
    state = load_state(run.training_state)
    try:
        for name, part in parts.items():
            if name != "scaler" or name in state:  # it is not when the run began on a device without float16
                part.load_state_dict(state[name])
        return Monitor(**state["monitor"]), list(state["history"])
    except Exception as error:  # of another program, or of another network: KeyError, TypeError, RuntimeError, ...
        raise CheckpointError(
            f"{run.training_state} is not the state of this network's training ({type(error).__name__}: {error}). "
            "Go on with the network that it was saved from, or train anew under another run_name."
        ) from error


@contextmanager
def _only_process(run: Run) -> Iterator[None]:
    """Hold the run folder against other processes; the system frees it when its owner dies, however it dies."""
    lock = FileLock(run.path / ".lock", timeout=0)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise TrainingError(
            f"another process is training into the run {run.name!r}: wait for it, or choose another run_name."
        ) from error
    except OSError as error:
        raise TrainingError(
            f"the run folder {run.path} cannot be written ({error.strerror}): set the environment variable RUNS_ROOT "
            "to a folder that can."
        ) from error
    try:
        yield
    finally:
        lock.release()


class _RunLog:
    """What a run says about itself while it trains: progress lines, history.csv, run.json, TensorBoard."""

    def __init__(
        self,
        run: Run,
        settings: dict[str, Any],
        history: list[dict[str, float]],
        device: torch.device,
        precision: torch.dtype,
        done: bool,
    ) -> None:
        self.run = run
        self.epochs: int = settings["recipe"]["epochs"]
        self.train_images: int = settings["train_images"]
        self.valid_images: int = settings["valid_images"]
        here_and_now = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": device.type,
            "machine": describe_machine(device),
            "threads": torch.get_num_threads(),
            "precision": str(precision).removeprefix("torch."),
            "versions": versions(),
            "git_commit": git_commit(),
        }
        if not history:
            self.record = {"run_name": run.name, "status": "running", **settings, **here_and_now}
        else:
            self.record = run.read_record()
            if not done:  # it goes on: with more epochs, or on another machine, or with other versions
                resumed = [*self.record.get("resumed", []), {"epoch": len(history) + 1, **here_and_now}]
                self.record |= {"status": "running", **settings, "resumed": resumed}
        for leftover in run.path.glob(".*.partial"):  # of a process that was killed while it wrote
            leftover.unlink()
        run.write_record(self.record)
        run.write_history(history)
        write_text(run.path.parent / "latest", run.name + "\n")
        # history.csv holds all that TensorBoard shows, so its files are written anew: no point is there twice
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        self.writers = {half: SummaryWriter(run.tensorboard / half) for half in ("train", "valid")}
        self._log_settings(settings["recipe"])
        self.estimated = False
        self.show = _status_line()
        for row in history:
            self._log_scalars(row)
            print(self._line(row), flush=True)

    def start_epoch(self, epoch: int) -> Callable[[int], None]:
        """Start the clock; return what is to be called after each step with the number of images seen."""
        self.epoch_started = shown = time.perf_counter()

        def after_step(seen: int) -> None:
            nonlocal shown
            now = time.perf_counter()
            self.rate = seen / (now - self.epoch_started)
            if now - shown < 1:
                return
            shown = now
            left = (self.train_images - seen) / self.rate
            share = seen / self.train_images
            self.show(f"epoch {epoch}: {share:4.0%} of it, {self.rate:.0f} images/s, {_duration(left)} to validation")
            if not self.estimated and now - self.epoch_started > 10:
                self.estimated = True
                # validation is a forward pass only: about a third of the work an image
                an_epoch = (self.train_images + self.valid_images / 3) / self.rate
                print(
                    f"About {_duration(an_epoch)} an epoch on this machine, at most "
                    f"{_duration(an_epoch * (self.epochs - epoch + 1))} in all. Stop whenever you like: the best "
                    "model is kept.",
                    flush=True,
                )

        return after_step

    def seconds_in_epoch(self) -> float:
        return time.perf_counter() - self.epoch_started

    def end_epoch(self, history: list[dict[str, float]], monitor: Monitor) -> None:
        self._log_scalars(history[-1])
        self.run.write_history(history)
        self._write_result("running", history, monitor)
        trigger = f"  trigger {monitor.trigger}" if monitor.trigger else ""
        print(f"{self._line(history[-1])}  {self.rate:.0f} images/s{trigger}", flush=True)

    def finish(self, status: str, history: list[dict[str, float]], monitor: Monitor) -> None:
        self.run.write_history(history)  # once more: an interrupt may have come before it was written
        self._write_result(status, history, monitor)
        result = self.record["result"]
        epochs = _epochs(len(history))
        self.show(f"{epochs} in {_duration(result['seconds'])}")
        best = ""
        if history:
            best = f"best validation accuracy {result['best_valid_accuracy']:.3f} in epoch {result['best_epoch']}"
        if status == "interrupted":
            kept = f"what {epochs} gave is kept ({best})" if history else "no epoch was completed yet"
            print(f"Stopped: {kept}. To go on: resume = True with run_name = {self.run.name!r}.")
        elif status == "finished":
            why = "early, the validation loss no longer falls" if monitor.should_stop else "all its epochs are done"
            print(f"Finished ({why}): {best}. {self.record['data']['label']}; run {self.run.name!r}.")

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()

    def _line(self, row: dict[str, float]) -> str:
        return (
            f"Epoch {row['epoch']:2d}/{self.epochs}  train loss {row['train_loss']:.3f}  "
            f"valid loss {row['valid_loss']:.3f}  valid accuracy {row['valid_accuracy']:.3f}  "
            f"lr {row['lr']:.0e}  {_duration(row['seconds'])}"
        )

    def _log_settings(self, recipe: dict[str, Any]) -> None:
        """For the table in TensorBoard's tab HParams: what each run was, beside what it reached.

        No more columns than fit: the results stand to the right of them.
        """
        shown = {"recipe": recipe["name"], "batch_size": recipe["batch_size"], "learning_rate": recipe["learning_rate"]}
        texts = {key: str(value) for key, value in shown.items()}  # as numbers they would be 16.000 and 0.0010000
        experiment, start, _ = hparams(texts, {chart: None for writer, chart, _ in CURVES if writer == "valid"})
        for summary in (experiment, start):
            self.writers["valid"].file_writer.add_summary(summary)

    def _log_scalars(self, row: dict[str, float]) -> None:
        for writer, chart, column in CURVES:
            self.writers[writer].add_scalar(chart, row[column], row["epoch"])
        for writer in self.writers.values():
            writer.flush()

    def _write_result(self, status: str, history: list[dict[str, float]], monitor: Monitor) -> None:
        # from the history, for an interrupt may leave the monitor one epoch ahead of what is saved
        best = max(history, key=lambda row: row["valid_accuracy"], default={"epoch": 0, "valid_accuracy": None})
        self.record["status"] = status
        self.record["result"] = {
            "epochs": len(history),
            "best_epoch": best["epoch"],
            "best_valid_accuracy": best["valid_accuracy"],
            "stopped_early": monitor.should_stop,
            "seconds": round(sum(row["seconds"] for row in history), 3),
        }
        self.run.write_record(self.record)


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


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


def find_or_train_run(images: ImageSet, device: torch.device, run_name: str | None = None) -> Run:
    """The run called `run_name`, or the newest on these images; where there is none, a short one is trained now."""
    run = find_run(images.provenance.dataset, run_name)
    if run is not None:
        return run
    train_indices, valid_indices = stratified_split(images.train.targets)
    train_indices, valid_indices = train_indices[:4000], valid_indices[:1000]
    recipe = choose_recipe("classic", epochs=None if is_smoke_run() else 2)
    print(
        f"There is no run on {images.provenance.dataset} yet, so a short one is trained now ({_epochs(recipe.epochs)}, "
        f"{len(train_indices)} images): enough to go on, not to be good. For a real one, run 04_train."
    )
    seed_everything(42)
    model = AlexNet(recipe.dropout).to(device)
    train_loader = DeviceLoader(images.train, train_indices, batch_size=recipe.batch_size, device=device, shuffle=True)
    valid_loader = DeviceLoader(images.train, valid_indices, batch_size=250, device=device)
    return train(model, train_loader, valid_loader, recipe, provenance=images.provenance)
