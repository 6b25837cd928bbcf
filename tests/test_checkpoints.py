"""Files of a run: whole or absent, read without running code, refused with one sentence when they are not ours."""

import errno
import io
import json
import os
import pickle
import zipfile

import pytest
import torch

from alexnet_cifar10.checkpoints import (
    CheckpointError,
    Run,
    find_run,
    load_checkpoint,
    load_model,
    load_state,
    save_checkpoint,
    save_state,
    write_text,
)
from alexnet_cifar10.model import AlexNet


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


def test_the_same_weights_give_the_same_bytes(tmp_path, weights):
    save_checkpoint(weights, tmp_path / "one.pth")
    save_checkpoint(AlexNet().to(memory_format=torch.channels_last).state_dict() | weights, tmp_path / "two.pth")
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()


def test_a_loaded_model_has_the_weights_and_is_in_eval_mode(file, weights):
    save_checkpoint(weights, file)
    model = load_model(file, torch.device("cpu"))
    assert equal(model.state_dict(), weights) and not model.training


def test_state_comes_back_as_it_was(file):
    state = {"tensor": torch.rand(3), "numbers": [1, 2.5, None, True], "nested": {"text": "학습"}}
    save_state(state, file)
    loaded = load_state(file)
    assert torch.equal(loaded.pop("tensor"), state.pop("tensor")) and loaded == state


def test_history_comes_back_to_the_last_bit(tmp_path):
    row = {"epoch": 1, "train_loss": 1 / 3, "valid_loss": 2e-17, "valid_accuracy": 0.1, "lr": 1e-3, "seconds": 0.5}
    run = Run(tmp_path)
    run.write_history([row, {**row, "epoch": 2}])
    assert run.read_history() == [row, {**row, "epoch": 2}]
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert header == "epoch,train_loss,valid_loss,valid_accuracy,lr,seconds"


def test_the_record_is_json_in_utf8(tmp_path):
    record = {"run_name": "학습", "started": "2024-01-01T00:00:00+00:00", "data": {"dataset": "CIFAR-10"}, "loss": 0.25}
    Run(tmp_path).write_record(record)
    assert json.loads((tmp_path / "run.json").read_bytes().decode("utf-8")) == record == Run(tmp_path).read_record()


# --- whole or absent ----------------------------------------------------------------------------------------------


def test_a_reader_never_finds_half_a_file(file, monkeypatch):
    write_text(file, "old")
    seen = []
    files = file.parent.iterdir
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((file.read_text(), len(list(files())))))
    write_text(file, "new")
    assert seen == [("old", 2)], "the new text is flushed to disk under another name first"
    assert file.read_text() == "new" and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("kind", ["text", "state"])
def test_a_disk_that_is_full_leaves_the_old_file_and_a_clear_message(kind, file, monkeypatch):
    save = write_text if kind == "text" else lambda path, text: save_state({"text": text}, path)
    save(file, "old")
    before = file.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as refusal:
        save(file, "new")
    assert f"{file.name} cannot be written into {file.parent}: {os.strerror(errno.ENOSPC)}" in str(refusal.value)
    assert "What was saved before is untouched" in str(refusal.value)
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


def test_a_folder_that_is_gone_is_a_clear_message(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written into"):
        write_text(tmp_path / "gone" / "file.txt", "text")


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
    "crafted checkpoint": lambda weights, trap: saved({**weights, "linear2.bias": trap}),
    "whole pickled model": lambda weights, trap: saved(AlexNet()),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_is_no_checkpoint_gives_one_sentence_and_runs_nothing(kind, file, weights, trap):
    file.write_bytes(UNREADABLE[kind](weights, trap))
    for load in (load_checkpoint, load_state):
        with pytest.raises(CheckpointError, match="is damaged, or it is another kind of file") as refusal:
            load(file)
        assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)
    assert not os.path.exists(trap.path)


def test_the_trap_springs_where_a_file_is_opened_carelessly(file, weights, trap):
    """Otherwise the test above would show nothing."""
    file.write_bytes(saved({**weights, "linear2.bias": trap}))
    torch.load(file, weights_only=False)
    assert os.path.exists(trap.path)


def test_a_file_that_is_missing_is_called_missing(file):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(file)


