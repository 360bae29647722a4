"""The nearest rows are those that scikit-learn finds, in an order that does not depend on how they are read."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pipeline.evaluate import neighbours
from pipeline.evaluate.neighbours import nearest_neighbours


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(211, 19)).astype(np.float32)


@pytest.fixture
def queries() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(23, 19)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 211])
@pytest.mark.parametrize("chunk", [10**6, 19 * 30, 1])
def test_the_nearest_are_those_of_scikit_learn(
    features: np.ndarray, queries: np.ndarray, k: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    distances, places = NearestNeighbors(n_neighbors=k, metric="cosine").fit(features).kneighbors(queries)
    monkeypatch.setattr(neighbours, "_CHUNK", chunk)
    found = nearest_neighbours(queries, np.array_split(features, 4), k)
    np.testing.assert_array_equal(found.places, places)
    np.testing.assert_allclose(found.similarities, 1 - distances, atol=1e-6)
    assert (found.places.dtype, found.similarities.dtype) == (np.int64, np.float64)


def test_of_equally_near_rows_the_first_comes_first_however_they_are_read(features: np.ndarray) -> None:
    copies = np.concatenate([features, 3 * features, features / 7])  # the length does not count
    wanted = [4 + turn * len(features) for turn in range(3)]
    for parts in (1, 2, 7, 100, len(copies)):
        found = nearest_neighbours(features[4:5], np.array_split(copies, parts), 3)
        assert found.places.tolist() == [wanted]
        assert found.similarities.tolist() == [[1.0, 1.0, 1.0]]
        assert nearest_neighbours(features[4:5], np.array_split(copies, parts), 2).places.tolist() == [wanted[:2]]


def test_many_equally_near_rows_come_in_their_order(features: np.ndarray) -> None:
    rows = np.repeat(features[:2], 500, axis=0)
    found = nearest_neighbours(features[1:2], np.array_split(rows, 3), 600)
    assert found.places.tolist() == [[*range(500, 1000), *range(100)]]


def test_opposites_and_zeros(features: np.ndarray) -> None:
    rows = np.stack([np.zeros(19, np.float32), -features[0], features[0]])
    found = nearest_neighbours(np.stack([features[0], np.zeros(19, np.float32)]), [rows], 3)
    assert found.places.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert found.similarities.tolist() == [[1, 0, -1], [0, 0, 0]]


def test_fewer_rows_than_asked_for(features: np.ndarray, queries: np.ndarray) -> None:
    assert nearest_neighbours(queries, [features[:2], features[2:3]], 8).places.shape == (23, 3)
    assert nearest_neighbours(queries, [], 8).places.shape == (23, 0)
    assert nearest_neighbours(queries[:0], [features], 8).places.shape == (0, 8)


def test_what_is_given_stays_as_it_is(features: np.ndarray) -> None:
    before = features.copy()
    features.setflags(write=False)  # as a map of a file is
    nearest_neighbours(features[:3], [features], 2)
    np.testing.assert_array_equal(features, before)


def test_none_is_no_number_of_neighbours(features: np.ndarray) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        nearest_neighbours(features, [features], 0)
