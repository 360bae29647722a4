"""What was seen before is not read again, and what changed always is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.ingest import index, scan, workers
from pipeline.ingest.index import load_index
from pipeline.ingest.look import Look, look_at
from pipeline.ingest.scan import Rejected, Scanned
from pipeline.ingest.sources.folder import FolderSource
from pipeline.ingest.store import ContentStore
from pipeline.progress import Silent


@pytest.fixture(autouse=True)
def _settled_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets files be old enough to be believed: what was changed within two seconds is read again."""
    monkeypatch.setattr(index, "_TICK", 0)


class Decoded(list[str]):
    """The files that were decoded, by their names."""


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    seen = Decoded()

    def spy(paths: Sequence[str], store: ContentStore) -> Iterator[list[Look | str]]:
        seen.extend(Path(path).name for path in paths)
        return workers.look_at_all(paths, store)

    monkeypatch.setattr(scan, "look_at_all", spy)
    return seen


def run(folder: Path, rescan: str = "stat") -> tuple[list[Scanned], list[Rejected]]:
    root = folder.parent
    listing = scan.list_files(FolderSource(folder), Silent())
    return scan.scan(listing, root / "index.parquet", ContentStore(root / "store"), rescan, Silent())  # type: ignore[arg-type]


@pytest.mark.parametrize("rescan", ["stat", "content"])
def test_an_unchanged_folder_is_not_decoded_again(rescan: str, photo_folder: Path, decoded: Decoded) -> None:
    first = run(photo_folder)
    assert len(decoded) == 24
    decoded.clear()
    assert run(photo_folder, rescan) == first
    assert decoded == []


def test_only_what_is_new_or_changed_is_decoded(photo_folder: Path, decoded: Decoded) -> None:
    run(photo_folder)
    decoded.clear()
    red = photo_folder / "red"
    Image.open(red / "1.png").rotate(90).save(red / "new.png")
    Image.open(red / "3.png").rotate(90).save(red / "5.png")
    (red / "7.png").unlink()
    (red / "bad.png").write_bytes(b"no")
    good, bad = run(photo_folder)
    assert sorted(decoded) == ["5.png", "bad.png", "new.png"]
    assert len(good) == 24
    assert [entry.item.id for entry in bad] == ["red/bad.png"]
    assert {image.item.id: image.look for image in good} == {
        item.id: look_at(item.path, ContentStore(photo_folder.parent / "x")) for item, _ in good
    }


def test_a_moved_or_touched_file_is_known_by_its_bytes(photo_folder: Path, decoded: Decoded) -> None:
    before = {image.look.sha256 for image in run(photo_folder)[0]}
    decoded.clear()
    (photo_folder / "red" / "1.png").rename(photo_folder / "red" / "moved.png")
    os.utime(photo_folder / "red" / "3.png", (1, 1))
    shutil.copy(photo_folder / "red" / "5.png", photo_folder / "red" / "copy.png")
    assert {image.look.sha256 for image in run(photo_folder)[0]} == before
    assert decoded == []


def test_a_file_that_is_renamed_to_promise_another_format_is_refused(photo_folder: Path) -> None:
    run(photo_folder)
    (photo_folder / "red" / "1.png").rename(photo_folder / "red" / "liar.jpg")
    assert [(bad.item.id, bad.reason[:9]) for bad in run(photo_folder)[1]] == [("red/liar.jpg", "named .jp")]


def flip_a_byte(path: Path) -> None:
    """Changes a byte of the pixels under the same size, inode and times, as far as a program can."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def make_bmp(folder: Path) -> Path:
    path = folder / "red" / "plain.bmp"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    return path


def test_a_changed_byte_under_the_same_size_and_mtime_is_found(photo_folder: Path) -> None:
    path = make_bmp(photo_folder)
    before = {image.item.id: image.look.sha256 for image in run(photo_folder)[0]}
    flip_a_byte(path)
    for rescan in ("stat", "content"):  # the time of the last change of the inode gives it away even to stat
        after = {image.item.id: image.look.sha256 for image in run(photo_folder, rescan)[0]}
        assert {name for name in before if before[name] != after[name]} == {"red/plain.bmp"}


def test_content_does_not_believe_stamps_at_all(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that lies about times."""
    monkeypatch.setattr(scan, "stamp_of", lambda _: (1, 1, 1, 1))
    path = make_bmp(photo_folder)
    before = {image.item.id: image.look.sha256 for image in run(photo_folder)[0]}
    flip_a_byte(path)
    assert {image.item.id: image.look.sha256 for image in run(photo_folder, "stat")[0]} == before
    after = {image.item.id: image.look.sha256 for image in run(photo_folder, "content")[0]}
    assert {name for name in before if before[name] != after[name]} == {"red/plain.bmp"}


