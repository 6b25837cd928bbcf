"""A server on 127.0.0.1 that misbehaves as a test wants it to, a small archive for it, and the download from it."""

from __future__ import annotations

import hashlib
import io
import os
import random
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from alexnet_cifar10.data import DataError
from alexnet_cifar10.data.cifar10 import ADDRESS_FILE, Layout
from alexnet_cifar10.data.download import download_cifar10

# ---------------------------------------------------------------------------------------------- a small archive


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


def register(body: bytes, name: str = "cifar-10-binary.tar.gz", folder: str = "cifar-10-batches-bin") -> Layout:
    """A published form of which `body` is the official archive."""
    return Layout("a test's", name, len(body), folder, "sha256", {name: hashlib.sha256(body).hexdigest()}, False)


noise = random.Random(0)  # which gzip cannot shrink
FILES = {f"{name}.bin": noise.randbytes(61_460) for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]}
BODY = tar_gz({f"cifar-10-batches-bin/{name}": content for name, content in FILES.items()})
LAYOUT = register(BODY)
SIZE, HALF = len(BODY), len(BODY) // 2
OTHER_BODY = BODY[:40] + noise.randbytes(SIZE - 40)  # as long, but not the archive


# -------------------------------------------------------------------------------------------- the faulty server

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request to a Mirror. The mirror's next answer decides what happens."""

    mirror: Mirror

    def do_GET(self) -> None:
        self.mirror.ranges.append(self.headers.get("Range"))
        self.mirror.paths.append(self.path)
        self.mirror.heard.append(self.headers)
        answer = self.mirror.answers.pop(0) if self.mirror.answers else whole()
        try:
            answer(self)
        except OSError:
            self.mirror.hung_up.set()  # the client did not want the rest

    do_CONNECT = do_GET

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
        self.heard: list[Message] = []  # the headers of each request
        self.sent = 0
        self.go_on = threading.Event()
        self.hung_up = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Request,), {"mirror": self}))
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.base = f"http://{self.host}/cifar"
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


def raw(content: bytes, then: Answer = lambda request: None) -> Answer:
    """These bytes instead of an answer that a server would give, and then something else."""

    def answer(request: Request) -> None:
        request.wfile.write(content)
        then(request)

    return answer


def hang(request: Request) -> None:
    request.mirror.go_on.wait(20)


def forever(content: bytes, pause: float = 0) -> Answer:
    """The same bytes again and again, until the client hangs up; `sent` counts them."""

    def answer(request: Request) -> None:
        while not request.mirror.go_on.wait(pause):
            request.body(content)

    return answer


# ------------------------------------------------------------------------------------------------------ helpers


def addresses(sources: tuple[Mirror | str, ...]) -> list[str]:
    return [source.base if isinstance(source, Mirror) else source for source in sources]


def fetch(root: Path, *sources: Mirror | str, layouts: tuple[Layout, ...] = (LAYOUT,)) -> list[str]:
    """Download; the lines that were printed."""
    with redirect_stdout(io.StringIO()) as printed:
        download_cifar10(root, layouts, addresses(sources))
    return printed.getvalue().split("\n")[:-1]


def fails(root: Path, *sources: Mirror | str, layouts: tuple[Layout, ...] = (LAYOUT,)) -> tuple[str, ...]:
    """The reasons, after checking that no folder came of it."""
    with pytest.raises(DataError) as caught:
        fetch(root, *sources, layouts=layouts)
    assert not (root / LAYOUT.folder).exists()
    assert all(reason in str(caught.value) for reason in caught.value.args)
    return caught.value.args


def left(root: Path) -> set[str]:
    """What a download leaves behind, apart from its lock."""
    return {path.name for path in root.iterdir()} - {".cifar10.lock"}


def assert_complete(root: Path, source: Mirror | None) -> None:
    """All is there, and says that it was fetched from `source`."""
    assert left(root) == {LAYOUT.folder}
    address = {ADDRESS_FILE: f"{source.base}/{LAYOUT.archive}\n".encode()} if source else {}
    assert {path.name: path.read_bytes() for path in (root / LAYOUT.folder).iterdir()} == FILES | address


def part_of(root: Path) -> Path:
    return root / f"{LAYOUT.archive}.part"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited for 20 s"
        time.sleep(0.005)


def closed_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


@contextmanager
def not_as_root(folder: Path) -> Iterator[None]:
    """Root may read and write everything, so the process is somebody else for a while."""
    if os.name != "posix" or os.getuid() != 0:
        yield
        return
    for parent in (folder, *folder.parents):
        parent.chmod(parent.stat().st_mode | 0o055)  # so that there is a way in
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
