"""Remove what make made, after asking: the environment and caches, with --all runs/ and datasets/ too.

Of a link only the link goes, never what it leads to. scripts/setup.py deletes in this way too.
"""

import os
import shutil
import sys
import time
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".done"  # what a complete environment was made from; empty as long as something is missing


def main(everything: bool, yes: bool) -> None:
    results = [ROOT / "runs", ROOT / "datasets"]
    made = [VENV, *(ROOT / name for name in ("build", ".hypothesis", ".snakemake", "__pycache__"))]
    made += results if everything else []
    made += [*ROOT.glob(".venv-colab-*"), *ROOT.glob(".*_cache"), *ROOT.glob("src/*.egg-info")]
    for folder in ("browser", "colab", "docs", "experiments", "notebooks", "scripts", "src", "tests"):
        made += [*ROOT.glob(folder + "/**/__pycache__"), *ROOT.glob(folder + "/**/.ipynb_checkpoints")]
    made = [path for path in made if os.path.lexists(str(path)) and path.parent.resolve() == path.parent]
    if not made:
        return print("There is nothing to remove.")
    print("This removes:")
    for path in made:
        size = sum(file.lstat().st_size for file in (path.rglob("*") if path.resolve() == path else [path]))
        print("    {:<44} {:>9.1f} MB".format(str(path.relative_to(ROOT)), size / 1e6))
    kept = [path.name for path in results if path.exists() and path not in made]
    if kept:
        print("This stays (ALL=1 removes it too): " + ", ".join(kept))
    try:
        if not yes and input("Remove it? [y/N] ").strip().lower() not in ("y", "yes"):
            return print("Nothing was removed.")
    except EOFError:
        return print("\nNothing was removed, as nobody can be asked here. make clean YES=1 removes it.")
    lock = wait_for_others()  # noqa: F841 (held to the end)
    for path in made:
        if path == VENV and path.resolve() == path:  # neither a link nor a junction of Windows
            empty_environment()
        delete(path)
    print("Removed.")


def delete(path: Path) -> None:
    shutil.rmtree(str(path)) if path.is_dir() and path.resolve() == path else path.unlink()


def empty_environment() -> None:
    """Leave nothing in .venv but an empty stamp, which is made first: a deletion that is interrupted shows."""
    VENV.mkdir(exist_ok=True)
    STAMP.write_text("")
    for path in VENV.iterdir():
        if path != STAMP:
            delete(path)


def wait_for_others() -> BinaryIO:
    """A lock: one set-up at a time works in this folder. A pip that outlives its set-up has inherited it."""
    lock = open(__file__, "rb")
    lock.seek(1 << 30)  # Windows locks bytes; nobody reads these
    os.set_inheritable(lock.fileno(), True)
    word = "Another set-up is at work in this folder; waiting for it ...\n"
    while True:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except (BlockingIOError, PermissionError):
            print(word, end="", flush=True)
            word = "."
            time.sleep(0.5)
        except OSError:  # a disk without locks
            return lock


if __name__ == "__main__":
    main("--all" in sys.argv, "--yes" in sys.argv)
