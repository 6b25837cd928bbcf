"""TensorBoard's own server, asked over HTTP as its page asks it: what it shows of two runs is what they wrote down."""

import json
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from alexnet_cifar10.runs.report import CURVES


@contextmanager
def tensorboard(logdir):
    """A function that asks the server for one of its addresses, and gives what it answers; it runs until the end."""
    options = ["--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0", "--reload_interval", "1"]
    command = [sys.executable, "-m", "tensorboard.main", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace")
    try:
        said = ""
        while not (address := re.search(r"at (http://\S+) \(Press CTRL\+C to quit\)", said)):
            line = server.stderr.readline()
            assert line, f"TensorBoard ended: {said}"
            said += line
        threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop it

        def ask(path, body=None, **query):
            url = f"{address[1]}data/{path}?{urlencode(query)}"
            sent = None if body is None else json.dumps(body).encode()
            try:
                with urlopen(Request(url, sent, {"Content-Type": "application/json"}), timeout=30) as answer:
                    return json.load(answer)
            except HTTPError as error:
                if error.code != 404:
                    raise
                return []  # the file that held it is being replaced

        yield ask
    finally:
        server.terminate()
        server.wait(timeout=30)


def shown(ask):
    """Every line in every chart: its epochs and values."""
    return {
        (line, chart): [(step, value) for _, step, value in ask("plugin/scalars/scalars", run=line, tag=chart)]
        for line, charts in ask("plugin/scalars/tags").items()
        for chart in charts
    }


def written_down(*runs):
    """The same from history.csv; TensorBoard keeps 32 bits of a number."""
    return {
        (f"{run.name}/tensorboard/{half}", chart): [
            (row["epoch"], pytest.approx(row[column], rel=1e-6)) for row in run.read_history()
        ]
        for run in runs
        for half, chart, column in CURVES
    }


def assert_shows(ask, *runs):
    """It reads the files every second."""
    deadline = time.monotonic() + 60
    while shown(ask) != written_down(*runs) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert shown(ask) == written_down(*runs)


def test_two_runs_are_shown_as_they_were_written_down_and_told_apart(start, runs):
    rates = {"slow": 1e-4, "schnell, 빠르게": 1e-2}
    few = {"images": 32, "valid": range(40, 60), "batch_size": 8}
    slow, fast = (start(**few, run_name=name, epochs=2, learning_rate=rate) for name, rate in rates.items())
    with tensorboard(runs) as ask:
        assert_shows(ask, slow, fast)
        query = {"startIndex": 0, "sliceSize": 9, "allowedStatuses": ["STATUS_UNKNOWN"]}
        table = ask("plugin/hparams/session_groups", query)["sessionGroups"]
        for run in (slow, fast):
            (row,) = (row for row in table if row["name"] == f"{run.name}/tensorboard/valid")
            expected = {"recipe": "classic", "batch_size": "8", "learning_rate": str(rates[run.name])}
            assert row["hparams"] == expected
            last = run.read_history()[-1]
            reached = [pytest.approx(last[column], rel=1e-6) for column in ("valid_accuracy", "valid_loss")]
            assert [metric["value"] for metric in row["metricValues"]] == reached
        # a run that goes on writes its files anew, also under the eyes of an open page
        assert_shows(ask, slow, start(**few, run_name=fast.name, learning_rate=rates[fast.name], epochs=3, resume=True))
