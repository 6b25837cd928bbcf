"""Figures from plain arrays. Colours are those of Okabe and Ito, which colour-blind readers can tell apart."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alexnet_cifar10.evaluate import wilson_interval

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


def plot_images(images: np.ndarray, titles: Sequence[str], title: str, columns: int = 8) -> Figure:
    """A grid of images [N, H, W, 3], uint8 or float in 0..1, each under its own title."""
    rows = -(-len(images) // columns)
    size = (1.25 * columns, 1.5 * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, name in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image)
        axis.set_title(name, fontsize=9)
    return figure


def plot_history(history: Sequence[dict[str, float]], title: str) -> Figure:
    """Losses and validation accuracy at the end of each epoch of `Run.read_history()`, and the rate during it."""
    figure, (losses, accuracy, rate) = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    figure.suptitle(title)
    epochs = [row["epoch"] for row in history]

    def draw(axis: plt.Axes, column: str, **style: str) -> None:
        axis.plot(epochs, [row[column] for row in history], marker="o", markersize=3, **style)

    draw(losses, "train_loss", color=BLUE, label="training")
    draw(losses, "valid_loss", color=ORANGE, linestyle="--", label="validation")
    losses.set(xlabel="epochs done", ylabel="cross-entropy (nats per image)", title="Loss")
    losses.legend()
    draw(accuracy, "valid_accuracy", color=ORANGE, linestyle="--")
    accuracy.set(xlabel="epochs done", ylabel="share predicted right", title="Validation accuracy")
    rate.stairs([row["lr"] for row in history], [0, *epochs], baseline=None, color=GREEN, linewidth=1.5)
    rate.set(xlabel="epochs done", ylabel="rate of the first step", title="Learning rate", yscale="log")
    for axis in (losses, accuracy, rate):
        axis.set_xlim(0, 1.03 * max(len(history), 1))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
    return figure


def plot_confusion(confusion: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """The counts [C, C] of images of class row predicted as class column, in percent of the row; the diagonal grey."""
    figure, axis = plt.subplots(figsize=(6.6, 6), subplot_kw={"facecolor": "lightgrey"}, layout="constrained")
    percent = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    mistakes = np.where(np.eye(len(classes)), np.nan, percent)
    axis.imshow(mistakes, cmap="YlOrBr", vmin=0)
    for row, column in np.argwhere(confusion):
        colour = "white" if mistakes[row, column] > 0.6 * np.nanmax(mistakes) else "black"
        axis.text(column, row, f"{percent[row, column]:.1f}", ha="center", va="center", fontsize=9, color=colour)
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axis.set_yticks(range(len(classes)), classes)
    axis.set(xlabel="predicted class (% of the true class)", ylabel="true class", title=title)
    return figure


def plot_probabilities(
    image: np.ndarray, probabilities: np.ndarray, label: int, classes: Sequence[str], title: str
) -> Figure:
    """An image [H, W, 3] beside the probabilities [C] of the classes; the bar of the predicted one is blue."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3), width_ratios=(1, 2), layout="constrained")
    figure.suptitle(title)
    left.imshow(image)
    left.set_title(f"true class: {classes[label]}")
    left.axis("off")
    predicted = int(np.argmax(probabilities))
    right.barh(classes, probabilities, color=[BLUE if i == predicted else GREY for i in range(len(classes))])
    right.invert_yaxis()
    right.set(xlabel="probability", xlim=(0, 1), title=f"predicted: {classes[predicted]}")
    return figure


def plot_reliability(counts: np.ndarray, hits: np.ndarray, sure: np.ndarray, title: str) -> Figure:
    """Share right against mean confidence in B bins of equal width, above the number of images in each.

    For each bin, [B]: the number of images, that of the right ones, and the sum of the confidences. Bins may be empty.
    """
    heights = {"height_ratios": (3, 1.3), "layout": "constrained"}
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 5.6), sharex=True, **heights)
    filled = counts > 0
    said, happened = sure[filled] / counts[filled], hits[filled] / counts[filled]
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="as sure as it is right")
    upper.vlines(said, said, happened, color=ORANGE, linewidth=2, label="gap")
    upper.vlines(said, *wilson_interval(hits[filled], counts[filled]), color=BLUE, linewidth=0.8)
    upper.plot(said, happened, "o", color=BLUE, label="the images of a bin")
    upper.set(ylabel="share predicted right", xlim=(0, 1), ylim=(-0.03, 1.03))
    upper.set_title(title, fontsize=11)
    upper.legend(loc="upper left")
    upper.grid(alpha=0.3)
    width = 1 / len(counts)
    bars = lower.bar(np.arange(len(counts)) * width, counts, width, align="edge", color=BLUE, edgecolor="white")
    lower.bar_label(bars, fontsize=8, padding=2)
    lower.set(xlabel="confidence (probability of the predicted class)", ylabel="images", ylim=(0, 1.25 * counts.max()))
    return figure
