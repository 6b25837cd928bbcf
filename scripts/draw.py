"""Draw the pictures of the README and of the notebooks: images/*.png.

python scripts/draw.py

Shapes and counts come from the model and the loaders, figures from the records in results/: no number is typed here.
A notebook brings its picture along, because neither Colab nor a JupyterLab that was started in notebooks/ can see this
folder. It stands in the last line of its cell, and the script renews it there, too.
"""

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate, groupby
from pathlib import Path
from statistics import mean
from typing import Any

import ledger
import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon
from PIL import Image, ImageDraw
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from alexnet_cifar10.batches import DeviceLoader
from alexnet_cifar10.data import load_images, stratified_split
from alexnet_cifar10.data.cifar10 import LAYOUTS
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.plots import BLUE, GREEN, GREY, ORANGE
from alexnet_cifar10.recipes import CLASSIC
from alexnet_cifar10.runs import Run

ROOT = Path(__file__).resolve().parent.parent
CLASSIC_RUN = Run(ROOT / "results" / "classic-42")

# All lengths below are pixels of a picture that is shown 800 of them wide. It is stored larger, for sharp screens, and
# its smallest letters are 17 high, so that a phone, which shows it half as large, still leaves something to read.
WIDTH, STORED = 800, 1.5
TITLE, TEXT, SMALL = 25, 20, 17
INK, FAINT = "black", "#555555"


# --- pens and paper -----------------------------------------------------------------------------------------------


def paper(height: float) -> Axes:
    """An empty white sheet; x goes from 0 to WIDTH, and y from 0 at the top to `height`."""
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    axis.axis("off")
    return axis


def points(pixels: float) -> float:
    """What matplotlib measures letters in: a point is 1/72 inch, and an inch has 100 pixels here."""
    return pixels * 0.72


def write(axis: Axes, x: float, y: float, text: str, size: float = TEXT, **style: Any) -> None:
    """Text of letters `size` high; y is the middle of the capitals of its first line."""
    for i, line in enumerate(text.split("\n")):
        axis.text(x, y + (0.36 + 1.35 * i) * size, line, fontsize=points(size), **{"color": INK} | style)


def chart(sheet: Axes, left: float, top: float, right: float, bottom: float, **labels: Any) -> Axes:
    """Axes on a sheet, in its pixels."""
    height = sheet.get_ylim()[0]
    box = (left / WIDTH, 1 - bottom / height, (right - left) / WIDTH, (bottom - top) / height)
    axis = sheet.figure.add_axes(box, **labels)
    axis.xaxis.label.set(fontsize=points(SMALL))
    axis.tick_params(which="both", labelsize=points(SMALL), color=GREY)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return axis


def tint(colour: str, strength: float) -> tuple[float, ...]:
    """The colour on white: 1 leaves it as it is, 0 leaves nothing of it."""
    return tuple(1 - strength * (1 - part) for part in to_rgb(colour))


def panel(
    axis: Axes, left: float, top: float, right: float, bottom: float, colour: str, fill: float = 0.12, radius: float = 8
) -> None:
    """A box with round corners, its edge in the colour and its inside in a tint of it."""
    corner, size = (left + radius, top + radius), (right - left - 2 * radius, bottom - top - 2 * radius)
    style = f"round,pad={radius},rounding_size={radius}"
    face = tint(colour, fill)
    axis.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, facecolor=face, edgecolor=colour, linewidth=1.2))


def arrow(axis: Axes, *corners: tuple[float, float], colour: str = FAINT) -> None:
    """A line through the corners, with a head at the last."""
    *line, (x, y) = corners
    before = line[-1]
    length = math.hypot(x - before[0], y - before[1])
    along = ((x - before[0]) / length, (y - before[1]) / length)
    neck = (x - 11 * along[0], y - 11 * along[1])
    style = {"linewidth": 1.8, "solid_capstyle": "butt", "solid_joinstyle": "round"}
    axis.plot(*zip(*line, neck, strict=True), color=colour, **style)
    across = (-6 * along[1], 6 * along[0])
    head = [(x, y), (neck[0] + across[0], neck[1] + across[1]), (neck[0] - across[0], neck[1] - across[1])]
    axis.add_patch(Polygon(head, facecolor=colour, edgecolor="none"))


