"""Several processes train one model: the same numbers as one, and every fault ends all of them, with one message."""

import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from parallel_process import fail_in, fill_the_disk_of_the_first, nan_at_its_end, start_as, torchrun_as
from small_run import assert_identical, numbers
from test_kills import KILLED, PRELOADED, Process, needs_posix

from alexnet_cifar10 import batches
from alexnet_cifar10.batches import DeviceLoader
from alexnet_cifar10.runs import Run, load_state

HERE = Path(__file__).resolve().parent
ON_LINUX = sys.platform == "linux"
FEW = "--data digits --device cpu --run-name run".split()


def process(target, said, *arguments):
    """A process that does not import anew what these tests need, and says what it says into the file `said`."""
    context = multiprocessing.get_context(Process.method)
    context.set_forkserver_preload([*PRELOADED, "torch.distributed.run"])
    said.write_text("")
    started = context.Process(target=target, args=(said, *arguments), daemon=True)
    started.start()
    return started


class Group:
    """`python -m alexnet_cifar10` in `count` processes, joined as torchrun would join them."""

    def __init__(self, runs, count, *arguments, **how):
        runs.mkdir(exist_ok=True)
        store = {"is_master": True, "wait_for_workers": False, "use_libuv": os.name == "posix"}
        self.store = dist.TCPStore("127.0.0.1", 0, **store)
        joined = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port), "WORLD_SIZE": str(count)}
        joined |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        self.files = [runs / f"said-{rank}.txt" for rank in range(count)]
        self.processes = []
        for rank, file in enumerate(self.files):
            own = {"RUNS_ROOT": str(runs), "RANK": str(rank), "LOCAL_RANK": str(rank)} | (joined if count > 1 else {})
            words = {**how, "weights": runs / f"weights-{rank}.pt"}
            self.processes.append(process(start_as, file, own, [*FEW, *arguments], words))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for each in self.processes:
            each.kill()
            each.join()

    def wait(self):
        """The exit codes; none may hang."""
        end = time.monotonic() + 60
        for each in self.processes:
            each.join(timeout=max(0, end - time.monotonic()))
        return [each.exitcode for each in self.processes]

    @property
    def said(self):
        texts = [file.read_text(encoding="utf-8", errors="strict" if ON_LINUX else "replace") for file in self.files]
        return texts if ON_LINUX else [re.sub(r"(?m)^\[W.*\n", "", text) for text in texts]  # PyTorch's, of sockets


def trained(runs, count, *arguments, **how):
    """The run of a group that ends well, in which only the first process speaks, and all have the same weights."""
    with Group(runs, count, *arguments, **how) as group:
        assert group.wait() == [0] * count, group.said
    assert "Finished" in group.said[0] and not any(group.said[1:])
    first, *others = (torch.load(runs / f"weights-{rank}.pt") for rank in range(count))
    assert all(torch.equal(*pair) for other in others for pair in zip(first, other, strict=True))
    return Run(runs / "run")


def test_one_two_and_three_processes_learn_the_same_without_batch_norm(tmp_path):
    """With shifts, cutouts, Muon and its schedule; the last batch has 7 images, which cannot be shared equally."""
    long = [*"--recipe fast-long --epochs 2 --batch-size 8 --changes".split(), "{'others_rate': 0.5}"]
    alone, *others = (trained(tmp_path / str(count), count, *long) for count in (1, 2, 3))
    assert alone.read_record()["processes"] == 1
    for count, run in enumerate(others, start=2):
        assert run.read_record()["processes"] == count
        assert run.read_record()["recipe"]["flip"] is False, "a mirrored 2 is no 2"
        for row, wanted in zip(numbers(run), numbers(alone), strict=True):
            assert row == pytest.approx(wanted, abs=5e-6)
        weights, wanted = load_state(run.last_checkpoint), load_state(alone.last_checkpoint)
        assert all(torch.allclose(weights[key], wanted[key], atol=1e-5) for key in wanted)


def test_the_command_line_trains_as_the_loop_does(start, tmp_path):
    run = trained(tmp_path / "runs", 1, *"--recipe classic --epochs 1 --batch-size 8 --seed 7".split(), batch_norm=True)
    other = start(images=23, valid=range(200, 206), epochs=1, batch_size=8, seed=7)
    assert run.last_checkpoint.read_bytes() == other.last_checkpoint.read_bytes()


