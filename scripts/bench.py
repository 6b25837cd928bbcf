"""How fast the original's loop, ours and a bare one train and evaluate on this machine; a JSON and a picture of it.

    .venv/bin/python scripts/bench.py            (make bench)

All ways take turns in one process, round after round: other work of the machine slows all of them. Stated are the
median, lowest and highest of the rounds. The time does not depend on what the images show: without CIFAR-10 the digits
are measured.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import ToTensor

from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.data import ImageDataset, load_images
from alexnet_cifar10.device import autocast, autocast_dtype, deterministic, memory_format, pick_device, seed_everything
from alexnet_cifar10.evaluate import evaluate
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.optim import make_optimizer
from alexnet_cifar10.plots import BLUE, GREY, ORANGE
from alexnet_cifar10.recipes import CLASSIC, FAST, Recipe
from alexnet_cifar10.runs import describe_machine, git_commit, machine, runs_root
from alexnet_cifar10.train import train_one_epoch

ORIGINAL_EPOCHS = 24  # after which the original stopped
PRODUCT_SIZE = 3072  # rows and columns of the matrices that the machine's own rate is measured with
TRAIN_IMAGES, VALID_IMAGES = 40_000, 10_000  # of an epoch of the tutorial


class PilDataset(Dataset):
    """What `torchvision.datasets.CIFAR10` does for each image, as the original used it: PIL, then `ToTensor`."""

    def __init__(self, images: ImageDataset) -> None:
        self.images = images
        self.transform = ToTensor()

    def __len__(self) -> int:
        return len(self.images.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images.data[index])), self.images.targets[index]


class Bench:
    """The ways of training, each as a function of a number of images -> (training seconds, evaluation seconds)."""

    def __init__(self, images: ImageDataset, device: torch.device) -> None:
        self.images = images
        self.device = device
        self.precision = autocast_dtype(device)

    def first(self, count: int) -> ImageDataset:
        """The first `count` images; from the start again where there are fewer."""
        chosen = [i % len(self.images.targets) for i in range(count)]
        return ImageDataset(self.images.data[chosen], [self.images.targets[i] for i in chosen], self.images.classes)

    def original(self, count: int) -> tuple[float, float]:
        """The original's loop: one image after the other through PIL, batches of 16, `loss.item()` after each step."""
        data = PilDataset(self.first(count))
        train_loader = DataLoader(data, batch_size=CLASSIC.batch_size, shuffle=True)
        valid_loader = DataLoader(data, batch_size=CLASSIC.batch_size)
        model = AlexNet().to(self.device)
        optimizer = Adam(model.parameters(), lr=CLASSIC.learning_rate)

        def learn() -> None:
            model.train()
            total = 0.0
            for images, labels in train_loader:
                images, labels = images.to(self.device), labels.to(self.device)
                loss = F.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()

        def validate() -> None:
            model.eval()
            right, total = 0, 0.0
            with torch.no_grad():
                for images, labels in valid_loader:
                    images, labels = images.to(self.device), labels.to(self.device)
                    logits = model(images)
                    total += F.cross_entropy(logits, labels).item()
                    right += (logits.argmax(dim=1) == labels).sum().item()

        return seconds(learn), seconds(validate)

    def bare(self, count: int) -> tuple[float, float]:
        """CLASSIC's steps with nothing around them: what `train_one_epoch` and `evaluate` may cost at least."""
        train_loader, valid_loader = self.loaders(CLASSIC, count)
        model = AlexNet().to(self.device, memory_format=memory_format(self.device))
        optimizer = Adam(model.parameters(), lr=CLASSIC.learning_rate)

        def learn() -> None:
            model.train()
            for images, labels in train_loader:
                loss = F.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss.item()

        def validate() -> None:
            model.eval()
            with torch.inference_mode():
                right = [(model(images).argmax(dim=1) == labels).sum() for images, labels in valid_loader]
            sum(right).item()

        return seconds(learn), seconds(validate)

    def recipe(self, recipe: Recipe, count: int) -> tuple[float, float]:
        """Our own functions as `train` calls them, but for the files that it writes after each epoch."""
        learn, validate = self.work(recipe, count)
        with deterministic(self.device):
            return seconds(learn), seconds(validate)

    def work(self, recipe: Recipe, count: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """To train on `count` images, and to evaluate them: each returns when the device is done."""
        train_loader, valid_loader = self.loaders(recipe, count)
        model = AlexNet(recipe.dropout).to(self.device, memory_format=memory_format(self.device))
        precision = self.precision if recipe.autocast else torch.float32
        optimizer = make_optimizer(model, recipe, precision)
        scaler = GradScaler(self.device.type, init_scale=1024, enabled=precision == torch.float16)

        def learn() -> None:
            train_one_epoch(model, train_loader, optimizer, None, scaler, precision, recipe.label_smoothing)

        def validate() -> None:
            with autocast(self.device, precision):
                evaluate(model, valid_loader, self.device)

        return learn, validate

    def loaders(self, recipe: Recipe, count: int) -> tuple[DeviceLoader, DeviceLoader]:
        data = self.first(count)
        valid_loader = DeviceLoader(data, batch_size=250, device=self.device)
        return training_batches(data, None, recipe, device=self.device), valid_loader

    def product_rate(self, precision: torch.dtype) -> float:
        """Operations per second of this machine's product of two square matrices; an addition counts as one."""
        a, b = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=self.device).to(precision) for _ in range(2))

        def multiply() -> None:
            for _ in range(8):
                c = a @ b
            c[0, 0].item()

        multiply()
        return 8 * 2 * PRODUCT_SIZE**3 / seconds(multiply)


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def operations_per_image(batch_size: int = 16) -> float:
    """Multiplications and additions of one training step, forward and backward, for each image."""
    model: nn.Module = AlexNet()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(batch_size, 3, 32, 32)).sum().backward()
    return counter.get_total_flops() / batch_size


