from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.config import SplitConfig
from pipeline.errors import DataError
from pipeline.ingest.manifest import SPLITS
from pipeline.ingest.split import assign_splits, complete_splits

SHARES = [(0.15, 0.15), (0.2, 0.1), (0.45, 0.45), (0.01, 0.01), (0.6, 0.3)]


def dataset(seed: int) -> tuple[list[str], list[str]]:
    """Returns clusters and labels: 2 to 5 classes, 3 to 80 clusters a class, one to three images a cluster."""
    random = np.random.default_rng(seed)
    clusters, labels = [], []
    for label in range(random.integers(2, 6)):
        for number in range(random.choice([3, 4, 5, 17, 80])):
            for _ in range(random.integers(1, 4)):
                clusters.append(f"{label}/{number}")
                labels.append(f"class {label}")
    order = random.permutation(len(labels))
    return [clusters[place] for place in order], [labels[place] for place in order]


@pytest.mark.parametrize("shares", SHARES, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_every_class_is_on_every_side_and_no_cluster_on_two(seed: int, shares: tuple[float, float]) -> None:
    clusters, labels = dataset(seed)
    config = SplitConfig(seed=seed, validation=shares[0], test=shares[1])
    splits = assign_splits(clusters, labels, config)
    assert {*zip(labels, splits, strict=True)} == {(label, split) for label in {*labels} for split in SPLITS}
    assert len({*zip(clusters, splits, strict=True)}) == len({*clusters})


@pytest.mark.parametrize("shares", SHARES, ids=str)
@pytest.mark.parametrize("count", [3, 4, 5, 10, 33, 100, 1001])
def test_shares_are_kept_to_one_image(count: int, shares: tuple[float, float]) -> None:
    clusters = [f"{label}/{number}" for label in "ab" for number in range(count)]
    labels = [cluster[0] for cluster in clusters]
    config = SplitConfig(validation=shares[0], test=shares[1])
    seen = Counter(zip(labels, assign_splits(clusters, labels, config), strict=True))
    for label in "ab":
        assert abs(seen[label, "validation"] - count * config.validation) <= 1
        assert abs(seen[label, "test"] - count * config.test) <= 1


def test_order_does_not_matter_and_the_seed_does() -> None:
    clusters, labels = dataset(0)
    forwards = assign_splits(clusters, labels, SplitConfig())
    assert assign_splits(clusters[::-1], labels[::-1], SplitConfig()) == forwards[::-1]
    assert assign_splits(clusters, labels, SplitConfig(seed=1)) != forwards


def test_classes_are_dealt_out_apart() -> None:
    """What one class holds does not move the images of another."""
    clusters, labels = dataset(1)
    more = [*clusters, *(f"new/{number}" for number in range(9))]
    assert assign_splits(more, [*labels, *["new"] * 9], SplitConfig())[: len(clusters)] == assign_splits(
        clusters, labels, SplitConfig()
    )


def test_splits_are_the_same_everywhere() -> None:
    """Published numbers hang on this: it must not change from one version to the next."""
    clusters, labels = [f"c{number}" for number in range(12)], ["a", "b"] * 6
    splits = assign_splits(clusters, labels, SplitConfig(validation=0.2, test=0.2))
    sides = {split: [place for place, found in enumerate(splits) if found == split] for split in SPLITS}
    assert sides == {"train": [0, 1, 2, 3, 4, 5, 7, 8], "validation": [9, 10], "test": [6, 11]}


@pytest.mark.parametrize("seed", range(20))
def test_a_cluster_of_two_labels_stays_together(seed: int) -> None:
    clusters, labels = dataset(seed)
    clusters += ["0/0", "1/0"]
    labels += ["class 1", "class 0"]
    splits = assign_splits(clusters, labels, SplitConfig())
    assert len({*zip(clusters, splits, strict=True)}) == len({*clusters})


@pytest.mark.parametrize(
    ("clusters", "labels", "message"),
    [
        ("abc", "xxx", "one class only ('x'); classification needs two or more class folders with images"),
        ("abcde", "xxxyy", "too few different images to split: 'y' has 2; each class needs at least 3"),
        ("abcddd", "xxxyyy", "too few different images to split: 'y' has 1; each class needs at least 3"),
        ("abc", "xyz", "too few different images to split: 'x' has 1, 'y' has 1, 'z' has 1; each class needs"),
    ],
)
def test_too_little_to_split_is_refused(clusters: Sequence[str], labels: Sequence[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        assign_splits(clusters, labels, SplitConfig())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


# Splits that the source has.


@pytest.mark.parametrize("missing", [{"validation"}, {"test"}, {"validation", "test"}, set()])
def test_a_side_that_is_missing_is_carved_from_train(missing: set[str]) -> None:
    given = [split for split in SPLITS if split not in missing for _ in range(20)]
    clusters = [str(number) for number in range(len(given))]
    labels = ["a", "b"] * (len(given) // 2)
    completed = complete_splits(given, clusters, labels, SplitConfig(validation=0.2, test=0.2))
    moved = {(old, new) for old, new in zip(given, completed, strict=True) if old != new}
    assert moved == {("train", split) for split in missing}
    assert {*zip(labels, completed, strict=True)} == {(label, split) for label in "ab" for split in SPLITS}
    assert all(completed.count(split) == 4 for split in missing)


def test_a_class_that_cannot_be_trained_is_refused() -> None:
    given = ["train"] * 4 + ["test"] * 2 + ["validation"] * 2
    with pytest.raises(DataError, match="class 'c' has no image in train; add some there or take the class out"):
        complete_splits(given, list("12345678"), list("ababcbab"), SplitConfig())
    with pytest.raises(DataError, match="one class only"):
        complete_splits(given, list("12345678"), list("aaaaaaaa"), SplitConfig())


def test_a_train_too_small_to_carve_from_is_refused() -> None:
    with pytest.raises(DataError, match="too few different images to split: 'a' has 2, 'b' has 2"):
        complete_splits(["train"] * 4 + ["test"] * 2, list("123456"), list("aabbab"), SplitConfig())