def spaced(number: int) -> str:
    """1234567 as 1 234 567, and 1234 as 1234."""
    return str(number) if number < 10_000 else f"{number:,}".replace(",", " ")


# --- the network --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    name: str
    layers: tuple[str, ...]
    shape: tuple[int, ...]  # of what comes out, for one image
    parameters: int


WORDS = {
    nn.BatchNorm1d: "BatchNorm",
    nn.BatchNorm2d: "BatchNorm",
    nn.Dropout: "dropout",
    nn.Linear: "linear",
    nn.MaxPool2d: "max-pool",
    nn.ReLU: "ReLU",
    torch.relu: "ReLU",
}
# What in `AlexNet.forward` is no block of its own belongs to one of the two linear layers.
BELONGS = {
    "flatten": "linear1",
    "dropout1": "linear1",
    "batch_norm": "linear1",
    "dropout2": "linear2",
    "relu": "linear2",
}


def stages() -> list[Stage]:
    """The image, then all that `AlexNet.forward` does to it, in its order."""
    network = fx.symbolic_trace(AlexNet().eval())
    ShapeProp(network).propagate(torch.zeros(1, 3, 32, 32))
    image, *nodes, _ = network.graph.nodes

    def shape_of(node: fx.Node) -> tuple[int, ...]:
        return tuple(node.meta["tensor_meta"].shape[1:])

    def stage_of(node: fx.Node) -> str:
        part = str(node.target).split(".")[0] if node.op == "call_module" else node.name
        return BELONGS.get(part, part)

    def describe(node: fx.Node) -> tuple[str, int]:
        if node.op != "call_module":
            return WORDS.get(node.target, f"{node.name} to {spaced(math.prod(shape_of(node)))}"), 0
        layer = network.get_submodule(node.target)
        word = "conv " + "×".join(map(str, layer.kernel_size)) if isinstance(layer, nn.Conv2d) else WORDS[type(layer)]
        return word, sum(parameter.numel() for parameter in layer.parameters())

    found = [Stage("image", (), shape_of(image), 0)]
    for name, group in groupby(nodes, stage_of):
        group = list(group)
        words, counts = zip(*map(describe, group), strict=True)
        found.append(Stage(name, words, shape_of(group[-1]), sum(counts)))
    return found


def ship() -> Image.Image:
    """What is sent through the network: a picture of our own, of the size of a CIFAR-10 image."""
    picture = Image.new("RGB", (32, 32), "#a9d0ea")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 22, 31, 31), "#2c6a94")
    pen.polygon(((2, 17), (29, 17), (25, 24), (6, 24)), "#b8402f")
    pen.rectangle((9, 11, 21, 16), "#f6f2e6")
    pen.rectangle((14, 4, 17, 10), "#333333")
    return picture


def fronts() -> dict[str, np.ndarray]:
    """The picture, and behind each block that channel of a network before training which varies most."""
    torch.manual_seed(0)
    maps = {"image": np.array(ship())}
    x = torch.from_numpy(maps["image"]).permute(2, 0, 1)[None] / 255
    for name, part in AlexNet((0.0,) * 5).named_children():
        if isinstance(part, nn.Sequential):
            x = part(x).detach()
            maps[name] = x[0, x[0].flatten(1).std(dim=1).argmax()].numpy()
    return maps


def block(axis: Axes, x: float, y: float, size: float, depth: float, colour: str, front: np.ndarray | None) -> None:
    """A box whose square front, around (x, y), shows `front`; the channels lie behind it, towards the upper right."""
    left, right, top, bottom = x - size / 2, x + size / 2, y - size / 2, y + size / 2
    up = depth / 4
    face = [(left, bottom), (right, bottom), (right, top), (left, top)]
    upper = [(left, top), (right, top), (right + depth, top - up), (left + depth, top - up)]
    side = [(right, bottom), (right + depth, bottom - up), (right + depth, top - up), (right, top)]
    for corners, fill in ((face, 0.75), (upper, 0.55), (side, 0.35)):
        edge = {"edgecolor": INK, "linewidth": min(0.8, size / 8), "joinstyle": "round"}
        axis.add_patch(Polygon(corners, facecolor=tint(colour, fill), **edge))
    if front is not None:
        place = {"extent": (left, right, bottom, top), "aspect": "auto", "zorder": 2}
        axis.imshow(front, cmap="Blues", interpolation="nearest", **place)


