"""Files of a run: whole or absent, read without running code, refused with one sentence when they are not ours."""

import errno
import io
import os
import pickle
import re
import shutil
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.runs import CheckpointError, load_checkpoint, load_model, load_state, save_checkpoint
from alexnet_cifar10.runs.files import settle, to_bytes, write_together


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(2)
    return AlexNet().state_dict()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "checkpoint.pth"


def equal(some, others):
    return list(some) == list(others) and all(torch.equal(some[key], others[key]) for key in some)


# --- what is saved ------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_plain_state_dict_for_any_machine(file):
    model = AlexNet().to(memory_format=torch.channels_last)
    save_checkpoint(model.state_dict(), file)
    plain = torch.load(file, weights_only=True)  # neither map_location nor anything of ours
    assert equal(plain, model.state_dict())
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in plain.values())
    assert not any(tensor.requires_grad for tensor in plain.values())


def test_the_same_weights_give_the_same_bytes_in_any_layout(tmp_path, weights):
    other = AlexNet().to(memory_format=torch.channels_last)
    other.load_state_dict(weights)
    assert not other.conv_block2[0].weight.is_contiguous()
    save_checkpoint(weights, tmp_path / "one.pth")
    save_checkpoint(other.state_dict(), tmp_path / "two.pth")
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()


def test_a_loaded_model_has_the_weights_and_is_in_eval_mode(file, weights):
    save_checkpoint(weights, file)
    model = load_model(file, torch.device("cpu"))
    assert equal(model.state_dict(), weights) and not model.training


def test_state_comes_back_as_it_was(file):
    state = {"tensor": torch.rand(3), "numbers": [1, 2.5, None, True], "nested": {"text": "학습"}}
    file.write_bytes(to_bytes(state))
    loaded = load_state(file)
    assert torch.equal(loaded.pop("tensor"), state.pop("tensor")) and loaded == state


# --- whole or absent ----------------------------------------------------------------------------------------------


OLD = {"a.pth": b"old a", "b.json": b"old b"}
NEW = {"a.pth": b"new a", "b.json": b"new b", "c.csv": b"new c"}


