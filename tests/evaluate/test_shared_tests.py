"""Which test images two runs share, whatever their files are called."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluate.shared_tests import dataset_differences, match_test_sets, without_learnt
from pipeline.files import text_digest
from pipeline.ingest.manifest import Manifest, build_manifest

Row = tuple[str, str, str]  # what the image shows, label, split


def manifest(rows: Sequence[Row], name: str = "a", clusters: Sequence[str] | None = None) -> Manifest:
    """Returns a manifest; ids, files and bytes are those of the data set `name`."""
    return build_manifest(
        [
            {
                "id": f"{name}/{text_digest(name, str(number))}", "path": f"{name}/{number}.png", "label": label,
                "original": "", "split": split, "sha256": text_digest(name, shows), "pixels": shows,
                "cluster": clusters[number] if clusters else str(number),
            }
            for number, (shows, label, split) in enumerate(rows)
        ]
    )  # fmt: skip


def images_of(shows: str, label: str = "cat") -> list[Row]:
    return [(letter, label, "test") for letter in shows]


def shown(a: Manifest, pairs: Sequence[tuple[int, int]], side: int) -> list[str]:
    pixels = a.split("test").column("pixels")
    return [pixels[pair[side]] for pair in pairs]


def test_files_that_moved_and_were_saved_anew_are_the_same_test_set() -> None:
    a, b = manifest(images_of("pqrs")), manifest(images_of("srqp"), "b")
    found = match_test_sets(a, b)
    assert found.equal
    assert len(found.pairs) == 4
    assert shown(a, found.pairs, 0) == shown(b, found.pairs, 1)
    assert (found.only_a, found.only_b, found.relabelled, found.differences("x", "y")) == (0, 0, 0, "")


def test_images_and_labels_that_differ_are_told_apart() -> None:
    a = manifest([*images_of("pqr"), ("s", "cat", "test"), ("t", "cat", "train")])
    b = manifest(
        [*images_of("pq"), ("s", "dog", "test"), ("t", "cat", "test"), ("u", "cat", "test"), ("r", "cat", "train")]
    )
    found = match_test_sets(a, b)
    assert not found.equal
    assert shown(a, found.pairs, 0) == ["p", "q"]
    assert (found.only_a, found.only_b, found.relabelled) == (1, 2, 1)
    assert (found.learnt_by_b, found.learnt_by_a) == (1, 1)
    assert found.differences("old", "new") == (
        "1 image only in old's (1 of them new has learnt from), "
        "2 images only in new's (1 of them old has learnt from), 1 with another label"
    )
    turned = match_test_sets(b, a)
    assert (turned.only_a, turned.only_b, turned.learnt_by_a, turned.learnt_by_b) == (2, 1, 1, 1)


def test_one_label_changed_is_another_test_set() -> None:
    found = match_test_sets(manifest(images_of("pq")), manifest([*images_of("p"), *images_of("q", "dog")]))
    assert not found.equal
    assert found.differences("old", "new") == "1 with another label"


def test_copies_are_matched_one_to_one() -> None:
    a = manifest([*images_of("ppp"), ("p", "dog", "test"), *images_of("q")])
    b = manifest([*images_of("pp"), ("p", "dog", "test"), ("p", "dog", "test"), *images_of("q")], "b")
    found = match_test_sets(a, b)
    assert len(found.pairs) == len(set(found.pairs)) == 4
    labels_a, labels_b = (one.split("test").column("label") for one in (a, b))
    assert all(labels_a[row] == labels_b[other] for row, other in found.pairs)
    assert (found.only_a, found.only_b, found.relabelled) == (0, 0, 1)


def test_without_pixels_the_bytes_tell() -> None:
    a, b = manifest(images_of("pq"), "same"), manifest(images_of("qp"), "same")
    place = a.table.schema.get_field_index("pixels")
    blank = [Manifest(one.table.set_column(place, "pixels", [[None] * 2])) for one in (a, b)]
    found = match_test_sets(*blank)
    assert found.equal
    assert len(found.pairs) == 2


def test_what_a_run_has_learnt_from_is_left_out() -> None:
    """A source may say which images are in which split, and may put one into two."""
    a = manifest([*images_of("pqrs"), ("p", "cat", "train")])
    b = manifest([*images_of("pqrs"), ("q", "cat", "validation")], "b")
    found = match_test_sets(a, b)
    assert (found.equal, found.learnt) == (True, 2)
    fair = without_learnt(found, a, b)
    assert shown(a, fair.pairs, 0) == shown(b, fair.pairs, 1) == ["r", "s"]
    assert len(fair.clusters) == 2


def test_clusters_are_those_of_either_run() -> None:
    a = manifest(images_of("pqrst"), "a", ["1", "1", "2", "3", "4"])
    b = manifest(images_of("pqrst"), "b", ["x", "y", "y", "z", "w"])
    found = match_test_sets(a, b)
    together = dict(zip(shown(a, found.pairs, 0), found.clusters, strict=True))
    assert together["p"] == together["q"] == together["r"]
    assert len({together["p"], together["s"], together["t"]}) == 3


def test_a_cluster_that_both_name_alike_is_no_link() -> None:
    """Names of clusters are each run's own."""
    a = manifest(images_of("pq"), "a", ["1", "2"])
    b = manifest(images_of("pq"), "b", ["2", "1"])
    assert len(set(match_test_sets(a, b).clusters)) == 2


def test_differences_of_the_whole_data() -> None:
    a = manifest([*images_of("pq"), ("r", "cat", "train"), ("s", "cat", "train"), ("t", "dog", "train")])
    b = manifest([*images_of("pq"), ("r", "cat", "train"), ("t", "cow", "train"), ("u", "cow", "validation")], "b")
    found = dataset_differences(a, b)
    assert not found["same"]
    assert found["digests"] == [a.digest, b.digest]
    assert found["train"] == {"a": 3, "b": 2, "only_a": 1, "only_b": 0}
    assert found["validation"] == {"a": 0, "b": 1, "only_a": 0, "only_b": 1}
    assert found["test"] == {"a": 2, "b": 2, "only_a": 0, "only_b": 0}
    assert (found["relabelled"], found["classes_only_a"], found["classes_only_b"]) == (1, ["dog"], ["cow"])
    assert dataset_differences(a, a)["same"]
