"""Put the best weights of a run of the ledger into weights/, in float16, with a card: the ready weights.

    python scripts/keep_weights.py fast-long-42

Its records, results/<run>/, must be there (scripts/ledger.py --keep <run>).
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import torch
from ledger import RESULTS, Entry, read_entries
from safetensors.torch import save_file

from alexnet_cifar10.batches import DeviceLoader
from alexnet_cifar10.data import load_images, stratified_split
from alexnet_cifar10.evaluate import evaluate
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.notebook import run as ready
from alexnet_cifar10.runs import Run, load_checkpoint, runs_root

ROOT = Path(__file__).resolve().parent.parent
CARD = """\
# Ready weights (pretrained)

[한국어](README.ko.md)

What notebooks 5, 6 and 8 take where there is no run of your own, and the page in the browser too, unless it was built
with `RUN=`: the `state_dict` of the
network of this tutorial (AlexNet for 32x32 pixels, 4 510 794 weights) in `float16`, 9.0 MB. It is a
[safetensors](https://github.com/huggingface/safetensors) file: numbers and names, and no code.

| what | value | note |
| --- | --- | --- |
| file | `{file}` | |
| run | [`{name}`](../results/{name}/) | its records |
| trained on | {label} | {train} of the 50 000 training images |
| recipe | `{recipe}` | |
| seed | {seed} | |
| epoch | {epoch} / {epochs} | the one with the highest validation accuracy |
| accuracy, 10 000 validation images | {valid:.4f} ± {valid_error:.4f} | a little too high: they chose the recipe |
| accuracy, first 1000 test images | {first:.3f} ± {first_error:.3f} | official pixels |
| accuracy, all 10 000 test images | {test:.4f} | {test_label} |
| validation accuracy with weights in `float16` | {half:.4f} | the three above are those in `float32` |
| answers that `float16` changes | {changed} | of the 10 000 validation images |
| machine | `{machine}` | |

±: two standard errors, about a 95 % interval. It shows what the choice of the images may do, not what another
seed would give. These commands train it again and make such a file. (The digest below is that of the
file here. The file also holds when it was trained, so a new one has another.)

```sh
{command}
python scripts/ledger.py --keep {name}
python scripts/keep_weights.py {name}
sha256sum weights/{file}  # {digest}
```

## Use

```python
from safetensors.torch import load_file

model = AlexNet()  # the class of notebook 3, of the package or of the original tutorial: the names are the same
model.load_state_dict(load_file("weights/{file}"))  # float16 numbers become float32 ones
model.eval()
```

Or, in a clone: `torch.hub.load(".", "alexnet", source="local")`.

What goes in: `float32` `[N, 3, 32, 32]`, red, green and blue from 0 to 1. What comes out: ten scores, in the order
{classes}.

## What it must not be used for

It knows ten classes, in small photographs such as CIFAR-10 has, and gives one of the ten for any picture. Its
probabilities are no measure of doubt, and a few pixels of shift or a grey square change answers: notebooks 5 and 8
measure both, for your own run or for these weights. Nothing that matters to a person should hang on it.

The photographs were collected from the web, and the authors of CIFAR-10 had them sorted into its classes
([Krizhevsky 2009](https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf)). We know of nobody who asked the
people who took them, or who are in them.
"""


def main(name: str) -> None:
    entry: Entry = next((entry for entry in read_entries(RESULTS) if entry.run.name == name), None) or sys.exit(
        f"results/{name} is not there. First: python scripts/ledger.py --keep {name}"
    )
    record, images, device = entry.record, load_images("cifar10"), torch.device("cpu")
    whole = load_checkpoint(Run(runs_root() / name).best_checkpoint)
    loader = DeviceLoader(images.train, stratified_split(images.train.targets)[1], batch_size=250, device=device)
    half = {key: x.half() if x.is_floating_point() else x for key, x in whole.items()}
    answers = []
    for state in (whole, half):
        model = AlexNet()
        model.load_state_dict(state)
        answers.append(evaluate(model, loader, device))
    file = ROOT / "weights" / ready.READY
    file.parent.mkdir(exist_ok=True)
    texts = {part: (entry.run.path / part).read_text(encoding="utf-8") for part in ("run.json", "history.csv")}
    save_file(half, file, {"run": json.dumps({"name": name, **texts})})  # of several entries the order would be chance
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    source = Path(ready.__file__)
    source.write_text(
        re.sub("(?m)^SHA256 = .*$", f'SHA256 = "{digest}"', source.read_text("utf-8")), "utf-8", newline="\n"
    )

    def error(accuracy: float, images: int) -> float:
        return 2 * (accuracy * (1 - accuracy) / images) ** 0.5

    in_32, in_16 = answers
    test, first = entry.test["accuracy"], entry.test["first_1000"]
    card = CARD.format(
        name=name,
        file=file.name,
        digest=digest,
        label=record["data"]["label"],
        train=f"{record['train_images']:,}".replace(",", " "),
        recipe=entry.kind,
        seed=record["seed"],
        epoch=record["result"]["best_epoch"],
        epochs=record["result"]["epochs"],
        valid=in_32.accuracy,
        valid_error=error(in_32.accuracy, len(in_32.labels)),
        first=first,
        first_error=error(first, 1000),
        test=test,
        test_label=entry.test["data"],
        changed=int((in_16.predictions != in_32.predictions).sum()),
        half=in_16.accuracy,
        machine=entry.machine,
        command=entry.command,
        classes=", ".join(images.classes),
    )
    (file.parent / "README.md").write_text(card, encoding="utf-8", newline="\n")
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


if __name__ == "__main__":
    main(*sys.argv[1:])
