from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config import IngestConfig
from pipeline.errors import DataError
from pipeline.images.pixels import read_picture
from pipeline.ingest import IngestResult, Previous, check_source, ingest
from pipeline.ingest.manifest import SPLITS
from pipeline.progress import Silent


def run(folder: Path, previous: Previous | None = None, **settings: Any) -> IngestResult:
    root = folder.parent
    return ingest(IngestConfig(data=str(folder), **settings), root / "data", root / ".cache", Silent(), previous)


def refusal(folder: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        run(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sides(found: IngestResult) -> dict[str, str]:
    """Returns the split of each content."""
    return dict(zip(found.manifest.column("sha256"), found.manifest.column("split"), strict=True))


def test_a_row_says_what_the_file_is(photo_folder: Path) -> None:
    rows = run(photo_folder).manifest.table.to_pylist()
    assert len(rows) == 24
    for row in rows:
        path = Path(row["path"])
        assert path == photo_folder / row["id"]
        assert row["label"] == path.parent.name
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row["bytes"] == len(path.read_bytes())
        with Image.open(path) as image:
            assert (row["width"], row["height"], row["mode"], row["format"]) == (*image.size, image.mode, image.format)


def test_summary_is_json_and_adds_up(photo_folder: Path) -> None:
    found = run(photo_folder)
    summary = json.loads(json.dumps(found.summary()))
    assert summary["images"] == 24
    assert summary["quarantined"] == 0
    assert summary["classes"] == ["blue", "green", "red"]
    assert summary["counts"] == {
        "train": {"blue": 6, "green": 6, "red": 6},
        "validation": {"blue": 1, "green": 1, "red": 1},
        "test": {"blue": 1, "green": 1, "red": 1},
    }
    assert summary["digest"] == found.manifest.digest


def test_names_and_places_do_not_move_an_image(photo_folder: Path, tmp_path: Path) -> None:
    before = run(photo_folder)
    for number, path in enumerate(sorted(photo_folder.rglob("*.*"), reverse=True)):
        path.rename(path.with_stem(f"renamed {number}"))
    after = run(photo_folder.rename(tmp_path / "moved"))
    assert sides(after) == sides(before)
    assert after.manifest.digest == before.manifest.digest


def test_copies_share_a_split(photo_folder: Path) -> None:
    for path in list(photo_folder.rglob("*.png")):
        shutil.copy(path, path.with_stem(f"copy of {path.stem}"))
    found = run(photo_folder)
    split_of = defaultdict(set)
    for sha256, split in zip(found.manifest.column("sha256"), found.manifest.column("split"), strict=True):
        split_of[sha256].add(split)
    assert len(found.manifest) == 36
    assert all(len(splits) == 1 for splits in split_of.values())


def test_a_bad_file_is_left_out_and_the_others_stay(photo_folder: Path) -> None:
    good = photo_folder / "red" / "0.jpg"
    (photo_folder / "red" / "cut.jpg").write_bytes(good.read_bytes()[:-200])
    (photo_folder / "red" / "empty.png").touch()
    found = run(photo_folder)
    assert len(found.manifest) == 24
    assert [bad.item.id for bad in found.rejected] == ["red/cut.jpg", "red/empty.png"]
    assert found.rejected[0].reason.startswith("cannot be decoded: ")
    assert found.rejected[1].reason == "the file is empty"
    assert found.summary()["quarantined"] == 2


def test_on_bad_stop_names_the_first(photo_folder: Path) -> None:
    (photo_folder / "red" / "a.png").touch()
    (photo_folder / "red" / "b.png").touch()
    message = refusal(photo_folder, on_bad="stop")
    assert message.startswith(f"{photo_folder / 'red' / 'a.png'}: the file is empty (2 bad in all")
    assert "ingest.on_bad=quarantine" in message


def test_only_bad_files_are_refused(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "1.jpg").write_text("<html>")
    message = refusal(tmp_path / "photos")
    assert message.startswith(f"none of the 2 images in {tmp_path / 'photos'} can be used; a/1.jpg: ")


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_given_splits_are_kept_and_a_missing_one_is_carved(missing: str, tmp_path: Path, make_photos: Any) -> None:
    given = next(split for split in ("validation", "test") if split != missing)
    make_photos(tmp_path / "photos" / "train", count=10)
    make_photos(tmp_path / "photos" / given, count=4, size=(10, 10))
    rows = run(tmp_path / "photos").manifest.table.to_pylist()
    moved = {(row["id"].split("/")[0], row["split"]) for row in rows}
    assert moved == {("train", "train"), ("train", missing), (given, given)}


def test_a_given_train_without_a_readable_image_is_refused(tmp_path: Path, make_photos: Any) -> None:
    for number, split in enumerate(SPLITS):
        make_photos(tmp_path / split, count=3, size=(10, 10 + number))
    for path in (tmp_path / "train").rglob("*.*"):
        path.write_bytes(b"")
    assert refusal(tmp_path).startswith("class 'blue' has no image in train")


def test_a_name_that_is_not_utf8_does_not_end_the_run(photo_folder: Path) -> None:
    """Old archives hold Latin-1 names; Parquet and JSON hold only Unicode."""
    os.rename(photo_folder / "red" / "0.jpg", os.fsencode(photo_folder / "red") + b"/caf\xe9.jpg")
    found = run(photo_folder)
    assert len(found.manifest) + len(found.rejected) == 24
    assert len(found.manifest) >= 23
    json.dumps(found.summary(), ensure_ascii=False).encode()


def test_what_pillow_warns_of_does_not_reach_the_user(photo_folder: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description that is cut off"
    path = photo_folder / "red" / "0.jpg"
    with Image.open(path) as image:
        image.save(path.with_stem("odd"), exif=exif.tobytes()[:-20])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        found = run(photo_folder)
    assert [str(warning.message) for warning in shown] == []
    assert "red/odd.jpg" in found.manifest.column("id")


def test_scanning_in_threads_leaves_the_warning_filters_alone(photo_folder: Path) -> None:
    """`warnings.catch_warnings` is not safe in threads: one may put back what another had set."""
    before = list(warnings.filters)
    for _ in range(20):
        run(photo_folder)
    after = list(warnings.filters)
    warnings.filters[:] = before  # type: ignore[index]
    assert after == before


def test_check_source_reads_no_image_and_writes_nothing(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("read an image"))
    data = photo_folder.parent / "data"
    check_source(IngestConfig(data=str(photo_folder)), data, data)
    check_source(IngestConfig(data="sample:digits"), data, data)
    assert not data.exists()
    with pytest.raises(DataError, match="no folder"):
        check_source(IngestConfig(data=str(photo_folder / "gone")), data, data)


def test_accepted_files_are_those_that_the_manifest_lists(photo_folder: Path) -> None:
    for path in map(Path, run(photo_folder).manifest.column("path")):
        assert read_picture(path.read_bytes(), path.suffix).transcode is None
