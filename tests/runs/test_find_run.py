"""Finding a run: the newest is the one that was started or resumed last, whatever the clock says."""

import json
import os

import pytest
import torch

from alexnet_cifar10.runs import CheckpointError, Run, find_run, machine


def record(**changes):
    return {
        "run_name": "run",
        "status": "finished",
        "started": "2024-01-01T00:00:00+00:00",
        "number": 1,
        "seed": 42,
        "recipe": {"epochs": 1},
        "machine": machine(torch.device("cpu")),
        "data": {"dataset": "cifar10", "label": "CIFAR-10"},
        "result": {"epochs": 1, "best_epoch": 1, "best_valid_accuracy": 0.5},
    } | changes


@pytest.fixture
def make_run(runs):
    def make(name, dataset="cifar10", number=1, best=True, **changes):
        run = Run(runs / name)
        run.path.mkdir(parents=True)
        written = record(number=number, data={"dataset": dataset, "label": dataset}, **changes)
        (run.path / "run.json").write_text(json.dumps(written), encoding="utf-8")
        run.history_csv.write_text("epoch,train_loss,valid_loss,valid_accuracy,lr,seconds\n1,2,2,0.5,0.001,1\n")
        if best:
            run.best_checkpoint.write_bytes(b"weights")
        return run

    return make


def test_without_runs_there_is_none(runs):
    assert find_run("cifar10") is None


def test_the_newest_run_on_the_same_data_is_found(make_run):
    make_run("z-oldest", number=1)
    newest = make_run("a-newest", number=3, started="2001-01-01T00:00:00+00:00")  # the clock had jumped back
    make_run("middle", number=2)
    make_run("on other data", dataset="digits", number=4)
    make_run("without a model yet", number=5, best=False)
    assert find_run("cifar10").path == newest.path


@pytest.mark.parametrize("epochs", [1, 2], ids=["with nothing left to do", "with an epoch to go"])
def test_a_run_that_was_resumed_is_the_newest(epochs, start):
    first, second = start(run_name="first"), start(run_name="second")
    assert find_run("digits").path == second.path
    start(run_name="first", epochs=epochs, resume=True)
    assert find_run("digits").path == first.path


def test_what_is_no_run_of_ours_stays_as_it_is(make_run, runs):
    """Also a folder that a program of somebody else saves into."""
    (runs / "web" / ".next").mkdir(parents=True)
    (runs / "web" / ".next" / "package.json").write_text("{}")
    (runs / "web" / "elsewhere").mkdir()
    if os.name == "posix":  # Windows lets only some accounts make links
        (runs / "web" / ".saving").symlink_to("elsewhere")
    (runs / "web" / "elsewhere" / "file").write_text("mine")
    ours = make_run("ours")
    assert find_run("cifar10").path == ours.path
    assert (runs / "web" / ".next" / "package.json").exists() and (runs / "web" / "elsewhere" / "file").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can make the folder of another user")
def test_a_folder_that_nobody_else_may_open_is_passed_over(make_run, runs):
    ours, locked = make_run("ours"), runs / "locked"
    locked.mkdir(mode=0o700)
    for folder in (runs, *list(runs.parents)[:-2]):
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        assert find_run("cifar10").path == ours.path
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be two users")
def test_two_users_train_in_one_folder_in_which_nobody_may_replace_the_files_of_others(start, runs):
    """As /tmp is: everybody may add to it."""
    runs.mkdir()
    for folder in list(runs.parents)[:-2]:
        folder.chmod(0o755)
    runs.chmod(0o1777)
    start(run_name="of root")
    os.seteuid(65534)
    try:
        start(run_name="of nobody")
        assert find_run("digits").name == "of nobody"
    finally:
        os.seteuid(0)


def test_no_name_that_stands_in_a_file_says_where_to_write(start, runs):
    run = start()
    (runs / "latest").write_text("../../outside\n")
    (run.path / "run.json").write_text(json.dumps(run.read_record() | {"run_name": "../../outside"}))
    resumed = start(run_name=None, epochs=2, resume=True)
    assert resumed.path == run.path and resumed.read_record()["run_name"] == "run"
    assert {path.name for path in runs.iterdir()} == {"run", "latest"}
    assert not (runs.parent.parent / "outside").exists()


