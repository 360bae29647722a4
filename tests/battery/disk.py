"""A disk that is full is said in one line, costs nothing that was there, and training goes on as if it had not been.

The disks are small tmpfs, which only root may mount; the feature bank, which never fills a disk that it can look at, is
cut short by the limit of file sizes (RLIMIT_FSIZE) instead.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from frame import Row, run_words, start, weights_digest, write_images
from mounts import ROOMY, small_disk

_DEADLINE = 300.0

#: The rows.
PLACES = os.environ.get("PLACES", "checkpoint model bank export database artifact").split()
_KIB = 1024

#: Two phases and a checkpoint a step; a bank that is larger than MLflow's new database, which no limit may touch.
SETTINGS = ("train.head.epochs=3", "train.fine_tune.epochs=3", "train.fine_tune.from=0.5", "train.batch_size=8",
            "train.checkpoint_every_steps=2", "augment.transforms=[flip_left_right]", "augment.views=16")  # fmt: skip

#: What is needed must be said in bytes.
_NEED = re.compile(r"takes (more than |some )?[\d.,]+ (bytes|KiB|MiB|GiB)")


@dataclass(frozen=True)
class Try:
    """One full disk.

    Attributes:
        place: What cannot be written: the row.
        after: The stages that are done before.
        stage: The stage that fails.
        disk: The folder that lies on the small disk, in the project; None for a limit of file sizes.
        room: Bytes of room on it beside what is there, or the limit.
        named: What the error names.
        said: What the process says when the disk becomes so full: before that it would see it, and refuse to begin.
    """

    place: str
    after: tuple[str, ...]
    stage: str
    disk: str | None
    room: int
    named: str
    said: str = "disk:"


def full_disk(folder: Path) -> Iterator[Row]:
    """Disks that are full at six places, of three sizes each; then space is made, and --resume"""
    project = Project(folder)
    for place in PLACES:
        row = Row(f"full disk: {place}")
        for one in project.tries(place):
            wrong = project.survives(one)
            row.count(wrong is None, f"{one.place}, {one.room:,} bytes: {wrong}")
        yield row


class Project:
    """A project that is put back to how it was before each try, always at the same path: MLflow keeps absolute ones."""

    def __init__(self, folder: Path) -> None:
        self.path, self._kept = folder / "project", folder / "kept"
        self.run = self.path / "runs" / "full"
        write_images(self.path / "images")
        (self.path / "db").mkdir()
        self._keep(())
        self._done(("ingest", "build"))
        self._done(("ingest", "build"), "train")
        self._wanted = weights_digest(self.run / "model.keras")
        self._model = (self.run / "model.keras").stat().st_size
        assert self._call(["run", "--name", "full", "export"]).code == 0, "the export that nothing happened to failed"
        self._export = _bytes(self.run / "export")

    def tries(self, place: str) -> Iterator[Try]:
        """Yields three tries of a place."""
        begun, trained, run = ("ingest", "build"), ("ingest", "build", "train"), "runs/full"
        if place == "checkpoint":
            for room in (16 * _KIB, 128 * _KIB, 320 * _KIB):  # one takes some 260 KiB: not one, not half, not two
                yield Try(place, begun, "train", f"{run}/checkpoints", room, "latest.npz")
        elif place == "model":
            for share in (0.1, 0.5, 0.9):
                yield Try(place, begun, "train", run, int(share * self._model), "model.keras")
        elif place == "bank":
            for room in (1280 * _KIB, 1664 * _KIB, 2304 * _KIB):
                yield Try(place, begun, "train", None, room, "features")
        elif place == "export":
            for share in (0.1, 0.5, 0.9):
                yield Try(place, trained, "export", run, int(share * self._export), "export", "stages:")
        elif place == "database":
            yield Try(place, (), "ingest", "db", 300 * _KIB, "mlflow.db", "stages:")
            for room in (4 * _KIB, 12 * _KIB):
                yield Try(place, begun, "train", "db", room, "mlflow.db")
        else:
            for room in (8 * _KIB, 40 * _KIB):
                yield Try(place, begun, "train", "mlruns", room, "mlruns")
            yield Try(place, trained, "export", "mlruns", self._export // 2, "mlruns", "stages:")

    def survives(self, one: Try) -> str | None:
        """Returns what was wrong with how a full disk was met, None where nothing was."""
        self._restore(one.after)
        words = ["run", "--name", "full", one.stage] if one.after else self._new(("ingest", "build"))
        with ExitStack() as disks:
            disk = disks.enter_context(small_disk(self.path / one.disk)) if one.disk else None
            if one.place == "model":  # its checkpoints come before it
                disks.enter_context(small_disk(self.run / "checkpoints"))
            before = self._files()
            fill = (one.said, lambda: disk.leave(one.room)) if disk else None
            ended = self._call(words, limit=None if disk else one.room, fill=fill)
            wrong = _wrong(ended, one) or self._lost(before)
            if wrong:
                return wrong
            if disk:
                disk.leave(ROOMY)
            return self._goes_on(one)

    def _goes_on(self, one: Try) -> str | None:
        if not one.after:
            todo = [self._new(("ingest", "build")), ["run", "--name", "full", "train"]]
        else:
            todo = [["run", "--resume", "--name", "full", one.stage]]
        for words in todo:
            ended = self._call(words)
            if ended.code:
                return f"could not go on: {ended.errors[-1:]}"
        if weights_digest(self.run / "model.keras") != self._wanted:
            return "other weights than those of a run with room enough"
        if one.stage == "export" and self._call(["verify", "runs/full/export"]).code:
            return "the export does not verify"
        return self._copies_differ()

    def _copies_differ(self) -> str | None:
        for file in (self.path / "mlruns").rglob("artifacts/*"):
            own = self.run / file.name
            if file.is_file() and own.exists() and file.read_bytes() != own.read_bytes():
                return f"MLflow's {file.name} is not the run's"
        return None

    def _lost(self, before: dict[Path, bytes]) -> str | None:
        """Returns what an error has changed, or left half done."""
        for path, contents in before.items():
            if not path.exists():
                return f"{path.name} is gone"
            found = path.read_bytes()
            if not (found.startswith(contents) if ".cache" in path.parts else found == contents):
                return f"{path.name} has changed"
        litter = [path for path in self.path.glob("runs/**/.*") if path.name != ".lock"]
        if litter:
            return f"{litter[0].name} was left behind"
        return None

    def _files(self) -> dict[Path, bytes]:
        """Returns the contents of all that a call must leave alone: not of states, locks and MLflow's database."""
        spared = ("run.json", "config.yaml", "environment.txt")
        folders = (self.run, self.path / ".cache", self.path / "mlruns")
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {
            path: path.read_bytes() for path in files if path.name not in spared and not path.name.endswith(".lock")
        }

    def _done(self, stages: tuple[str, ...], more: str | None = None) -> None:
        """Brings the project to where some stages are done, and keeps it so."""
        words = ["run", "--name", "full", more] if more else self._new(stages)
        ended = self._call(words)
        assert ended.code == 0, f"the run that nothing happened to failed: {ended.errors}"
        self._keep((*stages, more) if more else stages)

    def _new(self, stages: tuple[str, ...]) -> list[str]:
        return run_words("full", *stages, settings=SETTINGS)

    def _keep(self, stages: tuple[str, ...]) -> None:
        shutil.copytree(self.path, self._kept / "-".join(("at", *stages)), symlinks=True)

    def _restore(self, stages: tuple[str, ...]) -> None:
        shutil.rmtree(self.path)
        shutil.copytree(self._kept / "-".join(("at", *stages)), self.path, symlinks=True)

    def _call(
        self, words: list[str], limit: int | None = None, fill: tuple[str, Callable[[], None]] | None = None
    ) -> Ended:
        """Returns how a command ended; `fill` is done once it has said something."""
        log = self.path.parent / "log"
        uri = f"sqlite:///{self.path / 'db' / 'mlflow.db'}"
        with log.open("wb") as output:
            process = start(words, self.path, output, limit=limit, MLFLOW_TRACKING_URI=uri)
            while fill and process.poll() is None and fill[0] not in log.read_text(errors="replace"):
                time.sleep(0.005)
            if fill:
                fill[1]()
            code = process.wait(_DEADLINE)
        text = log.read_text(errors="replace")
        return Ended(code, [line for line in text.splitlines() if line.startswith("error:")], text)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, the lines that say why, and all it printed."""

    code: int
    errors: list[str]
    text: str


def _wrong(ended: Ended, one: Try) -> str | None:
    """Returns what is wrong with how a process said that a disk is full."""
    if ended.code != 1:
        return f"exit code {ended.code}: {ended.text[-600:]}"
    if "Traceback" in ended.text or len(ended.errors) != 1:
        return f"not one line: {ended.text[-600:]}"
    line = ended.errors[0]
    if one.named not in line or not _NEED.search(line) or "make space" not in line:
        return f"does not say place, need and advice: {line}"
    return None


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


CASES = (full_disk,)
