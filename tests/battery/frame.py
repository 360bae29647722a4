"""What the cases of the battery share: a row, small projects, and processes that are started and killed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import h5py
import numpy as np
from PIL import Image

#: The package under test is the one that this file belongs to.
ROOT = Path(__file__).resolve().parents[2]

#: A network that trains in seconds.
SMALL = ("model.backbone=convnet", "model.weights=none", "model.image_size=12", "model.head.hidden=[16]")


@dataclass
class Row:
    """A row of the table; `failures` says what did not survive."""

    case: str
    tried: int = 0
    survived: int = 0
    failures: list[str] = field(default_factory=list)

    def count(self, survived: bool, what: str = "") -> None:
        """Counts one that was tried."""
        self.tried += 1
        self.survived += survived
        if not survived:
            self.failures.append(what)


class Case(Protocol):
    """Makes rows in an empty folder; its docstring is one line that says what it does."""

    __name__: str

    def __call__(self, folder: Path) -> Iterator[Row]: ...


def write_images(folder: Path, classes: int = 3, count: int = 20, side: int = 12) -> Path:
    """Writes noisy PNGs of some gray levels, a folder a class, and returns `folder`."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class {label}").mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(60 + 140 * label / classes, 40, (side, side, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class {label}" / f"{number}.png")
    return folder


def start(
    words: list[str], project: Path, output: IO[bytes] | int = subprocess.DEVNULL, *, limit: int | None = None,
    before: tuple[str, ...] = (), **environment: str,
) -> Any:  # fmt: skip
    """Returns a process `pipeline WORDS` in a project; the leader of a group, so that nothing of it outlives a kill.

    Args:
        words: Of the command line.
        project: Its current folder.
        output: Where both of its streams go.
        limit: Bytes that a file of it may have at most.
        before: Words of the command that is to start it.
        **environment: Beside that of this process.
    """
    limited = ["prlimit", f"--fsize={limit}"] if limit is not None else []
    paths = os.pathsep.join(filter(None, [str(ROOT), environment.pop("PYTHONPATH", os.environ.get("PYTHONPATH", ""))]))
    return subprocess.Popen(
        [*before, *limited, sys.executable, "-m", "pipeline", *words], cwd=project, stdout=output, stderr=output,
        start_new_session=True, env={**os.environ, "PYTHONPATH": paths, **environment},
    )  # fmt: skip


def run_words(name: str, *stages: str, settings: tuple[str, ...] = ()) -> list[str]:
    """Returns the words of a new run of `images` with some settings over `SMALL`."""
    told = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    return ["run", "--data", "images", "--name", name, *told, *stages]


def weights_digest(archive: Path) -> str:
    """Returns a digest of every number in a `.keras` file, and of nothing else in it."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(archive) as members, members.open("model.weights.h5") as member, h5py.File(member) as file:

        def add(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                digest.update(name.encode() + item[()].tobytes())

        file.visititems(add)
    return digest.hexdigest()


def stage_state(run: Path, stage: str) -> str | None:
    """Returns the state of a run's stage; None before it has begun."""
    try:
        state: str = json.loads((run / "run.json").read_text())["stages"][stage]["state"]
        return state
    except (OSError, ValueError, KeyError):
        return None


def metric_histories(project: Path, run: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns (step, value) of everything that MLflow has of a run's training, by metric."""
    import sqlite3

    run_id = json.loads((run / "run.json").read_text())["mlflow_run_id"]
    with sqlite3.connect(project / "mlflow.db") as database:
        rows = database.execute(
            "select key, step, value from metrics where run_uuid = ? order by key, step, value", [run_id]
        ).fetchall()
    found: dict[str, list[tuple[int, float]]] = {}
    for key, step, value in rows:
        if key not in ("train/seconds", "train/forward_passes"):
            found.setdefault(key, []).append((step, value))
    return found
