"""What a server can do to a download: proxies and certificates, answers of every shape, and text on the screen."""

from __future__ import annotations

import io
import os
import select
import socket
import ssl
import subprocess
import time
from base64 import b64encode
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from fault_server import (
    BODY,
    HALF,
    LAYOUT,
    SIZE,
    Answer,
    Request,
    assert_complete,
    closed_port,
    fails,
    fetch,
    forever,
    hang,
    headers_then,
    left,
    raw,
    status,
)

from alexnet_cifar10.data import DataError
from alexnet_cifar10.data.cifar10 import ADDRESS_FILE
from alexnet_cifar10.data.download import download_cifar10

pytestmark = pytest.mark.skipif(os.name != "posix", reason="what a system says of a connection is POSIX here")


# -------------------------------------------------------------------------------------- proxies and certificates

LOGIN = f"Basic {b64encode(b'user:pass').decode()}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_answers_407(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    proxy = mirrors(*[status(407)] * 2)
    monkeypatch.setenv(f"{scheme}_proxy", f"http://{proxy.host}")
    (reason,) = fails(tmp_path, f"{scheme}://mirror.invalid/cifar")  # a name that only the proxy could know
    assert "407 Proxy Authentication Required" in reason and left(tmp_path) == set()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    mirror = mirrors()
    fetch(tmp_path, f"{scheme}://mirror.invalid/cifar", mirror)
    assert_complete(tmp_path, mirror)


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_through_a_proxy(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    proxy = mirrors()
    monkeypatch.setenv(variable, f"http://user:pass@{proxy.host}")
    fetch(tmp_path, "http://mirror.invalid/cifar")
    address = f"http://mirror.invalid/cifar/{LAYOUT.archive}"
    assert (tmp_path / LAYOUT.folder / ADDRESS_FILE).read_text() == f"{address}\n" and proxy.paths == [address]
    assert proxy.heard[0]["Proxy-Authorization"] == LOGIN
    assert proxy.heard[0]["Host"] == "mirror.invalid"
    monkeypatch.setenv(variable, f"user:pass@{(nobody := closed_port())}")
    (reason,) = fails(tmp_path / "b", "http://mirror.invalid/cifar")
    assert f"proxy {nobody}: Connection refused" in reason and "pass" not in reason


def relay(request: Request) -> None:
    """Of a proxy: let the two ends of a tunnel talk until one of them hangs up."""
    host, _, port = request.path.partition(":")
    request.head(200)
    with socket.create_connection((host, int(port))) as there:
        here = request.connection
        while True:
            for end in select.select([here, there], [], [], 5)[0]:
                if not (content := end.recv(65_536)):
                    return
                (there if end is here else here).sendall(content)


def test_a_proxy_of_another_kind_is_named(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = mirrors()
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
    (reason,) = fails(tmp_path, mirror)
    assert "the proxy is not an http:// or https:// address" in reason
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fetch(tmp_path, mirror.base.replace("http", "HTTP"))
    assert mirror.sent == SIZE


def test_a_proxy_whose_answer_has_no_end(tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch, impatient) -> None:
    proxy = mirrors(raw(b"HTTP/1.1 200 OK\r\n", forever(b"X-More: ", 0.05)))
    monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
    (reason,) = fails(tmp_path, "https://mirror.invalid/cifar")
    assert "too slow" in reason and proxy.hung_up.wait(2)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl is not here to make a certificate")
    (folder / "both").write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return folder / "both"


@pytest.mark.parametrize("by_proxy", [False, True])
def test_tls_only_with_a_certificate_that_is_trusted(
    tmp_path: Path, mirrors, monkeypatch: pytest.MonkeyPatch, certificate: Path, by_proxy: bool
) -> None:
    mirror = mirrors()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    mirror.server.socket = context.wrap_socket(mirror.server.socket, server_side=True, do_handshake_on_connect=False)
    address = mirror.base.replace("http://", "https://")
    tunnel = mirrors(*[relay] * 2)
    if by_proxy:
        monkeypatch.setenv("https_proxy", f"http://user:pass@{tunnel.host}")
    (reason,) = fails(tmp_path, address)
    assert "certificate verify failed" in reason and mirror.paths == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetch(tmp_path, address)
    assert (tmp_path / LAYOUT.folder / ADDRESS_FILE).read_text() == f"{address}/{LAYOUT.archive}\n"
    assert tunnel.paths == [mirror.host] * (2 if by_proxy else 0)
    assert all(headers["Proxy-Authorization"] == LOGIN for headers in tunnel.heard)
    assert not mirror.heard[0]["Proxy-Authorization"]


# ------------------------------------------------------------------------------------------- answers of no use


PAGE = b"<!DOCTYPE html><p>Please log in.</p>" * 1_000_000
USELESS = {
    **{f"status {code}": (status(code), f"HTTP {code}") for code in (403, 404, 416, 206, 301)},
    "too long a wait": (status(503, Retry_After=9), "HTTP 503 Service Unavailable, and asks to wait for 9 s"),
    "a page": (headers_then(PAGE, Content_Type="text/html; charset=utf-8"), "a page came"),
    "a page that does not say so": (headers_then(PAGE), "wrong bytes"),
    **{
        f"{size} bytes": (headers_then(b"", hang, Content_Length=size), f"{size} bytes, but {SIZE} are missing")
        for size in (SIZE - 7, SIZE + 7, HALF)
    },
    "nothing": (hang, "timed out"),
}


@pytest.mark.parametrize("answer", USELESS)
def test_an_answer_of_no_use(tmp_path: Path, mirrors, impatient, answer: str) -> None:
    """It is read no further, nothing of it is kept, and the next mirror is asked."""
    content, why = USELESS[answer]
    bad, good = mirrors(content), mirrors()
    lines = fetch(tmp_path, bad, good)
    assert_complete(tmp_path, good)
    assert bad.ranges == [None] and good.ranges == [None] and any(why in line for line in lines)
    assert not bad.sent or (bad.hung_up.wait(5) and bad.sent < len(PAGE))


@pytest.mark.parametrize("asked", [1, "soon", "", "²", "-1", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_retry_after(tmp_path: Path, mirrors, asked: object) -> None:
    """A number of seconds is waited for; without one, the next try comes soon."""
    mirror, wait = mirrors(status(503, Retry_After=asked)), asked if asked == 1 else 0
    start = time.monotonic()
    fetch(tmp_path, mirror)
    assert_complete(tmp_path, mirror)
    assert wait <= time.monotonic() - start < wait + 1 and len(mirror.ranges) == 2


def test_redirect_to_good(tmp_path: Path, mirrors) -> None:
    target = mirrors()
    start = mirrors(status(302, Location=f"{target.base}/elsewhere"))
    fetch(tmp_path, start)
    assert_complete(tmp_path, start)
    assert target.paths == ["/cifar/elsewhere"] and target.sent == SIZE


def test_redirect_loop(tmp_path: Path, mirrors) -> None:
    loop, good = mirrors(*[status(302, Location=f"/cifar/{LAYOUT.archive}")] * 50), mirrors()
    lines = fetch(tmp_path, loop, good)
    assert_complete(tmp_path, good)
    assert len(loop.paths) == 6 and any("5 redirects" in line for line in lines)


def test_gzip_declared_as_the_encoding_of_the_transfer(tmp_path: Path, mirrors) -> None:
    mirror = mirrors(headers_then(BODY, Content_Length=SIZE, Content_Encoding="gzip", Content_Type="application/x-tar"))
    fetch(tmp_path, mirror)
    assert_complete(tmp_path, mirror)


def test_a_body_without_an_end(tmp_path: Path, mirrors) -> None:
    """What comes after the archive is not read."""
    endless = mirrors(headers_then(BODY, forever(bytes(4096))))
    fetch(tmp_path, endless)
    assert_complete(tmp_path, endless)
    assert endless.hung_up.wait(5)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FOUND = b"HTTP/1.1 302 Found\r\nLocation: {good}\r\n"
ENDLESS = {  # how it begins, and what comes again and again
    "headers": (OK, b"X-More: 1\r\n"),
    "one header": (OK + b"X-More: ", b"more"),
    "status line": (b"HTTP/1.1 200 ", b"OK"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "trailers": (CHUNKED + b"4\r\n" + BODY[:4] + b"\r\n0\r\n", b"X-More: 1\r\n"),
    "chunk's extension": (CHUNKED + b"4;", b"more"),
    "redirect": (FOUND + b"\r\n", b"<p>over there</p>"),
    "redirect in chunks": (FOUND + b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nmore\r\n"),
    "refusal": (b"HTTP/1.1 403 Forbidden\r\n\r\n", b"<p>no</p>"),
}


@pytest.mark.parametrize("pause", [0, 0.05], ids=["fast", "slow"])
@pytest.mark.parametrize("shape", ENDLESS)
def test_an_answer_without_an_end_in_any_shape(tmp_path: Path, mirrors, impatient, shape: str, pause: float) -> None:
    """One limit on time and bytes holds for all of it: soon the client hangs up and asks the next mirror."""
    begin, again = ENDLESS[shape]
    good = mirrors()
    begin = begin.replace(b"{good}", f"{good.base}/{LAYOUT.archive}".encode())
    endless = mirrors(*[raw(begin, forever(again * (1 if pause else 1000), pause))] * 2)
    start = time.monotonic()
    fetch(tmp_path, endless, good)
    assert time.monotonic() - start < 3 and endless.hung_up.wait(2)
    assert left(tmp_path) == {LAYOUT.folder} and good.sent >= SIZE - 4
    assert endless.sent < 4 * SIZE + 8_000_000, "twice the archive, two tries, and what was under way"


NONSENSE = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "zeros": bytes(100),
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of 1000 digits": b"HTTP/1.1 " + b"2" * 1000 + b" OK\r\n\r\n",
    "status 0": b"HTTP/1.1 0 OK\r\n\r\n",
    "another version": b"HTTP/7.3 200 OK\r\n\r\n",
    "a header of a megabyte": OK + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
    "a thousand headers": OK + b"X: 1\r\n" * 1000 + b"\r\n",
    "no colon": OK + b"nonsense\r\n\r\n",
    "no end": OK + b"Content-Length: 5",
    "chunks of no size": CHUNKED + b"xyz\r\n",
    "a chunk of negative size": CHUNKED + b"-5\r\nhello\r\n",
    "a coding nobody knows": OK + b"Transfer-Encoding: zstd, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a location that is none": b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n",
    "a location in another scheme": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
    "a port that is none": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:x/\r\n\r\n",
    "a port that cannot be": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:99999/\r\n\r\n",
    "a host that cannot be": b"HTTP/1.1 302 Found\r\nLocation: http://\xff" + b"a" * 300 + b"/\r\n\r\n",
    "a wait that cannot be": b"HTTP/1.1 503 Busy\r\nRetry-After: " + b"9" * 400 + b"\r\n\r\n",
    "two lengths": OK + b"Content-Length: 5, 6\r\n\r\nhello",
} | {
    f"Content-Length: {value}": OK + f"Content-Length: {value}\r\n\r\n".encode("latin-1") + b"hello"
    for value in ("²", "-1", "1e3", "9" * 5000, "x", "")
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_ends_in_the_next_mirror(tmp_path: Path, mirrors, nonsense: str) -> None:
    bad, good = mirrors(*[raw(NONSENSE[nonsense])] * 2), mirrors()
    lines = fetch(tmp_path, bad, good)
    assert left(tmp_path) == {LAYOUT.folder} and good.paths
    assert lines and all(line.isprintable() and line.isascii() and len(line) < 500 for line in lines)


# ------------------------------------------------------------------------------------------ foreign text on screen

STEERING = "\x1b[2J\x1b]0;title\x07\x9b\x08\x7f\u202e"


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"HTTP/1.1 404 Not" + STEERING[:-1].encode("latin-1") + b"\r\n\r\n"),
        raw(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\x1b[2J\r\n\r\n"),
        raw(STEERING.encode() + b"\r\n"),
        raw(OK + b"Content-Type: text/html\x1b[2J\r\n\r\n"),
        raw(CHUNKED + b"\x1b[2J\r\n"),
        status(302, Location="ftp://\x1b[2J"),
        status(302, Location="http://\x1b[2J.invalid/"),
    ],
)
def test_what_a_server_says_cannot_steer_the_terminal(tmp_path: Path, mirrors, answer: Answer) -> None:
    bad = mirrors(answer, answer)
    with redirect_stdout(io.StringIO()) as printed, pytest.raises(DataError) as caught:
        download_cifar10(tmp_path, (LAYOUT,), [bad.base])
    for text in (printed.getvalue(), str(caught.value)):
        assert bad.base in text and text.replace("\n", "").isprintable()


SECRETS = [
    "http://user:{}@127.0.0.1:1/cifar",
    "http://user:{}/w@127.0.0.1:1/",
    "http://user:{}?w@127.0.0.1:1/",
    "http://user:{}#w@127.0.0.1:1/",
    "http://user:{}@w@127.0.0.1:1/",
    "http://user:9/{}@127.0.0.1:1/",
    "http://user:{}\n@127.0.0.1:1/",
    "http://user:{}\uff0f@127.0.0.1:1/",
    "http://user:{}@[::1/",
    "http://{}@127.0.0.1:port/",
    "http://127.0.0.1:1/cifar?token={}",
    "http://127.0.0.1:1/cifar#{}",
    "http://127.0.0.1:1/my files/cifar?token={} 2",
    "user:{}@127.0.0.1/cifar",
    "ftp://user:{}@127.0.0.1/cifar",
]


@pytest.mark.parametrize("address", SECRETS)
@pytest.mark.parametrize("variable", ["CIFAR10_MIRROR", "http_proxy"])
def test_a_password_is_not_shown(tmp_path: Path, mirrors, monkeypatch, variable: str, address: str) -> None:
    monkeypatch.setenv(variable, address.format("hunter2"))
    with redirect_stdout(io.StringIO()) as printed, pytest.raises(DataError) as caught:
        download_cifar10(tmp_path, (LAYOUT,), ["http://127.0.0.1:1/listed"])
    shown = printed.getvalue() + str(caught.value)
    assert "127.0.0.1:1/listed" in shown
    assert "hunter2" not in shown and shown.replace("\n", "").isprintable()


def test_a_password_that_cannot_be_told_from_the_address_is_explained(tmp_path: Path, mirrors) -> None:
    (reason,) = fails(tmp_path, "http://user:p/w@127.0.0.1/")
    assert reason.startswith("http://127.0.0.1/") and "in a password / ? # @ are written %2F %3F %23 %40" in reason
