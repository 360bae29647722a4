from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import files
from pipeline.errors import PipelineError
from pipeline.files import atomic_path, file_digest, keyed_seed, lock, read_json, text_digest, write_json, write_text

KEYED = 5562033660316481129


class Interrupted(BaseException):
    """Stands for Ctrl-C or a kill in the middle of a write."""


def make_folder(path: Path, *names: str) -> None:
    path.mkdir()
    for name in names:
        (path / name).write_text(name)


def test_atomic_path_shows_a_file_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.weights.h5"
    with atomic_path(path) as draft:
        draft.write_text("half")
        assert not path.exists()
        assert draft.name == path.name  # writers choose their format by the suffix
    assert path.read_text() == "half"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as draft:
            draft.write_text("ne")
            draft.with_suffix(".side").write_text("a side file")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "export"
    make_folder(path, "old")
    with atomic_path(path) as draft:
        make_folder(draft, "new")
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["export"]


@pytest.mark.parametrize("broken", ["in the block", "at the last step"])
def test_a_folder_that_fails_leaves_the_older_one(tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "export"
    make_folder(path, "old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    def write_new() -> None:
        with atomic_path(path) as draft:
            make_folder(draft, "new")
            if broken == "in the block":
                full()

    if broken == "at the last step":
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_new()
    assert os.listdir(tmp_path) == ["export"]
    assert os.listdir(path) == ["old"]


def test_text_and_json_come_back(tmp_path: Path) -> None:
    document = {"label": "Käfer", "scores": [0.5, None], "nested": {"a": True}}
    write_json(tmp_path / "a.json", document)
    assert read_json(tmp_path / "a.json") == document
    write_text(tmp_path / "a.txt", "Käfer\n")
    assert (tmp_path / "a.txt").read_bytes() == "Käfer\n".encode()


def test_json_with_a_nan_is_a_programmers_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert read_json(tmp_path / "a.json") == 1


@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"\xff\xfe"], ids=["missing", "empty", "cut", "not text"])
def test_json_that_cannot_be_read_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PipelineError, match=r"run\.json cannot be read as JSON") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 1_000_003])
def test_file_digest_is_hashlibs(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert file_digest(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()


def test_digest_and_seed_know_where_a_part_ends() -> None:
    parts = [("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"), ("bc", "a"), ("a", "bc", "")]
    assert len({text_digest(*each) for each in parts}) == len(parts)
    assert len({keyed_seed(*each) for each in parts}) == len(parts)


def test_keyed_seed_is_the_same_everywhere() -> None:
    """Cached views and splits hang on these values: they must not change from one version to the next."""
    assert keyed_seed("view", 3, "abc") == KEYED
    assert keyed_seed("view", 3, "abc") == int.from_bytes(hashlib.sha256(b"view\x003\x00abc").digest()[:8]) // 2
    script = "from pipeline.files import keyed_seed; print(keyed_seed('view', 3, 'abc'))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(files.__file__).parents[1])}
    assert int(subprocess.check_output([sys.executable, "-c", script], env=environment)) == KEYED


def test_keyed_seed_fits_a_signed_64_bit_integer() -> None:
    seeds = [keyed_seed(number) for number in range(1000)]
    assert 0 <= min(seeds) < 2**53
    assert 2**62 < max(seeds) < 2**63


def test_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.lock"
    with lock(path):
        with (
            pytest.raises(PipelineError, match=r"store\.lock is held by another process") as caught,
            lock(path, timeout=0),
        ):
            pytest.fail("both hold it")
        assert "\n" not in str(caught.value)
    with lock(path, timeout=0):
        pass


def test_lock_is_seen_by_another_process_and_dropped_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "store.lock"
    script = (
        "import json, sys; from pathlib import Path; from pipeline.errors import PipelineError\n"
        "from pipeline.files import lock\n"
        "try:\n    with lock(Path(sys.argv[1]), timeout=0): print(json.dumps(True))\n"
        "except PipelineError: print(json.dumps(False))"
    )

    def other_gets_it() -> bool:
        environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
        return bool(json.loads(subprocess.check_output([sys.executable, "-c", script, path], env=environment)))

    def hold_and_fail() -> None:
        with lock(path):
            assert not other_gets_it()
            raise Interrupted

    with pytest.raises(Interrupted):
        hold_and_fail()
    assert other_gets_it()
