"""Make .venv, the environment of this project; complete one that is half-made, update one that is out of date.

Only the standard library, and no syntax newer than Python 3.6: an old Python must get far enough to say that it is.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import venv
from subprocess import DEVNULL, CalledProcessError, call, check_output

from clean import ROOT, STAMP, VENV, empty_environment, wait_for_others

PYTHON = str(VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
UV = shutil.which("uv")
FILES = [(ROOT / name).read_text("utf-8") for name in ("requirements.txt", "constraints.txt", "pyproject.toml")]

TOO_OLD = """Python 3.11 or newer is needed; {} is Python {}. If a newer one is installed, name it, for example:
    make run PYTHON=python3.12        or, without make:  python3.12 scripts/setup.py"""
NOT_OURS = """{} is behind a link, or has no Python 3.11+ and was not made by this set-up: nothing in it is changed.
Move .venv away or delete it (of a link, only the link); then run the same command again."""
NO_PIP = "{} has no pip, and no ensurepip to get it. On Debian and Ubuntu: sudo apt install python3-venv"
SPACE = """Not enough disk space: {:.1f} GB are free here, at least {:.1f} GB are needed. On Linux PyTorch brings CUDA
along, about 6 GB, and the downloads are 3 GB more for a while. PyTorch for the processor alone takes 1.5 GB: the page
"Get started" of PyTorch shows that index (Linux, pip, CPU). Set PIP_EXTRA_INDEX_URL to it; then try again."""
FAILED = """\nThe installation failed; the reason stands above. Usual ones: no connection, a proxy (HTTPS_PROXY), your
own index (PIP_INDEX_URL; uv reads UV_DEFAULT_INDEX, not pip's settings), a full disk (6 GB on Linux, 1.5 GB elsewhere),
an Intel Mac or one before macOS 14, a Python so new that PyTorch has no wheel for it yet (name another: make run
PYTHON=python3.13). Then run the same command again."""


def main(versions: str, same_python: bool) -> None:
    lock = wait_for_others()  # noqa: F841 (held to the end)
    made, wanted = STAMP.read_text("utf-8") if STAMP.exists() else None, made_from(versions)
    is_other_python = same_python and wanted[1] != "{}.{}".format(*sys.version_info)
    if made == "\n".join(wanted) and not is_other_python and versions != "newest":
        return
    if VENV.resolve() != VENV or made is None and not wanted[1] and any(VENV.glob("*")):
        sys.exit(NOT_OURS.format(VENV.resolve()))
    # There is none, or it is half-made, moved, for other versions, or its Python was exchanged: make it anew.
    if not wanted[1] or made is not None and (made.split("\n")[:3] != wanted[:3] or is_other_python):
        if sys.version_info < (3, 11):
            sys.exit(TOO_OLD.format(sys.executable, sys.version.split()[0]))
        print("Making .venv: about 2 minutes with a fast connection ...", flush=True)
        empty_environment()
        needed = 2.0 if sys.platform != "linux" or "cpu" in os.getenv("PIP_EXTRA_INDEX_URL", "") else 7.0
        free = shutil.disk_usage(str(VENV)).free / 1e9
        if free < needed and not UV:  # which may have it all in its cache
            sys.exit(SPACE.format(free, needed))
        venv.create(str(VENV), symlinks=os.name != "nt")
        made = ""
    install(versions, made)


def made_from(versions: str) -> list:
    """Folder, Python in .venv ("" if there is none that works), versions; then what decides what is installed."""
    code = "import sys; assert sys.version_info >= (3, 11); print('{}.{}'.format(*sys.version_info), end='')"
    try:
        python = check_output([PYTHON, "-c", code], stderr=DEVNULL).decode()
    except (OSError, CalledProcessError):
        python = ""
    return [str(ROOT), python, versions, *FILES[:2], re.sub(r"(?ms)^\[tool\.(?!setuptools).*?(?=^\[|\Z)", "", FILES[2])]


def install(versions: str, made: str) -> None:
    pip = [UV, "pip", "install", "--python", PYTHON, "pip"] if UV else [PYTHON, "-m", "pip", "install", "--no-input"]
    what = ["-r", "requirements.txt", "-c", "constraints.txt"]
    if versions != "pinned":  # the bounds of pyproject.toml override the pins
        pins = dict(re.findall(r'(?m)^ *"?([\w.-]+)[=>]=([\w.]+)', FILES[0] + FILES[2]))
        what = ["--upgrade", *pins] if versions == "newest" else ["==".join(pin) for pin in pins.items()]
    if not UV and call([PYTHON, "-c", "import pip"], stderr=DEVNULL):
        if call([PYTHON, "-m", "ensurepip"], close_fds=False):
            sys.exit(NO_PIP.format(PYTHON))
    if made:
        STAMP.write_text("")
    (VENV / "tmp").mkdir(exist_ok=True)  # what a killed pip leaves behind, some GB, goes with .venv
    os.environ.update(TMPDIR=str(VENV / "tmp"), PIP_UPGRADE_STRATEGY="eager", PIP_DISABLE_PIP_VERSION_CHECK="1")
    if call(pip + what + ["--editable", "."], close_fds=False):
        if made:  # nothing is changed before everything is found: what was complete still is
            STAMP.write_text(made, "utf-8")
        sys.exit(FAILED)
    shutil.rmtree(str(VENV / "tmp"))
    STAMP.write_text("\n".join(made_from(versions)), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make or update .venv, the environment of this project.")
    parser.add_argument("--versions", choices=["pinned", "oldest", "newest"], default="pinned")
    parser.add_argument("--same-python", action="store_true", help="make .venv anew if another Python version made it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that pip is ended too
    os.chdir(str(ROOT))
    try:
        main(**vars(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command will finish the job.")
    except (OSError, ValueError) as error:  # ValueError: no environment can be in a folder with a colon in its name
        sys.exit("The set-up stopped: {}.\nIf a program uses .venv, close it; then repeat the command.".format(error))
