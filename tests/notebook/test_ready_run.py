"""What a notebook takes that needs a trained network: the reader's own run, the ready one, or a short training."""

import hashlib
import json
import re
import shutil
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from test_model import OriginalAlexNet

from alexnet_cifar10.data import load_images
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.notebook import run as notebook_run
from alexnet_cifar10.notebook.run import READY, SHA256, find_or_train_run, ready_run
from alexnet_cifar10.runs import CheckpointError, load_model

ROOT = Path(__file__).resolve().parents[2]
FILE, CPU = ROOT / "weights" / READY, torch.device("cpu")


@pytest.fixture
def photographs():
    """Digits that pass for CIFAR-10."""
    digits = load_images("digits")
    return replace(digits, provenance=replace(digits.provenance, dataset="cifar10"))


def test_the_card_is_that_of_the_weights():
    card = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == SHA256
    assert f"# {SHA256}\n" in card
    run = ready_run()
    assert READY == f"{run.read_record()['recipe']['name']}.safetensors"
    kept = ROOT / "results" / run.name
    assert run.read_record() == json.loads((kept / "run.json").read_text(encoding="utf-8"))
    assert run.history_csv.read_bytes() == (kept / "history.csv").read_bytes()
    test = json.loads((kept / "test.json").read_text(encoding="utf-8"))
    assert f"| {test['first_1000']:.3f} ± " in card and f"test images | {test['accuracy']:.4f} |" in card
    accuracy = float(re.search(r"10 000 validation images \| ([\d.]+)", card)[1])
    assert accuracy == pytest.approx(run.read_record()["result"]["best_valid_accuracy"], abs=0.002), "16 and 32 bits"


def test_the_lines_of_the_card_load_it_into_the_original_s_class(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = re.search("```python\n(.*?)```", (ROOT / "weights" / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    done = {"AlexNet": OriginalAlexNet}
    exec(lines, done)
    loaded, ours = done["model"].state_dict(), load_model(ready_run().best_checkpoint, CPU).state_dict()
    assert loaded.keys() == ours.keys() and all(torch.equal(loaded[name], ours[name]) for name in ours)


def test_without_a_run_on_photographs_it_is_the_ready_one(runs, photographs, start, capsys):
    run = find_or_train_run(photographs, CPU)
    assert f"There is no run on CIFAR-10 yet, so this is {run.name}" in capsys.readouterr().out
    assert not runs.exists(), "it is none of the reader's"
    assert load_model(run.best_checkpoint, CPU)(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_run_of_ones_own_comes_first_and_digits_are_trained(runs, photographs):
    digits = load_images("digits")
    own = find_or_train_run(digits, CPU)
    assert own.path.parent == runs and own.read_record()["data"]["dataset"] == "digits"
    record = json.loads((own.path / "run.json").read_text(encoding="utf-8"))
    record["data"]["dataset"] = "cifar10"
    (own.path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert find_or_train_run(photographs, CPU).path == own.path


def test_a_changed_byte_is_refused(tmp_path, photographs, runs, monkeypatch):
    for part in ("src/alexnet_cifar10", "notebooks", "weights"):
        (tmp_path / part).mkdir(parents=True)
    content = bytearray(FILE.read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights" / READY).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"{READY} is not the file of this version: its sha256 is"):
        find_or_train_run(photographs, CPU)


class Package(dict):
    """What is known of an installed package."""

    def get_all(self, name):
        return [self[name]]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder without the clone, as on Colab, and what asks for the weights there; the server has them at a tag."""
    served = tmp_path / "served" / "me" / "repository" / "raw" / "v1.2.3" / "weights"
    served.mkdir(parents=True)
    shutil.copy(FILE, served)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "served"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"Repository, http://127.0.0.1:{server.server_port}/me/repository"
    monkeypatch.setattr(notebook_run, "metadata", lambda _: Package({"Project-URL": address, "Version": "1.2.3"}))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    yield served
    server.shutdown()
    server.server_close()


def test_elsewhere_it_is_fetched_once_from_the_tag(elsewhere, photographs, runs):
    first = find_or_train_run(photographs, CPU)
    (elsewhere / READY).unlink()
    again = find_or_train_run(photographs, CPU)
    assert again.best_checkpoint.read_bytes() == first.best_checkpoint.read_bytes() and again.path != first.path


@pytest.mark.parametrize(("served", "said"), [(None, "HTTP Error 404"), (b"half", "invalid hash value")])
def test_where_it_cannot_be_fetched_nothing_is_kept_and_it_is_tried_again(served, said, elsewhere, photographs, runs):
    whole = (elsewhere / READY).read_bytes()
    (elsewhere / READY).unlink()
    if served:
        (elsewhere / READY).write_bytes(served)
    with pytest.raises(CheckpointError, match=f"cannot be had: {said}.*Train in notebook 4, or set data"):
        find_or_train_run(photographs, CPU)
    (elsewhere / READY).write_bytes(whole)
    assert find_or_train_run(photographs, CPU).best_checkpoint.exists() and not runs.exists()


def test_torch_hub_loads_it_from_a_clone():
    images = torch.rand(2, 3, 32, 32)
    model = torch.hub.load(str(ROOT), "alexnet", source="local")
    assert torch.equal(model(images), load_model(ready_run().best_checkpoint, CPU)(images))
    fresh = torch.hub.load(str(ROOT), "alexnet", source="local", pretrained=False)
    assert type(fresh).__name__ == AlexNet.__name__ and not torch.equal(fresh(images), model(images))
