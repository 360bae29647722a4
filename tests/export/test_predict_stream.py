"""Predictions of many files: in a stream, in order, each file decoded once, bad ones beside good ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from subjects import COUNT, export_small, write_many

from pipeline.export import predict
from pipeline.export.predict import Prediction, Predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(export_small(tmp_path_factory.mktemp("run") / "export"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_many(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def alone(predictor: Predictor, photos: Path) -> list[Prediction]:
    """Every file, asked by itself."""
    return [next(predictor.predict([path])) for path in sorted(photos.iterdir())]


def test_answers_come_in_the_order_of_the_files(predictor: Predictor, photos: Path, alone: list[Prediction]) -> None:
    paths = [Path(one.path) for one in alone]
    shuffled = [paths[place] for place in np.random.default_rng(0).permutation(COUNT)]
    by_path = {one.path: one for one in alone}
    for size in (1, 5, 64):
        found = list(predictor.predict(iter(shuffled), batch_size=size))
        assert [one.path for one in found] == list(map(str, shuffled))
        for one in found:
            assert one.probabilities == pytest.approx(dict(by_path[one.path].probabilities), abs=1e-5)
            assert (one.error, one.confident) == (by_path[one.path].error, by_path[one.path].confident)


def test_files_are_taken_as_they_are_needed(predictor: Predictor, photos: Path) -> None:
    taken, path = 0, min(photos.iterdir())

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            assert taken < 1000
            yield path

    answers = predictor.predict(endless(), batch_size=4)
    for asked in range(1, 101):
        next(answers)
        assert taken <= asked + 6 * 4
    answers.close()  # type: ignore[attr-defined]


def test_files_are_read_while_the_network_is_asked(
    predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the first batch waits until a file of the second has been read."""
    beyond, read_file, ask = threading.Event(), predict._read, predictor.answer
    paths = sorted(photos.iterdir())[:8]

    def reading(path: Path) -> bytes | str:
        if path == paths[5]:
            beyond.set()
        return read_file(path)

    def answer(contents: Sequence[bytes]) -> dict[str, np.ndarray]:
        assert beyond.wait(20)
        return ask(contents)

    monkeypatch.setattr(predict, "_read", reading)
    monkeypatch.setattr(predictor, "answer", answer)
    assert len(list(predictor.predict(paths, batch_size=2))) == 8


def test_a_photograph_is_decoded_once(predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(predict, "read_picture", twice)
    assert next(predictor.predict([photos / "00 ä.jpg"])).error is None


def test_a_jpeg_without_its_end_gets_the_reason_that_ingest_gives(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    whole = (photos / "00 ä.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (cut,) = predictor.predict([tmp_path / "cut.jpg"])
    assert cut.error == "cannot be decoded: Truncated File Read"


def test_a_name_that_no_file_can_have_is_bad(predictor: Predictor, photos: Path) -> None:
    odd, good = predictor.predict([Path("a\0b.jpg"), photos / "00 ä.jpg"])
    assert "null" in (odd.error or "")
    assert good.error is None
