from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.images.headers import SUFFIXES
from pipeline.ingest.sources import SPLIT_FOLDERS, Item, list_folder, resolve_source


def touch(root: Path, *names: str) -> Path:
    """Makes empty files; sources go by names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        list_folder(root)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    return str(caught.value)


def test_class_folders_label_their_images(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.png", "cat/a.jpg", "cat/outdoors/far/c.webp")
    assert list_folder(tmp_path) == [
        Item("cat/a.jpg", tmp_path / "cat/a.jpg", "cat", None),
        Item("cat/outdoors/far/c.webp", tmp_path / "cat/outdoors/far/c.webp", "cat", None),
        Item("dog/b.png", tmp_path / "dog/b.png", "dog", None),
    ]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".JPG", ".Png"])
def test_known_endings_count_in_any_case(suffix: str, tmp_path: Path) -> None:
    assert [item.id for item in list_folder(touch(tmp_path, f"cat/a{suffix}"))] == [f"cat/a{suffix}"]


@pytest.mark.parametrize(
    "name", ["cat/notes.txt", "cat/a.jpg.part", "cat/jpg", "cat/.hidden.jpg", "cat/._a.jpg", ".trash/a.jpg", "a.jpg",
             "cat/.thumbnails/a.jpg", "cat/Thumbs.db"],
)  # fmt: skip
def test_other_files_are_passed_over(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "cat/b.jpg", "dog/c.jpg", name)
    assert [item.id for item in list_folder(tmp_path)] == ["cat/b.jpg", "dog/c.jpg"]


def test_a_linked_class_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.jpg", "photos/dog/b.jpg")
    (tmp_path / "photos/cat").symlink_to(tmp_path / "elsewhere")
    assert [item.label for item in list_folder(tmp_path / "photos")] == ["cat", "dog"]


@pytest.mark.parametrize(("alias", "split"), [*SPLIT_FOLDERS.items(), ("Train", "train"), ("VAL", "validation")])
def test_split_folders_stand_above_the_classes(alias: str, split: str, tmp_path: Path) -> None:
    other = "test" if split == "train" else "train"
    touch(tmp_path, f"{alias}/cat/a.jpg", f"{alias}/dog/b.jpg", f"{other}/cat/c.jpg")
    found = {item.id: (item.label, item.split) for item in list_folder(tmp_path)}
    assert found == {
        f"{alias}/cat/a.jpg": ("cat", split),
        f"{alias}/dog/b.jpg": ("dog", split),
        f"{other}/cat/c.jpg": ("cat", other),
    }


@pytest.mark.parametrize("tops", [("test", "bus"), ("test", "val"), ("train",), ("train", "bus")])
def test_a_class_may_be_called_like_a_split(tops: tuple[str, ...], tmp_path: Path) -> None:
    touch(tmp_path, *(f"{top}/{number}.jpg" for top in tops for number in range(2)))
    items = list_folder(tmp_path)
    assert {item.label for item in items} == set(tops)
    assert {item.split for item in items} == {None}


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.jpg", "val/cat/a.jpg", "valid/cat/a.jpg")
    assert refusal(tmp_path) == f"{tmp_path} has two folders for the split validation; keep one"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no sub-folders; put the images of each class into a folder of its own below it"),
        (["a.jpg", "b.jpg"], "has no sub-folders; put the images of each class into a folder of its own below it"),
        (["cat/notes.txt"], "holds no image files in its class folders; endings looked for: .jpg, .jpeg"),
        (["train/a.jpg", "test/b.jpg"], "holds no image files in its class folders; endings looked for: .jpg, .jpeg"),
    ],
)
def test_a_folder_without_classes_or_images_is_refused(names: list[str], message: str, tmp_path: Path) -> None:
    assert message in refusal(touch(tmp_path, *names))


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "photo.jpg")
    remedy = "--data takes a folder with one sub-folder of images a class"
    assert refusal(tmp_path / "photo.jpg") == f"{tmp_path / 'photo.jpg'} is a file; {remedy}"
    assert refusal(tmp_path / "gone") == f"no folder {tmp_path / 'gone'}; {remedy}"


def test_an_unreadable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert refusal(tmp_path) == f"{tmp_path} cannot be read: Permission denied; check its permissions"


def test_an_unreadable_class_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/far/b.jpg")
    scandir = os.scandir

    def refuse(path: os.PathLike[str] | str) -> object:
        if os.fspath(path).endswith("far"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert refusal(tmp_path) == f"{tmp_path / 'dog/far'} cannot be read: Permission denied; check its permissions"


# What a SOURCE stands for.


def test_a_source_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_source("photos", tmp_path) == Path("photos")
    assert resolve_source("~/photos", tmp_path) == tmp_path / "photos"


@pytest.mark.parametrize("name", ["tfds:mnist", "C:photos"])
def test_a_folder_with_a_colon_is_a_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert resolve_source(name, tmp_path / "data") == Path(name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "no images named; use --data FOLDER"),
        ("sample:digit", "unknown sample 'digit': did you mean 'digits'?"),
        ("tfds:mnist", "tfds:mnist: TFDS sources are not supported yet"),
    ],
)
def test_a_source_that_cannot_be_is_refused(source: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        resolve_source(source, tmp_path / "data")
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "data").exists()


def test_a_strange_folder_beside_the_splits_is_not_taken_for_a_class(
    tmp_path: Path, make_photos: Callable[..., Path]
) -> None:
    for name in ("train", "val", "extras"):
        make_photos(tmp_path / name, count=1)
    with pytest.raises(DataError, match="'extras' beside train and other splits; move it elsewhere"):
        list_folder(tmp_path)