def network() -> Figure:
    rows, top, wide = 76, 72, 2  # a pixel is this wide
    found, pictures = stages(), fronts()
    axis = paper(top + rows * len(found) + 58)
    total = spaced(sum(stage.parameters for stage in found))
    write(axis, 24, 34, f"AlexNet for 32×32 images: {total} parameters", TITLE, weight="bold")
    for i, stage in enumerate(found):
        y = top + rows * (i + 0.5)
        channels, side = (stage.shape + (1,))[:2]
        colour = GREY if i == 0 else BLUE if len(stage.shape) == 3 else ORANGE
        block(axis, 58, y, wide * side, wide * channels / 10, colour, pictures.get(stage.name))
        if i:
            arrow(axis, (58, y - rows + 35), (58, y - 24))
        write(axis, 176, y - 13, stage.name, family="monospace", weight="bold")
        write(axis, 176, y + 14, ", ".join(stage.layers), SMALL, color=FAINT)
        below = f"{spaced(stage.parameters)} parameters" if i else "channels × height × width"
        write(axis, 776, y - 13, " × ".join(map(str, stage.shape)), ha="right", weight="bold")
        write(axis, 776, y + 14, below, SMALL, ha="right", color=FAINT)
    note = (
        "Drawn to scale: ten channels are as deep as a pixel is wide.\n"
        "On the fronts: the picture, and one channel of what each block makes of it before training."
    )
    write(axis, 24, top + rows * len(found) + 12, note, SMALL, color=FAINT)
    return axis.figure


# --- the data's way -----------------------------------------------------------------------------------------------


def data() -> Figure:
    # counts as the run counted them, and shapes as the loaders make them of any image set
    record = CLASSIC_RUN.read_record()
    training, validation = record["train_images"], record["valid_images"]
    whole = training + validation
    test = whole // sum(name.startswith("data_batch") for name in record["data"]["digests"])  # files of one size
    split = stratified_split([i % 10 for i in range(whole)])
    assert [len(part) for part in split] == [training, validation]
    images = load_images("digits").train
    loader = DeviceLoader(images, range(4), batch_size=4, device=torch.device("cpu"))
    batch, labels = next(iter(loader))
    pixels = ", ".join(map(str, images.data.shape[1:]))
    layout = LAYOUTS[0]

    axis = paper(680)
    left, right, gap = 24, 776, 12
    scale = (right - left - 2 * gap) / (whole + test)
    cut1 = left + training * scale  # the right edge of the training images
    cut2 = cut1 + gap + validation * scale  # ... and of the validation images
    lanes = ((left, cut1, BLUE), (cut1 + gap, cut2, ORANGE), (cut2 + gap, right, GREY))
    middles = [(start + end) / 2 for start, end, _ in lanes]
    write(axis, 24, 34, "CIFAR-10, from the archive to mini-batches", TITLE, weight="bold")

    panel(axis, left, 68, right, 122, GREY)
    write(axis, left + 18, 95, f"the archive, {layout.size / 1e6:.0f} MB", weight="bold")

    for x in (middles[0], middles[2]):
        arrow(axis, (x, 128), (x, 170))
    write(axis, middles[0] + 16, 148, "is its digest right? then unpack", SMALL, color=FAINT)

    panel(axis, left, 176, cut2, 268, GREY)
    write(axis, left + 18, 206, "train", weight="bold", family="monospace")
    write(axis, left + 18, 240, f"{images.data.dtype} [{spaced(whole)}, {pixels}], 0..255")
    panel(axis, cut2 + gap, 176, right, 268, GREY)
    write(axis, middles[2], 206, "test", ha="center", weight="bold", family="monospace")
    write(axis, middles[2], 240, f"[{spaced(test)}, …]", SMALL, ha="center")

    for x in middles:
        arrow(axis, (x, 274), (x, 316))
    write(axis, middles[0] + 16, 294, "stratified split", SMALL, color=FAINT)

    names = ("training", "validation", "test")
    for (start, end, colour), name, count in zip(lanes, names, (training, validation, test), strict=True):
        panel(axis, start, 322, end, 402, colour)
        write(axis, (start + end) / 2, 348, name, SMALL + 1, ha="center", weight="bold")
        write(axis, (start + end) / 2, 378, spaced(count), ha="center")

    for x in middles:
        arrow(axis, (x, 408), (x, 450))
    write(axis, middles[0] + 16, 428, "a batch at a time", SMALL, color=FAINT)

    for start, end, colour in lanes:
        slices = round((end - start) / 25)
        wide = (end - start + 5) / slices
        for i in range(slices):
            panel(axis, start + i * wide, 456, start + (i + 1) * wide - 5, 502, colour, fill=0.35, radius=3)

    uses = ("to learn from,\nshuffled anew each time through", "to choose by", "to judge by,\nonce")
    for x, use in zip(middles, uses, strict=True):
        write(axis, x, 524, use, SMALL, ha="center", color=FAINT)
    shape = ", ".join(["B", *map(str, batch.shape[1:])])
    of = [str(tensor.dtype).removeprefix("torch.") for tensor in (batch, labels)]
    panel(axis, left, 580, right, 662, GREY, fill=0)
    write(axis, WIDTH / 2, 606, f"each batch: {of[0]} [{shape}] in 0..1, labels {of[1]} [B]", TEXT - 1, ha="center")
    words = f"B: images in a batch; {of[0]}: decimal numbers; {of[1]}: whole numbers"
    write(axis, WIDTH / 2, 638, words, SMALL, ha="center", color=FAINT)
    return axis.figure


