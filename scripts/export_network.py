"""Write a trained network as a script, for the page docs/demo.md in which it runs: `make site RUN=runs/latest`.

Without RUN it is the ready network of weights/. BatchNorm is folded into the layer before it, and weights are rounded
to int8, times a scale per output channel: 4.5 MB.
"""

import json
import sys
from base64 import b64encode
from pathlib import Path

from torch import Tensor, device, int8, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.notebook.run import ready_run
from alexnet_cifar10.runs import CheckpointError, Run, find_run, load_model, runs_root


def open_run(name: str) -> Run:
    """The run in the folder `name`, else that of this name in the folder of runs, else, for latest, the newest."""
    runs = [Run(path) for path in (Path(name), runs_root() / Path(name).name)]
    newest = [run for data in ("cifar10", "digits") if Path(name).name == "latest" and (run := find_run(data))]
    runs += sorted(newest, key=lambda run: -run.read_record()["number"])
    if found := [run for run in runs if run.best_checkpoint.exists()]:
        return found[0]
    raise CheckpointError(f"RUN={name}: there is no best_checkpoint.pth, neither there nor in {runs_root()}.")


def fold(model: AlexNet) -> list[nn.Conv2d | nn.Linear]:
    """Make each BatchNorm of `model`, in `eval()` mode, a part of the layer before it; returns the seven layers."""
    for block in (model.conv_block1, model.conv_block2, model.conv_block3, model.conv_block4, model.conv_block5):
        block[0], block[1] = fuse_conv_bn_eval(block[0], block[1]), nn.Identity()
    model.linear1, model.batch_norm = fuse_linear_bn_eval(model.linear1, model.batch_norm), nn.Identity()
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def quantise(layer: nn.Conv2d | nn.Linear) -> dict[str, Tensor]:
    """Round the weights [O, ...] of `layer` to int8 numbers times scales [O, 1]; returns both, and the biases [O]."""
    weight = layer.weight.data.flatten(1)
    scale = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-30)  # no division by 0
    numbers = (weight / scale).round()
    layer.weight.data = (numbers * scale).view_as(layer.weight)
    return {"numbers": numbers.to(int8), "scale": scale, "bias": layer.bias}


def export(run: Run) -> str:
    """The script: what the best network of `run` was trained on, and its layers, with their numbers in base64."""
    record, parts = run.read_record(), map(quantise, fold(load_model(run.best_checkpoint, device("cpu"))))
    network = {"run": run.name, "data": record["data"]["dataset"], "accuracy": record["result"]["best_valid_accuracy"]}
    network["layers"] = [{key: b64encode(x.numpy(force=True)).decode() for key, x in part.items()} for part in parts]
    return f"const NETWORK = {json.dumps(network)};\n"


if __name__ == "__main__":
    out, *names = sys.argv[1:]
    try:
        script = export(open_run(names[0]) if names else ready_run())
    except CheckpointError as error:
        sys.exit(f"No network was put into the page. {error}")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(script, encoding="utf-8")
