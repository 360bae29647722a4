"""Processes that look at files: a decoder that dies of a file takes one of them with it, not the run.

They are started as processes of their own and not through `multiprocessing`, which would run a caller's script again
when it has no `if __name__ == "__main__"`, and must not fork a process in which TensorFlow has threads.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from pipeline.errors import DataError
from pipeline.images.headers import quiet_pillow
from pipeline.ingest.look import Look, look_at
from pipeline.ingest.store import ContentStore

#: Files a process is given at a time: enough that handing over costs nothing, few enough that the bar moves.
CHUNK = 100

_READY = b"ready"

#: The reason for a file that no process survives.
DEADLY = "reading it ends the process that tries: damaged in a way that breaks the decoder; take it out"


def look_at_all(paths: Sequence[str], store: ContentStore) -> Iterator[list[Look | str]]:
    """Yields what is in the files, or why they cannot be trained on, chunk by chunk in the order given.

    A few files are looked at in this process, many in one process a core.
    """
    chunks = [list(paths[start : start + CHUNK]) for start in range(0, len(paths), CHUNK)]
    cores = os.cpu_count() or 1
    if len(chunks) <= 2 * cores:
        with quiet_pillow(), ThreadPoolExecutor(cores) as threads:
            for chunk in chunks:
                yield list(threads.map(lambda path: look_at(path, store), chunk))
        return
    with contextlib.closing(_Workers(cores, store)) as workers:
        yield from workers.map(chunks)


class _Workers:
    """A thread a process: it sends a chunk, waits for the answer, and starts another process when one dies."""

    def __init__(self, count: int, store: ContentStore) -> None:
        self._store = store
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: list[_Worker] = []
        self._threads = ThreadPoolExecutor(count)
        self._lock, self._closed = threading.Lock(), False
        for _ in range(count):
            self._free.put(self._start())

    def map(self, chunks: Sequence[list[str]]) -> Iterator[list[Look | str]]:
        return self._threads.map(self._look, chunks)

    def close(self) -> None:
        with self._lock:
            self._closed = True  # a thread whose process is ended here must not start another
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.close()

    def _look(self, chunk: list[str]) -> list[Look | str]:
        worker = self._free.get()
        try:
            answer = worker.ask(chunk)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            worker, answer = self._start(), None
        finally:
            self._free.put(worker)  # whatever happened, another thread may be waiting for one
        if isinstance(answer, BaseException):
            raise answer
        if answer is not None:
            return answer
        if len(chunk) == 1:
            return [DEADLY]
        half = len(chunk) // 2
        return self._look(chunk[:half]) + self._look(chunk[half:])

    def _start(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise CancelledError
            self._all.append(_Worker(self._store))
            return self._all[-1]


class _Worker:
    def __init__(self, store: ContentStore) -> None:
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(store.root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert self._process.stdin
        assert self._process.stdout
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        self._begun = False

    def ask(self, chunk: list[str]) -> Any:
        """Returns what the process answers.

        Raises:
            EOFError, BrokenPipeError: It died of the question.
            DataError: It could not even begin, which is no fault of a file.
        """
        if not self._begun and self._out.read(len(_READY)) != _READY:
            raise DataError(
                f"a process to read images could not be started; find out why with: {sys.executable} -m {__name__} ."
            )
        self._begun = True
        pickle.dump(chunk, self._in)
        self._in.flush()
        return pickle.load(self._out)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._in.close()
        self._out.close()


def _serve(store: ContentStore) -> None:
    """Answers chunks of paths from standard input until it ends."""
    import cv2

    cv2.setNumThreads(1)  # there is a process for every core
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to every process; the one that asks decides
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what a decoder prints is no answer
    answers.write(_READY)
    answers.flush()
    with quiet_pillow():
        while True:
            try:
                chunk = pickle.load(questions)
            except EOFError:
                return
            try:
                answer: list[Look | str] | Exception = [look_at(path, store) for path in chunk]
            except Exception as error:  # of the store, say; the one that asks raises it
                answer = error
            pickle.dump(answer, answers)
            answers.flush()


if __name__ == "__main__":
    _serve(ContentStore(Path(sys.argv[1])))
