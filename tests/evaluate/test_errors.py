"""What is shown are the mistakes, hits and pairs that a plain look at the predictions finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.errors import (
    build_tiles,
    choose_errors,
    confused_pairs,
    errors_chapter,
    shown_rows,
)  # fmt: skip

#: True, predicted, probability.
ROWS = [
    ("cat", "cat", 0.9), ("cat", "dog", 0.6), ("cat", "dog", 0.8), ("dog", "cat", 0.95), ("dog", "dog", 0.4),
    ("owl", "cat", 0.5), ("cat", "dog", 0.8), ("owl", "owl", 0.4),
]  # fmt: skip


def columns(rows: list[tuple[str, str, float]]) -> dict[str, list[Any]]:
    label, predicted, probability = (list(column) for column in zip(*rows, strict=True))
    return {"id": [f"{n}.png" for n in range(len(rows))], "label": label, "predicted": predicted,
            "probability": probability}  # fmt: skip


def test_each_group_begins_with_the_most_telling() -> None:
    mistakes, hits, pair = choose_errors(columns(ROWS))
    assert (mistakes.kind, mistakes.rows, mistakes.count) == ("mistakes", (3, 2, 6, 1, 5), 5)
    assert (hits.kind, hits.rows, hits.count) == ("hits", (4, 7, 0), 3)
    assert (pair.pair, pair.count, set(pair.rows)) == (("cat", "dog"), 3, {1, 2, 6})
    assert pair.heading == "most often confused: cat taken for dog (3)"


def test_a_pair_shows_first_what_is_not_shown_above() -> None:
    mistakes, _, pair = choose_errors(columns(ROWS), limit=4)
    assert mistakes.rows == (3, 2, 6, 1)
    assert pair.rows == (2, 6)
    mistakes, _, pair = choose_errors(columns(ROWS), limit=2)
    assert (mistakes.rows, pair.rows) == ((3, 2), (6,))


def test_without_mistakes_or_hits_there_is_no_such_group() -> None:
    assert [group.kind for group in choose_errors(columns([("a", "a", 0.9)]))] == ["hits"]
    assert [group.kind for group in choose_errors(columns([("a", "b", 0.9)]))] == ["mistakes"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from([0.1, 0.5, 0.9])), min_size=1),
    st.integers(1, 4),
)
def test_groups_are_what_they_say(rows: list[tuple[str, str, float]], limit: int) -> None:
    predictions = columns(rows)
    groups = choose_errors(predictions, limit, pairs=2)
    wrong = [n for n, (label, predicted, _) in enumerate(rows) if label != predicted]
    for group in groups:
        assert 0 < len(group.rows) <= limit
        assert len(set(group.rows)) == len(group.rows)
        assert group.count >= len(group.rows)
        assert all((row in wrong) == (group.kind != "hits") for row in group.rows)
        if group.pair:
            assert {rows[row][:2] for row in group.rows} == {group.pair}
    confident = {row for group in groups if group.kind == "mistakes" for row in group.rows}
    left = [rows[row][2] for row in wrong if row not in confident]
    assert not left or max(left) <= min(rows[row][2] for row in confident)
    assert sum(count for _, count in confused_pairs(predictions)) == len(wrong)
    assert shown_rows(groups) == sorted({row for group in groups for row in group.rows})


@pytest.mark.parametrize(
    ("rows", "finding"),
    [
        (ROWS, "5 of 8 test images wrong; most often 'cat' taken for 'dog' (3 times). 1 mistake is made with more than "
               "0.9: no threshold below that would hold them back."),
        ([("a", "b", 0.7), ("a", "a", 1.0)],
         "1 of 2 test images wrong. No mistake is made with more than 0.9; the most confident one has 0.70."),
        ([("a", "a", 0.61)], "All 1 test images right; the least confident hit has 0.61."),
    ],
)  # fmt: skip
def test_the_finding(rows: list[tuple[str, str, float]], finding: str) -> None:
    predictions = columns(rows)
    groups = choose_errors(predictions)
    tiles = build_tiles(shown_rows(groups), predictions, None, None)
    assert errors_chapter(groups, tiles, predictions).finding == finding


def test_the_chapter_holds_all_mistakes_and_pairs() -> None:
    predictions = columns(ROWS)
    groups = choose_errors(predictions)
    chosen = shown_rows(groups)
    pixels = np.full((len(chosen), 4, 6, 1), 260.0)
    tiles = build_tiles(chosen, predictions, pixels, np.ones((len(chosen), 2, 2), np.float32))
    assert tiles[3].pixels is not None
    assert (tiles[3].pixels.dtype, tiles[3].pixels.max(), tiles[3].predicted) == (np.uint8, 255, "cat")
    chapter = errors_chapter(groups, tiles, predictions)
    assert chapter.tables["mistakes"]["id"] == ["3.png", "2.png", "6.png", "1.png", "5.png"]
    assert chapter.tables["confused_pairs"] == {
        "label": ["cat", "dog", "owl"], "predicted": ["dog", "cat", "cat"], "images": [3, 1, 1],
    }  # fmt: skip
    assert (chapter.document["mistakes"], chapter.document["images"]) == (5, 8)
    assert chapter.document["gallery"][1] == {"heading": "least confident hits", "ids": ["4.png", "7.png", "0.png"]}
    alt = chapter.pictures["errors.png"].alt
    assert "most confident mistakes: 'dog' taken for 'cat', 0.95" in alt
    assert "least confident hits: 'dog', 0.40" in alt
