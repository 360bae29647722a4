"""Images and exports that URLs name: found in the order of a folder's, read with a file's words, asked as paths are."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations
from subjects import export_small, write_many

from pipeline.cli import cli
from pipeline.errors import DataError, PipelineError
from pipeline.export.inputs import STDIN, find_images
from pipeline.export.predict import Predictor
from pipeline.export.urls import export_folder, place_of, read_url
from pipeline.images import headers

NAMES = (
    "b.jpg",
    "a.PNG",
    "notes.txt",
    ".hidden.jpg",
    "a/2.jpg",
    "a/10.jpg",
    "a/deep/x.webp",
    "a.d/3.gif",
    ".git/4.jpg",
)


@pytest.fixture
def storage() -> Iterator[Any]:
    """Returns an object store in memory, as empty before as after."""
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


@pytest.fixture
def bucket(storage: Any) -> str:
    """Returns the URL of a folder with images at several depths, among other things."""
    for name in NAMES:
        storage.pipe_file(f"/bucket/photos/{name}", b"")
    return "memory://bucket/photos"


def found(*names: str, stdin: bytes = b"") -> list[str]:
    places, total = find_images([place_of(name) for name in names], io.BytesIO(stdin))
    listed = [str(place) for place in places]
    assert total == (None if str(STDIN) in names else len(listed))
    return listed


def test_a_url_stays_as_it_is() -> None:
    assert place_of("s3://bucket//a.jpg") == "s3://bucket//a.jpg"
    assert place_of("photos/s3:/a.jpg") == Path("photos/s3:/a.jpg")
    assert place_of("-") == STDIN


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_folder_is_walked_as_a_local_one_is(bucket: str, tmp_path: Path, scheme: str) -> None:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    wanted = [str(Path(path).relative_to(tmp_path)) for path in found(str(tmp_path))]
    assert len(wanted) == 6
    url = bucket if scheme == "memory" else f"file://{tmp_path}"
    assert found(url) == found(f"{url}/") == [f"{url}/{name}" for name in wanted]


@pytest.mark.parametrize("pattern", ["**/*.jpg", "*", "?/[12]*.jpg", "a/.*", "*/*.jpg", ".hid*"])
def test_a_pattern_matches_what_a_local_one_does(bucket: str, tmp_path: Path, pattern: str) -> None:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    try:
        wanted = [str(Path(path).relative_to(tmp_path)) for path in found(f"{tmp_path}/{pattern}")]
    except DataError:
        with pytest.raises(DataError, match=r"nothing matches|no image files"):
            found(f"{bucket}/{pattern}")
        return
    assert found(f"{bucket}/{pattern}") == [f"{bucket}/{name}" for name in wanted]


def test_files_lists_and_paths_side_by_side(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "local.jpg").touch()
    local = str(tmp_path / "local.jpg")
    listed = f"{bucket}/absent.jpg\n{local}\n".encode()
    wanted = [f"{bucket}/notes.txt", local, f"{bucket}/absent.jpg", local]
    assert found(f"{bucket}/notes.txt", local, "-", stdin=listed) == wanted


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(storage: Any, bucket: str) -> None:
    storage.pipe_file("/bucket/photos/[b].jpg", b"")
    assert found(f"{bucket}/[b].jpg") == [f"{bucket}/[b].jpg"]


def test_an_object_with_the_name_of_its_folder_is_not_walked_for_ever(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ls = MemoryFileSystem.ls

    def marked(self: Any, path: str, detail: bool = True, **options: Any) -> list[Any]:
        return [*ls(self, path, detail, **options), {"name": f"{path}/", "size": 0, "type": "directory"}]

    monkeypatch.setattr(MemoryFileSystem, "ls", marked)
    assert len(found(bucket)) == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("memory://absent", "no file or folder memory://absent; name images"),
        ("memory://bucket/photos/*.tif", r"nothing matches memory://bucket/photos/\*\.tif"),
        ("nowhere://a/b.jpg", "nowhere://a/b.jpg: fsspec knows no nowhere://; allowed are paths, s3://"),
        ("cloud://a/b.jpg", "cloud://a/b.jpg: cloud:// needs a package that is not installed; pip install no_such_one"),
    ],
)
def test_nothing_to_predict(bucket: str, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"class": "no_such_one.CloudFileSystem", "err": "Install it"}
    monkeypatch.setitem(known_implementations, "cloud", known)
    with pytest.raises(DataError, match=message):
        found(name)


def test_a_bad_file_has_the_reason_that_a_local_one_has(
    storage: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.export.urls.BYTE_LIMIT", 2)
    monkeypatch.setattr(headers, "BYTE_LIMIT", 2)
    storage.pipe_file("/bucket/photos/big.jpg", b"123")
    (tmp_path / "big.jpg").write_bytes(b"123")
    for name in ("absent.jpg", "big.jpg"):
        with pytest.raises(DataError) as local:
            headers.read_contents(tmp_path / name)
        with pytest.raises(DataError) as remote:
            read_url(f"{bucket}/{name}")
        assert str(remote.value) == str(local.value)


def test_a_storage_that_fails_is_no_bad_file(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of files that could not be asked for would stand there as bad ones for ever."""
    predictor = Predictor(export_small(tmp_path / "export"))

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the name server is away")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    with pytest.raises(PipelineError, match=r"b.jpg cannot be read \(the name server is away\); check its name"):
        list(predictor.predict([f"{bucket}/b.jpg"]))
    monkeypatch.setattr(MemoryFileSystem, "info", fail)
    with pytest.raises(DataError, match=r"photos cannot be read \(the name server is away\)"):
        found(bucket)


def test_the_command_asks_urls_and_loads_a_url(storage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export and the images from a store in memory: the very rows of the same files on a disk."""
    monkeypatch.chdir(tmp_path)
    export = export_small(tmp_path / "export")
    (tmp_path / "photos").mkdir()
    write_many(tmp_path / "photos")
    storage.put("export", "/models/export", recursive=True)
    storage.put("photos", "/photos", recursive=True)
    for words in (
        [str(export), "photos", "-o", "a.jsonl"],
        ["memory://models/export", "memory://photos", "-o", "b.jsonl"],
    ):
        result = CliRunner().invoke(cli, ["predict", *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    local, remote = ((tmp_path / name).read_text(encoding="utf-8") for name in ("a.jsonl", "b.jsonl"))
    assert '"memory://photos/00 ä.jpg"' in remote
    assert remote.replace("memory://photos", "photos") == local


def test_what_a_url_names_must_be_an_export(bucket: str) -> None:
    result = CliRunner().invoke(cli, ["predict", bucket, f"{bucket}/b.jpg"], catch_exceptions=False)
    assert result.exit_code == 1
    assert f"error: {bucket} holds no saved_model.pb; name an export folder" in result.stderr


def test_what_was_fetched_is_gone_afterwards(storage: Any) -> None:
    storage.pipe_file("/export/saved_model.pb", b"x")
    storage.pipe_file("/export/variables/variables.index", b"y")
    with export_folder("memory://export/") as folder:
        assert (folder / "variables" / "variables.index").read_bytes() == b"y"
    assert not folder.exists()
