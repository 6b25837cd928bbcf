"""Make .venv, the environment of this project; finish one that is half-made, update one that is out of date.

    python3 scripts/setup_environment.py            (make does this before run, test, lab and tensorboard)

Only the standard library, and no syntax newer than Python 3.6: an old Python must get far enough to say that it is.
A file in .venv tells what it was made from. It is empty while the work goes on, so that an interrupt shows.
"""

import argparse
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Optional, Tuple

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
MARKER = VENV / "setup.json"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
LOCK = ROOT / ".venv.lock"  # beside .venv, not in it: emptying .venv must not release the lock

MINIMUM_PYTHON = (3, 11)
GB_WITH_CUDA, GB_WITHOUT = 7.0, 2.0  # what pip leaves behind, and a little more
SETTINGS_WITH_INDEX = ("index-url", "extra-index-url", "find-links")


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description="Make or update .venv, the environment of this project.")
    parser.add_argument(
        "--versions",
        choices=["pinned", "oldest", "newest"],
        default="pinned",
        help="those of requirements.txt (pinned), the oldest that pyproject.toml allows, or the newest",
    )
    parser.add_argument("--same-python", action="store_true", help="remake .venv if another Python version made it")
    parser.add_argument("--clean", action="store_true", help="remove .venv and caches, after asking")
    parser.add_argument("--all", action="store_true", help="with --clean: also runs/ and datasets/")
    parser.add_argument("--yes", action="store_true", help="with --clean: do not ask")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that pip is ended too
    try:
        if options.clean:
            clean(options.all, options.yes)
        elif next_step(options.versions, options.same_python) != "nothing":
            with only_set_up_here() as lock:
                step = next_step(options.versions, options.same_python)  # again: another one may have done it
                if step == "make":
                    make_environment(options.versions, lock)
                elif step == "update":
                    say("Updating .venv ...")
                    install(options.versions, lock)
    except KeyboardInterrupt:
        say("\nInterrupted. The same command will finish the job.")
        sys.exit(130)
    except OSError as error:
        sys.exit(
            "The set-up stopped: {}.\nIf a file is in use, close the programs that use .venv (JupyterLab, an editor); "
            "then run the same command again.".format(error)
        )


def next_step(versions: str, same_python: bool) -> str:
    """What .venv needs: "make" (from nothing), "update" (pip once more) or "nothing"."""
    if not VENV.is_dir() or not os.listdir(str(VENV)):
        return "make"
    python = venv_python_version()
    if not MARKER.exists():  # somebody made it by hand: complete it, but never delete what is not ours
        if python >= MINIMUM_PYTHON:
            return "update"
        sys.exit(
            "The folder .venv was not made by this set-up, and there is no working Python {} or newer in it. Delete "
            "it or move it away, then run the same command again.".format(dotted(MINIMUM_PYTHON))
        )
    made = read_marker()
    wanted_python = sys.version_info[:2] if same_python else python
    if (made.get("folder"), made.get("python")) != (str(ROOT), dotted(python)) or python != wanted_python:
        return "make"  # half-made, moved (scripts in it hold its path), or its Python was exchanged
    if made.get("versions", "pinned") != versions:
        return "make"  # pip would leave behind what only the others need, among it CUDA libraries of the same name
    return "update" if versions == "newest" or made.get("requirements") != digest_of_requirements() else "nothing"


def make_environment(versions: str, lock: IO[str]) -> None:
    check_python()
    if VENV.is_dir():
        say("Removing a .venv that cannot be used: half-made, or for another folder, Python or set of versions ...")
    empty(VENV)
    VENV.mkdir(exist_ok=True)
    MARKER.write_text("")
    check_space(GB_WITHOUT)
    say("Making .venv with Python {}: about 2 minutes with a fast connection ...".format(platform.python_version()))
    if run([sys.executable, "-m", "venv", str(VENV)], lock):
        sys.exit("Python could not make .venv; why stands above.")
    check_space(GB_WITHOUT if brings_no_cuda() else GB_WITH_CUDA)
    install(versions, lock)


