"""Full disks, and places that cannot be written: what they are told by, and in which words."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest
from limits import file_size_limit

from pipeline import space
from pipeline.errors import PipelineError, SpaceError
from pipeline.files import atomic_path, write_bytes
from pipeline.space import Need, by_disk, check_room, check_writable, free_bytes, is_full, writing

FULL_DEVICE = Path("/dev/full")  # each write to it fails as on a full disk


def full_sqlite(path: Path) -> Exception:
    """Returns what SQLite raises when it may have no more pages."""
    with sqlite3.connect(path) as database:
        database.execute("create table numbers (number)")
        database.execute("pragma max_page_count = 3")
        try:
            database.executemany("insert into numbers values (?)", [["x" * 1000]] * 100)
        except sqlite3.Error as error:
            return error
    raise AssertionError("three pages were enough")


def test_a_full_disk_is_known_by_number_word_and_cause(tmp_path: Path) -> None:
    assert all(is_full(OSError(number, "")) for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT))
    assert is_full(full_sqlite(tmp_path / "some.db"))
    hidden = RuntimeError("could not save")
    hidden.__cause__ = ValueError("tensor_bundle; No space left on device")
    assert is_full(hidden)
    assert not any(map(is_full, (OSError(errno.EACCES, "Permission denied"), ValueError("no space"), KeyError())))


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="a device of Linux")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    def fill() -> None:
        with writing(tmp_path / "bank", 5 * 2**20), FULL_DEVICE.open("wb", buffering=0) as file:
            file.write(b"a row")

    with pytest.raises(SpaceError, match=r"no space for .*/bank: it takes 5\.0 MiB, and .*free there; make space"):
        fill()


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), writing(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(ValueError, match="mine"), atomic_path(tmp_path / "file"):
        raise ValueError("mine")


def test_a_file_that_does_not_fit_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"earlier")
    expected = r"model\.bin: it takes 97\.7 KiB, and a file may have 9\.8 KiB \(ulimit -f\)"
    with file_size_limit(10_000), pytest.raises(SpaceError, match=expected):
        write_bytes(path, bytes(100_000))
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["model.bin"]


def test_what_nobody_knows_the_size_of_takes_more_than_there_was(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic_path(tmp_path / "export") as draft:
            draft.mkdir()
            (draft / "labels.txt").write_bytes(bytes(2048))
            (draft / "weights").write_bytes(bytes(100_000))

    with file_size_limit(8192), pytest.raises(SpaceError, match=r"/export: it takes more than 10\.0 KiB"):
        fill()
    assert os.listdir(tmp_path) == []


def test_the_outermost_that_knows_the_need_has_the_word(tmp_path: Path) -> None:
    def fill(*outer: object) -> None:
        with writing(tmp_path / "run"), writing(tmp_path / "bank", *outer):  # type: ignore[arg-type]
            write_bytes(tmp_path / "bank" / "shelf.json", bytes(100_000))

    with file_size_limit(1), pytest.raises(SpaceError, match="/bank: it takes 7 bytes"):
        fill(7)
    with file_size_limit(1), pytest.raises(SpaceError, match=r"shelf\.json: it takes 97\.7 KiB"):
        fill()


def test_needs_on_one_disk_are_added(tmp_path: Path) -> None:
    size = int(0.6 * free_bytes(tmp_path))
    needs = [Need("the model", tmp_path / "runs" / "new", size), Need("features", tmp_path / ".cache", size)]
    for need in needs:
        check_room([need])
    with pytest.raises(SpaceError, match=r"too little space: .* of the model in .*runs/new, .* of features in "):
        check_room(needs)


def test_needs_on_two_disks_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one disk only")
    monkeypatch.setattr(space, "free_bytes", lambda path: 100)
    needs = [Need("a", tmp_path / "new" / "a", 60), Need("b", other / "b", 60), Need("c", tmp_path, 40)]
    assert [[need.what for need in disk] for disk in by_disk(needs)] == [["a", "c"], ["b"]]
    check_room(needs)


def test_a_place_is_judged_by_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "newer")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    check_writable(tmp_path / "file")
    with pytest.raises(PipelineError, match=r"file/new cannot be written: .*/file: a file is where a folder is wanted"):
        check_writable(tmp_path / "file" / "new")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the battery tries it without that right")
def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(PipelineError, match="no permission"):
        check_writable(tmp_path / "runs")
    tmp_path.chmod(0o755)
