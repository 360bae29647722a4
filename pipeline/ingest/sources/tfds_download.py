"""Fetches and prepares a TFDS data set, in a process of its own that is killed when it no longer gets on.

TFDS asks without any timeout and retries for minutes, so a network that swallows packets would hang the run for ever.
First its host is asked whether it answers; then the child works and everything it does shows as output: its progress
bars, and a NUL whenever it has used the processor. A child that is silent for `STALL_SECONDS` is stuck.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from pipeline.errors import DataError, nearest, one_line
from pipeline.progress import Progress
from pipeline.reach import unreachable

# With the import of TFDS before it, the answer comes within the 15 seconds that a user waits for one.
PROBE_SECONDS = 6.0
STALL_SECONDS = 90.0
BEAT_SECONDS = 1.0

NOTE_WIDTH = 60

#: Where TFDS keeps what it publishes itself: asked when a data set does not say where it comes from.
TFDS_HOST = "https://storage.googleapis.com/tfds-data"

#: With these, nested progress bars move to their lines.
CURSOR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

FAILED = "\nFAILED: "
CHILD = f"import sys; from {__name__} import main; sys.exit(main(*sys.argv[1:]))"


def download(name: str, data_dir: Path, progress: Progress) -> None:
    """Puts the data set `name` (with config and version, if wanted) prepared below `data_dir`.

    Raises:
        DataError: TFDS does not know the name, its host does not answer, or the preparation failed or got stuck.
    """
    url = _published_at(name)
    reason = unreachable(url, PROBE_SECONDS)
    if reason is None:
        with progress.bar(f"download {name}", 1) as bar:
            command = [sys.executable, "-c", CHILD, name, str(data_dir)]
            reason = run_watched(command, lambda line: bar.advance(0, line[:NOTE_WIDTH]), STALL_SECONDS)
            if reason is None:
                bar.advance(1)
                return
    raise DataError(
        f"tfds:{name} is not prepared in {data_dir} and cannot be fetched from {url} ({reason}); try again, or prepare "
        "it on another machine and name its folder, tfds:FOLDER"
    )


def _published_at(name: str) -> str:
    """Returns the first address that the data set is fetched from; reads only what is installed with TFDS."""
    import tensorflow_datasets as tfds

    base = name.split("/")[0].split(":")[0]
    # The community's data sets are listed on the network.
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        raise DataError(
            f"unknown TFDS data set {base!r}: {_likeliest(base, known)}; or name the folder of a prepared one"
        )
    urls = [url for url in tfds.builder_cls(base).url_infos or {} if url.startswith("http")]
    return urls[0] if urls else TFDS_HOST


def _likeliest(name: str, known: Sequence[str]) -> str:
    clause = nearest(name, known)
    return clause if clause.startswith("did") else f"TFDS lists {len(known)} in its catalogue"


def run_watched(command: Sequence[str], tell: Callable[[str], None], stall_seconds: float) -> str | None:
    """Returns why `command` failed, or None when it did not; it is killed when it is silent for `stall_seconds`.

    `tell` gets the last line of what it prints, as it prints it.
    """
    package = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    reader = threading.Thread(target=_pump, args=(process.stdout, chunks), name="tfds-output", daemon=True)
    reader.start()
    said = b""
    try:
        while chunk := chunks.get(timeout=stall_seconds):
            said = (said + chunk.replace(b"\0", b""))[-4096:]
            tell(_last_line(said))
        code = process.wait(timeout=stall_seconds)
    except (queue.Empty, subprocess.TimeoutExpired):
        return f"it got no further for {stall_seconds:.0f} s"
    finally:
        _end(process)
        reader.join(stall_seconds)
    if code == 0:
        return None
    text = said.decode(errors="replace")
    return text.rpartition(FAILED)[2].strip() if FAILED in text else _last_line(said) or f"it ended with {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the process, and what it has started: that could hold its output open and be waited for."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.wait()


def _pump(stream: IO[bytes], chunks: queue.SimpleQueue[bytes]) -> None:
    with stream:
        while chunk := os.read(stream.fileno(), 65536):
            chunks.put(chunk)
    chunks.put(b"")


def _last_line(said: bytes) -> str:
    lines = CURSOR.sub("", said.decode(errors="replace")).replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def main(name: str, data_dir: str) -> int:
    """Returns the exit code of the child process: 0 when the data set lies prepared in `data_dir`."""
    threading.Thread(target=_beat, name="tfds-beat", daemon=True).start()
    try:
        prepare(name, data_dir)
        return 0
    except Exception as error:  # TFDS, the data set's own code and the network raise what they like
        print(FAILED + one_line(error), flush=True)
        return 1


def prepare(name: str, data_dir: str) -> None:
    """Lets TFDS download and prepare a data set, from its publisher: TFDS' own copies are asked without timeouts."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


def _beat() -> None:
    """Shows the watching process that this one works; ends this one when there is nobody watching any more."""
    spent = 0.0
    while True:
        time.sleep(BEAT_SECONDS)
        now = time.process_time()
        # What waiting threads and this one use themselves is no sign of life.
        if now - spent > 0.1 * BEAT_SECONDS:
            spent = now
            try:
                os.write(1, b"\0")
            except OSError:
                os._exit(1)