def summary(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


def measure(bench: Bench, images: int, rounds: int) -> dict[str, Any]:
    ways = {"original": bench.original, "bare": bench.bare}
    ways |= {recipe.name: partial(bench.recipe, recipe) for recipe in (CLASSIC, FAST)}
    train_rates: dict[str, list[float]] = {name: [] for name in ways}
    valid_rates: dict[str, list[float]] = {name: [] for name in ways}
    products: list[float] = []
    for way in ways.values():
        way(min(256, images))  # the first call chooses algorithms and takes memory
    for number in range(rounds):
        names = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]  # who is first changes
        for name in names:
            seed_everything(number)
            train_seconds, valid_seconds = ways[name](images)
            train_rates[name].append(images / train_seconds)
            valid_rates[name].append(images / valid_seconds)
        products.append(bench.product_rate(bench.precision))
        print(f"round {number + 1}: " + ", ".join(f"{name} {train_rates[name][-1]:.0f}" for name in ways), flush=True)

    def minutes(name: str, epochs: int) -> list[float]:
        """Of so many epochs, round by round."""
        rates = zip(train_rates[name], valid_rates[name], strict=True)
        return [epochs * (TRAIN_IMAGES / train + VALID_IMAGES / valid) / 60 for train, valid in rates]

    def ratio(some: list[float], others: list[float]) -> dict[str, float]:
        return summary([one / other for one, other in zip(some, others, strict=True)])

    operations = operations_per_image()
    original, fast = minutes("original", ORIGINAL_EPOCHS), minutes("fast", FAST.epochs)
    return {
        "training_images_per_second": {name: summary(values) for name, values in train_rates.items()},
        "evaluation_images_per_second": {name: summary(values) for name, values in valid_rates.items()},
        "minutes": {
            f"original, {ORIGINAL_EPOCHS} epochs": summary(original),
            f"classic, {ORIGINAL_EPOCHS} epochs": summary(minutes("classic", ORIGINAL_EPOCHS)),
            f"fast, {FAST.epochs} epochs": summary(fast),
        },
        "ratios": {
            "original / fast, time to result": ratio(original, fast),
            "original / classic, an epoch": ratio(minutes("original", 1), minutes("classic", 1)),
            "classic / bare, an epoch": ratio(minutes("classic", 1), minutes("bare", 1)),
        },
        "operations_per_image": operations,
        "product_rate": summary(products),
        "share_of_product_rate": summary(
            [operations * rate / product for rate, product in zip(train_rates["fast"], products, strict=True)]
        ),
    }