# --- notebook 3: a kernel over channels, and how far a value sees ---------------------------------------------------


def cells(axis: Axes, left: float, top: float, size: float, rows: int, columns: int, colour: str, fill: float) -> None:
    """A grid of square cells, `size` pixels wide."""
    for row in range(rows):
        for column in range(columns):
            x, y = left + size * column, top + size * row
            corners = ((x, y), (x + size, y), (x + size, y + size), (x, y + size))
            axis.add_patch(Polygon(corners, facecolor=tint(colour, fill), edgecolor=colour, linewidth=0.8))


def kernel() -> Figure:
    weight = AlexNet().conv_block1[0].weight
    outputs, channels, k, _ = weight.shape
    each, row = k * k, 116
    axis = paper(92 + row * channels + 92)
    write(axis, 24, 34, f"One kernel over {channels} channels", TITLE, weight="bold")
    for x, word in ((24, "the image"), (232, "the kernel"), (604, "its channel")):
        write(axis, x, 74, word, SMALL, color=FAINT)
    middle = 92 + row * channels / 2
    for i, (name, colour) in enumerate(zip(("red", "green", "blue"), (ORANGE, GREEN, BLUE), strict=True)):
        y = 92 + row * i
        cells(axis, 24, y, 16, 6, 6, colour, 0.1)
        cells(axis, 24 + 32, y + 16, 16, k, k, colour, 0.6)
        write(axis, 128, y + 48, name, SMALL, color=FAINT)
        write(axis, 196, y + 48, "×", TITLE)
        cells(axis, 232, y + 15, 22, k, k, colour, 0.6)
        write(axis, 310, y + 48, f"{each} products", SMALL)
        arrow(axis, (408, y + 48), (436, middle + 14 * (i - 1)))
    panel(axis, 440, middle - 34, 556, middle + 34, GREY)
    write(axis, 498, middle - 12, f"sum of {each * channels}", SMALL, ha="center")
    write(axis, 498, middle + 14, "+ bias", SMALL, ha="center")
    arrow(axis, (560, middle), (598, middle))
    cells(axis, 604, middle - 48, 16, 6, 6, GREY, 0.1)
    cells(axis, 604 + 48, middle - 16, 16, 1, 1, INK, 0.8)
    write(axis, 710, middle, f"× {outputs}", TITLE)
    note = (
        f"The window moves on, and the same {each * channels} weights write the next number.\n"
        f"{outputs} such kernels, each with its bias, write {outputs} channels."
    )
    write(axis, 24, 92 + row * channels + 24, note, SMALL, color=FAINT)
    return axis.figure


