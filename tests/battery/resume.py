"""Training that is killed ends, once it has been resumed, as training that never was: to the last bit."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from frame import Row, metric_histories, run_words, stage_state, start, weights_digest, write_images

#: How often each recipe is killed, and which share of that inside a save.
KILLS = int(os.environ.get("KILLS", "10"))
_INSIDE_A_SAVE = 0.2

#: No run takes longer.
_DEADLINE = 300.0

_BOTH = ("train.head.epochs=12", "train.fine_tune.epochs=12", "train.fine_tune.from=0.5", "train.batch_size=8",
         "model.head.dropout=0.3", "train.checkpoint_every_steps=2", "train.patience=0")  # fmt: skip

RECIPES = {
    "bank, dropout, two phases": (*_BOTH, "augment.transforms=[flip_left_right]", "augment.views=2"),
    "live, augmentation, mixup, moving average": (
        *_BOTH, "train.features=live", "augment.transforms=[flip_left_right, color_jitter]", "train.mixup=0.3",
        "train.ema=0.9",
    ),
    "search, then fine-tuning": (*_BOTH, "train.head.learning_rate=auto", "train.head.epochs=4"),
}  # fmt: skip

_STAGES = ("ingest", "build", "train")


def resume(folder: Path) -> Iterator[Row]:
    """kill -9 at random moments of training, a fifth of them inside a save; then --resume"""
    moments = random.Random(0)
    for name, settings in RECIPES.items():
        row = Row(f"kill -9 and resume: {name}")
        project = folder / str(len(name))
        write_images(project / "images")
        whole = project / "runs" / "whole"
        seconds = _train_whole(project, settings)
        wanted = weights_digest(whole / "model.keras"), metric_histories(project, whole)
        number = 0
        while row.tried < KILLS:
            number += 1
            run = project / "runs" / f"killed-{number}"
            kills = _kill_until_done(project, run, settings, KILLS - row.tried, seconds, moments)
            found = weights_digest(run / "model.keras"), metric_histories(project, run)
            for _ in range(kills):
                row.count(found == wanted, f"{run.name}: {'weights' if found[0] != wanted[0] else 'metrics'} differ")
        yield row


def _train_whole(project: Path, settings: tuple[str, ...]) -> float:
    """Trains without a kill; returns the seconds of the stage train."""
    process = start(run_words("whole", *_STAGES, settings=settings), project)
    began = _wait_for_training(process, project / "runs" / "whole")
    assert process.wait(_DEADLINE) == 0, "the run that nothing happened to failed"
    return time.monotonic() - began


def _wait_for_training(process: object, run: Path) -> float:
    """Returns when the stage train began, or the process ended."""
    while stage_state(run, "train") is None and process.poll() is None:  # type: ignore[attr-defined]
        time.sleep(0.01)
    return time.monotonic()


def _kill_until_done(
    project: Path, run: Path, settings: tuple[str, ...], most: int, seconds: float, moments: random.Random
) -> int:
    """Returns how often a run was killed before it came to its end; after `most` it is left alone."""
    words, kills = run_words(run.name, *_STAGES, settings=settings), 0
    while True:
        process = start(words, project)
        if kills == most:
            assert process.wait(_DEADLINE) == 0, f"{run.name} could not be resumed"
            return kills
        if _killed(process, run, seconds, moments):
            kills += 1
            if stage_state(run, "train") == "done":  # on its way out: nothing is left to be resumed
                return kills
        elif process.wait() == 0:
            return kills
        else:
            raise AssertionError(f"{run.name} could not be resumed after {kills} kills")
        words = ["run", "--resume", "--name", run.name, *_STAGES] if (run / "run.json").exists() else words


def _killed(process: object, run: Path, seconds: float, moments: random.Random) -> bool:
    """Kills a process and its children at a random moment of its training, unless it ends before."""
    # A resumed process says so by its lock; its training begins when the graphs are built, some seconds later.
    inside_a_save = moments.random() < _INSIDE_A_SAVE
    patience = moments.uniform(0.2, 1.0) * (seconds + 4.0)
    _wait_for_training(process, run)
    until = time.monotonic() + patience
    while process.poll() is None:  # type: ignore[attr-defined]
        due = time.monotonic() >= until
        if due and (not inside_a_save or any(run.glob("checkpoints/.latest.npz.*"))):
            os.killpg(process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            process.wait()  # type: ignore[attr-defined]
            return True
        time.sleep(0.0005 if due else 0.01)
    return False


CASES = (resume,)
