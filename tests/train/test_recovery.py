"""Training that is stopped and gone on with ends as training that never was: to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.augment.policy import load_policy
from pipeline.config import Config, build_config
from pipeline.files import file_digest
from pipeline.ingest.manifest import Manifest, build_manifest
from pipeline.models.network import build_network
from pipeline.progress import Bar, Interrupted, Silent
from pipeline.tasks.table import load_task
from pipeline.train.bank.store import FeatureStore
from pipeline.train.checkpoint import Checkpoints
from pipeline.train.epochs import EpochRow
from pipeline.train.fit import train
from pipeline.train.search import Trial

TASK = load_task("classification")
POLICY = load_policy(["flip_left_right", "color_jitter"])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """36 noisy images of three brightnesses: 24 to train on, in three batches of 8."""
    root, rng, rows = tmp_path_factory.mktemp("grays"), np.random.default_rng(0), []
    for label, gray in {"dark": 60, "middle": 120, "light": 180}.items():
        for number in range(12):
            path = root / f"{label}{number}.png"
            Image.fromarray(np.clip(rng.normal(gray, 40, (8, 8)), 0, 255).astype("uint8")).save(path)
            split = "train" if number < 8 else "validation" if number < 11 else "test"
            rows.append(
                {"id": path.name, "path": str(path), "label": label, "split": split, "sha256": file_digest(path),
                 "cluster": path.name, "width": 8, "height": 8, "format": "PNG", "mode": "L", "bytes": 1}
            )  # fmt: skip
    return build_manifest(rows)


def recipe(**settings: Any) -> Config:
    model = {"backbone": "convnet", "weights": "none", "image_size": 8, "head": {"hidden": [8], "dropout": 0.3}}
    return build_config({"model": model, "train": {"batch_size": 8, **settings}})


BOTH = {"head": {"epochs": 3}, "fine_tune": {"epochs": 3, "from": 0.5}}
RECIPES = {
    "bank": recipe(**BOTH),
    "live": recipe(features="live", **BOTH),
    "everything": recipe(features="live", mixup=0.3, cutmix=0.5, ema=0.9, patience=1, **BOTH),
    "search": recipe(head={"epochs": 2, "learning_rate": "auto"}, fine_tune={"epochs": 2, "from": 0.5}),
    "head_only": recipe(head={"epochs": 4}, ema=0.5, mixup=0.4),
}


class Killed(BaseException):
    """Stands for the death of the process: nothing of ours catches it."""


class Stopping(Silent):
    """Stops training at the n-th sign of progress, as a signal or as a death."""

    def __init__(self, at: int, how: type[BaseException]) -> None:
        self._left, self._how = at, how

    @contextmanager
    def bar(self, title: str, total: int | None) -> Iterator[Bar]:
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._left -= 1
        if self._left == 0:
            raise self._how


class Outcome:
    """What a training gave: the network's variables, and all that the callbacks heard."""

    def __init__(self) -> None:
        self.rows: list[EpochRow] = []
        self.trials: list[Trial] = []
        self.variables: list[np.ndarray] = []
        self.calibration: Any = None


def run(
    manifest: Manifest, config: Config, store: FeatureStore, checkpoints: Checkpoints | None, progress: Silent
) -> Outcome:
    """Trains in a new network, as a new process would."""
    network = build_network(config.model, TASK, 3, seed=3, weights=None)
    outcome = Outcome()
    result = train(
        network, TASK, manifest, POLICY, config.augment, config.train, seed=3, store=store, progress=progress,
        on_epoch=outcome.rows.append, on_trial=outcome.trials.append, checkpoints=checkpoints,
    )  # fmt: skip
    assert list(result.history) == outcome.rows
    outcome.variables = [variable.numpy() for variable in network.full.variables]
    outcome.calibration = result.calibration
    return outcome


def stop_again_and_again(
    manifest: Manifest, config: Config, root: Path, how: type[BaseException], signs: Sequence[int], every: int
) -> tuple[Outcome, int]:
    """Returns the outcome of training that is stopped at each of the signs, and how often it was."""
    store, stopped = FeatureStore(root / "features"), 0
    for at in signs:
        checkpoints = Checkpoints(root / "checkpoints", {"recipe": "r"}, every)
        try:
            return run(manifest, config, store, checkpoints, Stopping(at, how)), stopped
        except how:
            stopped += 1
    checkpoints = Checkpoints(root / "checkpoints", {"recipe": "r"}, every)
    return run(manifest, config, store, checkpoints, Silent()), stopped


@pytest.fixture(scope="module")
def whole(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """The outcome of each recipe's training that was never stopped."""
    known: dict[str, Outcome] = {}

    def get(name: str) -> Outcome:
        if name not in known:
            root = tmp_path_factory.mktemp(name)
            known[name] = run(manifest, RECIPES[name], FeatureStore(root), None, Silent())
        return known[name]

    return get


def assert_same(found: Outcome, wanted: Outcome) -> None:
    for one, other in zip(found.variables, wanted.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.rows == wanted.rows
    assert [trial.metrics for trial in found.trials] == [trial.metrics for trial in wanted.trials]
    assert found.calibration == wanted.calibration


#: Each way to be stopped and each part of training once; the rest is slow, since every start traces its graphs anew.
QUICK = [("everything", Killed, [6, 9]), ("search", Interrupted, [6])]
SLOW = [(name, how) for name in RECIPES for how in (Interrupted, Killed) if (name, how) not in [of[:2] for of in QUICK]]


@pytest.mark.parametrize(
    ("name", "how", "signs"),
    [
        *QUICK,
        *(pytest.param(*one, [3, 5, 8, 4, 9, 6, 7], marks=pytest.mark.slow) for one in SLOW),
    ],
)
def test_stopped_training_ends_as_if_it_never_was(
    name: str, how: type[BaseException], signs: list[int], manifest: Manifest, whole: Callable[[str], Outcome],
    tmp_path: Path,
) -> None:  # fmt: skip
    every = 2 if how is Killed else 0  # a signal is answered by a checkpoint, a death is not
    found, stopped = stop_again_and_again(manifest, RECIPES[name], tmp_path, how, signs, every)
    assert stopped >= min(len(signs), 4)
    assert_same(found, whole(name))
