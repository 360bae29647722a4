"""The table of tasks. A concrete task loads TensorFlow, so the table only says where it is."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from pipeline.errors import ConfigError, nearest
from pipeline.tasks.base import Task

TASKS: Mapping[str, str] = {"classification": "pipeline.tasks.classification:Classification"}


def check_task(name: str) -> None:
    """Looks whether there is such a task.

    Raises:
        ConfigError: There is none; the nearest spelling is offered.
    """
    if name not in TASKS:
        raise ConfigError(f"task {name!r} is unknown: {nearest(name, TASKS)}")


def load_task(name: str) -> Task:
    """Returns the task of a name.

    Raises:
        ConfigError: There is none.
    """
    check_task(name)
    module, _, constructor = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), constructor)()
    return task