FOREIGN = [
    None,
    "",
    "[]",
    "3",
    '{"data": []}',
    json.dumps({"started": "2099"}),
    json.dumps(record(data={"dataset": ["cifar10"]})),
    json.dumps(record(result={"epochs": 1, "best_epoch": "1"})),
    json.dumps(record(result=None)),
    json.dumps(record(number=-1)),
    json.dumps(record(data={"dataset": "cifar10", "label": None})),
    json.dumps(record(machine={"processor": "x"})),
    json.dumps(record(machine={**machine(torch.device("cpu")), "processor": ["x"]})),
    json.dumps(record(machine={**machine(torch.device("cpu")), "versions": {}})),
    json.dumps(record(result={"epochs": 1, "best_epoch": 1, "best_valid_accuracy": None})),
    json.dumps(record(resumed=5)),
    '{"number": ' + "9" * 4300 + "}",
    "[" * 100_000 + "]" * 100_000,
]


@pytest.mark.parametrize("written", FOREIGN, ids=lambda text: str(text)[:20])
def test_folders_that_are_no_runs_are_passed_over_by_name_and_refused_by_name(written, make_run, runs, capsys):
    ours = make_run("ours")
    foreign = runs / "foreign"
    foreign.mkdir()
    (foreign / "best_checkpoint.pth").write_bytes(b"weights")
    if written is not None:
        (foreign / "run.json").write_text(written)
    assert find_run("cifar10").path == ours.path
    assert "Passed over: the run 'foreign': its run.json" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"the run 'foreign': its run\.json.* is missing or damaged"):
        find_run("cifar10", "foreign")


@pytest.mark.parametrize("table", [None, "", "epoch,train_loss,valid_loss,valid_accuracy,lr,seconds\n", "a;b\n1;2\n"])
def test_a_run_whose_table_lacks_epochs_is_passed_over_by_name_until_it_goes_on(table, start, capsys):
    """Somebody saved it with Excel, or emptied it."""
    ours, damaged = start(run_name="ours"), start(run_name="damaged")
    before = damaged.history_csv.read_bytes()
    damaged.history_csv.unlink()
    if table is not None:
        damaged.history_csv.write_text(table)
    assert find_run("digits").path == ours.path
    assert "Passed over: the run 'damaged': its history.csv " in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="the run 'damaged': its history.csv (lacks epochs|is damaged)"):
        find_run("digits", "damaged")
    start(run_name="damaged", resume=True)
    assert damaged.history_csv.read_bytes() == before and find_run("digits").path == damaged.path


def test_a_record_whose_best_epoch_is_not_in_the_table_is_passed_over(make_run, capsys):
    ours = make_run("ours")
    make_run("odd", number=2, result={"epochs": 1, "best_epoch": 2, "best_valid_accuracy": 0.5})
    assert find_run("cifar10").path == ours.path and "Passed over: the run 'odd'" in capsys.readouterr().out


def test_a_run_can_be_named(make_run):
    older = make_run("older", number=1)
    make_run("newer", number=2)
    assert find_run("cifar10", "older").path == older.path


def test_a_name_that_is_wrong_is_refused_with_those_there_are(make_run):
    with pytest.raises(CheckpointError, match="no such run has a model. Runs: none yet"):
        find_run("cifar10", "frist")
    make_run("second")
    make_run("first")
    for wrong in ("frist", "../first", "first/../second"):
        with pytest.raises(CheckpointError, match=f"run_name = '{wrong}': no such run has a model.* first, second."):
            find_run("cifar10", wrong)


def test_a_run_on_other_data_is_refused_by_name(make_run):
    make_run("first", dataset="digits")
    with pytest.raises(CheckpointError, match="trained on digits, but the data loaded here is cifar10"):
        find_run("cifar10", "first")


def test_a_run_that_was_killed_between_the_files_of_an_epoch_is_found_whole(start):
    """As left by a kill after the moment that counts: the new files wait to be moved."""
    run, longer = start(epochs=1), start(epochs=2, run_name="longer")
    (run.path / ".saving").mkdir()
    for file in longer.path.glob("*.*"):
        file.rename(run.path / ".saving" / file.name)
    assert len(run.read_history()) == 1
    found = find_run("digits", "run")
    assert len(found.read_history()) == found.read_record()["result"]["epochs"] == 2
