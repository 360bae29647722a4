"""Corrected labels are laid over a source: applied, recorded, refused where they make no sense; no file is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import IngestConfig
from pipeline.errors import DataError
from pipeline.files import file_digest
from pipeline.ingest import IngestResult, Previous, check_source, index, ingest
from pipeline.ingest.manifest import SCHEMA, Manifest, load_manifest, save_manifest
from pipeline.ingest.relabel import load_overlay, relabel
from pipeline.ingest.sources.base import Item
from pipeline.progress import Silent


def run(folder: Path, fixes: str | None = None, previous: Previous | None = None, **settings: Any) -> IngestResult:
    root, path = folder.parent, None
    if fixes is not None:
        path = root / "fixes.csv"
        path.write_text(fixes, encoding="utf-8")
    config = IngestConfig(data=str(folder), relabel=str(path) if path else None, **settings)
    return ingest(config, root / "data", root / ".cache", Silent(), previous)


def refusal(folder: Path, fixes: str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        run(folder, fixes, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def column(found: IngestResult, name: str) -> dict[str, str]:
    return dict(zip(found.manifest.column("id"), found.manifest.column(name), strict=True))


def test_a_label_is_another_and_the_sources_is_kept(photo_folder: Path) -> None:
    before = {path: path.read_bytes() for path in photo_folder.rglob("*.*")}
    found = run(photo_folder, "id,new_label\nred/0.jpg,blue\nred/1.png,\ngreen/2.jpg,red\n")
    labels, given = column(found, "label"), column(found, "source_label")
    assert (labels["red/0.jpg"], given["red/0.jpg"]) == ("blue", "red")
    assert (labels["green/2.jpg"], given["green/2.jpg"]) == ("red", "green")
    assert {name for name in labels if labels[name] != given[name]} == {"red/0.jpg", "green/2.jpg"}
    assert all(given[name] == name.split("/")[0] for name in given)
    assert {path: path.read_bytes() for path in photo_folder.rglob("*.*")} == before
    assert found.manifest.digest != run(photo_folder).manifest.digest


def test_without_an_overlay_both_are_the_same(photo_folder: Path) -> None:
    found = run(photo_folder)
    assert column(found, "label") == column(found, "source_label")
    assert found.summary()["relabel"] is None


def test_it_is_recorded_and_said(photo_folder: Path) -> None:
    found = run(photo_folder, "id,new_label\nred/0.jpg,blue\nred/1.png,blue\ngreen/2.jpg,red\nred/3.png,red\n")
    recorded = json.loads(json.dumps(found.summary()))["relabel"]
    assert recorded == {
        "file": str(photo_folder.parent / "fixes.csv"),
        "digest": file_digest(photo_folder.parent / "fixes.csv"),
        "fixes": 4,
        "changed": 3,
        "from_to": [{"from": "red", "to": "blue", "count": 2}, {"from": "green", "to": "red", "count": 1}],
    }
    (line,) = [line for line in found.words() if "fixes.csv" in line]
    assert line.startswith("3 labels are not the source's, by ")
    assert line.endswith(": 2 red -> blue, 1 green -> red")


@pytest.mark.parametrize("sides", ["dealt out", "the source's own"])
def test_a_corrected_image_stays_on_its_side(sides: str, tmp_path: Path, make_photos: Any) -> None:
    folder = tmp_path / "photos"
    if sides == "dealt out":
        make_photos(folder, count=12)
    else:
        make_photos(folder / "train", count=12)
        make_photos(folder / "test", count=4, size=(10, 10))
    first = run(folder)
    moved = [name for name, split in column(first, "split").items() if split != "train"][:3]
    moved += [name for name, split in column(first, "split").items() if split == "train"][::5]
    label_of = column(first, "label")
    next_label = {"blue": "green", "green": "red", "red": "blue"}
    fixes = "id,new_label\n" + "".join(f"{name},{next_label[label_of[name]]}\n" for name in moved)
    again = run(folder, fixes, Previous("photos-1", first.manifest, True))
    assert again.changes is not None
    assert len(again.changes.relabelled) == len(moved) >= 6
    assert again.changes.moved == ()
    assert column(again, "split") == column(first, "split")


def test_the_whole_answer_is_not_remembered_for_other_fixes(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_TICK", 0)  # what was written just now is believed
    assert column(run(photo_folder), "label")["red/0.jpg"] == "red"
    for label in ("blue", "green", "blue"):
        found = run(photo_folder, f"id,new_label\nred/0.jpg,{label}\n")
        again = run(photo_folder, f"id,new_label\nred/0.jpg,{label}\n")
        assert column(found, "label")["red/0.jpg"] == label
        assert again == found
        assert again.summary()["relabel"]["changed"] == 1
    assert column(run(photo_folder), "label")["red/0.jpg"] == "red"


def test_a_fix_finds_its_image_by_content_after_a_move(photo_folder: Path) -> None:
    digest = file_digest(photo_folder / "red" / "0.jpg")
    (photo_folder / "red" / "0.jpg").rename(photo_folder / "red" / "elsewhere.jpg")
    found = run(photo_folder, f"id,sha256,new_label\nred/0.jpg,{digest},blue\n")
    assert column(found, "label")["red/elsewhere.jpg"] == "blue"
    assert found.summary()["relabel"]["changed"] == 1


def test_another_image_under_the_old_name_is_not_taken_for_it(photo_folder: Path) -> None:
    digest = file_digest(photo_folder / "red" / "0.jpg")
    (photo_folder / "red" / "0.jpg").rename(photo_folder / "red" / "9.jpg")
    shutil.copy(photo_folder / "red" / "2.jpg", photo_folder / "red" / "0.jpg")
    labels = column(run(photo_folder, f"id,sha256,new_label\nred/0.jpg,{digest},blue\n"), "label")
    assert (labels["red/0.jpg"], labels["red/9.jpg"]) == ("red", "blue")
    (photo_folder / "red" / "9.jpg").unlink()
    message = refusal(photo_folder, f"id,sha256,new_label\nred/0.jpg,{digest},blue\n")
    assert "red/0.jpg holds another image than the fix was made for; take its line out" in message


def test_an_image_under_two_labels_is_kept_once_they_agree(photo_folder: Path) -> None:
    shutil.copy(photo_folder / "red" / "1.png", photo_folder / "blue" / "copy.png")
    assert [bad.item.id for bad in run(photo_folder).rejected] == ["blue/copy.png", "red/1.png"]
    found = run(photo_folder, "id,new_label\nblue/copy.png,red\n")
    assert found.rejected == ()
    assert column(found, "label")["blue/copy.png"] == "red"
    torn = run(photo_folder, "id,new_label\nred/3.png,blue\n")  # another fix does not help these two
    assert [bad.item.id for bad in torn.rejected] == ["blue/copy.png", "red/1.png"]


def test_a_fix_of_an_image_that_cannot_be_read_is_no_error(photo_folder: Path) -> None:
    (photo_folder / "red" / "empty.png").touch()
    assert len(run(photo_folder, "id,new_label\nred/empty.png,blue\n").rejected) == 1


def test_a_class_that_loses_its_last_image_is_told(tmp_path: Path, make_photos: Any) -> None:
    folder = make_photos(tmp_path / "photos", classes=("a", "b", "c", "d"), count=4)
    first = run(folder)
    fixes = "id,new_label\n" + "".join(f"{name},a\n" for name in column(first, "label") if name.startswith("d/"))
    found = run(folder, fixes)
    assert found.manifest.classes == ("a", "b", "c")
    assert "class 'd' has no usable image; it will not be learnt" in list(found.words())


@pytest.mark.parametrize(
    ("fixes", "message"),
    [
        ("id,new_label\nred/0.jpg,bleu\n", "red/0.jpg is to be 'bleu', which is no class here; did you mean 'blue'?"),
        ("id,new_label\nred/0.jpg,zzz\n", "is no class here; allowed: blue, green, red"),
        (
            "id,new_label\nred/90.jpg,blue\nred/91.jpg,blue\nred/0.jpg,blue\nred/92.jpg,blue\n",
            "red/90.jpg is no image of this source (2 more like it); take its line out",
        ),
        ("id,new_label\nred/0.jpg,blue\nred/0.jpg,green\n", "say both 'blue' and 'green' of red/0.jpg; keep one"),
        ("name,new_label\nred/0.jpg,blue\n", "have no column 'id' but 'name', 'new_label'"),
        ("id,label\nred/0.jpg,blue\n", "have no column 'new_label' but 'id', 'label'"),
        ("id,new_label,id\nred/0.jpg,blue,x\n", "have two columns 'id'"),
        ("", "have no column 'id' but nothing"),
        ("id,new_label\na,b,red/0.jpg,blue\n", "line 2: more values than columns"),
    ],
)
def test_what_makes_no_sense_is_one_line(fixes: str, message: str, photo_folder: Path) -> None:
    said = refusal(photo_folder, fixes)
    assert said.startswith("fixes ")
    assert message in said


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file or directory; name the CSV"):
        load_overlay(tmp_path / "gone.csv")
    (tmp_path / "latin.csv").write_bytes("id,new_label\ncafé,b\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 text; save them as CSV in UTF-8"):
        load_overlay(tmp_path / "latin.csv")


def test_the_preflight_knows_it_before_a_file_is_read(photo_folder: Path) -> None:
    root = photo_folder.parent

    def check(fixes: str) -> None:
        (root / "fixes.csv").write_text(fixes)
        config = IngestConfig(data=str(photo_folder), relabel=str(root / "fixes.csv"))
        check_source(config, root / "data", root / ".cache")

    check("id,new_label\nred/0.jpg,blue\n")
    check(f"id,sha256,new_label\nred/moved.jpg,{64 * '0'},blue\n")  # perhaps it is there under another name
    for wrong in ("red/0.jpg,bleu", "red/moved.jpg,blue"):
        with pytest.raises(DataError):
            check(f"id,new_label\n{wrong}\n")
    every = "".join(f"{path.relative_to(photo_folder).as_posix()},blue\n" for path in photo_folder.rglob("*.*"))
    with pytest.raises(DataError, match="one class only"):
        check("id,new_label\n" + every)
    assert not (root / ".cache").exists()


def items(*names: str) -> list[Item]:
    return [Item(name, name, name.split("/")[0]) for name in names]


def fixed(fixes: Sequence[tuple[str, str, str]], digests: Sequence[str], tmp_path: Path) -> list[str]:
    lines = [",".join(fix) for fix in fixes]
    (tmp_path / "fixes.csv").write_text("\n".join(["id,sha256,new_label", *lines]))
    return [item.label for item in relabel(items("a/1", "b/1", "c/1"), digests, load_overlay(tmp_path / "fixes.csv"))]


def test_copies_are_told_apart_by_name_while_it_holds(tmp_path: Path) -> None:
    assert fixed([("a/1", "x", "c")], ["x", "x", "y"], tmp_path) == ["c", "b", "c"]
    assert fixed([("gone", "x", "c")], ["x", "x", "y"], tmp_path) == ["c", "c", "c"]
    with pytest.raises(DataError, match="say both 'c' and 'b' of a/1"):
        fixed([("gone", "x", "c"), ("a/1", "x", "b")], ["x", "x", "y"], tmp_path)


def test_a_manifest_from_before_is_read(photo_folder: Path, tmp_path: Path) -> None:
    manifest = run(photo_folder).manifest
    save_manifest(Manifest(manifest.table.drop_columns(["source_label"])), tmp_path / "old.parquet")
    old = load_manifest(tmp_path / "old.parquet")
    assert old.table.schema == SCHEMA
    assert old.table == manifest.table
