"""For every test, those in the notebooks included: runs go to a folder that is removed at the end, and stay short.

It stands here and not in tests/, because the kernels of `pytest --nbval-lax notebooks/04_train.ipynb` inherit it too.
"""

import os
import re
import shutil
import sys
import tempfile
from functools import wraps
from pathlib import Path

from jupyter_client import AsyncKernelManager


def pytest_configure(config):
    before = {name: os.environ.get(name) for name in ("RUNS_ROOT", "TUTORIAL_SMOKE", "HYPOTHESIS_STORAGE_DIRECTORY")}
    folder = tempfile.mkdtemp(prefix="alexnet-cifar10-tests-")
    os.environ["RUNS_ROOT"] = folder  # never the user's own runs/
    os.environ.setdefault("TUTORIAL_SMOKE", "1")
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: more threads would wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.path.join(folder, ".hypothesis")  # not into the project

    if sys.platform == "linux":  # files, not ports: two workers may be told that the same port is free
        set_up = AsyncKernelManager.__init__
        AsyncKernelManager.__init__ = wraps(set_up)(lambda self, **words: set_up(self, **{"transport": "ipc"} | words))

    def clean_up():
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

    config.add_cleanup(clean_up)


SLOW = ("test_twice", "test_notebooks", ".ipynb", "test_kills", "test_setup", "test_run_notebooks", "test_download")


def pytest_collection_modifyitems(items):
    """What takes long begins first: two workers take whole files, and none should wait long for the other's last one."""
    items.sort(key=lambda item: not any(part in str(item.path) for part in SLOW))


def pytest_ignore_collect(collection_path):
    """The lessons are tests; what papermill left beside them (out.ipynb, say), or in runs/, is not."""
    root = Path(__file__).parent
    if collection_path in (root / "runs", root / "datasets"):
        return True
    if collection_path.suffix == ".ipynb" and collection_path.parent == root / "notebooks":
        return not re.match(r"\d\d_", collection_path.name) or None
