"""Which settings are tried and chosen; nothing is trained here."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pipeline.config import TrainConfig
from pipeline.errors import ModelError
from pipeline.train import search as module
from pipeline.train.search import VALUES, Grid, SearchResult, Setting, Trial, search, search_grid, trial_count

START = Setting(0.003, 0.0, 0.2, 0.0)
GRID = {"learning_rate": (0.001, 0.003, 0.01), "dropout": (0.0, 0.2), "label_smoothing": (0.0, 0.1)}


def run(loss: Callable[[Setting], float], grid: Grid = GRID) -> tuple[SearchResult, list[tuple[Trial, Trial]]]:
    """Searches where a setting's loss is given; returns what was told of each trial, too."""
    told: list[tuple[Trial, Trial]] = []

    def attempt(number: int, setting: Setting) -> Trial:
        return Trial(number, setting, {"loss": loss(setting), "top_1": 0.5}, ({"epoch": 1},), 2.0)

    return search(START, grid, attempt, lambda *trials: told.append(trials)), told


def test_one_setting_after_the_other_each_with_the_best_so_far() -> None:
    found, told = run(lambda of: abs(of.learning_rate - 0.001) + abs((of.dropout or 0) - 0.0) + of.label_smoothing)
    assert [(trial.number, trial.setting) for trial in found.trials] == [
        (1, Setting(0.001, 0.0, 0.2, 0.0)),
        (2, Setting(0.003, 0.0, 0.2, 0.0)),
        (3, Setting(0.01, 0.0, 0.2, 0.0)),
        (4, Setting(0.001, 0.0, 0.0, 0.0)),
        (5, Setting(0.001, 0.0, 0.0, 0.1)),
    ]
    assert found.setting == Setting(0.001, 0.0, 0.0, 0.0)
    assert len(found.trials) == trial_count(GRID)
    assert [(trial.number, best.number) for trial, best in told] == [(1, 1), (2, 1), (3, 1), (4, 4), (5, 4)]


def test_of_equals_the_first_is_chosen() -> None:
    assert run(lambda of: 1.0)[0].chosen.number == 1


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_trial_that_diverges_loses(lost: float) -> None:
    found, _ = run(lambda of: lost if of.learning_rate == 0.001 or of.dropout == 0.0 else of.learning_rate)
    assert found.setting == Setting(0.003, 0.0, 0.2, 0.0)
    assert len(found.trials) == trial_count(GRID)


def test_where_all_diverge_nothing_more_is_tried() -> None:
    tried = []
    with pytest.raises(ModelError, match=r"with any learning_rate from 0\.001 to 0\.01; .*train\.head\.learning_rate"):
        run(lambda of: tried.append(of) or math.nan)  # type: ignore[func-returns-value]
    assert len(tried) == 3


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate(changes)


def test_auto_tries_learning_rates_alone() -> None:
    start, grid = search_grid(config(head={"learning_rate": "auto", "weight_decay": 0.3}), 0.2)
    assert grid == {"learning_rate": VALUES["learning_rate"]}
    assert (start.weight_decay, start.dropout) == (0.3, 0.2)


def test_the_recipes_own_values_are_tried_too() -> None:
    own = config(search=True, label_smoothing=0.07, head={"learning_rate": 0.02, "weight_decay": 0.3})
    start, grid = search_grid(own, 0.35)
    assert start == Setting(0.02, 0.3, 0.35, 0.07)
    assert list(grid) == ["learning_rate", "weight_decay", "dropout", "label_smoothing"]
    for name, values in grid.items():
        assert set(values) == {getattr(start, name), *VALUES[name]}
        assert list(values) == sorted(values)


def test_search_with_auto_has_no_rate_of_its_own() -> None:
    _, grid = search_grid(config(search=True, head={"learning_rate": "auto"}), 0.2)
    assert grid["learning_rate"] == VALUES["learning_rate"]
    assert len(grid) == 4


def test_a_head_without_dropout_stays_so() -> None:
    start, grid = search_grid(config(search=True), None)
    assert start.dropout is None
    assert list(grid) == ["learning_rate", "weight_decay", "label_smoothing"]
    assert "dropout" not in start.values()


def test_the_default_search_takes_a_dozen_trials() -> None:
    assert trial_count(search_grid(config(search=True), 0.2)[1]) == 12


def test_a_setting_replaces_what_was_searched() -> None:
    before = config(search=True, batch_size=4, head={"learning_rate": "auto", "epochs": 7})
    after = Setting(0.02, 0.1, 0.5, 0.05).applied_to(before)
    assert after == config(batch_size=4, label_smoothing=0.05, head=after.head.model_dump())
    assert (after.head.epochs, after.head.learning_rate, after.head.weight_decay) == (7, 0.02, 0.1)
    assert after.searched == ()


def test_rows_and_words_say_what_was_chosen() -> None:
    found, _ = run(lambda of: of.learning_rate, {"learning_rate": (0.001, 0.01)})
    assert found.rows()[0] == {
        "trial": 1, "learning_rate": 0.001, "weight_decay": 0.0, "dropout": 0.2, "label_smoothing": 0.0,
        "validation/loss": 0.001, "validation/top_1": 0.5, "epochs": 1, "seconds": 2.0, "chosen": True,
    }  # fmt: skip
    assert [row["chosen"] for row in found.rows()] == [True, False]
    assert found.words() == (
        "search: learning rate 0.001; the best of 2 trials in 4 s, validation loss 0.001, top_1 0.500"
    )


def test_the_values_are_those_that_a_recipe_may_have() -> None:
    for name in ("learning_rate", "weight_decay"):
        for value in module.VALUES[name]:
            config(head={name: value})
    for value in module.VALUES["label_smoothing"]:
        config(label_smoothing=value)
