"""What a person sees while the pipeline works: bars with the time left, and lines that stay. All of it on stderr."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO, Any

from rich import progress as rich_progress
from rich.console import Console

from pipeline.errors import PipelineError
from pipeline.progress import Interrupted


class Interrupts:
    """Turns SIGINT and SIGTERM into `KeyboardInterrupt` for a block, and that into exit code 130 or 143.

    An exception that is raised inside a finaliser is lost, and TensorFlow has many of those. So the signal is
    remembered, and `check`, called at every sign of progress, raises it again.

    Args:
        advice: What to do next, printed when the block was interrupted.
    """

    def __init__(self, advice: str = "") -> None:
        self._advice = advice
        self._received: int | None = None
        self._patient = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        """Takes over both signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        self._report, sys.unraisablehook = sys.unraisablehook, self._report_others
        return self

    def _report_others(self, lost: sys.UnraisableHookArgs) -> None:
        # Python prints what a finaliser lost; an interrupt is not lost, and its traceback would only alarm.
        if lost.exc_type is not KeyboardInterrupt:
            self._report(lost)

    def _receive(self, number: int, _frame: object) -> None:
        first, self._received = self._received is None, number
        if not (first and self._patient):
            raise KeyboardInterrupt

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Lets a first signal wait for `check` while the block lasts; a second one does not wait."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def check(self) -> None:
        """Raises `Interrupted` if a signal came."""
        if self._received is not None:
            raise Interrupted

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Gives both signals back, and ends the process if one of them came."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._report
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            print("; ".join(filter(None, ["interrupted", self._advice])), file=sys.stderr)
            sys.exit(128 + (self._received or signal.SIGINT))


class TerminalProgress:
    """Implements `pipeline.progress.Progress` with rich.

    Args:
        interrupts: Asked at every step whether to go on.
    """

    def __init__(self, interrupts: Interrupts | None = None) -> None:
        self._check = interrupts.check if interrupts else lambda: None
        self._patience = interrupts.patience if interrupts else nullcontext
        # A descriptor of its own: what is drawn here must not vanish with the chatter that `hidden_stderr` hides.
        try:
            stream: IO[str] = os.fdopen(os.dup(sys.stderr.fileno()), "w", 1, closefd=False)
        except OSError:  # no descriptor: a test or a notebook has put something else in its place
            stream = sys.stderr
        self.console = Console(file=stream, highlight=False)

    @contextmanager
    def bar(self, title: str, total: int | None) -> Iterator[_Bar]:
        """Yields one bar; it stays on screen, complete or where it stopped. `total` may be unknown."""
        columns = (
            rich_progress.TextColumn("{task.description:<22}"),
            rich_progress.BarColumn(32),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("left"),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[note]}"),
        )
        with rich_progress.Progress(*columns, console=self.console) as progress:
            yield _Bar(progress, progress.add_task(title, total=total, note=""), self._check)

    def say(self, line: str) -> None:
        """Prints one line."""
        self.console.print(line, soft_wrap=True, markup=False)

    def check(self) -> None:
        """Raises `Interrupted` if a signal came."""
        self._check()

    def gently(self) -> AbstractContextManager[None]:
        """Returns a context in which a first signal waits for the next sign of progress; a second one does not."""
        return self._patience()


class _Bar:
    def __init__(self, progress: rich_progress.Progress, task: rich_progress.TaskID, check: Callable[[], None]) -> None:
        self._progress, self._task, self._check = progress, task, check

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._check()
        self._progress.advance(self._task, steps)
        if note:
            self._progress.update(self._task, note=note)


def announce(progress: TerminalProgress) -> None:
    """Shows what the package logs, a download that begins above all; other libraries' logs stay as they are."""

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            progress.say(record.getMessage())

    logger = logging.getLogger("pipeline")
    logger.handlers, logger.level = [Said()], logging.INFO


@contextmanager
def hidden_stderr() -> Iterator[None]:
    """Hides what libraries write to stderr during the block, C++ too, but not what a `TerminalProgress` draws.

    It is shown after all where the block ends with an error that no line explains.
    """
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except (PipelineError, OSError):  # said in one line, or a reader that has seen enough
            raise
        except Exception:
            hidden.seek(0)
            os.write(shown, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Imports TensorFlow and finds its devices without the lines it writes to stderr before its log level counts."""
    with hidden_stderr():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_logical_devices()
        tf.get_logger().setLevel("ERROR")  # its warnings are advice to whoever writes graphs
    yield
