from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import filelock
import numpy as np
import pytest

from pipeline.train.bank import shelf as shelf_module
from pipeline.train.bank.shelf import KEY, Rows, Shelf

SHAPE = (3, 5)


def make_shelf(root: Path, dtype: str = "float32") -> Shelf:
    return Shelf(root / "shelf", SHAPE, dtype, root / ".locks" / "shelf.lock")


def keys(*numbers: int) -> np.ndarray:
    """Keys that end in zero bytes, as one of 256 digests does."""
    return np.array([int(number).to_bytes(16, "little") for number in numbers], KEY)


def rows(*numbers: int) -> np.ndarray:
    values = [np.random.default_rng(number).normal(size=SHAPE) for number in numbers]
    return np.array(values, np.float32).reshape(-1, *SHAPE)


def put(shelf: Shelf, *numbers: int) -> None:
    with shelf.filling() as writer:
        writer.commit(keys(*numbers), rows(*numbers))


def held(opened: Rows, *numbers: int) -> list[bool]:
    return (opened.find_intact(keys(*numbers)) >= 0).tolist()


def test_rows_come_back_by_their_keys_in_any_order(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    put(shelf, 1, 2, 3)
    put(shelf, 4)
    opened = shelf.open()
    wanted = np.array([[4, 1], [2, 2]])
    places = opened.find(keys(*wanted.ravel())).reshape(2, 2)
    np.testing.assert_array_equal(opened.take(places), rows(*wanted.ravel()).reshape(2, 2, *SHAPE))
    assert held(opened, 3, 5, 0) == [True, False, False]
    assert len(opened) == 4


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    opened = make_shelf(tmp_path).open()
    assert len(opened) == 0
    assert held(opened, 1, 2) == [False, False]
    assert opened.take(np.empty((0,), np.int64)).shape == (0, *SHAPE)
    assert not (tmp_path / "shelf").exists()


def test_float16_is_what_numpy_makes_of_it(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path, "float16")
    put(shelf, 1, 2)
    opened = shelf.open()
    taken = opened.take(opened.find(keys(2, 1)))
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, rows(2, 1).astype(np.float16))
    assert shelf.row_bytes == opened.row_bytes == 30


def test_segments_are_closed_when_they_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "SEGMENT_BYTES", 4 * 60)
    shelf = make_shelf(tmp_path)
    with shelf.filling() as writer:
        for number in range(10):
            writer.commit(keys(number), rows(number))
    put(shelf, 10, 11)
    sizes = {path.name: path.stat().st_size // 60 for path in (tmp_path / "shelf").glob("*.rows")}
    assert sizes == {"00000000.rows": 4, "00000001.rows": 4, "00000002.rows": 4}
    opened = shelf.open()
    np.testing.assert_array_equal(opened.take(opened.find(keys(*range(12)))), rows(*range(12)))


def test_reading_more_than_may_stay_resident_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "_RESIDENT_BYTES", 100)
    shelf = make_shelf(tmp_path)
    put(shelf, *range(8))
    opened = shelf.open()
    for _ in range(3):
        np.testing.assert_array_equal(opened.take(opened.find_intact(keys(*range(8)))), rows(*range(8)))


