"""A host is asked whether it is there, and not for ever."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from pipeline.reach import unreachable


class _Answering(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(int(self.path.rpartition("/")[2]))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Returns the address of a server on this machine that answers `/<code>` with that code."""
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), _Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("code", "reason"), [(200, None), (403, None), (404, None), (502, "the proxy answers 502")])
def test_a_host_that_answers_is_there(code: int, reason: str | None, local: str) -> None:
    assert unreachable(f"{local}/{code}", 5) == reason


def test_a_host_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*arguments: object, **settings: object) -> None:
        released.wait()
        raise OSError

    monkeypatch.setattr(urllib.request, "urlopen", hang)
    try:
        assert unreachable("http://example.invalid/x", 0.05) == "no answer within 0 s"
    finally:
        released.set()
