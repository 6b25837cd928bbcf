"""Choose the pictures of the page docs/demo.md by the answers of trained networks, and write docs/demo/pictures.js.

    .venv/bin/python scripts/choose_pictures.py runs/digits-42        (a run on the digits; of CIFAR-10 the ready one)

Of each class three validation images, by the probability that the network gives to the right class: that with the
highest one, that with the one nearest to a half, and that with the lowest one, which is the greatest mistake. The
network is that of the page, with weights in int8. No test image is looked at.
"""

import io
import json
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export_network import fold, open_run, quantise
from PIL import Image

from alexnet_cifar10.batches import DeviceLoader
from alexnet_cifar10.data import load_images, stratified_split
from alexnet_cifar10.evaluate import evaluate
from alexnet_cifar10.notebook.run import ready_run
from alexnet_cifar10.runs import Run, load_model

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "demo" / "pictures.js"


def choose(run: Run) -> dict[str, Any]:
    """Classes and chosen pictures of the images that `run` was trained on; `index`: the place in the training set."""
    images, cpu = load_images(run.read_record()["data"]["dataset"]), torch.device("cpu")
    valid = np.array(sorted(stratified_split(images.train.targets)[1]))
    model = load_model(run.best_checkpoint, cpu)
    for layer in fold(model):
        quantise(layer)
    answers = evaluate(model, DeviceLoader(images.train, valid, batch_size=250, device=cpu), cpu)
    of_right = answers.probabilities[np.arange(len(valid)), answers.labels]
    pictures = []
    for label in range(len(images.classes)):
        by_probability = np.flatnonzero(answers.labels == label)[of_right[answers.labels == label].argsort()]
        lowest, *others, highest = by_probability
        for place in (highest, min(others, key=lambda place: abs(of_right[place] - 0.5)), lowest):
            index = int(valid[place])
            content = io.BytesIO()
            Image.fromarray(images.train.data[index]).save(content, "PNG", optimize=True)
            src = f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"
            pictures.append({"label": label, "index": index, "src": src})
    return {"classes": images.classes, "run": run.name, "pictures": pictures}


if __name__ == "__main__":
    runs = [ready_run(), *map(open_run, sys.argv[1:])]
    chosen = {run.read_record()["data"]["dataset"]: choose(run) for run in runs}
    text = json.dumps(chosen, indent=1)
    PICTURES.write_text(f"// Written by scripts/choose_pictures.py\nconst PICTURES = {text};\n", encoding="utf-8")
