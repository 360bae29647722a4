"""What a person sees while the pipeline works: bars with the time left, and lines that stay. All of it on stderr."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.console import Console


class TerminalProgress:
    """Implements `pipeline.progress.Progress` with rich."""

    def __init__(self) -> None:
        # A descriptor of its own: what is drawn here must not vanish with the chatter that `quiet_tensorflow` hides.
        self.console = Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1), highlight=False)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[_Bar]:
        """Yields one bar; it stays on screen, complete or where it stopped."""
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
            yield _Bar(progress, progress.add_task(title, total=total, note=""))

    def say(self, line: str) -> None:
        """Prints one line."""
        self.console.print(line, soft_wrap=True, markup=False)


class _Bar:
    def __init__(self, progress: rich_progress.Progress, task: rich_progress.TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._progress.advance(self._task, steps)
        if note:
            self._progress.update(self._task, note=note)


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Imports TensorFlow and finds its devices without the lines it writes to stderr before its log level counts.

    They are shown after all should the import fail.
    """
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow as tf

            tf.config.list_logical_devices()
        except BaseException:
            hidden.seek(0)
            os.write(shown, hidden.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)
    yield
