"""From one ingest to the next: sides that stay, copies that follow, leaks that are named, changes in words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from pipeline.config import IngestConfig
from pipeline.errors import DataError
from pipeline.ingest import IngestResult, Previous, ingest
from pipeline.ingest.changes import compare_manifests
from pipeline.ingest.manifest import Manifest, build_manifest
from pipeline.ingest.split import assign_splits, settle
from pipeline.ingest.stage import BRIDGE
from pipeline.progress import Silent

PHOTO = load_sample_images().images[0]


def tile(number: int) -> Image.Image:
    """Returns one of 48 pieces of a photograph; no two of them are copies."""
    top, left = 70 * (number // 8), 80 * (number % 8)
    return Image.fromarray(np.ascontiguousarray(PHOTO[top : top + 70, left : left + 80]))


def write(folder: Path, numbers: range) -> Path:
    for number in numbers:
        place = folder / ("odd" if number % 2 else "even") / f"{number:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        tile(number).save(place)
    return folder


def run(folder: Path, previous: Previous | None = None, **settings: Any) -> IngestResult:
    root = folder.parent
    return ingest(IngestConfig(data=str(folder), **settings), root / "data", root / ".cache", Silent(), previous)


def sides(found: IngestResult) -> dict[str, str]:
    return dict(zip(found.manifest.column("id"), found.manifest.column("split"), strict=True))


def after(found: IngestResult, settles: bool = True) -> Previous:
    return Previous("photos-1", found.manifest, settles)


@pytest.mark.parametrize("more", [41, 44, 48])
def test_old_images_stay_and_new_ones_are_dealt_out(more: int, tmp_path: Path) -> None:
    before = run(write(tmp_path / "photos", range(40)))
    found = run(write(tmp_path / "photos", range(40, more)), after(before))
    kept = sides(found)
    assert {name: kept[name] for name in sides(before)} == sides(before)
    assert len(kept) == more
    assert all(abs(sum(counts.values()) - share * more) <= 2 for counts, share in zip(
        found.manifest.counts().values(), (0.7, 0.15, 0.15), strict=True
    ))  # fmt: skip


def test_without_an_earlier_run_more_images_move_the_old_ones(tmp_path: Path) -> None:
    """What the test above would not see if sides stayed anyway."""
    before = run(write(tmp_path / "photos", range(40)))
    moved = sides(run(write(tmp_path / "photos", range(40, 48))))
    assert any(moved[name] != side for name, side in sides(before).items())


def test_other_split_settings_deal_out_anew(tmp_path: Path) -> None:
    before = run(write(tmp_path / "photos", range(40)))
    assert sides(run(tmp_path / "photos", after(before, settles=False), split={"seed": 1})) != sides(before)


def test_a_renamed_and_reencoded_image_keeps_its_side(tmp_path: Path) -> None:
    before = sides(run(folder := write(tmp_path / "photos", range(40))))
    previous = after(run(folder))
    for path in sorted(folder.rglob("*.png")):
        Image.open(path).save(path.with_name(f"renamed {path.stem}.bmp"))
        path.unlink()
    now = sides(run(folder, previous))
    assert {name.replace("renamed ", "").replace(".bmp", ".png"): side for name, side in now.items()} == before


@pytest.mark.parametrize("side", ["train", "validation", "test"])
def test_a_copy_goes_where_its_original_is(side: str, tmp_path: Path) -> None:
    before = run(folder := write(tmp_path / "photos", range(40)))
    # From the lower half: the upper one is sky, in which little can be told from little.
    original = next(name for name, found in sides(before).items() if found == side and name[-6:] >= "24.png")
    Image.open(folder / original).save(folder / original.replace(".png", "-copy.jpg"), quality=70)
    found = run(folder, after(before))
    assert sides(found)[original.replace(".png", "-copy.jpg")] == side
    assert [(pair.kind, pair.leak) for pair in found.duplicates] == [("near", False)]


def test_a_new_image_that_joins_two_sides_is_left_out_and_named(tmp_path: Path) -> None:
    """Two old images of one group that was not known of when they were dealt out: the third betrays them."""
    before = run(write(tmp_path / "photos", range(40)))
    one = next(name for name, side in sides(before).items() if side == "train" and name.startswith("even"))
    other = next(name for name, side in sides(before).items() if side == "test" and name.startswith("even"))
    table = tmp_path / "photos.csv"
    lines = [f"photos/{name},{name[:4].strip('/')},{'burst' if name in (one, other) else ''}" for name in sides(before)]
    write(tmp_path / "photos", range(40, 42))
    table.write_text("\n".join(["path,label,group", *lines, "photos/even/40.png,even,burst", "photos/odd/41.png,odd,"]))
    found = ingest(IngestConfig(data=str(table)), tmp_path / "data", tmp_path / ".cache", Silent(), after(before))
    assert [(bad.item.id, bad.reason) for bad in found.rejected] == [("photos/even/40.png", BRIDGE)]
    now = {name.removeprefix("photos/"): side for name, side in sides(found).items()}
    assert {name: now[name] for name in sides(before)} == sides(before)
    assert "odd/41.png" in now


def test_settled_sides_and_bridges() -> None:
    clusters, images = ["a", "a", "b", "c", "c", "c", "d"], ["1", "2", "3", "4", "5", "6", "7"]
    settled, bridges = settle(clusters, images, {"1": "test", "4": "train", "5": "validation", "9": "test"})
    assert settled == ["test", "test", None, "train", "validation", None, None]
    assert bridges == [5]


@pytest.mark.parametrize("seed", range(10))
def test_shares_are_of_images_where_clusters_differ_in_size(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = [int(size) for size in random.integers(1, 12, 60)]
    clusters = [f"{number}" for number, size in enumerate(sizes) for _ in range(size)]
    labels = ["ab"[int(cluster) % 2] for cluster in clusters]
    config = IngestConfig().split.model_copy(update={"seed": seed})
    splits = assign_splits(clusters, labels, config)
    for label in "ab":
        own = [split for split, found in zip(splits, labels, strict=True) if found == label]
        assert abs(own.count("test") / len(own) - 0.15) < 6 / len(own)
        assert abs(own.count("validation") / len(own) - 0.15) < 6 / len(own)


def test_one_large_cluster_does_not_become_a_whole_side() -> None:
    clusters = ["large"] * 90 + [f"{number}" for number in range(10)] + [f"b{number}" for number in range(20)]
    labels = ["a"] * 100 + ["b"] * 20
    for seed in range(20):
        splits = assign_splits(clusters, labels, IngestConfig().split.model_copy(update={"seed": seed}))
        assert splits[0] == "train"
        assert {"validation", "test"} <= set(splits[90:100])


# Groups.


def test_a_group_shares_a_split(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", range(48))
    for path in folder.rglob("*.png"):
        path.rename(path.with_name(f"patient{int(path.stem) // 6}_{path.stem}.png"))
    found = run(folder, split={"group": r"(patient\d+)_"})
    sides_of: dict[str, set[str]] = {}
    for name, side, group in zip(*(found.manifest.column(name) for name in ("id", "split", "group")), strict=True):
        assert f"{group}_" in name
        sides_of.setdefault(group, set()).add(side)
    assert all(len(found) == 1 for found in sides_of.values())
    assert len(sides_of) == 8
    assert set.union(*sides_of.values()) == {"train", "validation", "test"}


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", range(40))
    with pytest.raises(DataError, match=r"ingest\.split\.group: 'patient' matches none of the names, such as 'even/00"):
        run(folder, split={"group": "patient"})


# A source's own splits.


def test_leaks_between_a_users_own_splits_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for split, numbers in (("train", range(30)), ("validation", range(30, 40)), ("test", range(40, 48))):
        write(folder / split, numbers)
    assert run(folder).leaks == []
    shutil.copy(folder / "train/even/04.png", folder / "test/even/exact.png")
    Image.open(folder / "train/odd/25.png").save(folder / "validation/odd/near.jpg", quality=60)
    shutil.copy(folder / "train/even/06.png", folder / "train/even/harmless.png")
    found = run(folder)
    assert {(pair.first_id, pair.second_id, pair.kind) for pair in found.leaks} == {
        ("test/even/exact.png", "train/even/04.png", "exact"),
        ("train/odd/25.png", "validation/odd/near.jpg", "near"),
    }
    assert found.summary()["leaks"] == 2
    (line,) = [line for line in found.words() if line.startswith("LEAK")]
    assert "2 sets of images that belong together stand in different splits" in line
    assert all(split == name.split("/")[0] for name, split in sides(found).items())


def test_an_earlier_run_does_not_overrule_a_source_that_has_splits(tmp_path: Path) -> None:
    before = run(write(tmp_path / "photos", range(48)))
    own = tmp_path / "own" / "photos"
    for split, numbers in (("train", range(0, 30)), ("validation", range(30, 40)), ("test", range(40, 48))):
        write(own / split, numbers)
    found = run(own, after(before))
    assert not found.rejected
    assert all(split == name.split("/")[0] for name, split in sides(found).items())


# Changes.


def manifest(*rows: tuple[str, str, str, str]) -> Manifest:
    """Returns a manifest of (id, pixels, label, split)."""
    return build_manifest(
        [{"id": name, "pixels": pixels, "label": label, "split": split} for name, pixels, label, split in rows]
    )


def test_every_kind_of_change_is_told_apart() -> None:
    before = manifest(
        ("a", "1", "x", "train"), ("b", "2", "x", "test"), ("c", "3", "y", "train"), ("d", "4", "y", "train")
    )
    later = manifest(
        ("moved/a", "1", "x", "train"), ("b", "2", "y", "test"), ("c", "3", "y", "validation"), ("e", "5", "y", "train")
    )
    found = compare_manifests(before, later, "photos-1")
    assert found is not None
    assert (found.added, found.removed) == (("e",), ("d",))
    assert (found.relabelled, found.moved) == ((("b", "x", "y"),), (("c", "train", "validation"),))
    assert found.shares == {"x": (0.5, 0.25), "y": (0.5, 0.75)}
    words = found.words()
    assert words.startswith("since photos-1: 1 added, 1 removed, 1 relabelled, 1 moved to another split; ")
    assert "went from 50.0% to" in words
    assert found.document()["relabelled"] == [("b", "x", "y")]


def test_copies_are_counted() -> None:
    one, two = manifest(("a", "1", "x", "train")), manifest(("a", "1", "x", "train"), ("b", "1", "x", "train"))
    more, fewer = compare_manifests(one, two, "r"), compare_manifests(two, one, "r")
    assert more is not None
    assert fewer is not None
    assert (more.added, more.removed) == (("b",), ())
    assert (fewer.added, fewer.removed) == ((), ("b",))


def test_nothing_changed_is_said_and_nothing_in_common_is_not() -> None:
    one = manifest(("a", "1", "x", "train"))
    same = compare_manifests(one, one, "photos-7")
    assert same is not None
    assert same.words() == "since photos-7: nothing changed"
    assert compare_manifests(one, manifest(("a", "2", "x", "train")), "r") is None


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda folder: (folder / "even/00.png").rename(folder / "even/renamed.png"), True),
        (lambda folder: (folder / "even/00.png").touch(), True),
        (lambda folder: folder.rename(folder.with_name("elsewhere")), True),
        (lambda folder: (folder / "even/00.png").unlink(), False),
        (lambda folder: (folder / "even/00.png").rename(folder / "odd/00.png"), False),
        (lambda folder: tile(47).save(folder / "even/00.png"), False),
    ],
)
def test_the_fingerprint_is_of_content_labels_and_splits(
    change: Callable[[Path], object], same: bool, tmp_path: Path
) -> None:
    folder = write(tmp_path / "photos", range(40))
    before = run(folder)
    change(folder)
    found = run(folder if folder.exists() else folder.with_name("elsewhere"), after(before))
    assert (found.manifest.digest == before.manifest.digest) == same


def test_the_fingerprint_sees_splits(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", range(40))
    assert run(folder).manifest.digest != run(folder, split={"seed": 3}).manifest.digest


def test_changes_stand_in_the_summary(tmp_path: Path) -> None:
    before = run(write(tmp_path / "photos", range(40)))
    found = run(write(tmp_path / "photos", range(40, 44)), after(before))
    assert found.summary()["changes"]["added_count"] == 4
    assert [line for line in found.words() if line.startswith("since")] == ["since photos-1: 4 added"]
    assert run(tmp_path / "photos").summary()["changes"] is None
    assert isinstance(found.manifest.table, pa.Table)


def grouped(root: Path, groups: bool, previous: Previous | None = None) -> IngestResult:
    """Returns the ingest of a table of 40 images, with groups of four or without."""
    write(root / "photos", range(40))
    lines = [
        f"photos/{'odd' if number % 2 else 'even'}/{number:02d}.png,{'ab'[number % 2]},"
        + (f"g{number // 4}" if groups else "")
        for number in range(40)
    ]
    (root / "photos.csv").write_text("\n".join(["path,label,group", *lines]))
    config = IngestConfig(data=str(root / "photos.csv"))
    return ingest(config, root / "data", root / ".cache", Silent(), previous)


def test_groups_that_come_later_tear_no_split_unseen(tmp_path: Path) -> None:
    """Old images keep their side, so a group that was not known of may stand on two: that has to be said."""
    before = grouped(tmp_path, groups=False)
    assert before.torn == []
    found = grouped(tmp_path, groups=True, previous=after(before))
    assert sides(found) == sides(before)
    assert len(found.torn) >= 5
    assert found.summary()["torn_clusters"] == len(found.torn)
    assert any(
        line.startswith(f"LEAK: {len(found.torn)} sets of images that belong together") for line in found.words()
    )
    assert grouped(tmp_path, groups=True, previous=after(before, settles=False)).torn == []


def test_a_class_that_is_lost_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", range(40))
    (folder / "gone").mkdir()
    (folder / "gone" / "a.png").write_bytes(b"no")
    found = run(folder)
    assert found.summary()["lost_classes"] == ["gone"]
    assert "class 'gone' has no usable image; it will not be learnt" in found.words()


def test_a_bridge_that_is_gone_joins_no_cluster(tmp_path: Path) -> None:
    """What is left in the manifest must not be said to share a split."""
    before = run(write(tmp_path / "photos", range(40)))
    one, other = (
        next(name for name, found in sides(before).items() if found == side and name[-6:] >= "24.png")
        for side in ("train", "test")
    )
    lines = [f"photos/{name},{name.split('/')[0]},{'burst' if name == one else ''}" for name in sides(before)]
    Image.open(tmp_path / "photos" / other).save(tmp_path / "copy.jpg", quality=80)
    (tmp_path / "photos.csv").write_text(
        "\n".join(["path,label,group", *lines, f"copy.jpg,{other[:4].strip(chr(47))},burst"])
    )
    config = IngestConfig(data=str(tmp_path / "photos.csv"))
    found = ingest(config, tmp_path / "data", tmp_path / ".cache", Silent(), after(before))
    assert [(bad.item.id, bad.reason) for bad in found.rejected] == [("copy.jpg", BRIDGE)]
    assert found.torn == []