def test_readers_keep_what_they_opened(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    put(shelf, 1, 2)
    opened = shelf.open()
    put(shelf, 3)
    assert held(opened, 3) == [False]
    assert held(shelf.open(), 3) == [True]
    for path in (tmp_path / "shelf").iterdir():
        path.unlink()
    np.testing.assert_array_equal(opened.take(opened.find(keys(2))), rows(2))
    assert len(shelf.open()) == 0


@pytest.mark.parametrize("side", ["rows", "index"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_file_that_was_cut_short_loses_rows_and_never_gives_wrong_ones(
    tmp_path: Path, side: str, share: float
) -> None:
    shelf = make_shelf(tmp_path)
    for chunk in ([1, 2], [3, 4, 5], [6]):
        put(shelf, *chunk)
    path = tmp_path / "shelf" / f"00000000.{side}"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    kept = held(shelf.open(), 1, 2, 3, 4, 5, 6)
    assert kept == sorted(kept, reverse=True)  # the first chunks are whole, the others gone
    assert sum(kept) in (0, 2, 5)
    put(shelf, 7)
    opened = shelf.open()
    assert held(opened, 1, 2, 3, 4, 5, 6, 7) == [*kept, True]
    found = [number for number, there in zip(range(1, 8), [*kept, True], strict=True) if there]
    np.testing.assert_array_equal(opened.take(opened.find(keys(*found))), rows(*found))


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    put(shelf, 1, 2)
    put(shelf, 3)
    for path in sorted((tmp_path / "shelf").iterdir()):
        sound = path.read_bytes()
        for at in range(len(sound)):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :])
            opened = shelf.open()
            places = opened.find_intact(keys(1, 2, 3))
            assert (places < 0).any(), f"byte {at} of {path.name}"
            there = np.flatnonzero(places >= 0)
            np.testing.assert_array_equal(opened.take(places[there]), rows(*(there + 1)))
        path.write_bytes(sound)


def test_a_damaged_row_can_be_written_again(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    put(shelf, 1, 2, 3)
    path = tmp_path / "shelf" / "00000000.rows"
    path.write_bytes(b"\xff" * 60 + path.read_bytes()[60:])
    assert held(shelf.open(), 1, 2, 3) == [False, True, True]
    put(shelf, 1)
    opened = shelf.open()
    assert held(opened, 1, 2, 3) == [True] * 3
    np.testing.assert_array_equal(opened.take(opened.find(keys(1))), rows(1))


def test_nothing_that_was_sound_once_is_cut_off(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    for chunk in ([1, 2], [3], [4]):
        put(shelf, *chunk)
    opened, index = shelf.open(), tmp_path / "shelf" / "00000000.index"
    contents = bytearray(index.read_bytes())
    contents[20] ^= 1  # in the first block, of which others follow
    index.write_bytes(contents)
    put(shelf, 5)
    assert (tmp_path / "shelf" / "00000001.rows").stat().st_size == 60
    np.testing.assert_array_equal(opened.take(opened.find(keys(1, 2, 3, 4))), rows(1, 2, 3, 4))  # no SIGBUS
    assert held(shelf.open(), 1, 2, 3, 4, 5) == [False] * 4 + [True]


def test_a_row_that_is_not_there_cannot_be_taken(tmp_path: Path) -> None:
    shelf = make_shelf(tmp_path)
    put(shelf, 1)
    opened = shelf.open()
    with pytest.raises(KeyError):
        opened.take(opened.find(keys(1, 2)))


def test_a_shelf_is_filled_by_one_process_at_a_time(tmp_path: Path) -> None:
    shelf, waits = make_shelf(tmp_path), []
    other = filelock.FileLock(tmp_path / ".locks" / "shelf.lock")
    with shelf.filling(), pytest.raises(filelock.Timeout):
        other.acquire(timeout=0)
    other.acquire(timeout=0)

    def let_go() -> None:
        waits.append(True)
        other.release()

    with shelf.filling(let_go) as writer:
        writer.commit(keys(1), rows(1))
    assert waits == [True]


def test_rows_of_another_shape_are_a_mistake(tmp_path: Path) -> None:
    with make_shelf(tmp_path).filling() as writer:
        with pytest.raises(ValueError, match="2 keys"):
            writer.commit(keys(1, 2), rows(1))
        with pytest.raises(ValueError, match=r"\(1, 2\)"):
            writer.commit(keys(1), np.zeros((1, 2), np.float32))


#: Writes chunks of random sizes until it is killed in the middle of a write, at a byte that the seed chooses.
KILLED = """
    import os, signal, sys
    import numpy as np
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    import test_shelf as these
    from pipeline.train.bank import shelf as module

    root, seed = Path(sys.argv[2]), int(sys.argv[3])
    rng, write = np.random.default_rng(seed), module._write_at
    writes, left = 0, int(rng.integers(1, 24))

    def dying(file, contents, offset):
        global writes
        writes += 1
        if writes == left:
            write(file, contents[: int(rng.integers(0, len(contents) + 1))], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        write(file, contents, offset)

    module._write_at = dying
    shelf = these.make_shelf(root)
    opened = shelf.open()
    missing = [number for number in range(400) if not these.held(opened, number)[0]]
    with shelf.filling() as writer:
        for start in range(0, len(missing), 7):
            chunk = missing[start : start + 7]
            writer.commit(these.keys(*chunk), these.rows(*chunk))
"""


def test_a_process_killed_at_any_byte_loses_its_chunk_and_nothing_else(tmp_path: Path) -> None:
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(Path(__file__).parent), str(tmp_path / "killed")]
    shelf, before = make_shelf(tmp_path / "killed"), 0
    for seed in range(20):
        code = subprocess.run([*script, str(seed)], check=False).returncode
        opened = shelf.open()
        assert code in (0, -9)
        assert len(opened) >= before
        there = [number for number in range(400) if held(opened, number)[0]]
        assert there == list(range(len(there)))  # in their order, without a gap
        np.testing.assert_array_equal(opened.take(opened.find(keys(*there))), rows(*there))
        before = len(opened)
    assert before > 100
    put(shelf, *range(before, 400)) if before < 400 else None
    put(whole := make_shelf(tmp_path / "whole"), *range(400))
    assert len(whole.open()) == len(shelf.open())
    killed, straight = (tmp_path / name / "shelf" / "00000000.rows" for name in ("killed", "whole"))
    assert killed.read_bytes() == straight.read_bytes()
