"""What `predict` takes for images: files, folders, patterns, lists, in an order that is the same every time."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.export.inputs import STDIN, find_images, read_names


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder with images at several depths, among other things; the working folder is above it."""
    root = tmp_path / "photos"
    for name in (
        "b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "a/2.jpg", "a/10.jpg", "a/deep/x.webp", "a.d/3.gif", ".git/4.jpg",
    ):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "folder.jpg").mkdir()
    (root / "loop").symlink_to(root, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return root


def names(*paths: str | Path, stdin: bytes = b"") -> list[str]:
    found, total = find_images([Path(path) for path in paths], io.BytesIO(stdin))
    listed = [str(path) for path in found]
    assert total == (None if STDIN in map(Path, paths) else len(listed))
    return listed


ALL = ["photos/a/10.jpg", "photos/a/2.jpg", "photos/a/deep/x.webp", "photos/a.PNG", "photos/a.d/3.gif", "photos/b.jpg"]


def test_a_folder_is_walked_in_order(tree: Path) -> None:
    assert names("photos") == ALL
    whole = (path for path in Path("photos").rglob("*") if path.is_file() and path.suffix not in ("", ".txt"))
    visible = [path for path in whole if not any(part.startswith(".") for part in path.parts)]
    assert [Path(name) for name in ALL] == sorted(visible)


def test_files_and_folders_come_as_they_are_named(tree: Path) -> None:
    assert names("photos/b.jpg", "photos/a", "photos/notes.txt") == ["photos/b.jpg", *ALL[:3], "photos/notes.txt"]


def test_a_folder_is_not_listed_before_its_turn(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    scandir = os.scandir

    def spy(path: Path) -> Iterator[os.DirEntry[str]]:
        opened.append(str(path))
        return scandir(path)

    found, _ = find_images([Path("photos")])
    monkeypatch.setattr("pipeline.export.inputs.os.scandir", spy)
    assert next(found) == Path(ALL[0])
    assert opened == []  # photos and photos/a are open already
    assert [next(found), next(found)] == [Path(name) for name in ALL[1:3]]
    assert opened == ["photos/a/deep"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("photos/**/*.jpg", ["photos/a/10.jpg", "photos/a/2.jpg", "photos/b.jpg"]),
        ("photos/*", ["photos/a.PNG", "photos/b.jpg"]),
        ("photos/?/[12]*.jpg", ["photos/a/10.jpg", "photos/a/2.jpg"]),
    ],
)
def test_patterns(tree: Path, pattern: str, found: list[str]) -> None:
    (tree / "loop").unlink()
    assert names(pattern) == found


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tree: Path) -> None:
    (tree / "[b].jpg").touch()
    assert names("photos/[b].jpg") == ["photos/[b].jpg"]


def test_a_list_may_hold_folders_and_what_is_not_there(tree: Path) -> None:
    listed = b"photos/b.jpg\n\nphotos/a\r\nabsent.jpg"
    assert names("-", stdin=listed) == ["photos/b.jpg", *ALL[:3], "absent.jpg"]
    assert names("photos/a.PNG", "-", stdin=b"photos/b.jpg\n") == ["photos/a.PNG", "photos/b.jpg"]


@pytest.mark.parametrize("separator", [b"\n", b"\0"], ids=["lines", "NULs"])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_a_list_may_come_in_pieces(separator: bytes, piece: int) -> None:
    class Slow(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().read1(piece)

    wanted = ["first one.jpg", "\udcff.jpg", "drei ö.jpg"]
    listed = separator.join(os.fsencode(name) for name in wanted)
    for end in (b"", separator):
        assert [str(path) for path in read_names(Slow(listed + end))] == wanted


def test_names_with_line_breaks_are_separated_by_nuls() -> None:
    assert list(read_names(io.BytesIO(b"a\nb.jpg\0c.jpg\0"))) == [Path("a\nb.jpg"), Path("c.jpg")]


def test_a_list_is_read_as_far_as_it_is_needed() -> None:
    stream = io.BytesIO(b"0123456789abcde\n" * 100_000)
    found, total = find_images([STDIN], stream)
    assert total is None
    assert [next(found) for _ in range(10)] == [Path("0123456789abcde")] * 10
    assert stream.tell() <= 2**17


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "no file or folder absent; name images"),
        (["photos", "absent"], "no file or folder absent; name images"),
        (["photos/*.tif"], r"nothing matches photos/\*\.tif"),
        (["photos/*.txt"], "no image files in photos"),
        (["photos/folder.jpg"], "no image files in photos/folder.jpg; endings looked for: .jpg"),
        (["-"], "no image files in -"),
    ],
)
def test_nothing_to_predict(tree: Path, words: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        names(*words)
