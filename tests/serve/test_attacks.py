"""What the server of the page refuses, each attack made over a real socket, and that it goes on answering others."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from serving import CONTRACT, running

from pipeline.export.predict import Prediction
from pipeline.serve.gate import UPLOAD_LIMIT
from pipeline.serve.server import ASKED, CONNECTIONS, PageServer

ANSWER = Prediction("", "cat", 0.75, {"cat": 0.75, "dog": 0.25}, True)


@dataclass
class Asked:
    """A model that notes what it was asked."""

    images: list[bytes] = field(default_factory=list)

    def __call__(self, contents: bytes) -> Prediction:
        self.images.append(contents)
        return ANSWER


@pytest.fixture(scope="module")
def asked() -> Asked:
    return Asked()


@pytest.fixture(scope="module")
def server(asked: Asked) -> Iterator[PageServer]:
    with running(asked) as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_asked(asked: Asked) -> None:
    asked.images.clear()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    rest: bytes

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


def received(connection: socket.socket) -> Answer:
    """Returns all that comes until the server closes."""
    data = b""
    while piece := connection.recv(2**16):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    length = int(headers["content-length"])
    return Answer(int(status.split()[1]), headers, body[:length], body[length:])


def connect(server: PageServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=30)


def send(server: PageServer, request: str, *headers: str, host: str | None = "", body: bytes = b"") -> Answer:
    """Returns the answer to a request that is written as given, with this server's Host unless there is another."""
    lines = [f"{request} HTTP/1.1", *headers]
    if host is not None:
        lines.insert(1, f"Host: {host or f'127.0.0.1:{server.server_port}'}")
    with connect(server) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return received(connection)


def post(server: PageServer, *headers: str, host: str | None = "", body: bytes = b"image") -> Answer:
    return send(server, "POST /predict", f"Content-Length: {len(body)}", *headers, host=host, body=body)


# What is answered.


def test_an_image_gets_its_answer(server: PageServer, asked: Asked) -> None:
    answer = post(server, body=b"\x00image\xff")
    assert (answer.status, asked.images) == (200, [b"\x00image\xff"])
    assert json.loads(answer.body) == {
        "label": "cat", "probability": 0.75, "probabilities": {"cat": 0.75, "dog": 0.25}, "confident": True,
        "threshold": 0.63, "error": None,
    }  # fmt: skip


def test_the_contract_and_a_sign_of_life(server: PageServer) -> None:
    assert json.loads(send(server, "GET /contract").body) == CONTRACT
    assert json.loads(send(server, "GET /health").body) == {"status": "ok"}


def test_head_has_the_length_and_no_body(server: PageServer) -> None:
    answer = send(server, "HEAD /")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) == len(send(server, "GET /").body)


def test_the_policy_lets_the_page_run_its_own_script_and_nothing_else(server: PageServer) -> None:
    answer = send(server, "GET /")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    page = answer.body.decode()
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'".lower()  # `received` has no capitals
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import| style=| on\w+=\"", page)


@pytest.mark.parametrize("request_line", ["GET /", "GET /contract", "GET /gone", "PUT /", "POST /predict"])
def test_every_answer_carries_the_safe_headers(request_line: str, server: PageServer) -> None:
    headers = send(server, request_line).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    for name, value in {
        "x-content-type-options": "nosniff", "cache-control": "no-store", "x-frame-options": "deny",
        "referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin", "connection": "close",
        "server": "pipeline",
    }.items():  # fmt: skip
        assert headers[name] == value
    assert not [name for name in headers if name.startswith("access-control")]


# Who asks.


def test_other_addresses_of_this_machine_do_not_lead_here(server: PageServer) -> None:
    """127.0.0.2 is the same machine: a server that listens everywhere would answer there too."""
    assert server.socket.getsockname()[0] == "127.0.0.1"
    with pytest.raises(OSError, match=r"refused|assign|timed out"):
        socket.create_connection(("127.0.0.2", server.server_port), timeout=5).close()


@pytest.mark.parametrize(
    "host",
    [None, "evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}",
     "localhost:{port}@evil.example", "[::1]:{port}", "127.0.0.1:{port}, evil.example"],
)  # fmt: skip
@pytest.mark.parametrize("request_line", ["GET /", "GET /contract", "POST /predict"])
def test_another_host_is_refused(host: str | None, request_line: str, server: PageServer, asked: Asked) -> None:
    """DNS rebinding: a name of the attacker's leads to 127.0.0.1, so that his page counts as this server's."""
    host = host and host.format(port=server.server_port)
    answer = send(server, request_line, "Content-Length: 5", host=host, body=b"image")
    assert answer.status == 403
    assert f"the address is http://127.0.0.1:{server.server_port}/" in answer.error
    assert asked.images == []