def measure_growth(bench: Bench, images: int, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Images per second that `fast` trains, by number of images, batch size and threads."""
    threads = torch.get_num_threads()
    rates: dict[str, dict[str, list[float]]] = {"images": {}, "batch_size": {}, "threads": {}}

    def note(kind: str, value: int, recipe: Recipe, count: int) -> None:
        rates[kind].setdefault(str(value), []).append(count / bench.recipe(recipe, count)[0])

    for _ in range(rounds):
        for count in (images // 4, images // 2, images):
            note("images", count, FAST, count)
        for batch_size in (16, 64, 256, 1024):
            note("batch_size", batch_size, replace(FAST, batch_size=batch_size), images)
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            note("threads", count, FAST, images // 2)
        torch.set_num_threads(threads)
    return {kind: {value: summary(rate) for value, rate in values.items()} for kind, values in rates.items()}


def peak_memory(device: torch.device) -> float | None:
    """Gigabytes that this process held at most; on a graphics card, those on the card."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1e9 if sys.platform == "darwin" else 1e6)


def draw(report: dict[str, Any], path: Path) -> None:
    figure, ((left, middle, right), below) = plt.subplots(2, 3, figsize=(11, 6.4), layout="constrained")
    figure.suptitle(describe_machine(report["machine"]), fontsize=10)
    for axis, key, title in (
        (left, "training_images_per_second", "Training"),
        (middle, "evaluation_images_per_second", "Evaluation"),
        (right, "minutes", "Time to the result"),
    ):
        values = report[key]
        colours = [
            ORANGE if name.startswith("fast") else BLUE if name.startswith("classic") else GREY for name in values
        ]
        names, middles, errors = error_bars(values)
        bars = axis.barh([name.replace(", ", ",\n") for name in names], middles, xerr=errors, color=colours, capsize=3)
        axis.bar_label(bars, [f"{value:.0f}" for value in middles], padding=6, fontsize=9)
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.set(title=title, xlabel="minutes" if key == "minutes" else "images per second")
    for axis, (kind, values) in zip(below, report["growth"].items(), strict=True):
        names, middles, errors = error_bars(values)
        axis.errorbar(names, middles, yerr=errors, color=ORANGE, marker="o", capsize=3)
        axis.set(title=f"fast, by {kind.replace('_', ' ')}", ylabel="images per second", ylim=(0, 1.2 * max(middles)))
        axis.margins(x=0.15)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def error_bars(values: dict[str, dict[str, float]]) -> tuple[list[str], list[float], list[list[float]]]:
    """Names, medians, and how far below and above them the lowest and the highest lie."""
    below = [value["median"] - value["lowest"] for value in values.values()]
    above = [value["highest"] - value["median"] for value in values.values()]
    return list(values), [value["median"] for value in values.values()], [below, above]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure this machine.")
    parser.add_argument("--images", type=int, default=2048, help="trained and evaluated each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--output", type=Path, default=runs_root() / "bench", help="the folder for JSON and picture"
    )
    options = parser.parse_args(arguments)
    device = pick_device()
    here = machine(device)
    print(describe_machine(here), flush=True)
    data = load_images("auto")
    bench = Bench(data.train, device)
    report = {
        "machine": here,
        "precision_of_fast": str(bench.precision).removeprefix("torch."),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "images": options.images,
        "rounds": options.rounds,
        **measure(bench, options.images, options.rounds),
        "growth": measure_growth(bench, options.images, max(1, options.rounds // 2)),
        "peak_memory_gb": peak_memory(device),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    name = f"{here['accelerator'] or here['processor']} {here['threads']} threads".lower()
    name = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (options.output / f"{name}.json").write_text(text, encoding="utf-8")
    draw(report, options.output / f"{name}.png")
    for key in ("training_images_per_second", "evaluation_images_per_second", "minutes", "ratios"):
        print(f"\n{key.replace('_', ' ')}")
        for what, value in report[key].items():
            print(f"  {what:34} {value['median']:8.2f}   ({value['lowest']:.2f} to {value['highest']:.2f})")
    share = report["share_of_product_rate"]
    print(
        f"\nA step of fast reaches {share['median']:.0%} ({share['lowest']:.0%} to {share['highest']:.0%}) of the rate "
        f"of {report['precision_of_fast']} matrix products, {report['product_rate']['median'] / 1e9:.0f} billion "
        f"operations per second.\nKept: {options.output}/{name}.json and .png"
    )
    return 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a console that lacks a character shows ? in its place
    sys.exit(main())
