"""Searches on the small CNN: what they train, what they choose by, and what they leave in the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
from test_fit import FINE, GRAYS, fit, make_manifest, recipe, validation_loss

from pipeline.errors import ModelError
from pipeline.ingest.manifest import Manifest
from pipeline.progress import Silent
from pipeline.train.bank.store import FeatureStore
from pipeline.train.fit import TrainResult
from pipeline.train.search import Trial

AUTO = {"epochs": 4, "learning_rate": "auto"}

#: What a forward pass is made for: the images of train and of validation.
IMAGES = 52


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Noisy grays; there is no file of any test image."""
    found = make_manifest(tmp_path_factory.mktemp("grays"), lambda label, split: label)
    for path in found.split("test").column("path"):
        Path(path).unlink()
    return found


@pytest.fixture(scope="module")
def contrary(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The same with validation labels that are all wrong."""
    turned = dict(zip(GRAYS, [*GRAYS][1:] + [*GRAYS][:1], strict=True))
    root = tmp_path_factory.mktemp("contrary")
    return make_manifest(root, lambda label, split: turned[label] if split == "validation" else label)


def try_values(monkeypatch: pytest.MonkeyPatch, **values: Sequence[float]) -> None:
    """Has these values tried, and of other settings the recipe's own alone."""
    names = ("learning_rate", "weight_decay", "dropout", "label_smoothing")
    monkeypatch.setattr("pipeline.train.search.VALUES", {name: tuple(values.get(name, ())) for name in names})


def described(outcome: TrainResult) -> list[tuple[object, ...]]:
    assert outcome.search is not None
    return [(trial.number, trial.setting, trial.metrics, trial.history) for trial in outcome.search.trials]


def chosen(outcome: TrainResult) -> Trial:
    assert outcome.search is not None
    return outcome.search.chosen


def test_absurd_rates_lose_and_cost_no_forward_pass(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    try_values(monkeypatch, learning_rate=(1e-7, 0.02, 1e30))
    told: list[Trial] = []
    network, outcome = fit(manifest, recipe(head=AUTO), on_trial=told.append)
    assert outcome.search is not None
    slow, good, wild = outcome.search.trials
    assert outcome.search.chosen is good
    assert not np.isfinite(wild.metrics["loss"])
    assert good.loss < 0.9 * slow.loss
    assert validation_loss(network, manifest) == pytest.approx(good.loss, rel=1e-3)
    assert told == list(outcome.search.trials)
    assert outcome.forward_passes == IMAGES


def test_where_all_rates_diverge_the_run_ends(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    try_values(monkeypatch, learning_rate=(1e30, 1e32))
    with pytest.raises(ModelError, match="training diverged"):
        fit(manifest, recipe(head=AUTO))


def test_validation_decides_and_not_train(contrary: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    try_values(monkeypatch, learning_rate=(1e-7, 0.02))
    _, outcome = fit(contrary, recipe(head=AUTO))
    assert outcome.search is not None
    last = [float(trial.history[-1]["train/loss"]) for trial in outcome.search.trials]
    assert last[1] < last[0]
    assert chosen(outcome).setting.learning_rate == 1e-7


WANTED = {"learning_rate": 0.02, "weight_decay": 0.4, "dropout": 0.5, "label_smoothing": 0.1}

#: The wanted values and one more, tried last: what is kept must survive the trials that come after it.
TRIED = {name: (value,) for name, value in WANTED.items()} | {"label_smoothing": (0.1, 0.15)}


def prefer_wanted(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda trial: sum(getattr(trial.setting, name) != WANTED[name] for name in WANTED))


@pytest.mark.parametrize("cutmix", [0.0, pytest.param(1.0, marks=pytest.mark.slow)], ids=["pooled", "maps"])
def test_what_is_left_is_what_training_with_the_chosen_setting_gives(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, cutmix: float
) -> None:
    try_values(monkeypatch, **TRIED)
    monkeypatch.setattr("pipeline.train.search._best", prefer_wanted)
    common = {"fine_tune": FINE | {"epochs": 1}, "cutmix": cutmix, "ema": 0.5}
    head = {"epochs": 3, "learning_rate": 0.01}
    rows: list[object] = []
    found, outcome = fit(manifest, recipe(head=head, search=True, **common), on_epoch=rows.append)
    assert chosen(outcome).setting.values() == WANTED
    assert len(described(outcome)) == 6

    head |= {"learning_rate": 0.02, "weight_decay": 0.4}
    config = recipe(head=head, label_smoothing=0.1, **common)
    dropout = {"head": config.model.head.model_copy(update={"dropout": 0.5})}
    config = config.model_copy(update={"model": config.model.model_copy(update=dropout)})
    anew, alone = fit(manifest, config)
    assert rows == list(outcome.history) == list(alone.history)
    for one, other in zip(found.full.get_weights(), anew.full.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert rates(found.full) == rates(anew.full) == [0.5]


def rates(model: keras.Model) -> list[float]:
    return [layer.rate for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dropout)]


def test_trials_compare_without_label_smoothing(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    try_values(monkeypatch, label_smoothing=(0.5,))
    monkeypatch.setattr("pipeline.train.search._best", lambda trials: trials[-1])
    network, outcome = fit(manifest, recipe(head={"epochs": 4, "learning_rate": 0.02}, search=True))
    assert chosen(outcome).setting.label_smoothing == 0.5
    assert chosen(outcome).loss == pytest.approx(validation_loss(network, manifest), rel=1e-3)
    smoothed = min(float(row["validation/loss"]) for row in outcome.history)
    assert smoothed != pytest.approx(chosen(outcome).loss, rel=0.02)


def test_the_dropout_of_a_last_trial_that_lost_does_not_stay(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_values(monkeypatch, dropout=(0.5,))
    monkeypatch.setattr("pipeline.train.search._best", lambda trials: trials[0])
    network, outcome = fit(manifest, recipe(head={"epochs": 1}, search=True))
    assert [trial[1].dropout for trial in described(outcome)] == [0.2, 0.5]  # type: ignore[attr-defined]
    assert rates(network.full) == [0.2]


def test_a_search_can_be_repeated(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    try_values(monkeypatch, dropout=(0.5,))
    config = recipe(head={"epochs": 2}, search=True, mixup=0.2)
    first, again = (described(fit(manifest, config)[1]) for _ in range(2))
    assert first == again
    assert first != described(fit(manifest, config, seed=1)[1])


def test_a_head_without_dropout_can_be_searched(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    try_values(monkeypatch, dropout=(0.5,), weight_decay=(0.1,))
    config = recipe(head={"epochs": 1}, search=True)
    bare = {"head": config.model.head.model_copy(update={"dropout": 0.0})}
    network, outcome = fit(manifest, config.model_copy(update={"model": config.model.model_copy(update=bare)}))
    assert len(described(outcome)) == 2
    assert rates(network.full) == []


def test_without_a_bank_that_holds_them_features_are_computed(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    try_values(monkeypatch, learning_rate=(1e-7, 0.02))
    config = recipe(head=AUTO | {"epochs": 1})
    _, banked = fit(manifest, config)
    _, computed = fit(manifest, config, store=FeatureStore(tmp_path, 0))
    assert chosen(computed).setting == chosen(banked).setting
    assert chosen(computed).loss == pytest.approx(chosen(banked).loss, rel=1e-3)
    assert computed.forward_passes > IMAGES


class Screen(Silent):
    """Notes what is shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: list[list[object]] = []

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Screen]:
        self.bars.append([title, total, 0, ""])
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        title, total, done, before = self.bars[-1]
        self.bars[-1] = [title, total, done + steps, note or before]  # type: ignore[operator]

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_one_bar_counts_the_trials_and_one_line_tells_the_outcome(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_values(monkeypatch, learning_rate=(1e-7, 0.02))
    screen = Screen()
    _, outcome = fit(manifest, recipe(head=AUTO), progress=screen)
    assert [bar[0] for bar in screen.bars] == ["features of head", "search"]
    assert screen.bars[-1] == ["search", 2, 2, f"best validation loss {chosen(outcome).loss:.3f}"]
    (line,) = [line for line in screen.lines if line.startswith("search")]
    assert line.startswith("search: learning rate 0.02; the best of 2 trials in")
