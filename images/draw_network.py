"""Draw images/network.png: the network block by block, with the shapes and parameter counts of the real model.

python images/draw_network.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Polygon

from alexnet_cifar10.model import AlexNet

SKY, BLUE, ORANGE, GREY = "#56B4E9", "#0072B2", "#E69F00", "#CCCCCC"
STAGES = {
    "conv_block1": "conv 3x3, 96\nBatchNorm, ReLU\nmax-pool",
    "conv_block2": "conv 3x3, 256\nBatchNorm, ReLU\nmax-pool",
    "conv_block3": "conv 3x3, 384\nBatchNorm\ndropout, ReLU",
    "conv_block4": "conv 3x3, 384\nBatchNorm\ndropout, ReLU",
    "conv_block5": "conv 3x3, 256\nBatchNorm, dropout\nReLU, max-pool",
    "linear1": "flatten to 2304\ndropout, linear\nBatchNorm",
    "linear2": "dropout, ReLU\nlinear",
}


def shapes_and_counts() -> list[tuple[str, tuple[int, ...], int]]:
    """What goes in, and what each stage gives for one image: (name, shape without the batch, parameters)."""
    model = AlexNet().eval()
    found: dict[str, tuple[int, ...]] = {}
    for name in STAGES:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, __, out, name=name: found.update({name: tuple(out.shape[1:])}))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    counts = {name: sum(p.numel() for p in model.get_submodule(name).parameters()) for name in STAGES}
    counts["linear1"] += sum(p.numel() for p in model.batch_norm.parameters())
    return [("image", (3, 32, 32), 0)] + [(name, found[name], counts[name]) for name in STAGES]


def draw_box(axis: plt.Axes, x: float, width: float, height: float, colour: str) -> None:
    """A box in parallel projection, its front face centred at height 0."""
    slant = 0.28 * height
    front = [(x, -height / 2), (x + width, -height / 2), (x + width, height / 2), (x, height / 2)]
    top = [front[3], front[2], (x + width + slant, height / 2 + slant), (x + slant, height / 2 + slant)]
    side = [front[1], (x + width + slant, -height / 2 + slant), (x + width + slant, height / 2 + slant), front[2]]
    for face, alpha in ((front, 1.0), (top, 0.75), (side, 0.55)):
        axis.add_patch(Polygon(face, facecolor="white", edgecolor="none"))
        axis.add_patch(Polygon(face, facecolor=colour, edgecolor="black", linewidth=0.8, alpha=alpha))


def main() -> None:
    stages = shapes_and_counts()
    figure, axis = plt.subplots(figsize=(11, 3.9), layout="constrained")
    figure.patch.set_facecolor("white")
    step = 1.75
    for i, (name, shape, count) in enumerate(stages):
        channels, side = (shape[0], shape[1]) if len(shape) == 3 else (shape[0], 1)
        height = 1.9 * (side / 32) ** 0.6
        width = 0.12 + 0.55 * (channels / 512) ** 0.7
        colour = GREY if name == "image" else SKY if name.startswith("conv") else ORANGE
        draw_box(axis, i * step, width, height, colour)
        middle = i * step + width / 2
        axis.text(middle, -1.25, " × ".join(map(str, shape)), ha="center", fontsize=10, weight="bold")
        axis.text(middle, -1.45, name, ha="center", va="top", fontsize=9, family="monospace")
        if count:
            axis.text(middle, -1.72, f"{count:,}\nparameters", ha="center", va="top", fontsize=8, color="#444444")
            axis.text(middle - step / 2 + 0.2, 1.55, STAGES[name], ha="center", va="bottom", fontsize=8, color=BLUE)
    total = sum(count for _, _, count in stages)
    axis.set_title(f"AlexNet for 32x32 images: {total:,} parameters. Below each box: channels × height × width")
    axis.set(xlim=(-0.7, (len(stages) - 1) * step + 1.0), ylim=(-2.2, 2.35))
    axis.axis("off")
    figure.savefig(Path(__file__).parent / "network.png", dpi=110)


if __name__ == "__main__":
    main()
