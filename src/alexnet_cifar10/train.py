"""Training: one epoch, the loop over epochs, which model is the best, when to stop."""

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from alexnet_cifar10.batches import MADE_WITH, DeviceLoader
from alexnet_cifar10.device import autocast, autocast_dtype, deterministic, memory_format, seed_everything
from alexnet_cifar10.evaluate import evaluate
from alexnet_cifar10.model import whiten
from alexnet_cifar10.optim import make_optimizer, make_schedule
from alexnet_cifar10.parallel import in_step, of_all, on_first, rank, share, world
from alexnet_cifar10.recipes import Recipe
from alexnet_cifar10.runs import TrainingError, TrainingRun, here_and_now


def train(
    model: nn.Module, train_loader: DeviceLoader, valid_loader: DeviceLoader, recipe: Recipe, run: TrainingRun
) -> None:
    """Train `model` on the device it is on; `run` keeps what each epoch gives, and goes on where it had stopped.

    Each of several processes that `parallel.together` has joined calls it, and trains with its share of every batch.
    After Ctrl-C or the stop button all completed epochs are kept. A resumed run gives the numbers of one that never
    stopped, to the last bit, on the same machine with the same versions and number of threads (tested on CPUs and an
    H100; on MPS nobody promises it). Raises `TrainingError` when the run cannot begin or go on, or a loss is not
    finite, and `CheckpointError` for its files.
    """
    device = next(model.parameters()).device
    precision = autocast_dtype(device) if recipe.autocast else torch.float32
    with run.recording(), deterministic(device):
        on_first(run.begin, _made_of(recipe, model, train_loader, valid_loader), here_and_now(device, precision))
        if recipe.whitening:
            whiten(model, train_loader.images[:256])
        model.to(memory_format=memory_format(device))
        optimizer = make_optimizer(model, recipe, precision)
        schedule = make_schedule(optimizer, recipe, steps=recipe.epochs * len(train_loader))
        scaler = GradScaler(device.type, init_scale=1024, enabled=precision == torch.float16)
        monitor = Monitor(recipe.patience)
        by_step = schedule if recipe.schedule == "one-cycle" else None
        state = {"model": model, "optimizer": optimizer, "scheduler": schedule, "scaler": scaler, "monitor": monitor}
        history = on_first(run.load, state)
        ddp = in_step(model, state)  # `model` itself where this process is alone
        while len(history) < recipe.epochs and not monitor.should_stop:
            epoch, began, lr = len(history) + 1, time.perf_counter(), optimizer.param_groups[0]["lr"]
            seed_everything(train_loader.seed, epoch, rank())  # for dropout: a resumed run draws the same as another
            train_loader.set_epoch(epoch)  # for order, flips, shifts and cutouts
            batches = share(run.progress(train_loader, epoch))
            train_loss = train_one_epoch(ddp, batches, optimizer, by_step, scaler, precision, recipe.label_smoothing)
            with autocast(device, precision):
                valid = on_first(evaluate, model, valid_loader, device)
            _refuse_unless_finite(valid.loss, "validation loss")
            monitor.update(epoch, valid.loss, valid.accuracy)
            if by_step is None:
                schedule.step(valid.loss)
            row = {"epoch": epoch, "train_loss": train_loss, "valid_loss": valid.loss, "valid_accuracy": valid.accuracy}
            row |= {"lr": lr, "seconds": round(time.perf_counter() - began, 3)}
            history = on_first(run.save, row, is_best=monitor.best_epoch == epoch, trigger=monitor.trigger)


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    scaler: GradScaler,
    precision: torch.dtype,
    label_smoothing: float = 0.0,
) -> float:
    """Learn once from every image; return the training loss, mean per image in nats, smoothing included.

    `schedule` is stepped after each batch. Raises `TrainingError`, with the step, for a loss that is not finite.
    """
    device = next(model.parameters()).device
    model.train()
    losses, sizes = [], []
    for images, labels in batches:
        with autocast(device, precision):
            loss = F.cross_entropy(model(images.to(device)), labels.to(device), label_smoothing=label_smoothing)
        loss, mean, size = of_all(loss, len(labels))  # of all processes; one that is alone gets back what it gave
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # float16 needs the scaler, or small gradients become 0; else it does nothing
        scaler.step(optimizer)
        scaler.update()
        if schedule is not None:
            schedule.step()
        losses.append(mean)
        sizes.append(size)
        if device.type == "cpu" and not mean.isfinite():
            break  # on an accelerator a look at each loss would wait for it, so there the epoch runs to its end
    return _mean_per_image(losses, sizes)


@dataclass
class Monitor:
    """Best model and early stopping, from two numbers per epoch: the original tutorial's rules.

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

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


def _mean_per_image(losses: list[Tensor], sizes: list[int]) -> float:
    """Mean over images of losses that are means over batches of these sizes."""
    values, images = torch.stack(losses).cpu().double(), torch.tensor(sizes).double()
    for step, value in enumerate(values.tolist(), start=1):
        _refuse_unless_finite(value, f"training loss of step {step}")
    return float(values @ images / images.sum())


def _refuse_unless_finite(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise TrainingError(f"the {what} is {value}, not a finite number. A lower learning_rate often helps.")


def _made_of(
    recipe: Recipe, model: nn.Module, train_loader: DeviceLoader, valid_loader: DeviceLoader
) -> dict[str, Any]:
    """For `run.json`: the recipe, with the values of the very loader and model that are trained with."""
    images = len(train_loader.labels)
    if train_loader.batch_size > images:
        raise TrainingError(f"batch_size = {train_loader.batch_size}: at most {images} with {images} training images.")
    if train_loader.batch_size < 2 * world():
        raise TrainingError(f"batch_size = {train_loader.batch_size}: at least two for each of {world()} processes.")
    own_statistics = world() > 1 and next(model.parameters()).device.type == "cpu"
    dropout = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    return {
        "recipe": {**recipe.as_record(), **{key: getattr(train_loader, key) for key in MADE_WITH}, "dropout": dropout},
        "seed": train_loader.seed,
        "train_images": images,
        "valid_images": len(valid_loader.labels),
        "processes": world(),
        "batch_norm": "over each process's share" if own_statistics else "over the whole batch",
    }
