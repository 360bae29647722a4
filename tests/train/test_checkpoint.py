"""A checkpoint is whole or absent, the one before it is kept, and only the training that made it goes on from it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from limits import file_size_limit

from pipeline.errors import PipelineError
from pipeline.train import checkpoint as module
from pipeline.train.checkpoint import LATEST, PREVIOUS, Checkpoint, Checkpoints, numbered


def moment(epoch: int) -> Checkpoint:
    arrays = [np.full((3, 4), epoch, np.float32), np.array(epoch, np.int64), np.empty((0, 2))]
    return Checkpoint({"epoch": epoch, "loss": float("nan")}, numbered("model", arrays))


def load_epoch(folder: Path) -> int | None:
    found = Checkpoints(folder).load()
    return found.document["epoch"] if found else None


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.load() is None
    checkpoints.save(moment(1))
    found = Checkpoints(tmp_path / "c").load()
    assert found is not None
    assert np.isnan(found.document["loss"])
    for one, other in zip(found.part("model"), moment(1).part("model"), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_more_than_ten_arrays_keep_their_order(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Checkpoint({}, numbered("model", [np.array(number) for number in range(12)])))
    found = checkpoints.load()
    assert found is not None
    assert [int(array) for array in found.part("model")] == list(range(12))


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return
    if how == "flipped":
        place = content.index(np.full(4, 2, np.float32).tobytes())
        content[place + 2] ^= 1
    path.write_bytes({"flipped": content, "truncated": content[:-9], "empty": b"", "page": b"<html>"}[how])


@pytest.mark.parametrize("how", ["gone", "flipped", "truncated", "empty", "page"])
def test_a_damaged_one_gives_way_to_the_one_before(how: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(moment(1))
    checkpoints.save(moment(2))
    damage(tmp_path / LATEST, how)
    assert load_epoch(tmp_path) == 1
    (tmp_path / PREVIOUS).unlink()
    assert load_epoch(tmp_path) is None


class Killed(BaseException):
    """Stands for the death of the process."""


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [1, 2])
def test_death_inside_a_save_leaves_one_to_go_on_from(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoints(tmp_path).save(moment(1))
    calls, real = 0, getattr(os, call)

    def die_at(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(module.os, call, die_at)
    with pytest.raises(Killed):
        Checkpoints(tmp_path).save(moment(2))
    monkeypatch.undo()
    assert load_epoch(tmp_path) in (1, 2)
    Checkpoints(tmp_path).save(moment(3))
    assert load_epoch(tmp_path) == 3


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / f".{LATEST}.abcdefgh"
    leftover.mkdir()
    (leftover / LATEST).write_bytes(bytes(1000))
    Checkpoints(tmp_path).load()
    assert not leftover.exists()


def test_a_full_disk_is_told_with_the_size_and_costs_no_earlier_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(moment(1))
    large = Checkpoint({"epoch": 2}, {"model/0": np.zeros(10**6, np.float32)})
    with (
        file_size_limit(2**20),
        pytest.raises(PipelineError, match=r"takes 3\.8 MiB, and a file may have 1\.0 MiB .*make space") as error,
    ):
        checkpoints.save(large)
    assert "\n" not in str(error.value)
    assert load_epoch(tmp_path) == 1
    checkpoints.save(large)
    assert load_epoch(tmp_path) == 2


@pytest.mark.parametrize("name", ["recipe", "data set"])
def test_that_of_another_training_is_refused(name: str, tmp_path: Path) -> None:
    identity = {"recipe": "a", "data set": "b"}
    Checkpoints(tmp_path, identity).save(moment(1))
    assert Checkpoints(tmp_path, identity).load()
    with pytest.raises(PipelineError, match=f"another {name}"):
        Checkpoints(tmp_path, identity | {name: "c"}).load()


def test_an_object_in_it_is_not_unpickled(tmp_path: Path) -> None:
    with (tmp_path / LATEST).open("wb") as file:
        np.savez(file, document=np.array([{"a": 1}], dtype=object))
    assert Checkpoints(tmp_path).load() is None


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints()
    checkpoints.save(moment(1))
    assert checkpoints.load() is None
    assert not checkpoints.due()
    assert list(tmp_path.iterdir()) == []