def test_a_run_goes_on_to_the_last_bit_with_as_many_processes_and_with_no_other_number(tmp_path):
    """All know when to stop early, also what the epochs before were like."""
    classic = "--recipe classic --batch-size 8 --learning-rate 0.05 --patience 1 --epochs".split()
    whole = trained(tmp_path / "whole", 2, *classic, "9", batch_norm=True)
    assert whole.read_record()["batch_norm"] == "over each process's share"
    assert whole.read_record()["result"]["stopped_early"]
    before = len(whole.read_history()) - 1
    trained(tmp_path / "runs", 2, *classic, str(before), batch_norm=True)
    with Group(tmp_path / "runs", 1, *classic, "9", "--resume", batch_norm=True) as alone:
        assert alone.wait() == [1]
    assert "cannot be resumed with other settings: processes was 2, now 1" in alone.said[0].splitlines()[-1]
    assert_identical(trained(tmp_path / "runs", 2, *classic, "9", "--resume", batch_norm=True), whole)


CLASSIC = "--recipe classic --batch-size 8 --epochs 3".split()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (nan_at_its_end, "Run 'run', epoch 2: the training loss of step 2 is nan, not a finite number."),
        pytest.param(fill_the_disk_of_the_first, "cannot be written into", marks=needs_posix),
    ],
)
def test_what_no_process_can_go_on_from_ends_both_with_one_message(spoil, why, tmp_path):
    """The batch has 8 images, so its last one, which is not a number, is the second process's."""
    with Group(tmp_path, 2, *CLASSIC, spoil=spoil) as group:
        assert group.wait() == [1, 1]
    first, second = group.said
    assert why in first.splitlines()[-1] and "Traceback" not in first and second == ""
    record = Run(tmp_path / "run").read_record()
    assert (record["status"], record["result"]["epochs"]) == ("failed", 1)


@pytest.mark.parametrize("error", [MemoryError, ValueError])
@pytest.mark.parametrize("rank", [0, 1])
def test_what_fails_in_one_process_alone_is_shown_and_ends_both(rank, error, tmp_path):
    """Both end at once, also if the message alone is shown, as that of a `ValueError` in the first process is."""
    with Group(tmp_path, 2, *CLASSIC, spoil=partial(fail_in, str(rank), error)) as group:
        assert group.wait() == [1, 1]
    assert group.said[rank].splitlines()[-1].endswith("only here")
    assert len(Run(tmp_path / "run").read_history()) == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--epochs", "0"], "epochs = 0 (int) is not allowed"),
        (["--epohcs", "3"], "unrecognized arguments: --epohcs 3"),
        (["--changes", '{"flipp": True}'], "changes is a dictionary with keys out of optimizer, "),
        (["--changes", '{"flip'], """changes = '{"flip' (a piece of text) is not allowed"""),
        (["--data", "cifar10"], "CIFAR10_ROOT"),
        (["--batch-size", "3"], "batch_size = 3: at least two for each of 2 processes"),
    ],
)
def test_what_cannot_be_trained_is_said_once(arguments, why, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "nowhere"))
    with Group(tmp_path, 2, *arguments) as group:
        assert all(group.wait())
    first, second = group.said
    assert why in first and "Traceback" not in first and second == ""
    assert not (tmp_path / "run").exists()


def test_help_says_what_each_option_can_be(tmp_path):
    with Group(tmp_path, 1, "--help") as alone:
        assert alone.wait() == [0]
    said = " ".join(alone.said[0].split())
    assert "--recipe RECIPE one of classic, fast, fast-long" in said
    assert "--batch-size BATCH_SIZE a whole number from 2 to 50000" in said


def test_a_last_batch_with_less_than_two_images_for_each_process_is_left_out_by_all(digits, monkeypatch):
    monkeypatch.setattr(batches, "world", lambda: 3)
    cpu = torch.device("cpu")
    loaders = [DeviceLoader(digits.train, range(n), batch_size=8, device=cpu, shuffle=True) for n in (13, 14)]
    assert [[len(labels) for _, labels in loader] for loader in loaders] == [[8], [8, 6]]


# --- torchrun itself ----------------------------------------------------------------------------------------------