def field() -> Figure:
    layers = (("convolution 3×3", 3, 1), ("pooling 3×3, stride 2", 3, 2), ("convolution 3×3", 3, 1))
    half, gap, middle, top, row = 7, 22, 376, 84, 84  # dots on each side of the middle one, and lengths
    axis = paper(top + row * len(layers) + 40)
    write(axis, 24, 34, "What one value sees, in a row of pixels", TITLE, weight="bold")
    write(axis, 24, top, "pixels", SMALL)
    apart, seen = [1], 1  # how many pixels lie from one value to the next, layer by layer
    for i, (name, size, stride) in enumerate(layers, 1):
        seen += (size - 1) * apart[-1]
        apart.append(apart[-1] * stride)
        write(axis, 24, top + row * i, name, SMALL)
        write(axis, 576, top + row * i - 11, f"sees {seen} pixels", SMALL, weight="bold")
        write(axis, 576, top + row * i + 12, f"neighbours {apart[-1]} apart", SMALL, color=FAINT)
    needed = {0}  # places that the middle value of the last layer comes from, layer by layer backwards
    for i in range(len(layers), -1, -1):
        y, before = top + row * i, set()
        for at in needed if i else ():
            for step in range(-(layers[i - 1][1] // 2), layers[i - 1][1] // 2 + 1):
                before.add(at + step * apart[i - 1])
                ends = (middle + gap * at, middle + gap * (at + step * apart[i - 1]))
                axis.plot(ends, (y, y - row), color=tint(BLUE, 0.5), linewidth=1.2)
        for at in range(-half, half + 1):
            if at % apart[i] == 0:
                colour = BLUE if at in needed else GREY
                axis.plot(middle + gap * at, y, "o", color=colour, markersize=points(13), zorder=3)
        needed = before
    return axis.figure


# --- the training loop --------------------------------------------------------------------------------------------


def loop() -> Figure:
    record, recipe = CLASSIC_RUN.read_record(), CLASSIC
    steps = math.ceil(record["train_images"] / recipe.batch_size)
    each_batch = (
        ("forward", "images → logits"),
        ("loss", "logits, labels → how wrong, in one number"),
        ("zero_grad", "forget the last gradients"),
        ("backward", "a gradient for every weight"),
        ("step", "move every weight a little"),
    )
    low = "epochs no new low of the loss"
    each_epoch = (
        ("validate", f"in eval(), {spaced(record['valid_images'])} other images: loss, accuracy"),
        ("keep", "best accuracy so far? save the weights"),
        ("slow down", f"for {recipe.plateau_patience + 1} {low}: rate × {recipe.plateau_factor}"),
        ("stop", f"for {recipe.patience + 1} {low}?"),
    )
    axis = paper(766)
    write(axis, 24, 34, f"The training loop of the recipe {recipe.name}", TITLE, weight="bold")

    def rows(top: float, lines: Sequence[tuple[str, str]], colour: str) -> list[float]:
        middles = [top + 54 * i + 22 for i in range(len(lines))]
        for y, (name, what) in zip(middles, lines, strict=True):
            panel(axis, 138, y - 22, 744, y + 22, colour, fill=0)
            write(axis, 154, y, name, weight="bold")
            write(axis, 286, y, what, SMALL + 1)
        return middles

    panel(axis, 24, 66, 776, 686, ORANGE)
    write(axis, 138, 92, f"for every epoch: at most {recipe.epochs}", weight="bold", color=ORANGE)
    panel(axis, 80, 118, 760, 442, BLUE)
    batches = f"in train(), for every batch: {spaced(steps)} of {recipe.batch_size} images"
    write(axis, 138, 142, batches, weight="bold", color=BLUE)
    first, *_, last = rows(166, each_batch, BLUE)
    arrow(axis, (137, last), (109, last), (109, first), (137, first), colour=BLUE)
    *_, last = rows(458, each_epoch, ORANGE)
    arrow(axis, (137, last), (52, last), (52, 142), (79, 142), colour=ORANGE)
    write(axis, 95, last - 16, "no", SMALL, ha="center", color=FAINT)
    arrow(axis, (441, last + 23), (441, 714))
    write(axis, 455, 699, "yes", SMALL, color=FAINT)
    write(axis, 441, 736, f"{CLASSIC_RUN.best_checkpoint.name} has the weights of the best epoch", ha="center")
    return axis.figure


# --- notebook 6: a checkpoint, and numbers of 32 and 16 bits --------------------------------------------------------


def checkpoint() -> Figure:
    network = AlexNet()
    learned = {name for name, _ in network.named_parameters()}
    entries = network.state_dict()
    rows: dict[str, list[str]] = {}
    for key in entries:
        part = key.split(".")[0]
        rows.setdefault("linear1" if part == "batch_norm" else part, []).append(key)
    heads = ("weight", "bias", "weight", "bias", "running\nmean", "running\nvariance", "counter")
    edges = list(accumulate((116, 74, 74, 74, 92, 96, 84), initial=166))
    top, high = 138, 44
    axis = paper(top + high * len(rows) + 52)
    title = f"A checkpoint: {len(entries)} entries, and how many numbers each has"
    write(axis, 24, 34, title, TITLE - 2, weight="bold")
    write(axis, edges[0], 76, "conv or linear", SMALL, weight="bold")
    write(axis, edges[2], 76, "BatchNorm", SMALL, weight="bold")
    for x, head in zip(edges, heads, strict=False):
        write(axis, x, 100, head, SMALL, color=FAINT)
    colours = {True: (BLUE, 0.15), False: (ORANGE, 0.4)}
    for i, (name, keys) in enumerate(rows.items()):
        y = top + high * i
        write(axis, 24, y + high / 2, name, SMALL, family="monospace")
        for key, left, right in zip(keys, edges, edges[1:], strict=False):
            panel(axis, left, y + 3, right - 6, y + high - 3, *colours[key in learned], radius=4)
            write(axis, (left + right) / 2 - 3, y + high / 2, spaced(entries[key].numel()), SMALL, ha="center")
    y, others = top + high * len(rows) + 26, len(entries) - len(learned)
    for is_learned, x, words in ((True, 166, f"{len(learned)} learned"), (False, 340, f"{others} measured or counted")):
        panel(axis, x, y - 9, x + 18, y + 9, *colours[is_learned], radius=3)
        write(axis, x + 26, y, words, SMALL)
    return axis.figure


def bits() -> Figure:
    axis = paper(334)
    write(axis, 24, 34, "What the bits of a number are for", TITLE, weight="bold")
    for i, dtype in enumerate((torch.float32, torch.float16, torch.bfloat16)):
        information, x, y = torch.finfo(dtype), 124, 72 + 72 * i
        digits = -round(math.log2(information.eps))
        write(axis, 24, y + 15, str(dtype).removeprefix("torch."), SMALL, family="monospace", weight="bold")
        for count, colour in ((1, GREY), (information.bits - 1 - digits, ORANGE), (digits, BLUE)):
            write(axis, x + 10 * count - 1, y + 44, str(count), SMALL, ha="center", color=FAINT)
            for _ in range(count):
                panel(axis, x, y, x + 17, y + 30, colour, fill=0.45, radius=3)
                x += 20
    for x, colour, word in ((124, GREY, "sign"), (214, ORANGE, "range"), (314, BLUE, "precision: the digits")):
        panel(axis, x, 294, x + 17, 312, colour, fill=0.45, radius=3)
        write(axis, x + 26, 303, word, SMALL)
    return axis.figure


# --- which epoch to keep ------------------------------------------------------------------------------------------


def which_epoch() -> Figure:
    history, start = CLASSIC_RUN.read_history(), 10
    lowest = min(history, key=lambda row: row["valid_loss"])
    highest = max(history, key=lambda row: row["valid_accuracy"])
    candidates: dict[int, list[str]] = {}  # epoch -> all that it is
    for row, what in ((lowest, "lowest loss"), (highest, "highest accuracy"), (history[-1], "last")):
        candidates.setdefault(row["epoch"], []).append(what)
    axis = paper(546)
    write(axis, 24, 34, f"Which epoch of {CLASSIC_RUN.name} would you keep?", TITLE, weight="bold")
    label = CLASSIC_RUN.read_record()["data"]["label"]
    write(axis, 24, 66, f"{label}, validation images; epochs {start} to {len(history)}", SMALL, color=FAINT)
    panels = (("valid_loss", BLUE, "loss (nats per image)", 116), ("valid_accuracy", ORANGE, "accuracy", 284))
    for column, colour, name, top in panels:
        curve = chart(axis, 72, top, 768, top + 130, xlim=(start - 0.5, len(history) + 0.5))
        for epoch in candidates:
            curve.axvline(epoch, color=INK, linestyle="--", linewidth=1.5)
        epochs, values = zip(*((row["epoch"], row[column]) for row in history[start - 1 :]), strict=True)
        curve.plot(epochs, values, color=colour, linewidth=2.4, marker="o", markersize=4.5)
        curve.margins(y=0.15)
        curve.set_title(name, loc="left", fontsize=points(SMALL), color=colour, weight="bold")
        curve.set_xticks(epochs[::3])
        curve.tick_params(labelbottom=column == "valid_accuracy")
    curve.set_xlabel("epoch")
    for epoch, words in candidates.items():
        row, (x, _) = history[epoch - 1], curve.transData.transform((epoch, 0))
        write(axis, x, 486, f"epoch {epoch}: {', '.join(words)}", SMALL, ha="right")
        write(axis, x, 512, f"loss {row['valid_loss']:.3f}, accuracy {row['valid_accuracy']:.3f}", SMALL, ha="right")
    return axis.figure


# --- notebook 7: the same network, faster -------------------------------------------------------------------------

ENTRIES = ledger.read_entries(ROOT / "results")
TIMED = ledger.of_machine(ENTRIES, "classic")
STYLE = {"classic": (BLUE, "-"), "fast": (ORANGE, "--"), "fast-long": (GREEN, "-.")}


def runs_of(recipe: str) -> list[Run]:
    """The runs of a recipe as it stands, one for each seed."""
    return [entry.run for entry in TIMED if entry.kind == recipe]


def measured_on(entries: list[ledger.Entry]) -> str:
    """Data and machine of the runs that are drawn."""
    ((data, there, chip),) = {(entry.images[0], entry.machine, entry.chip) for entry in entries if entry.kind in STYLE}
    return f"{data}; {there.split(';')[0]}, no GPU" if "device: cpu" in there else f"{data}; {chip}"


def recipes() -> Figure:
    sheet = paper(560)
    write(sheet, 24, 34, "One network, three recipes", TITLE, weight="bold")
    write(sheet, 24, 66, f"{measured_on(TIMED)}; a line is a run", SMALL, color=FAINT)
    write(sheet, 24, 202, "validation accuracy", SMALL)
    axis = chart(sheet, 72, 224, 776, 490, xlabel="minutes of training (each line of the grid: twice the one before)")
    axis.set_xscale("log", base=2)
    axis.set_ylim(0.48, 0.96)
    for i, (name, (colour, line)) in enumerate(STYLE.items()):
        ends = []
        for run in runs_of(name):
            history = run.read_history()
            minutes = list(accumulate(row["seconds"] / 60 for row in history))
            accuracies = [row["valid_accuracy"] for row in history]
            axis.plot(minutes, accuracies, line, color=colour, linewidth=2, marker="o", markersize=3.5)
            ends.append((minutes[-1], max(accuracies)))
        minutes, best = (mean(values) for values in zip(*ends, strict=True))
        seeds = f"mean of {len(ends)} seeds" if len(ends) > 1 else "1 seed"
        y = 102 + 30 * i
        sheet.plot([24, 84], [y, y], line, color=colour, linewidth=2.4)
        text = f"{name}: {best:.3f} after {ledger.in_minutes(minutes)} minutes ({seeds})"
        write(sheet, 98, y, text, color=colour, weight="bold")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return sheet.figure


def longer() -> Figure:
    sheet = paper(470)
    write(sheet, 24, 34, "Two recipes, epoch by epoch", TITLE, weight="bold")
    write(sheet, 24, 66, f"{measured_on(TIMED)}; each recipe's first run", SMALL, color=FAINT)
    for column, words, left, right, limits, corner in (
        ("valid_loss", "validation loss, nats per image", 72, 385, (0.2, 1.0), "upper right"),
        ("valid_accuracy", "validation accuracy", 470, 776, (0.6, 0.96), "lower right"),
    ):
        write(sheet, left - 48, 104, words, SMALL)
        axis = chart(sheet, left, 126, right, 400, xlabel="epoch", xlim=(0, 26), ylim=limits)
        for name in ("classic", "fast-long"):
            colour, line = STYLE[name]
            history = runs_of(name)[0].read_history()
            values = [row[column] for row in history]
            axis.plot([row["epoch"] for row in history], values, line, color=colour, linewidth=2.2, label=name)
        axis.set_xticks(range(0, 26, 5))
        axis.legend(fontsize=points(SMALL), frameon=False, loc=corner)
    return sheet.figure


def ablation() -> Figure:
    rows = ledger.ablation(ENTRIES)
    bottom = 104 + 38 * len(rows)
    sheet = paper(bottom + 70)
    write(sheet, 24, 34, "What is lost without a value of fast", TITLE, weight="bold")
    there = measured_on(ledger.of_machine(ENTRIES, "fast"))
    write(sheet, 24, 66, f"{there}; a dot is a run", SMALL, color=FAINT)
    axis = chart(sheet, 290, 100, 776, bottom, xlabel="validation accuracy that is lost", ylim=(bottom, 100))
    axis.axvline(0, color=INK, linewidth=1)
    chance = ledger.by_chance(ENTRIES)
    axis.axvspan(-chance, chance, color=GREY, alpha=0.3, linewidth=0)
    write(sheet, 24, bottom + 24, "grey: what the seeds\nof fast differ by", SMALL, color=FAINT)
    for i, (key, usual, instead, _, gains) in enumerate(rows):
        y = 123 + 38 * i
        write(sheet, 24, y, ledger.in_its_place(key, usual, instead), SMALL)
        axis.plot(gains, [y] * len(gains), "o", color=BLUE, markersize=8, alpha=0.7)
    axis.set_yticks([])
    return sheet.figure


def batch_sizes() -> Figure:
    sheet, sizes = paper(470), ledger.by_batch_size(ENTRIES)
    usual = {size: rates[CLASSIC.learning_rate] for size, rates in sizes.items()}
    best = {size: rates[ledger.best_rate(rates)] for size, rates in sizes.items()}
    ((data, chip),) = {(entry.images[0], entry.chip) for same in usual.values() for entry in same}
    write(sheet, 24, 34, "Which batch size trains best?", TITLE, weight="bold")
    write(sheet, 24, 66, f"{data}; {chip}; a dot is a run, a line joins their means", SMALL, color=FAINT)
    write(sheet, 24, 104, "validation accuracy", SMALL)
    write(sheet, 430, 104, "seconds an epoch", SMALL)
    left, right = (chart(sheet, x, 126, x + 310, 400, xlabel="batch size") for x in (84, 474))
    for axis, runs, figure, colour, mark, line, label in (
        (left, best, "valid", BLUE, "o", "-", "best rate tried"),
        (left, usual, "valid", ORANGE, "s", "--", f"rate {CLASSIC.learning_rate}"),
        (right, usual, "seconds_per_epoch", GREY, "o", "-", None),
    ):
        values = {size: [getattr(entry, figure) for entry in same] for size, same in runs.items()}
        axis.plot(list(values), list(map(mean, values.values())), line, color=colour, linewidth=2.2, label=label)
        for size, dots in values.items():
            axis.plot([size] * len(dots), dots, mark, color=colour, markersize=7, alpha=0.7)
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(sizes), labels=map(str, sizes))
    left.legend(fontsize=points(SMALL), frameon=False)
    right.set_ylim(bottom=0)
    return sheet.figure


# --- files --------------------------------------------------------------------------------------------------------

PICTURES = (network, kernel, field, data, loop, checkpoint, bits, which_epoch, recipes, longer, ablation, batch_sizes)


def draw_all(folder: Path) -> list[Path]:
    """Write every picture into `folder`, as the function that draws it is called; return the files."""
    files = []
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever style the user has chosen
        for picture in PICTURES:
            files.append(folder / f"{picture.__name__}.png")
            pixels = BytesIO()
            picture().savefig(pixels, dpi=100 * STORED)
            # 256 colours are enough, and a third of the bytes; nothing is kept of when and by what it was drawn
            Image.open(pixels).convert("RGB").quantize(256).save(files[-1], optimize=True)
    return files


def embedded(file: Path) -> str:
    """The line of a Markdown cell that holds a picture; `![what is in it][name.png]` shows it."""
    return f"[{file.name}]: data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def renew_in_notebooks(files: Sequence[Path]) -> None:
    for notebook in (ROOT / "notebooks").glob("0*.ipynb"):
        text = before = notebook.read_text(encoding="utf-8")
        for file in files:
            text = re.sub(rf"\[{re.escape(file.name)}\]: data:image/png;base64,[\w+/=]*", embedded(file), text)
        if text != before:
            notebook.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    renew_in_notebooks(draw_all(ROOT / "images"))