def test_two_hosts_are_refused(server: PageServer) -> None:
    assert send(server, "GET /contract", f"Host: localhost:{server.server_port}").status == 403


def test_localhost_is_this_server_too(server: PageServer) -> None:
    assert post(server, host=f"LOCALHOST:{server.server_port}").status == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "https://127.0.0.1:{port}",
     "http://127.0.0.1:{port}.evil.example", "file://", ""],
)  # fmt: skip
def test_a_page_of_another_site_is_refused(origin: str, server: PageServer, asked: Asked) -> None:
    answer = post(server, f"Origin: {origin.format(port=server.server_port)}")
    assert (answer.status, asked.images) == (403, [])


def test_the_page_itself_may_ask(server: PageServer) -> None:
    for name in ("127.0.0.1", "localhost"):
        own = f"{name}:{server.server_port}"
        assert post(server, f"Origin: http://{own}", host=own).status == 200


# What is asked for.


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Returns the files that this process opens meanwhile; an audit hook cannot be taken out again."""
    files: list[str] = []
    watching = True

    def watch(event: str, arguments: Any) -> None:
        if watching and event in ("open", "os.listdir", "os.scandir"):
            files.append(str(arguments[0]))

    sys.addaudithook(watch)
    yield files
    watching = False


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/../../../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd",
     "/page.html", "/page.js", "/server.py", "/contract.json", "/contract/../../labels.txt", "/predict/../contract",
     "/predict%00.jpg", "/?file=/etc/passwd", "/contract?x", "file:///etc/passwd", "*", "/" + 4000 * "a", "/\\..\\x"],
)  # fmt: skip
def test_no_path_leads_to_a_file(path: str, server: PageServer, opened: list[str]) -> None:
    send(server, "GET /health")  # what sockets load at their first use is loaded then
    opened.clear()
    for method in ("GET", "POST", "HEAD"):
        answer = send(server, f"{method} {path}", "Content-Length: 0")
        assert (answer.status, b"root:" in answer.body) == (404, False)
    assert opened == []


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("GET /predict", 405), ("POST /", 405), ("POST /contract", 405), ("PUT /predict", 501), ("DELETE /", 501),
     ("OPTIONS /predict", 501), ("TRACE /", 501), ("CONNECT evil.example:443", 501)],
)  # fmt: skip
def test_other_methods_are_refused(request_line: str, status: int, server: PageServer, asked: Asked) -> None:
    answer = send(server, request_line, "Content-Length: 0")
    assert (answer.status, asked.images) == (status, [])
    assert answer.error


@pytest.mark.parametrize(
    ("raw", "status"),
    [(b"nonsense\r\n\r\n", 400), (b"GET / HTTP/9.9\r\n\r\n", 505), (b"GET /" + b"a" * 70_000, 414),
     (b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n", 431),
     (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431)],
    ids=["nonsense", "version", "long line", "many headers", "long header"],
)  # fmt: skip
def test_what_is_no_request_is_refused(raw: bytes, status: int, server: PageServer) -> None:
    with connect(server) as connection:
        connection.sendall(raw)
        data = b""
        while piece := connection.recv(2**16):
            data += piece
    # Of what could not be read the protocol's version is unknown, and the oldest has no headers.
    assert data.startswith(f"HTTP/1.1 {status} ".encode()) or json.loads(data)["error"]


# How much is sent.


@pytest.mark.parametrize(
    ("headers", "status"),
    [([], 411), (["Transfer-Encoding: chunked"], 411), (["Transfer-Encoding: chunked", "Content-Length: 5"], 411),
     (["Content-Length: -1"], 400), (["Content-Length: +5"], 400), (["Content-Length: 5e3"], 400),
     (["Content-Length: 0x5"], 400), (["Content-Length: \u0665"], 400), (["Content-Length: 5, 5"], 400),
     (["Content-Length: 5", "Content-Length: 6"], 400), ([f"Content-Length: {UPLOAD_LIMIT + 1}"], 413),
     (["Content-Length: " + "9" * 5000], 413), (["Content-Length: 5", "Content-Type: multipart/form-data"], 415)],
)  # fmt: skip
def test_a_length_that_is_missing_odd_or_too_large(
    headers: list[str], status: int, server: PageServer, asked: Asked
) -> None:
    answer = send(server, "POST /predict", *headers)  # answered although no body ever comes
    assert (answer.status, asked.images) == (status, [])
    assert len(answer.error) < 300


def test_the_largest_image_is_taken_and_one_byte_more_is_told(server: PageServer, asked: Asked) -> None:
    assert post(server, body=bytes(UPLOAD_LIMIT)).status == 200
    assert [len(image) for image in asked.images] == [UPLOAD_LIMIT]
    answer = post(server, body=bytes(UPLOAD_LIMIT + 1))  # all of it is sent, and the answer is not lost to a reset
    assert (answer.status, len(asked.images)) == (413, 1)
    assert f"over {UPLOAD_LIMIT:,}" in answer.error


def test_an_upload_that_is_announced_is_refused_before_it_is_sent(server: PageServer) -> None:
    length = f"Content-Length: {UPLOAD_LIMIT + 1}"
    answer = send(server, "POST /predict", length, "Expect: 100-continue")
    assert answer.status == 413


def test_an_upload_that_is_announced_is_asked_for(server: PageServer, asked: Asked) -> None:
    with connect(server) as connection:
        host = f"Host: 127.0.0.1:{server.server_port}"
        connection.sendall(
            f"POST /predict HTTP/1.1\r\n{host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"image")
        assert received(connection).status == 200
    assert asked.images == [b"image"]


def test_less_than_was_announced_is_not_asked(server: PageServer, asked: Asked) -> None:
    with connect(server) as connection:
        host = f"Host: 127.0.0.1:{server.server_port}"
        connection.sendall(f"POST /predict HTTP/1.1\r\n{host}\r\nContent-Length: 9\r\n\r\nimage".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = received(connection)
    assert (answer.status, answer.error, asked.images) == (400, "5 bytes came of 9", [])


@pytest.mark.parametrize("headers", [[], ["Transfer-Encoding: chunked"], ["Content-Length: 0"], ["Content-Length: x"]])
def test_what_follows_a_request_is_no_second_one(headers: list[str], server: PageServer) -> None:
    second = f"GET /contract HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode()
    answer = send(server, "POST /predict", *headers, body=second)
    assert answer.rest == b""
    assert b"some_net" not in answer.body


# How slowly, and how many at once.


@pytest.mark.parametrize("begun", ["headers", "body"])
def test_a_byte_now_and_then_does_not_hold_a_connection(begun: str, asked: Asked) -> None:
    with running(asked, patience=0.6) as server, connect(server) as connection:
        host = f"Host: 127.0.0.1:{server.server_port}"
        body = f"Content-Length: {UPLOAD_LIMIT}\r\n\r\n" if begun == "body" else "X: "
        connection.sendall(f"POST /predict HTTP/1.1\r\n{host}\r\n{body}".encode())
        began = time.monotonic()
        while not select.select([connection], [], [], 0.1)[0]:  # it has said something, or closed
            assert time.monotonic() - began < 20
            connection.sendall(b"x")
        if begun == "body":
            answer = received(connection)
            assert (answer.status, answer.error) == (408, f"{UPLOAD_LIMIT:,} bytes did not come in time")
        else:
            assert connection.recv(100) == b""
    assert asked.images == []


def test_silent_clients_do_not_keep_others_waiting(server: PageServer) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS - 2):
            stack.enter_context(connect(server)).sendall(b"POST /pre")
        assert post(server).status == 200


def test_one_client_too_many_is_told_and_the_next_is_answered(asked: Asked) -> None:
    with running(asked) as server:
        with ExitStack() as stack:
            for _ in range(CONNECTIONS):
                stack.enter_context(connect(server))
            with connect(server) as connection:
                answer = received(connection)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        end = time.monotonic() + 20
        while post_or_none(server) != 200:
            assert time.monotonic() < end


def post_or_none(server: PageServer) -> int | None:
    try:
        return post(server).status
    except OSError:  # turned away while it was still writing
        return None


def test_no_more_images_are_decoded_at_once_than_fit_in_memory() -> None:
    meeting, met = threading.Barrier(ASKED + 1), []

    def ask(_: bytes) -> Prediction:
        try:
            meeting.wait(timeout=0.5)
            met.append(True)
        except threading.BrokenBarrierError:
            pass
        return ANSWER

    with running(ask) as server, ThreadPoolExecutor(6) as clients:
        assert [answer.status for answer in clients.map(lambda _: post(server), range(6))] == [200] * 6
    assert met == []


@pytest.mark.parametrize("kind", [ZeroDivisionError, OSError])
def test_a_failure_is_told_without_its_reason_and_is_not_the_end(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(contents: bytes) -> Prediction:
        if contents == b"bad":
            raise kind("secret")
        return ANSWER

    with running(ask) as server:
        answer = post(server, body=b"bad")
        assert (answer.status, answer.error) == (500, "the server failed; its terminal says why")
        assert post(server).status == 200
    assert f"{kind.__name__}: secret" in capsys.readouterr().err


def test_clients_that_go_away_leave_no_trace(server: PageServer, capsys: pytest.CaptureFixture[str]) -> None:
    for sent in (b"", b"GET / HT", f"GET / HTTP/1.1\r\nHost: localhost:{server.server_port}\r\n\r\n".encode()):
        with connect(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # a reset
            connection.sendall(sent)
    assert post(server).status == 200
    assert capsys.readouterr().err == ""