def install(versions: str, lock: IO[str]) -> None:
    """The requirements and this project in one call of pip, so that their versions are checked against each other."""
    before = MARKER.read_text() if MARKER.exists() else ""
    if before:
        MARKER.write_text("")
    started = time.time()
    pip = [str(VENV_PYTHON), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    if run(pip + what_to_install(versions) + ["--editable", "."], lock):
        if before:  # pip looks for everything before it changes anything: what was complete still is
            MARKER.write_text(before)
        sys.exit(
            "\npip could not install what the tutorial needs; its reason stands above. Usual ones: no connection or a "
            "proxy (HTTPS_PROXY),\na Python so new that PyTorch has no wheel for it yet (name another: make run "
            "PYTHON=python3.13), a full disk\n(about 6 GB are needed on Linux, 1.5 GB elsewhere). Then run the same "
            "command again."
        )
    made = {"folder": str(ROOT), "python": dotted(venv_python_version()), "versions": versions}
    made["requirements"] = digest_of_requirements()
    MARKER.write_text(json.dumps(made))
    say(".venv is complete ({:.0f} s).".format(time.time() - started))


# --- what it stands on -------------------------------------------------------------------------------------------


def check_python() -> None:
    if sys.version_info < MINIMUM_PYTHON:
        sys.exit(
            "Python {} or newer is needed; {} is Python {}. If a newer one is installed, name it, for example:\n"
            "    make run PYTHON=python3.12        or, without make:  python3.12 scripts/setup_environment.py".format(
                dotted(MINIMUM_PYTHON), sys.executable, platform.python_version()
            )
        )
    for module in ("venv", "ensurepip"):  # Debian and Ubuntu ship Python without them
        if importlib.util.find_spec(module) is None:
            sys.exit(
                "This Python ({}) lacks its module {}, which makes environments. On Debian and Ubuntu:\n"
                "    sudo apt install python3-venv".format(sys.executable, module)
            )


def check_space(needed: float) -> None:
    free = shutil.disk_usage(str(VENV)).free / 1e9
    if free < needed:
        sys.exit(
            "Not enough disk space: {:.1f} GB are free here, at least {:.1f} GB are needed. On Linux the environment "
            "takes about 6 GB,\nas PyTorch brings CUDA along, and the downloads about 3 GB more for a while. PyTorch "
            "for the processor alone takes 1.5 GB:\nits page \"Get started\" shows the address of that index "
            "(Linux, pip, CPU); set PIP_EXTRA_INDEX_URL to it.\nThen run the same command again.".format(free, needed)
        )


def brings_no_cuda() -> bool:
    """True where PyTorch's wheels are the small ones: not Linux on a PC, or pip's settings name an index for CPUs."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return True
    pip = [str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check", "config", "list"]
    settings = subprocess.run(pip, stdout=subprocess.PIPE, universal_newlines=True).stdout
    return any("cpu" in line for line in settings.splitlines() if any(name in line for name in SETTINGS_WITH_INDEX))


def venv_python_version() -> Tuple[int, ...]:
    """(3, 11) and the like; () if there is no Python in .venv that starts."""
    try:
        command = [str(VENV_PYTHON), "-c", "import sys; print(*sys.version_info[:2])"]
        return tuple(int(part) for part in subprocess.check_output(command, stderr=subprocess.DEVNULL).split())
    except (OSError, subprocess.CalledProcessError):
        return ()


def read_marker() -> Dict[str, Any]:
    """What .venv was made from; {} if its set-up did not end."""
    try:
        return json.loads(MARKER.read_text())
    except ValueError:
        return {}


def digest_of_requirements() -> str:
    """Changes with requirements.txt and with pyproject.toml, but not with the settings of other tools in it."""
    project = re.sub(r"(?ms)^\[tool\.(?!setuptools).*?(?=^\[|\Z)", "", read(ROOT / "pyproject.toml"))
    return hashlib.sha256((read(ROOT / "requirements.txt") + project).encode("utf-8")).hexdigest()


def what_to_install(versions: str) -> List[str]:
    """The end of pip's command line, without this project itself."""
    if versions == "pinned":
        return ["-r", "requirements.txt"]
    pins = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", read(ROOT / "requirements.txt")))
    if versions == "newest":
        return ["--upgrade", "--upgrade-strategy", "eager"] + list(pins)
    pins.update(re.findall(r'(?m)^ +"([\w.-]+)>=([\w.]+)"', read(ROOT / "pyproject.toml")))  # no tomllib before 3.11
    return ["{}=={}".format(name, version) for name, version in pins.items()]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def dotted(version: Tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def say(line: str) -> None:
    print(line, flush=True)


# --- processes ---------------------------------------------------------------------------------------------------


@contextmanager
def only_set_up_here() -> Iterator[IO[str]]:
    """Wait until no other set-up works in this folder. pip inherits the lock: it holds even if only pip survives."""
    with open(str(LOCK), "a") as lock:
        if not try_to_lock(lock):
            say("Another set-up is at work in this folder; waiting for it ...")
            while not try_to_lock(lock):
                time.sleep(0.5)
        yield lock


def try_to_lock(lock: IO[str]) -> bool:
    try:
        if os.name == "nt":
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # others: a disk without locks
    return True


def run(command: List[str], lock: IO[str]) -> int:
    """Run a command, with a sign of life each half minute; return its exit status. It ends when this process ends."""
    inherited = {} if os.name == "nt" else {"pass_fds": (lock.fileno(),)}
    started = time.time()
    child = subprocess.Popen(command, cwd=str(ROOT), stdin=subprocess.DEVNULL, **inherited)
    try:
        while True:
            try:
                return child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                say("... {:.0f} s, still at work".format(time.time() - started))
    except BaseException:
        try:
            child.send_signal(signal.SIGINT)  # pip takes away its temporary files, some GB
            child.wait(timeout=10)
        except (ValueError, subprocess.TimeoutExpired):  # Windows knows no such signal
            child.kill()
            child.wait()
        raise


# --- taking away -------------------------------------------------------------------------------------------------


def empty(folder: Path) -> None:
    """Delete what is in an environment, the marker last and void: a deletion that is interrupted shows as half-made."""
    if not folder.is_dir():
        return
    if MARKER.exists():
        MARKER.write_text("")
    for path in sorted(folder.iterdir(), key=lambda path: path == MARKER):
        delete(path)


def delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path))
    else:
        path.unlink()


