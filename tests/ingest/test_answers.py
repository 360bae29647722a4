"""A whole answer is given again only where nothing that it hangs on is another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config import IngestConfig
from pipeline.ingest import IngestResult, Previous, answers, index, ingest, stage
from pipeline.ingest.manifest import Manifest
from pipeline.progress import Silent


@pytest.fixture(autouse=True)
def _settled_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_TICK", 0)


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the sources that were examined, file by file, and not answered as a whole."""
    seen: list[str] = []
    examine = stage.examine

    def spy(listing: Any, *rest: Any) -> Any:
        seen.append(listing.name)
        return examine(listing, *rest)

    monkeypatch.setattr(stage, "examine", spy)
    return seen


def run(folder: Path, previous: Previous | None = None, **settings: Any) -> IngestResult:
    root = folder.parent
    return ingest(IngestConfig(data=str(folder), **settings), root / "data", root / ".cache", Silent(), previous)


def test_an_unchanged_source_is_answered_as_before(photo_folder: Path, examined: list[str]) -> None:
    shutil.copy(photo_folder / "red" / "1.png", photo_folder / "red" / "copy.png")
    Image.open(photo_folder / "red" / "3.png").rotate(90).save(photo_folder / "red" / "scan.tiff")
    first = run(photo_folder)
    assert len(first.duplicates) == 1
    assert examined == ["photos"]
    again = run(photo_folder)
    assert again == first
    assert again.manifest.digest == first.manifest.digest
    after = run(photo_folder, Previous("photos-1", first.manifest, True))
    assert after.manifest == first.manifest
    assert after.changes is not None
    assert after.changes.words() == "since photos-1: nothing changed"
    assert examined == ["photos"]


def other_pixels(folder: Path) -> None:
    Image.open(folder / "red" / "1.png").rotate(180).save(folder / "red" / "1.png")


CHANGES: dict[str, Callable[[Path], object]] = {
    "pixels": other_pixels,
    "a new file": lambda folder: shutil.copy(folder / "red" / "1.png", folder / "red" / "new.png"),
    "a file less": lambda folder: (folder / "red" / "1.png").unlink(),
    "another label": lambda folder: (folder / "red").rename(folder / "rot"),
    "another name": lambda folder: (folder / "red" / "1.png").rename(folder / "red" / "one.png"),
    "touched": lambda folder: os.utime(folder / "red" / "1.png", (1, 1)),
    "a broken link": lambda folder: (folder / "red" / "z.png").symlink_to("gone"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_file_is_looked_at(kind: str, photo_folder: Path, examined: list[str]) -> None:
    run(photo_folder)
    CHANGES[kind](photo_folder)
    found = run(photo_folder)
    assert len(examined) == 2
    shutil.rmtree(photo_folder.parent / ".cache")
    assert run(photo_folder) == found


@pytest.mark.parametrize(
    "settings",
    [{"split": {"seed": 1}}, {"rescan": "content"}, {"duplicates": "exact"}, {"allow": ("tiny",)}],
    ids=str,
)
def test_another_setting_is_another_question(settings: Any, photo_folder: Path, examined: list[str]) -> None:
    run(photo_folder)
    run(photo_folder, **settings)
    assert len(examined) == 2


def moved(manifest: Manifest) -> Manifest:
    """Returns the same images with two sides exchanged, as another history would have dealt them out."""
    exchanged = {"train": "test", "test": "train", "validation": "validation"}
    splits = pa.array([exchanged[split] for split in manifest.column("split")])
    place = manifest.table.schema.get_field_index("split")
    return Manifest(manifest.table.set_column(place, "split", splits))


def test_sides_of_another_history_are_not_taken_from_the_answer(photo_folder: Path, examined: list[str]) -> None:
    first = run(photo_folder)
    other = moved(first.manifest)
    assert run(photo_folder, Previous("other", other, True)).manifest.column("split") == other.column("split")
    # That answer was settled by an earlier manifest: without one it is no answer.
    assert run(photo_folder).manifest == first.manifest
    assert len(examined) == 3
    assert run(photo_folder, Previous("other", other, False)).manifest == first.manifest


def test_what_is_left_out_is_looked_at_every_time(photo_folder: Path, examined: list[str]) -> None:
    """The reason may be gone the next time without a change of the file."""
    (photo_folder / "red" / "bad.png").write_bytes(b"no")
    assert run(photo_folder) == run(photo_folder)
    assert len(examined) == 2


def test_a_file_that_changed_just_now_is_looked_at(
    photo_folder: Path, examined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_TICK", 10**18)
    assert run(photo_folder) == run(photo_folder)
    assert len(examined) == 2


def test_the_answer_of_another_version_is_not_given(
    photo_folder: Path, examined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photo_folder)
    monkeypatch.setattr(answers, "REVISION", answers.REVISION + 1)
    run(photo_folder)
    monkeypatch.setattr(answers.PIL, "__version__", "99.0")
    run(photo_folder)
    assert len(examined) == 3


@pytest.mark.parametrize("damage", ["cut", "gone copy", "empty copy"])
def test_a_damaged_answer_is_found_anew(damage: str, photo_folder: Path, examined: list[str]) -> None:
    Image.open(photo_folder / "red" / "3.png").rotate(90).save(photo_folder / "red" / "scan.tiff")
    first = run(photo_folder)
    (answer,) = (photo_folder.parent / ".cache" / "ingest").glob("*.answer.parquet")
    if damage == "cut":
        answer.write_bytes(answer.read_bytes()[:-50])
    elif damage == "gone copy":
        shutil.rmtree(photo_folder.parent / ".cache" / "images")
    else:
        (copy,) = (photo_folder.parent / ".cache" / "images").rglob("*.png")
        copy.write_bytes(b"")
    assert run(photo_folder) == first
    assert len(examined) == 2
    assert all(Path(path).stat().st_size for path in first.manifest.column("path"))
