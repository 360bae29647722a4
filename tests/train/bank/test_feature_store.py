from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.train.bank import store as store_module
from pipeline.train.bank.shelf import KEY, Shelf
from pipeline.train.bank.store import FeatureStore

ROW = 4 * 25  # bytes


def describe(**changes: Any) -> dict[str, Any]:
    return {"shape": [25], "dtype": "float32", "title": "net to cut", **changes}


def fill(store: FeatureStore, count: int, *, used: float, **changes: Any) -> Shelf:
    """Puts rows on the shelf of a description, last used at a time."""
    changes = {"policy": changes.get("title"), **changes}
    shelf = store.shelf(describe(**changes))
    with shelf.filling() as writer:
        store.describe(shelf, describe(**changes))
        keys = np.array([number.to_bytes(16, "big") for number in range(count)], KEY)
        writer.commit(keys, np.ones((count, 25), np.float32))
    for index in shelf.folder.glob("*.index"):
        os.utime(index, (used, used))
    return shelf


def files(shelf: Shelf) -> set[Path]:
    return set(shelf.folder.glob("*.index"))


def test_each_description_has_a_shelf_of_its_own(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    shelves = [store.shelf(describe(policy=policy)).folder for policy in ("a", "b", "a")]
    assert shelves[0] == shelves[2] != shelves[1]
    other_order = {"policy": "a", "title": "another name", "dtype": "float32", "shape": [25]}
    assert store.shelf(other_order).folder == shelves[0]


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, budget=100 * ROW)
    old, young, older = (fill(store, 20, used=used, title=str(used)) for used in (2000, 3000, 1000))
    assert store.make_room(50 * ROW, kept=[]) is None  # 60 rows and their index are there
    assert [bool(files(shelf)) for shelf in (old, young, older)] == [True, True, False]
    assert not older.folder.exists()
    FeatureStore(tmp_path).use(files(old))  # by another run
    assert store.make_room(75 * ROW, kept=[]) is None
    assert [bool(files(shelf)) for shelf in (old, young)] == [True, False]
    reason = store.make_room(100 * ROW, kept=files(old))  # what is wanted stays, though the budget says otherwise
    assert reason is not None
    assert "pipeline bank clear" in reason
    assert files(old)


def test_what_this_run_uses_stays(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, budget=100 * ROW)
    first, other = fill(store, 30, used=1000, title="first"), fill(store, 30, used=2000, title="other")
    store.use(files(first))
    assert store.missing_room(80 * ROW, 0, kept=[]) is not None  # beside the first
    assert store.make_room(40 * ROW, kept=[]) is None
    assert files(first)
    assert not files(other)


def test_old_rows_of_the_shelf_that_is_being_filled_go_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.train.bank.shelf.SEGMENT_BYTES", 20 * ROW)
    store = FeatureStore(tmp_path, budget=60 * ROW)
    shelf = fill(store, 20, used=1000)
    fill(store, 20, used=1000)
    with shelf.filling():
        assert store.make_room(30 * ROW, kept=[]) is not None  # without knowing that the caller has it
        assert store.make_room(30 * ROW, kept=[], held=[shelf]) is None
    assert len(files(shelf)) == 1


def test_nothing_goes_while_there_is_room(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, budget=100 * ROW)
    shelf = fill(store, 20, used=1000)
    assert store.make_room(10 * ROW, kept=[]) is None
    assert len(shelf.open()) == 20


def test_a_shelf_that_is_being_filled_stays(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, budget=30 * ROW)
    busy, idle = fill(store, 20, used=1000, title="busy"), fill(store, 5, used=2000, title="idle")
    with busy.filling():
        store.make_room(30 * ROW, kept=[])
        deleted, stayed = store.clear()
    assert len(busy.open()) == 20
    assert not files(idle)
    assert stayed == [busy.folder.name]
    assert store.clear()[1] == []
    assert store.entries() == []
    assert deleted < store.budget


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("budget", "free", "needed", "kept", "reason"),
    [
        (1000 * ROW, 2**40, 900 * ROW, False, None),
        (1000 * ROW, 2**40, 1001 * ROW, False, "would not fit the budget"),
        (1000 * ROW, 2**40, 995 * ROW, True, "would not fit the budget"),  # the 20 rows in use count
        (0, 2**40, ROW, False, "would not fit the budget"),
        (0, 2**40, 0, False, None),
        (2**40, 2**30 + 500 * ROW, 400 * ROW, False, None),
        (2**40, 2**30 + 500 * ROW, 600 * ROW, False, "would not fit the disk"),
        (2**40, 2**30 + 500 * ROW, 515 * ROW, False, None),  # what can be deleted counts as free
        (2**40, 2**30 + 500 * ROW, 515 * ROW, True, "would not fit the disk"),
    ],
)
def test_room_is_asked_for_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, free: int, needed: int, kept: bool, reason: str | None
) -> None:
    store = FeatureStore(tmp_path, budget)
    shelf = fill(store, 20, used=1000)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda path: Usage(2**41, 0, free))
    found = store.missing_room(needed, 20 * ROW if kept else 0, files(shelf) if kept else [])
    assert found is None if reason is None else found is not None and reason in found


def test_entries_say_what_there_is(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    fill(store, 3, used=1000, title="old")
    fill(store, 4, used=2000, title="young")
    entries = store.entries()
    assert [(entry.description["title"], entry.rows, entry.used) for entry in entries] == [
        ("young", 4, 2000.0), ("old", 3, 1000.0),
    ]  # fmt: skip
    assert sum(entry.size for entry in entries) == store.used() > 7 * ROW
    (tmp_path / entries[0].name / "shelf.json").write_text("{")
    assert [entry.size for entry in store.entries()] == [entry.size for entry in entries]
    shutil.rmtree(tmp_path)
    assert store.entries() == []
    assert store.clear() == (0, [])
    assert store.used() == 0
