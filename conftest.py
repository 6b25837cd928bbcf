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

from fewer import do_fewer
from jupyter_client import KernelManager
from nbformat import from_dict
from nbval.plugin import IPyNbCell


def pytest_configure(config):
    before = {name: os.environ.get(name) for name in ("RUNS_ROOT", "TUTORIAL_SMOKE", "HYPOTHESIS_STORAGE_DIRECTORY")}
    folder = tempfile.mkdtemp(prefix="tests-")
    os.environ["RUNS_ROOT"] = folder  # never the user's own runs/
    os.environ.setdefault("TUTORIAL_SMOKE", "1")
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: more threads would wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # glibc gives what is freed back to the system, and with large batches that is a quarter of their time: it keeps it.
    os.environ.update(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_=str(2**30))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.path.join(folder, ".hypothesis")  # not into the project

    if sys.platform == "linux":  # files of each kernel's own, not ports: two workers may be told that one port is free
        set_up = KernelManager.__init__  # nbval's; papermill's is a subclass

        @wraps(set_up)
        def with_files(self, **words):
            set_up(self, **{"transport": "ipc", "ip": tempfile.mkdtemp("", "", folder) + "/k"} | words)

        KernelManager.__init__ = with_files

    def clean_up():
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

    config.add_cleanup(clean_up)


# In the order in which they begin. Two workers take whole files: what takes long must not be what one waits for.
SLOW = "08_ 04_ 09_ test_notebooks parallel setup kills .ipynb test_run one_page test_train recipes".split()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: next((i for i, part in enumerate(SLOW) if part in item.path.name), len(SLOW)))
    items[:] = [one for item in items for one in twice(item)]


def twice(item):
    """A learner runs a cell again: so does nbval (not what `torchrun` starts), and nothing fails or says otherwise."""
    yield item
    if isinstance(item, IPyNbCell) and "torchrun(" not in item.cell.source:
        cell = from_dict(item.cell)
        do_fewer([cell])
        if cell.source.startswith("loss.backward()\n"):  # what PyTorch says the second time is a lesson
            error = "RuntimeError, match='Trying to backward through the graph a second time'"
            cell.source = f"import pytest\nwith pytest.raises({error}):\n    {cell.source}"
        words = {"cell_num": item.cell_num, "cell": cell, "options": item.options}
        yield IPyNbCell.from_parent(item.parent, name=f"{item.name} again", **words)


def pytest_ignore_collect(collection_path):
    """The lessons are tests; what papermill left beside them (out.ipynb, say), or in runs/, is not."""
    root = Path(__file__).parent
    if collection_path in (root / "runs", root / "datasets"):
        return True
    if collection_path.suffix == ".ipynb" and collection_path.parent == root / "notebooks":
        return not re.match(r"\d\d_", collection_path.name) or None