FOREIGN = {
    "a key too few": (lambda w: dict(list(w.items())[:-1]), r"1 are missing \['linear2\.bias'\]"),
    "a key too many": (lambda w: {**w, "linear3.bias": w["linear2.bias"]}, r"1 are unknown \['linear3\.bias'\]"),
    "another model": (lambda w: torch.nn.Linear(2, 2).state_dict(), "44 are missing"),
    "another shape": (
        lambda w: {**w, "linear2.weight": torch.zeros(100, 512), "linear2.bias": torch.zeros(100)},
        r"linear2\.weight is torch\.float32 \(100, 512\), not torch\.float32 \(10, 512\)",
    ),
    "another type": (
        lambda w: {key: value.half() for key, value in w.items()},
        r"conv_block1\.0\.weight is torch\.float16 .*, not torch\.float32",
    ),
    "no tensor": (lambda w: {**w, "linear2.bias": [0.0] * 10}, r"linear2\.bias is a list, not torch\.float32 \(10,\)"),
    "a list": (lambda w: list(w.values()), "44 are missing"),
    "one tensor": (lambda w: w["linear2.bias"], "44 are missing"),
    "numbers for keys": (lambda w: dict(enumerate(w.values())), "44 are unknown"),
    "nothing": (lambda w: {}, "44 are missing"),
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


def test_a_prefix_on_some_keys_only_is_refused(file, weights):
    half = {("module." if key.startswith("linear") else "") + key: value for key, value in weights.items()}
    file.write_bytes(saved(half))
    with pytest.raises(CheckpointError, match=r"4 are missing .* 4 are unknown \['module\.linear1\.bias'"):
        load_checkpoint(file)


# --- finding a run ------------------------------------------------------------------------------------------------


@pytest.fixture
def make_run(runs):
    def make(name, dataset="CIFAR-10", started="2024-01-01T00:00:00+00:00", best=True):
        run = Run(runs / name)
        run.path.mkdir(parents=True)
        run.write_record({"started": started, "data": {"dataset": dataset}})
        if best:
            run.best_checkpoint.write_bytes(b"weights")
        return run

    return make


def test_without_runs_there_is_none(runs):
    assert find_run("CIFAR-10") is None


def test_the_newest_run_on_the_same_data_is_found(make_run):
    make_run("z-oldest", started="2024-01-01T10:00:00+00:00")
    newest = make_run("a-newest", started="2024-03-01T10:00:00+00:00")
    make_run("middle", started="2024-02-01T10:00:00+00:00")
    make_run("on other data", dataset="handwritten digits", started="2024-04-01T10:00:00+00:00")
    make_run("without a model yet", started="2024-05-01T10:00:00+00:00", best=False)
    assert find_run("CIFAR-10") == newest


@pytest.mark.parametrize(
    "record", [None, "", "[]", "3", '{"data": []}', '{"started": "2099"}', '{"data": {"dataset": "CIFAR-10"}}']
)
def test_folders_that_are_no_runs_are_passed_over_and_refused_by_name(record, make_run, runs):
    ours = make_run("ours")
    foreign = runs / "foreign"
    foreign.mkdir()
    (foreign / "best_checkpoint.pth").write_bytes(b"weights")
    if record is not None:
        (foreign / "run.json").write_text(record)
    assert find_run("CIFAR-10") == ours
    with pytest.raises(CheckpointError, match=r"the run 'foreign': its run\.json.* is missing or damaged"):
        find_run("CIFAR-10", "foreign")


def test_a_run_can_be_named(make_run):
    older = make_run("older", started="2023-01-01T00:00:00+00:00")
    make_run("newer")
    assert find_run("CIFAR-10", "older") == older


def test_a_name_that_is_wrong_is_refused_with_those_there_are(make_run):
    with pytest.raises(CheckpointError, match="there is no such run. Runs: none yet"):
        find_run("CIFAR-10", "frist")
    make_run("second")
    make_run("first")
    with pytest.raises(CheckpointError, match="run_name = 'frist': there is no such run. Runs: first, second."):
        find_run("CIFAR-10", "frist")


def test_a_run_on_other_data_is_refused_by_name(make_run):
    make_run("first", dataset="handwritten digits")
    with pytest.raises(CheckpointError, match="trained on handwritten digits, but the data loaded here is CIFAR-10"):
        find_run("CIFAR-10", "first")
