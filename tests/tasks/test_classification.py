"""Which test images a classification finds worth a look."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.tasks.base import Evaluation
from pipeline.tasks.classification import Classification


def evaluation(rows: Sequence[tuple[str, str, float]]) -> Evaluation:
    labels, predicted, probability = zip(*rows, strict=True)
    columns = {"label": labels, "predicted": predicted, "probability": probability}
    return Evaluation({}, ("cat", "dog"), {}, {}, columns, "")


ROWS = [
    ("cat", "cat", 0.7), ("dog", "cat", 0.8), ("dog", "dog", 0.9), ("cat", "cat", 0.9), ("cat", "dog", 0.6),
    ("dog", "dog", 0.55),
]  # fmt: skip


def chosen(rows: Sequence[tuple[str, str, float]], count: int) -> list[tuple[int, str]]:
    return [(example.row, example.reason) for example in Classification().choose_examples(evaluation(rows), count)]


def test_a_hit_a_doubt_a_mistake_and_so_on() -> None:
    assert chosen(ROWS, 99) == [
        (2, "the most confident hit: dog"),
        (5, "the least confident answer: dog"),
        (1, "the most confident mistake: dog, taken for cat"),
        (3, "among the most confident hits: cat"),
        (4, "among the least confident answers: cat, taken for dog"),
        (0, "among the most confident hits: cat"),
    ]


@pytest.mark.parametrize("count", range(7))
def test_fewer_are_the_first_of_more(count: int) -> None:
    assert chosen(ROWS, count) == chosen(ROWS, 99)[:count]


def test_without_mistakes_and_without_hits() -> None:
    assert [row for row, _ in chosen([ROWS[0], ROWS[2], ROWS[3], ROWS[5]], 3)] == [1, 3, 2]
    assert chosen([ROWS[1], ROWS[4]], 3) == [
        (1, "the least confident answer: cat, taken for dog"),
        (0, "the most confident mistake: dog, taken for cat"),
    ]
    assert chosen(ROWS[:1], 3) == [(0, "the most confident hit: cat")]