def found_in(folder):
    """What lies in a folder, files in folders too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Died(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("fault", ["killed", "full"])
def test_files_that_belong_together_are_all_old_or_all_new_whatever_operation_fails(
    fault, after, tmp_path, monkeypatch
):
    """Each call that changes the disk dies once, or finds the disk full once; then the next process looks."""
    for count in range(1, 100):
        folder = tmp_path / f"{fault} {after} {count}"
        folder.mkdir()
        write_together(folder, OLD)
        left = count
        with monkeypatch.context() as patch:

            def at_fault(function):
                def call(*arguments, **options):
                    nonlocal left
                    left -= 1
                    result = function(*arguments, **options) if after or left else None
                    if left == 0:
                        raise Died if fault == "killed" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    return result

                return call

            for name in ("mkdir", "fsync", "replace", "rmdir"):
                patch.setattr(os, name, at_fault(getattr(os, name)))
            try:
                write_together(folder, NEW)
            except (Died, CheckpointError, OSError):
                pass
        if left > 0:
            break
        settle(folder)
        left_over = {path.name for path in folder.iterdir()} - NEW.keys()
        assert left_over <= {".saving.partial"}, "which the next one to write takes away"
        shutil.rmtree(folder / ".saving.partial", ignore_errors=True)
        assert found_in(folder) in (OLD, NEW), f"operation {count}"
    assert count > 8, "every file operation was reached"


def test_a_disk_that_is_full_leaves_the_old_files_and_a_clear_message(tmp_path, monkeypatch):
    write_together(tmp_path, OLD)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as refusal:
        write_together(tmp_path, NEW)
    assert f"a.pth cannot be written into {tmp_path}: {os.strerror(errno.ENOSPC)}" in str(refusal.value)
    assert "What was saved before is untouched" in str(refusal.value) and "Free some space" in str(refusal.value)
    assert found_in(tmp_path) == OLD and not (tmp_path / ".saving.partial").exists()


def test_a_folder_that_is_gone_is_a_clear_message(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written into .*Choose a folder"):
        write_together(tmp_path / "gone", OLD)


# --- damaged, hostile or foreign files ----------------------------------------------------------------------------


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zip_of_something_else():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("letter.txt", "hello")
    return buffer.getvalue()


def damage_in_the_middle(content):
    start = content.index(b"data.pkl") + 200
    return content[:start] + bytes(200) + content[start + 200 :]


def one_bit_flipped(content):
    middle = len(content) // 2  # in the weights: they would load, and one of them would be wrong
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


UNREADABLE = {
    "empty": lambda weights, trap: b"",
    "text": lambda weights, trap: "이것은 모델이 아닙니다\n".encode(),
    "web page": lambda weights, trap: b"<!DOCTYPE html><html><body>404</body></html>",
    "truncated": lambda weights, trap: saved(weights)[:-1000],
    "first half": lambda weights, trap: saved(weights)[: 9 * 2**20],
    "damaged": lambda weights, trap: damage_in_the_middle(saved(weights)),
    "one bit flipped": lambda weights, trap: one_bit_flipped(saved(weights)),
    "zip of something else": lambda weights, trap: zip_of_something_else(),
    "crafted pickle": lambda weights, trap: pickle.dumps(trap, protocol=2),
}

# What else a file may hold, and how it is named.
OTHERS = {
    "whole pickled model": (lambda weights, trap: AlexNet(), "alexnet_cifar10.model.AlexNet"),
    "another whole model": (lambda weights, trap: {"net": torch.nn.Linear(2, 2)}, "torch.nn.modules.linear.Linear"),
    "options": (lambda weights, trap: {"model": weights, "args": Namespace(lr=0.1)}, "argparse.Namespace"),
    "accuracy of NumPy": (lambda weights, trap: {"model": weights, "acc": np.float64(0.9)}, "numpy.*scalar"),
    "folder": (lambda weights, trap: {"model": weights, "from": Path("data")}, "pathlib.*Path"),
    "trap": (lambda weights, trap: {**weights, "linear2.bias": trap}, "(posix|nt).mkdir"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_is_no_checkpoint_gives_one_sentence_and_runs_nothing(kind, file, weights, trap):
    file.write_bytes(UNREADABLE[kind](weights, trap))
    for load in (load_checkpoint, load_state):
        with pytest.raises(CheckpointError, match="is damaged, or it is another kind of file") as refusal:
            load(file)
        assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)
    assert not os.path.exists(trap.path)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_else_a_file_holds_is_named_and_how_to_save_weights_is_said(kind, file, weights, trap):
    make, named = OTHERS[kind]
    file.write_bytes(saved(make(weights, trap)))
    for load in (load_checkpoint, load_state):
        with pytest.raises(
            CheckpointError, match=f"holds {named}, .* torch.save\\(model.state_dict\\(\\), "
        ) as refusal:
            load(file)
        assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)
    assert not os.path.exists(trap.path)


def test_the_trap_springs_where_a_file_is_opened_carelessly(file, weights, trap):
    """Otherwise the test above would show nothing."""
    file.write_bytes(saved({**weights, "linear2.bias": trap}))
    torch.load(file, weights_only=False)
    assert os.path.exists(trap.path)


def test_a_file_that_is_missing_is_called_missing(file):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        load_checkpoint(file)


FOREIGN = {
    "a key too few": (lambda w: dict(list(w.items())[:-1]), r"1 missing \['linear2\.bias'\]"),
    "a key too many": (lambda w: {**w, "linear3.bias": w["linear2.bias"]}, r"1 unknown \['linear3\.bias'\]"),
    "another model": (lambda w: torch.nn.Linear(2, 2).state_dict(), "44 missing"),
    "another shape": (
        lambda w: {**w, "linear2.weight": torch.zeros(100, 512), "linear2.bias": torch.zeros(100)},
        r"linear2\.weight is torch\.float32 \(100, 512\), not torch\.float32 \(10, 512\)",
    ),
    "another type": (
        lambda w: {key: value.half() for key, value in w.items()},
        r"conv_block1\.0\.weight is torch\.float16 .*, not torch\.float32",
    ),
    "no tensor": (lambda w: {**w, "linear2.bias": [0.0] * 10}, r"linear2\.bias is list, not torch\.float32 \(10,\)"),
    "a list": (lambda w: list(w.values()), "44 missing"),
    "one tensor": (lambda w: w["linear2.bias"], "44 missing"),
    "numbers for keys": (lambda w: dict(enumerate(w.values())), "44 unknown"),
    "nothing": (lambda w: {}, "44 missing"),
    "an empty wrapper": (lambda w: {"state_dict": None}, r"unknown \['state_dict'\]"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_tensors_that_are_no_alexnet_are_refused_with_the_first_difference(kind, file, weights):
    change, difference = FOREIGN[kind]
    file.write_bytes(saved(change(weights)))
    with pytest.raises(CheckpointError, match=difference) as refusal:
        load_checkpoint(file)
    assert "is not an AlexNet of this tutorial" in str(refusal.value) and "\n" not in str(refusal.value)


def with_prefix(prefix):
    return lambda weights: {prefix + key: value for key, value in weights.items()}


WRAPPED = {
    "PyTorch's own tutorial": lambda weights: {"epoch": 3, "model_state_dict": weights, "optimizer_state_dict": {}},
    "net, as in pytorch-cifar": lambda weights: {"net": weights, "acc": 0.9, "epoch": 3},
    "Lightning": lambda weights: {"state_dict": with_prefix("model.")(weights), "pytorch-lightning_version": "2.5"},
    "a part of what was trained": lambda weights: {"ckpt": {"weights": {"model": weights}}, "loss": torch.tensor(0.1)},
    "beside the optimiser's tensors": lambda weights: {
        "optimizer": {"state": {0: {"exp_avg": torch.rand(3)}}},
        "model": weights,
    },
    "averaged by torch.optim.swa_utils": lambda weights: {
        "n_averaged": torch.tensor(3),
        **with_prefix("module.")(weights),
    },
    "DataParallel": with_prefix("module."),
    "torch.compile": with_prefix("_orig_mod."),
    "compiled in DataParallel": with_prefix("module._orig_mod."),
    "DataParallel, compiled": with_prefix("_orig_mod.module."),
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "model": lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
    "wrapped and with a prefix": lambda weights: {"state_dict": with_prefix("module.")(weights)},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_in_a_usual_wrapper_are_accepted(kind, file, weights):
    file.write_bytes(saved(WRAPPED[kind](weights)))
    assert equal(load_checkpoint(file), weights)


TWO_MODELS = {
    "model, ema": lambda weights: {"model": weights, "ema": weights},
    "first.model, second.model": lambda weights: {"first": {"model": weights}, "second": {"model": weights}},
    "module, ema": lambda weights: {**with_prefix("module.")(weights), **with_prefix("ema.")(weights)},
    "the file itself, ema": lambda weights: {**weights, "ema": weights},
    "the file itself, \x1b[2Jteacher": lambda weights: {**weights, **with_prefix("\x1b[2Jteacher.")(weights)},
    "state_dict.student, state_dict.teacher": lambda weights: {
        "state_dict": {**with_prefix("student.")(weights), **with_prefix("teacher.")(weights)}
    },
}


@pytest.mark.parametrize("names", TWO_MODELS)
def test_two_models_in_one_file_are_refused_by_their_names(names, file, weights):
    file.write_bytes(saved(TWO_MODELS[names](weights)))
    with pytest.raises(CheckpointError, match=re.escape(f"holds several models {names.split(', ')}: save one of them")):
        load_checkpoint(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, file, weights):
    file.write_bytes(saved({**weights, "linear2.bias": torch.full((10,), value)}))
    with pytest.raises(CheckpointError, match=r"linear2\.bias has values that are not finite"):
        load_checkpoint(file)


def repacked(content, *, compression=zipfile.ZIP_STORED, folder=None, doubled=False):
    """The same checkpoint, packed as PyTorch never packs it."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w", compression) as new:
        for member in old.infolist():
            copy = zipfile.ZipInfo(member.filename)
            copy.compress_type = compression
            if folder is not None and member.filename.endswith(folder):
                copy.external_attr |= 0x10
            for _ in range(2 if doubled else 1):
                new.writestr(copy, old.read(member))
    return result.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "how", [{"compression": zipfile.ZIP_DEFLATED}, {"folder": "data/0"}, {"doubled": True}], ids=str
)
def test_what_pytorch_never_packs_is_refused_before_it_is_unpacked(how, file, weights, monkeypatch):
    file.write_bytes(repacked(saved({key: torch.zeros_like(value) for key, value in weights.items()}), **how))
    read = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, name, *_: read.append(name))
    with pytest.raises(CheckpointError, match="is damaged, or it is another kind of file"):
        load_state(file)
    assert read == []


def test_a_prefix_on_some_keys_only_is_refused(file, weights):
    half = {("module." if key.startswith("linear") else "") + key: value for key, value in weights.items()}
    file.write_bytes(saved(half))
    with pytest.raises(CheckpointError, match=r"4 missing .* 4 unknown \['module\.linear1\.bias'"):
        load_checkpoint(file)