def clean(everything: bool, yes: bool) -> None:
    made = [VENV, LOCK, ROOT / "build", *ROOT.glob("src/*.egg-info"), *ROOT.glob(".*_cache"), ROOT / ".hypothesis"]
    made += ROOT.glob(".venv-colab-*")  # left behind when make test-colab was killed
    for folder in ("browser", "colab", "notebooks", "scripts", "src", "tests"):
        made += [*ROOT.glob(folder + "/**/__pycache__"), *ROOT.glob(folder + "/**/.ipynb_checkpoints")]
    results = [ROOT / "runs", ROOT / "datasets"]
    made = [path for path in made + (results if everything else []) if path.exists() or path.is_symlink()]
    kept = [path for path in results if path.exists() and path not in made]
    if not made:
        return say("There is nothing to remove.")
    say("This removes:")
    for path in made:
        say("    {:<44} {:>9.1f} MB".format(str(path.relative_to(ROOT)), size(path) / 1e6))
    if kept:
        say("This stays (ALL=1 removes it too): " + ", ".join(path.name for path in kept))
    if not yes:
        if not sys.stdin.isatty():
            return say("Nothing was removed, as nobody can be asked here. make clean YES=1 removes it.")
        if input("Remove it? [y/N] ").strip().lower() not in ("y", "yes"):
            return say("Nothing was removed.")
    for path in made:
        if path == VENV and not path.is_symlink():
            empty(path)
        delete(path)
    say("Removed.")


def size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files)


if __name__ == "__main__":
    main()
