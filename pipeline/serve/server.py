"""The server of the page: loopback only, a bounded number of threads, a deadline for each request."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, ExportError, one_line
from pipeline.export.predict import Prediction
from pipeline.images.headers import quiet_pillow
from pipeline.loopback import HOST, why_not
from pipeline.serve.gate import Refused, check_sender, upload_length
from pipeline.serve.page import build_page

#: Requests that are read at the same time, images that are asked at the same time, and seconds that a request may take
#: to arrive. A browser opens six connections at most; a picture of full size takes 300 MB while it is decoded.
CONNECTIONS, ASKED, PATIENCE = 16, 2, 30.0

#: Seconds in which an answer must be taken, and what a refused client still sends is read off.
_SENDING, _LINGERING = 10.0, 2.0

_JSON = "application/json; charset=utf-8"


def load_contract(export_dir: Path) -> dict[str, Any]:
    """Returns what an export says of itself in `contract.json`.

    Raises:
        ExportError: There is none.
    """
    needed: dict[str, Any] = {"run": str, "backbone": str, "labels": list, "threshold": (int, float)}
    try:
        contract: Any = json.loads((export_dir / "contract.json").read_text(encoding="utf-8"))
        if isinstance(contract, dict) and all(isinstance(contract.get(name), kind) for name, kind in needed.items()):
            return contract
        reason = f"it lacks one of {', '.join(needed)}"
    except OSError as error:
        reason = str(error.strerror)
    except ValueError as error:
        reason = one_line(error)
    raise ExportError(
        f"{export_dir} holds no contract.json that can be read ({reason}); name an export folder such as "
        "runs/NAME/export, or run the stage export again"
    )


class PageServer(ThreadingHTTPServer):
    """Listens from the moment it is made; answers while `run` runs. A context manager.

    `GET /` is the page, `/contract` the contract and `/health` a sign of life; `POST /predict` takes the bytes of one
    image. Nothing else is answered, and no path of a request ever names a file.

    Args:
        contract: What the export says of itself.
        port: To listen on; 0: any.
        patience: Seconds that a request may take to arrive.

    Raises:
        ConfigError: The port cannot be used.
    """

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, contract: Mapping[str, Any], port: int, patience: float = PATIENCE) -> None:
        page = build_page()
        self.patience, self.policy, self.threshold = patience, page.policy, contract["threshold"]
        self.documents = {
            "/": ("text/html; charset=utf-8", page.html),
            "/contract": (_JSON, _encode(contract)),
            "/health": (_JSON, _encode({"status": "ok"})),
        }
        self._connections: set[socket.socket] = set()
        self._asked = threading.Semaphore(ASKED)
        self._ask: Callable[[bytes], Prediction] | None = None
        self._check: Callable[[], None] = lambda: None
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ConfigError(why_not(port, error)) from error

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_port}/"

    def run(self, ask: Callable[[bytes], Prediction], check: Callable[[], None] = lambda: None) -> None:
        """Answers requests until `check`, called twice a second, raises something, or `shutdown` is called.

        Args:
            ask: Returns the prediction for an image's bytes; called from several threads at a time.
            check: Raises what is to end the server.
        """
        self._ask, self._check = ask, check
        try:
            with quiet_pillow():
                self.serve_forever()
        finally:
            # TensorFlow may not be at work while Python is taken down.
            for _ in range(ASKED):
                self._asked.acquire(timeout=_SENDING)
            for connection in [*self._connections]:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def predict(self, contents: bytes) -> dict[str, Any]:
        """Returns what `POST /predict` answers to an image."""
        assert self._ask
        with self._asked:
            document = self._ask(contents).document()
        del document["path"]
        return document | {"threshold": self.threshold}

    def service_actions(self) -> None:
        """Asks whether to go on."""
        self._check()

    def server_bind(self) -> None:
        """Binds the socket, without the look-up of the host's name that the standard library adds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, unless there are enough of them."""
        if len(self._connections) < CONNECTIONS:
            self._connections.add(request)
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.settimeout(1)
            request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that went away; what else goes wrong is a mistake of ours and keeps its traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection, which carries one request: what a refused client sends on is never taken for another one."""

    server: PageServer
    protocol_version = "HTTP/1.1"  # without it curl waits a second before it sends an image

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._timed = _TimedReader(self.connection, self.server.patience)
        self.rfile = io.BufferedReader(self._timed)

    def do_GET(self) -> None:
        self._answer(self._document)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self._prediction)

    def handle_expect_100(self) -> bool:
        """Refuses an upload before it is sent, where the client asks."""
        try:
            self._check_upload()
        except Refused as refused:
            self._refuse(refused)
            return False
        return super().handle_expect_100()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuses what the standard library finds wrong, in our form."""
        self._refuse(Refused(HTTPStatus(code), (message or HTTPStatus(code).phrase)[:200]))

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the page shows what was answered."""

    def version_string(self) -> str:
        """Returns what the header Server says."""
        return "pipeline"

    def _answer(self, work: Callable[[], tuple[str, bytes]]) -> None:
        try:
            kind, body = work()
        except Refused as refused:
            self._refuse(refused)
        except Exception:
            self._refuse(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its terminal says why"))
            raise
        else:
            self._send(HTTPStatus.OK, kind, body)

    def _document(self) -> tuple[str, bytes]:
        check_sender(self.headers, self.server.server_port)
        self._check_route(post=False)
        return self.server.documents[self.path]

    def _prediction(self) -> tuple[str, bytes]:
        length = self._check_upload()
        try:
            contents = self.rfile.read(length)
        except TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, f"{length:,} bytes did not come in time") from None
        if len(contents) < length:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{len(contents):,} bytes came of {length:,}")
        return _JSON, _encode(self.server.predict(contents))

    def _check_upload(self) -> int:
        check_sender(self.headers, self.server.server_port)
        self._check_route(post=True)
        return upload_length(self.headers)

    def _check_route(self, *, post: bool) -> None:
        """Looks whether the path is one of the few, letter by letter."""
        if self.path not in (*self.server.documents, "/predict"):
            raise Refused(HTTPStatus.NOT_FOUND, "there is only the page /, and /predict, /contract, /health")
        if post != (self.path == "/predict"):
            allowed = "POST" if self.path == "/predict" else "GET"
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.path} takes {allowed}")

    def _refuse(self, refused: Refused) -> None:
        """Answers with the reason, then reads on for a moment: of a closed connection the client sees only a reset."""
        self._send(refused.status, _JSON, _encode({"error": str(refused)}))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self._timed.end = time.monotonic() + _LINGERING
            while self.rfile.read1(2**16):
                pass

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.connection.settimeout(_SENDING)
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", self.server.policy),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _TimedReader(io.RawIOBase):
    """A socket's bytes until a moment in time, however slowly they come: `socket.settimeout` begins anew with each."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self.end = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()
