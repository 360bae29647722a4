from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.config import IngestConfig
from pipeline.errors import DataError, shown
from pipeline.images.headers import SUFFIXES
from pipeline.ingest.sources import Item, open_source
from pipeline.ingest.sources.base import SPLIT_NAMES, check_labels
from pipeline.ingest.sources.folder import FolderSource
from pipeline.ingest.store import ContentStore


def touch(root: Path, *names: str) -> Path:
    """Makes empty files; sources go by names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def list_folder(root: Path) -> list[Item]:
    return FolderSource(root).items()


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        list_folder(root)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    return str(caught.value)


def test_class_folders_label_their_images(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.png", "cat/a.jpg", "cat/outdoors/far/c.webp")
    assert list_folder(tmp_path) == [
        Item("cat/a.jpg", str(tmp_path / "cat/a.jpg"), "cat"),
        Item("cat/outdoors/far/c.webp", str(tmp_path / "cat/outdoors/far/c.webp"), "cat"),
        Item("dog/b.png", str(tmp_path / "dog/b.png"), "dog"),
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


@pytest.mark.parametrize(("alias", "split"), [*SPLIT_NAMES.items(), ("Train", "train"), ("VAL", "validation")])
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
        ([], "has no sub-folders; put the images of each class into a folder of its own"),
        (["a.jpg", "b.jpg"], "has no sub-folders; put the images of each class into a folder of its own"),
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


# Links, and what has an image's name and is none: listed, so that the scan can say what it is.


def test_a_link_into_another_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/far/a.jpg", "photos/cat/b.jpg", "photos/dog/c.jpg")
    (tmp_path / "photos/cat/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/dog/one.jpg").symlink_to(tmp_path / "elsewhere/far/a.jpg")
    found = [item.id for item in list_folder(tmp_path / "photos")]
    assert found == ["cat/b.jpg", "cat/more/far/a.jpg", "dog/c.jpg", "dog/one.jpg"]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."])
def test_a_link_back_is_listed_once_and_not_entered(target: str, tmp_path: Path) -> None:
    touch(tmp_path, "photos/cat/b.jpg", "photos/dog/c.jpg")
    (tmp_path / "photos/cat/up").symlink_to(target)
    assert [item.id for item in list_folder(tmp_path / "photos")] == ["cat/b.jpg", "cat/up", "dog/c.jpg"]


def test_what_only_looks_like_an_image_is_listed(tmp_path: Path) -> None:
    touch(tmp_path, "cat/b.jpg", "dog/c.jpg", "cat/folder.jpg/inside.jpg")
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    (tmp_path / "cat/dangling.jpg").symlink_to("gone.jpg")
    (tmp_path / "cat/self.jpg").symlink_to("self.jpg")
    assert [item.id for item in list_folder(tmp_path)] == [
        "cat/b.jpg", "cat/dangling.jpg", "cat/folder.jpg", "cat/folder.jpg/inside.jpg", "cat/pipe.jpg",
        "cat/self.jpg", "dog/c.jpg",
    ]  # fmt: skip


# Labels.


def test_labels_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    for name, message in [
        ("a\nb", r"class folder 'a\nb' has a line break or another control character in its name; rename it"),
        (os.fsdecode(b"caf\xe9"), r"class folder caf\xe9 has a name that is not UTF-8; rename it"),
    ]:
        with pytest.raises(DataError) as caught:
            check_labels(["dog", name], "class folder")
        assert str(caught.value) == message


def test_labels_that_look_alike_are_refused_and_equal_ones_are_not() -> None:
    check_labels(["caf\u00e9", "caf\u00e9", "cafe"], "label")
    with pytest.raises(DataError, match=r"look alike but are coded differently .*rename one"):
        check_labels(["caf\u00e9", "cafe\u0301"], "label")


def test_a_name_is_shown_on_one_line() -> None:
    assert shown("a\tb\r\n") == r"a\tb\r\n"
    assert shown(os.fsdecode(b"\xff.jpg")) == r"\xff.jpg"
    assert shown("\N{DOG FACE} 'x\" %#") == "\N{DOG FACE} 'x\" %#"


# What a SOURCE stands for.


def opened(source: str | None, tmp_path: Path) -> object:
    return open_source(IngestConfig(data=source), tmp_path / "data", ContentStore(tmp_path / "store"))


def test_a_source_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path, "photos/cat/a.jpg")
    source = opened("~/photos", tmp_path)
    assert isinstance(source, FolderSource)
    assert (source.name, source.origin) == ("photos", str(tmp_path / "photos"))
    assert source.peek() == source.items() == [Item("cat/a.jpg", str(tmp_path / "photos/cat/a.jpg"), "cat")]


@pytest.mark.parametrize("name", ["tfds:mnist", "C:photos", "photos.csv"])
def test_a_folder_with_an_odd_name_is_a_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, f"{name}/cat/a.jpg")
    assert isinstance(opened(name, tmp_path), FolderSource)


@pytest.mark.parametrize(
    ("source", "kind"),
    [("tfds:mnist", "TfdsSource"), ("photos.csv", "TableSource"), ("photos.PARQUET", "TableSource"),
     ("sample:digits", "SampleSource"), ("photos", "FolderSource")],
)  # fmt: skip
def test_a_source_is_told_by_its_name(source: str, kind: str, tmp_path: Path) -> None:
    assert type(opened(source, tmp_path)).__name__ == kind


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "no images named; use --data FOLDER"),
        ("sample:digit", "unknown sample 'digit': did you mean 'digits'?"),
    ],
)
def test_a_source_that_cannot_be_is_refused(source: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        opened(source, tmp_path)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "data").exists()


def test_a_strange_folder_beside_the_splits_is_not_taken_for_a_class(
    tmp_path: Path, make_photos: Callable[..., Path]
) -> None:
    for name in ("train", "val", "extras"):
        make_photos(tmp_path / name, count=1)
    with pytest.raises(DataError, match="'extras' beside train and other splits; move it elsewhere"):
        list_folder(tmp_path)
