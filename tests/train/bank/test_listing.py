"""`pipeline bank`, as it is called from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import cli
from pipeline.config import Config
from pipeline.train.bank.shelf import KEY
from pipeline.train.bank.store import GIB, FeatureStore

PLAIN = {
    "shape": [3], "dtype": "float32", "image_size": [12, 16], "title": "convnet to features", "policy": None,
    "transforms": [],
}  # fmt: skip
VIEWS = {**PLAIN, "policy": "abc", "transforms": [{"shift": {"pixels": 2}}, {"blur": {}}]}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(project: Path) -> FeatureStore:
    return FeatureStore(project / ".cache" / "features")


Shelve = Callable[..., str]


@pytest.fixture
def shelve(store: FeatureStore) -> Shelve:
    """Returns `shelve(description, rows, used)`: writes a shelf and returns its name."""

    def write(description: dict[str, Any], rows: int = 4, used: float = 10**9) -> str:
        shelf = store.shelf(description)
        with shelf.filling() as writer:
            store.describe(shelf, description)
            writer.commit(np.array([f"{row:016d}" for row in range(rows)], KEY), np.ones((rows, 3), np.float32))
        for index in shelf.folder.glob("*.index"):
            os.utime(index, (used, used))
        return shelf.folder.name

    return write


def call(*words: str) -> Result:
    result = CliRunner().invoke(cli, ["bank", *words], catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def listed() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(call("list", "--json").stdout)
    return document


def test_without_a_bank_there_is_nothing_to_list_or_to_clear(project: Path) -> None:
    for words in ([], ["list"]):
        result = call(*words)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "the bank is empty; training fills it\n")
    result = call("clear")
    assert (result.exit_code, result.stdout) == (0, "the bank is empty; there is nothing to clear\n")
    document = listed()
    assert (document["shelves"], document["bytes"]) == ([], 0)
    assert list(project.iterdir()) == []


def test_the_list_for_programs(shelve: Shelve, store: FeatureStore) -> None:
    older, newer = shelve(VIEWS, 5, used=10**9), shelve(PLAIN, 4, used=2 * 10**9)
    document = listed()
    assert [shelf["name"] for shelf in document["shelves"]] == [newer, older]
    first, second = document["shelves"]
    assert first.items() >= {
        "title": "convnet to features", "image_size": [12, 16], "transforms": [], "dtype": "float32", "rows": 4,
    }.items()  # fmt: skip
    assert first["last_used"].startswith("2033-05-1")
    assert (second["transforms"], second["rows"]) == (["shift", "blur"], 5)
    size = sum(path.stat().st_size for path in store.root.glob("*/0*"))
    assert document["bytes"] == first["bytes"] + second["bytes"] == size > 0
    assert document["budget_bytes"] == Config().train.bank.budget_gb * GIB
    assert document["folder"] == str(store.root)


@pytest.mark.parametrize("words", [[], ["list"]])
def test_the_list_for_people(words: list[str], shelve: Shelve) -> None:
    shelve(VIEWS, 1234), shelve({**PLAIN, "title": "[red]a title[/red]"}, used=2 * 10**9)
    result = call(*words)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["backbone", "and", "cut", "image", "size", "views", "rows", "size", "last", "used"]
    assert lines[1].startswith("[red]a title[/red]")
    assert " 12x16 " in lines[1]
    assert " as they are " in lines[1]
    assert lines[2].startswith("convnet to features ")
    assert " shift, blur " in lines[2]
    assert " 1,234 " in lines[2]
    assert "2001-09-0" in lines[2]
    assert lines[-1].startswith("38.7 KiB in all; budget 20.0 GiB")


@pytest.mark.parametrize(
    "contents",
    [
        None, "", "{", "[]", "3", "{}", '{"shape": [0], "dtype": "float32"}', '{"shape": ["a"], "dtype": "float32"}',
        '{"shape": [-3], "dtype": "float32"}', '{"shape": [3], "dtype": "nonsense"}', '{"shape": 3, "dtype": 4}',
        '{"shape": [3], "dtype": "float32", "title": 5, "image_size": 3, "transforms": {}}',
    ],
)  # fmt: skip
def test_a_damaged_shelf_is_listed_and_can_be_cleared(
    contents: str | None, shelve: Shelve, store: FeatureStore
) -> None:
    name = shelve(PLAIN)
    path = store.root / name / "shelf.json"
    path.unlink() if contents is None else path.write_text(contents)
    (shelf,) = listed()["shelves"]
    assert shelf["name"] == name
    assert shelf["bytes"] > 0
    assert ("damaged" in call().stdout) != ("title" in (contents or ""))
    assert call("clear").stdout.startswith("freed ")
    assert listed()["shelves"] == []


def test_clearing_frees_what_was_there(shelve: Shelve, store: FeatureStore) -> None:
    shelve(PLAIN, 300_000), shelve(VIEWS)
    result = call("clear")
    assert (result.exit_code, result.stdout) == (0, "freed 9.2 MiB\n")
    assert [path.name for path in store.root.iterdir()] == [".locks"]
    assert call("clear").stdout == "the bank is empty; there is nothing to clear\n"


def test_a_shelf_that_is_being_filled_stays_and_is_named(shelve: Shelve, store: FeatureStore) -> None:
    busy, _ = shelve(PLAIN), shelve(VIEWS)
    script = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    command = [sys.executable, "-c", script, str(store.root / ".locks" / f"{busy}.lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"\n"
        result = call("clear")
        assert result.exit_code == 0
        freed, kept = result.stdout.splitlines()
        assert freed == "freed 409 bytes"
        assert kept == (
            f"kept {busy} (convnet to features, 12x16, as they are): a process is filling it; "
            "wait for it to end, then clear again"
        )
        assert [shelf["name"] for shelf in listed()["shelves"]] == [busy]
        assert len(call("clear").stdout.splitlines()) == 2
        holder.communicate(b"\n")
    assert call("clear").stdout == "freed 318 bytes\n"
    assert listed()["shelves"] == []


def test_a_misspelt_command_is_offered_its_nearest(shelve: Shelve) -> None:
    shelve(PLAIN)
    result = call("clera")
    assert result.exit_code == 2
    assert "no command 'clera': did you mean 'clear'?" in result.stderr
    assert len(listed()["shelves"]) == 1