def torchrun(runs, said, *arguments, network=None):
    """Start `torchrun` with its own options, and after "--" those of the entry."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    environment = {"RUNS_ROOT": str(runs), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    if network:
        environment["GLOO_SOCKET_IFNAME"] = "cable"
    own, of_entry = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    return process(torchrun_as, said, environment, [*own, str(HERE / "parallel_process.py"), *FEW, *of_entry], network)


def exit_code(agent):
    agent.join(timeout=120)
    return agent.exitcode


TWO = ("--standalone", "--local-addr=localhost", "--nproc_per_node=2")
FOREVER = "--recipe classic --batch-size 8 --epochs 10000 --patience 10000".split()


def wait_for(is_alive, file, text, seconds=120):
    end = time.monotonic() + seconds
    while text not in file.read_text():
        assert is_alive() and time.monotonic() < end, file.read_text()
        time.sleep(0.02)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_run_goes_on(rank, tmp_path):
    with Group(tmp_path, 2, *FOREVER) as group:
        wait_for(group.processes[rank].is_alive, group.files[0], "Epoch  2/")
        group.processes[rank].kill()
        assert group.wait() == ([KILLED, 1] if rank == 0 else [1, KILLED])
    done = len(Run(tmp_path / "run").read_history())
    trained(tmp_path, 2, *FOREVER, "--epochs", str(done + 1), "--resume")
    assert len(Run(tmp_path / "run").read_history()) == done + 1


@needs_posix
def test_ctrl_c_tells_the_shell_so(tmp_path):
    """What stands behind && is not started then."""
    with Group(tmp_path, 1, *FOREVER) as group:
        wait_for(group.processes[0].is_alive, group.files[0], "Epoch  1/")
        os.kill(group.processes[0].pid, signal.SIGINT)
        assert group.wait() == [130]
    assert "\nStopped: " in group.files[0].read_text()


@needs_posix
def test_ctrl_c_ends_torchrun_calmly(tmp_path):
    said = tmp_path / "said.txt"
    agent = torchrun(tmp_path, said, *TWO, "--", *FOREVER)
    wait_for(agent.is_alive, said, "Epoch  2/")
    children = subprocess.run(["pgrep", "-P", str(agent.pid)], capture_output=True, text=True).stdout.split()
    os.kill(agent.pid, signal.SIGINT)
    assert exit_code(agent) == 1
    stopped = re.findall(r"^Stopped: what \d+ epochs gave is kept .* run_name = 'run'\.$", said.read_text(), re.M)
    assert len(stopped) == 1 and "Connection" not in said.read_text()
    assert Run(tmp_path / "run").read_record()["status"] == "interrupted"
    assert subprocess.run(["ps", "-p", ",".join(children)], capture_output=True).returncode == 1, "both are gone"


@needs_posix  # torch for Windows has no libuv, which torchrun needs there
def test_a_port_in_use_is_said_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        where = ("--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}")
        agent = torchrun(tmp_path, tmp_path / "said.txt", *where, "--", *FOREVER)
        assert exit_code(agent) == 1
    assert "EADDRINUSE" in (tmp_path / "said.txt").read_text()


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, timeout=10).returncode == 0


@pytest.fixture
def two_machines():
    """Two network namespaces with a cable between them."""
    names = [f"alexnet-{os.getpid()}-{i}" for i in (1, 2)]
    if shutil.which("ip") is None or not ip("netns", "add", names[0], check=False):
        pytest.skip("network namespaces are not permitted here")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for i, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.99.0.{i}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            ip("netns", "delete", name, check=False)


def test_two_machines_train_together(two_machines, tmp_path):
    where = ("--nnodes=2", "--nproc_per_node=1", "--master_addr=10.99.0.1", "--master_port=29500")
    agents = [
        torchrun(
            *(tmp_path / "runs", tmp_path / f"said-{i}.txt", *where, f"--node_rank={i}", "--", "--epochs", "1"),
            network=network,
        )
        for i, network in enumerate(two_machines)
    ]
    try:
        assert [exit_code(agent) for agent in agents] == [0, 0], (tmp_path / "said-0.txt").read_text()
    finally:
        for agent in agents:
            agent.terminate()  # and so all that it has started
            agent.join(timeout=60)
    said = [(tmp_path / f"said-{i}.txt").read_text() for i in (0, 1)]
    assert sorted("Finished" in text for text in said) == [False, True]
    assert Run(tmp_path / "runs" / "run").read_record()["processes"] == 2
