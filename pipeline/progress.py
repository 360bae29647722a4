"""How a stage tells how far it is, without knowing who looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class Bar(Protocol):
    """One thing that is being counted."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Counts `steps` more as done; `note` stands beside the bar from now on."""


class Interrupted(KeyboardInterrupt):
    """The user has asked to stop, and is told so at a sign of progress: what was being done is done."""


class Progress(Protocol):
    """Where stages report. `pipeline.cli` shows it in the terminal; tests and the Python API stay silent."""

    def bar(self, title: str, total: int | None) -> AbstractContextManager[Bar]:
        """Returns a context that shows one bar while it is open; `total` is None where nobody knows it."""

    def say(self, line: str) -> None:
        """Shows one line that stays."""

    def check(self) -> None:
        """Raises `Interrupted` if the user has asked to stop."""

    def gently(self) -> AbstractContextManager[None]:
        """Returns a context in which a first wish to stop waits for the next sign of progress; a second does not."""


class Silent:
    """A `Progress` that shows nothing."""

    @contextmanager
    def bar(self, title: str, total: int | None) -> Iterator[Bar]:
        """Yields a bar that ignores what it is told."""
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Does nothing."""

    def say(self, line: str) -> None:
        """Does nothing."""

    def check(self) -> None:
        """Does nothing."""

    def gently(self) -> AbstractContextManager[None]:
        """Returns a context that does nothing."""
        return nullcontext()
