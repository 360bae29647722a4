"""The errors a user can meet, and nothing else.

::

    PipelineError              exit code 1, shown as one line
    ├── ConfigError            a key, a value or a recipe that cannot be
    ├── DataError              the images, their folders, their labels
    ├── ModelError             a backbone, its weights, its sizes
    ├── StageOrderError        a stage whose input has not been made yet
    ├── ExportError            a model that could not be exported or loaded
    ├── TrackingError          the MLflow store
    ├── SpaceError             a full disk, a used up quota, a limit of file sizes
    └── CheckError             exit code 3: a check that was asked for has failed

A message is one line and says what was found, what is allowed and what to do. Only the command line catches these; a
programmer's mistake stays a `ValueError` or `TypeError` and keeps its traceback.
"""

from __future__ import annotations

import difflib
import os
import textwrap
import unicodedata
from collections.abc import Iterable


class PipelineError(Exception):
    """Base of everything the command line turns into one line and an exit code."""

    exit_code = 1


class ConfigError(PipelineError):
    """A recipe, a key or a value that cannot be used."""


class DataError(PipelineError):
    """Images, folders or labels that cannot be used."""


class ModelError(PipelineError):
    """A backbone, its weights or its sizes that cannot be used."""


class StageOrderError(PipelineError):
    """A stage was asked for before the stage that makes its input."""


class ExportError(PipelineError):
    """A model that could not be exported, or an export that could not be loaded."""


class TrackingError(PipelineError):
    """The MLflow store could not be opened or written."""


class SpaceError(PipelineError):
    """There is no room, or too little, for what is to be written."""


class CheckError(PipelineError):
    """A check failed: what was to be verified or compared is not what it should be."""

    exit_code = 3


def nearest(found: str, allowed: Iterable[str]) -> str:
    """Returns a clause with the likeliest spelling, else the whole list, to close a message with.

    >>> nearest("inception_v4", ["inception_v3", "vgg16"])
    "did you mean 'inception_v3'?"
    >>> nearest("zzz", ["vgg16", "vgg19"])
    'allowed: vgg16, vgg19'
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(found, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"allowed: {', '.join(names)}"


def one_line(error: BaseException) -> str:
    """Returns the message of another library's error on one line of bearable length, its class where it has none."""
    return textwrap.shorten(str(error), 240, placeholder=" ...") or type(error).__name__


def shown(name: str) -> str:
    """Returns a name as it can be printed and stored, whatever its bytes are: line breaks and odd bytes escaped.

    >>> shown("a\\nb")
    'a\\\\nb'
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        repr(character)[1:-1] if unicodedata.category(character) == "Cc" else character for character in text
    )