def test_what_changed_while_it_was_looked_at_is_not_believed(
    photo_folder: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within one tick of the clock leave one stamp."""
    monkeypatch.setattr(index, "_TICK", 10**18)
    first = run(photo_folder)
    decoded.clear()
    hashed: list[str] = []
    digest_of = scan.digest_of
    monkeypatch.setattr(scan, "digest_of", lambda path: hashed.append(path) or digest_of(path))  # type: ignore[func-returns-value]
    assert run(photo_folder) == first
    assert len(hashed) == 24  # read, and known by their bytes
    assert decoded == []


@pytest.mark.parametrize("damage", [b"", b"PAR1 nonsense PAR1", None])
def test_a_damaged_index_is_made_anew(damage: bytes | None, photo_folder: Path, decoded: Decoded) -> None:
    first = run(photo_folder)
    place = photo_folder.parent / "index.parquet"
    content = place.read_bytes()
    place.write_bytes(content[: len(content) // 2] if damage is None else damage)
    decoded.clear()
    assert run(photo_folder) == first
    assert len(decoded) == 24
    assert len(load_index(place)) == 24


def test_an_index_of_another_decoder_is_not_believed(
    photo_folder: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photo_folder)
    decoded.clear()
    schema = index._SCHEMA
    monkeypatch.setattr(index, "_SCHEMA", schema.with_metadata({"revision": "of another Pillow"}))
    run(photo_folder)
    assert len(decoded) == 24


def test_a_transcoded_image_whose_copy_is_gone_is_made_again(photo_folder: Path, decoded: Decoded) -> None:
    Image.open(photo_folder / "red" / "1.png").rotate(90).save(photo_folder / "red" / "scan.tiff")
    (stored,) = [Path(image.look.stored) for image in run(photo_folder)[0] if image.look.stored]
    assert (np.asarray(Image.open(stored)) == np.asarray(Image.open(photo_folder / "red" / "scan.tiff"))).all()
    stored.unlink()
    decoded.clear()
    run(photo_folder)
    assert decoded == ["scan.tiff"]
    assert stored.exists()


# Worker processes.


@pytest.fixture
def many(tmp_path: Path, make_photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns files enough for worker processes, given how small a chunk is."""
    monkeypatch.setattr(workers, "CHUNK", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return [item.path for item in FolderSource(make_photos(tmp_path / "photos")).items()]


def test_processes_see_what_this_one_sees_in_the_same_order(many: list[str], tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "store")
    Path(many[3]).write_bytes(b"")
    Image.open(many[4]).save(tmp_path / "photos" / "blue" / "z.tiff")
    many.append(str(tmp_path / "photos" / "blue" / "z.tiff"))
    found = [look for chunk in workers.look_at_all(many, store) for look in chunk]
    assert found == [look_at(path, store) for path in many]
    assert found[3] == "the file is empty"


def test_a_file_that_kills_its_reader_is_the_only_one_lost(
    many: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a decoder with a bug would: the process ends without a word when it meets the file."""
    deadly = str(tmp_path / "photos" / "green" / "3.png")
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, os\n"
        "opened = builtins.open\n"
        f"deadly = {deadly!r}\n"
        "builtins.open = lambda path, *rest, **named: (path == deadly and os._exit(9)) or opened(path, *rest, **named)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = [look for chunk in workers.look_at_all(many, ContentStore(tmp_path / "store")) for look in chunk]
    assert [path for path, look in zip(many, found, strict=True) if look == workers.DEADLY] == [deadly]
    assert sum(isinstance(look, Look) for look in found) == len(many) - 1


def test_a_store_that_cannot_be_written_is_no_fault_of_the_image(many: list[str], tmp_path: Path) -> None:
    scan = tmp_path / "photos" / "blue" / "z.tiff"
    Image.open(many[0]).save(scan)
    (tmp_path / "store").touch()
    with pytest.raises(DataError, match="cannot be written"):
        list(workers.look_at_all([*many, str(scan)], ContentStore(tmp_path / "store")))


def test_no_process_is_left_behind(many: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[workers._Worker] = []
    begin = workers._Workers._start

    def start(self: workers._Workers) -> workers._Worker:
        started.append(begin(self))
        return started[-1]

    monkeypatch.setattr(workers._Workers, "_start", start)
    answers = workers.look_at_all(many, ContentStore(tmp_path / "store"))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert len(started) == 2
    assert all(worker._process.poll() is not None for worker in started)


def test_a_process_that_cannot_begin_is_said_to_be_the_fault(
    many: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DataError, match="could not be started"):
        list(workers.look_at_all(many, ContentStore(tmp_path / "store")))


@pytest.mark.parametrize("rescan", ["stat", "content"])
def test_a_transcoded_image_that_was_cut_short_is_made_again(rescan: str, photo_folder: Path) -> None:
    """As a power failure may leave it: the name is there and the bytes are not."""
    Image.open(photo_folder / "red" / "1.png").rotate(90).save(photo_folder / "red" / "scan.tiff")
    (stored,) = [Path(image.look.stored) for image in run(photo_folder)[0] if image.look.stored]
    whole = stored.read_bytes()
    stored.write_bytes(b"")
    run(photo_folder, rescan)
    assert stored.read_bytes() == whole


def test_a_link_to_a_folder_of_a_longer_name_is_no_loop(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    (tmp_path / "ab").mkdir()
    folder = make_photos(tmp_path / "abc")
    (folder / "red" / "z.png").symlink_to(tmp_path / "ab")
    (bad,) = run(folder)[1]
    assert bad.reason == "a folder with the name of an image; rename it"
