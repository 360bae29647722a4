"""Headless Chromium, driven over a pipe by its DevTools protocol: no driver, no port, no package.

The protocol: https://chromedevtools.github.io/devtools-protocol. With `--remote-debugging-pipe` Chromium reads commands
from file descriptor 3 and answers on 4, each message JSON and ended by a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")

#: Seconds for one answer, and for a page to show what is waited for.
PATIENCE = 60.0

_OPTIONS = [
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars", "--disable-gpu",
    "--no-sandbox",  # which root and containers cannot have; the only pages are our own
    "--disable-dev-shm-usage",  # 64 MB in a container
    "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip

# Descriptors 3 and 4 are not ours to fill here, and a preexec_fn is not safe beside TensorFlow's threads.
_LAUNCH = "import os, sys; _, a, b, *run = sys.argv; os.dup2(int(a), 3); os.dup2(int(b), 4); os.execvp(run[0], run)"

# What a person reads as a line: the texts of one height, from left to right, whatever elements they are made of.
_LINES = """
(() => {
    const lines = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const range = document.createRange(), text = node.textContent.trim();
        range.selectNodeContents(node);
        const box = range.getBoundingClientRect();
        if (!text || !box.width || !box.height) continue;
        const middle = (box.top + box.bottom) / 2;
        const near = [...lines.keys()].find(height => Math.abs(height - middle) < 4) ?? middle;
        lines.set(near, [...(lines.get(near) ?? []), [box.left, text]]);
    }
    const down = [...lines.entries()].sort((a, b) => a[0] - b[0]);
    return down.map(([, texts]) => texts.sort((a, b) => a[0] - b[0]).map(([, text]) => text));
})()
"""


class BrowserError(Exception):
    """The browser ended, said no, or took too long."""


def find_chromium() -> str | None:
    """Returns the browser's program, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium_or_skip(profile: Path, missed: str) -> Iterator[Chromium]:
    """Yields a browser; where there is none, or it does not start, the test is skipped and says what was missed."""
    program = find_chromium()
    if program is None:
        pytest.skip(f"Chromium is not installed (none of {', '.join(NAMES)}), so {missed}")
    with ExitStack() as stack:
        try:
            browser = stack.enter_context(Chromium(program, profile))
        except BrowserError as error:  # Ubuntu's chromium-browser says only where to get one
            pytest.skip(f"{program} does not start here ({error}), so {missed}")
        yield browser


class Chromium:
    """A browser with one page, that reaches nothing but this machine; a context manager.

    Args:
        program: As `find_chromium` returns it.
        profile: A folder for its files, made if need be; what it says goes to `chromium.log` there.
        size: Of the window, (W, H). Pages leave out what is below its lower end, so it is high.
    """

    def __init__(self, program: str, profile: Path, size: tuple[int, int] = (1600, 4000)) -> None:
        profile.mkdir(parents=True, exist_ok=True)
        self._log = profile / "chromium.log"
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Above 4, so that filling 3 does not overwrite what is to become 4.
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
        command = [sys.executable, "-c", _LAUNCH, *map(str, theirs), program, *_OPTIONS]
        command += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, pass_fds=theirs, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        for fd in (theirs_in, theirs_out, *theirs):
            os.close(fd)
        self._received = b""
        self._sent = 0
        self._session: str | None = None

    def __enter__(self) -> Chromium:
        """Returns the browser, once it answers."""
        try:
            targets = self.call("Target.getTargets")["targetInfos"]
            page = next(target["targetId"] for target in targets if target["type"] == "page")
            self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the browser and all its processes."""
        self._end()

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Returns the answer to a command of the protocol; events that come before it are dropped.

        Raises:
            BrowserError: The browser refused it, ended, or did not answer.
        """
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        data = json.dumps(message).encode() + b"\0"
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except BrokenPipeError as error:
            raise self._ended() from error
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._sent:
                break
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, url: str) -> None:
        """Starts to load an address. The blank page between makes one that differs after `#` only load too."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression, None where the page is on its way to another."""
        try:
            return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")
        except BrowserError:
            if self._process.poll() is not None:
                raise
            return None

    def lines(self) -> list[list[str]]:
        """Returns the page as it is read: line by line, each the texts of one height from left to right."""
        return self.evaluate(_LINES) or []

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Returns as soon as a condition holds.

        Raises:
            BrowserError: It did not come to hold; says `what`, and what the page showed instead.
        """
        end = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > end:
                shown = "\n".join(" | ".join(line) for line in self.lines())
                raise BrowserError(f"not shown within {PATIENCE:.0f} s: {what}; the page says:\n{shown}")
            time.sleep(0.1)

    def screenshot(self, path: Path) -> None:
        """Writes what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
                raise BrowserError(f"no answer within {PATIENCE:.0f} s")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise self._ended()
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def _ended(self) -> BrowserError:
        words = self._log.read_text(errors="replace").strip().splitlines()
        return BrowserError(f"it ended: {words[-1] if words else 'it said nothing'}")

    def _end(self) -> None:
        os.close(self._out)  # at which it ends by itself
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._in)
