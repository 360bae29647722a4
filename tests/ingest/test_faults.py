"""The sixteen kinds of files that must not reach a training, each made for real, and what is said of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipeline
from pipeline.config import IngestConfig
from pipeline.errors import DataError
from pipeline.ingest import ingest
from pipeline.ingest.doctor import Diagnosis, diagnose, report
from pipeline.progress import Silent


def photo(side: int = 64) -> Image.Image:
    y, x = np.mgrid[0:side, 0:side] / side
    noise = np.random.default_rng(7).normal(0, 20, (side, side, 3))
    return Image.fromarray((np.stack([x, y, 1 - x], axis=-1) * 200 + noise).clip(0, 255).astype(np.uint8))


def encoded(format: str, image: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    (image or photo()).save(buffer, format)
    return buffer.getvalue()


def bomb() -> bytes:
    """Returns a PNG of 900 megapixels in 900 KB, whole and with correct checksums."""
    row = zlib.compressobj(9)
    data = b"".join(row.compress(bytes(90_001)) for _ in range(30_000)) + row.flush()
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0), b"IDAT" + data, b"IEND"]
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def broken_crc() -> bytes:
    content = bytearray(encoded("PNG"))
    content[content.index(b"IDAT") + 40] ^= 1
    return bytes(content)


def truncated(share: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        content = encoded("JPEG")
        path.write_bytes(content[: int(len(content) * share)])

    return write


def holding(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def two_labels(path: Path) -> None:
    """Copies an image of another class, in another format."""
    with Image.open(path.parents[1] / "blue" / "1.png") as image:
        image.save(path)


#: Name of the file, how it is made, and the words that must stand in the reason.
FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("a.jpg", holding(b""), "empty"),
    "garbage": ("a.png", holding(bytes(range(256)) * 9), "no image"),
    "truncated at 25 %": ("a.jpg", truncated(0.25), ""),
    "truncated at 50 %": ("a.jpg", truncated(0.5), "truncated"),
    "truncated at 99 %": ("a.jpg", truncated(0.99), "truncated"),
    "wrong extension": ("a.jpg", holding(encoded("PNG")), "holds PNG"),
    "HTML": ("a.jpg", holding(b"<!DOCTYPE html><html><body>404</body></html>"), "HTML"),
    "CRC error": ("a.png", holding(broken_crc()), "CRC"),
    "bomb": ("a.png", holding(bomb()), "pixels"),
    "FITS": ("a.jpg", holding(b"SIMPLE  =                    T".ljust(2880)), "FITS"),
    "EPS": ("a.jpg", holding(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"), "PostScript"),
    "FIFO": ("a.jpg", os.mkfifo, "pipe"),
    "folder": ("a.jpg", Path.mkdir, "folder"),
    "dangling link": ("a.jpg", lambda path: path.symlink_to("/gone/b.jpg"), "/gone/b.jpg, which is not there"),
    "link to itself": ("a.jpg", lambda path: path.symlink_to("a.jpg"), "leads back"),
    "link to a folder above": ("a", lambda path: path.symlink_to("../.."), "leads back"),
    "tiny": ("a.png", holding(encoded("PNG", photo(7))), "7 x 7"),
    "constant": ("a.png", holding(encoded("PNG", Image.new("RGB", (40, 40), (9, 9, 9)))), "equal"),
    "two labels": ("a.bmp", two_labels, "under two labels"),
}


def look(folder: Path, **settings: object) -> Diagnosis:
    root = folder.parent
    return diagnose(IngestConfig(data=str(folder), **settings), root / "data", root / ".cache", Silent())


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found_and_named_and_nothing_else_is(kind: str, photo_folder: Path) -> None:
    name, make, words = FAULTS[kind]
    make(photo_folder / "red" / name)
    found = dict(look(photo_folder).problems)
    expected = {str(photo_folder / "red" / name)}
    if kind == "two labels":
        expected.add(str(photo_folder / "blue" / "1.png"))
    assert set(found) == expected
    reason = found[str(photo_folder / "red" / name)]
    assert words in reason
    assert "\n" not in reason


@pytest.mark.parametrize("kind", FAULTS)
def test_ingest_leaves_it_out_or_stops(kind: str, photo_folder: Path) -> None:
    name, make, _ = FAULTS[kind]
    make(photo_folder / "red" / name)
    root = photo_folder.parent
    found = ingest(IngestConfig(data=str(photo_folder)), root / "data", root / ".cache", Silent())
    lost = 2 if kind == "two labels" else 1
    assert len(found.rejected) == lost
    assert len(found.manifest) == 25 - lost
    with pytest.raises(DataError, match=r"ingest\.on_bad=quarantine goes on"):
        ingest(IngestConfig(data=str(photo_folder), on_bad="stop"), root / "data", root / ".cache", Silent())


@pytest.mark.parametrize(("kind", "word"), [("tiny", "tiny"), ("constant", "constant"), ("two labels", "two_labels")])
def test_what_is_allowed_is_no_fault(kind: str, word: str, photo_folder: Path) -> None:
    name, make, _ = FAULTS[kind]
    make(photo_folder / "red" / name)
    assert f"ingest.allow=[{word}]" in dict(look(photo_folder).problems)[str(photo_folder / "red" / name)]
    found = look(photo_folder, allow=(word,))
    assert found.problems == ()
    assert found.images == 25


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(photo_folder: Path) -> None:
    (photo_folder / "red" / "0.jpg").chmod(0)
    assert [reason for _, reason in look(photo_folder).problems] == ["cannot be read: Permission denied"]


def test_a_file_that_the_system_cannot_read_is_named(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for root too."""
    place = str(photo_folder / "red" / "0.jpg")

    def refuse(path: str, *rest: object) -> object:
        if path == place:
            raise PermissionError(13, "Permission denied", path)
        return open(path, *rest)  # type: ignore[call-overload]

    monkeypatch.setattr("pipeline.images.headers.open", refuse, raising=False)
    assert look(photo_folder).problems == ((place, "cannot be read: Permission denied"),)


def test_the_doctor_as_a_command(photo_folder: Path, tmp_path: Path) -> None:
    """All faults at once, in a process of its own: no traceback, one document, less than a gigabyte."""
    for number, (name, make, _) in enumerate(FAULTS.values()):
        place = photo_folder / "red" / f"{number}-{name}"
        make(place)
        if place.is_symlink() and os.readlink(place) == name:
            place.unlink()
            place.symlink_to(place.name)
    # From a process that is small itself: `ru_maxrss` of a child begins at what its parent held.
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'pipeline', 'doctor', '--json', sys.argv[1]])\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(done.returncode)"
    )
    (tmp_path / "project").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(photo_folder)], capture_output=True, text=True, cwd=tmp_path / "project",
        env={**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert len(document["problems"]) == len(FAULTS) + 1  # the one under two labels has a twin
    assert document["images"] == 23
    assert int(done.stderr.split()[-1]) < 1_000_000  # KB
    assert list((tmp_path / "project").iterdir()) == []


def test_a_report_says_all_of_it_on_lines_of_their_own(photo_folder: Path) -> None:
    shutil.copy(photo_folder / "red" / "1.png", photo_folder / "red" / "copy.png")
    photo().save(photo_folder / "red" / "scan.tiff")
    for number in range(12):
        (photo_folder / "red" / f"{number}-empty.jpg").touch()
    lines = [line for _, line in report(look(photo_folder))]
    assert lines[0] == f"{photo_folder}: 26 usable images in 3 classes"
    assert "cannot be used: 12" in lines
    assert sum(line.endswith("the file is empty") for line in lines) == 8
    assert "... and 4 more like it" in lines
    assert "exact: red/1.png and red/copy.png" in lines
    assert f"{photo_folder / 'red' / 'scan.tiff'}: TIFF of mode RGB" in lines
    assert any("fewer than 20 images of 'blue', 'green', 'red'" in line for line in lines)


def test_a_healthy_folder_is_said_to_be(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    found = look(make_photos(tmp_path / "photos", count=20))
    assert [kind for kind, _ in report(found)] == ["title", "good"]
    document = found.document()
    assert document["images"] == 60
    assert document["classes"] == {"blue": 20, "green": 20, "red": 20}
    assert document["problems"] == document["duplicates"] == document["transcoded"] == document["advice"] == []


def test_a_class_that_is_lost_whole_is_named(photo_folder: Path) -> None:
    for path in (photo_folder / "red").iterdir():
        path.write_bytes(b"")
    assert "class 'red' has no usable image; it will not be learnt" in look(photo_folder).advice


def test_what_is_turned_or_stored_anew_is_named(photo_folder: Path) -> None:
    """A phone stores its pictures lying on a side, a scanner as TIFF: neither is a fault, both are worth knowing."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().save(photo_folder / "red" / "phone.jpg", exif=exif)
    photo(72).save(photo_folder / "red" / "scan.tiff")
    found = look(photo_folder)
    assert found.problems == ()
    assert found.turned == (str(photo_folder / "red" / "phone.jpg"),)
    assert found.transcoded == ((str(photo_folder / "red" / "scan.tiff"), "TIFF of mode RGB"),)
    root = photo_folder.parent
    ingested = ingest(IngestConfig(data=str(photo_folder)), root / "data", root / ".cache", Silent())
    assert ingested.summary()["turned_upright"] == {"count": 1, "ids": ["red/phone.jpg"]}
    assert ingested.summary()["transcoded"] == {"count": 1, "ids": ["red/scan.tiff"]}
    words = list(ingested.words())
    assert "1 image (red/phone.jpg) turned upright, as the file says (EXIF)" in words
    assert "1 image (red/scan.tiff) stored anew as PNG, so that all decoders agree" in words


def test_copies_under_two_labels_are_told(photo_folder: Path) -> None:
    """Not equal pixel by pixel, so neither is left out: but one label may be wrong."""
    picture = Image.fromarray(np.kron(np.asarray(photo(24)), np.ones((4, 4, 1), np.uint8)))
    picture.save(photo_folder / "red" / "a.png")
    picture.save(photo_folder / "blue" / "b.jpg", quality=80)
    root = photo_folder.parent
    found = ingest(IngestConfig(data=str(photo_folder)), root / "data", root / ".cache", Silent())
    assert [(pair.first_label, pair.second_label) for pair in found.duplicates] == [("blue", "red")]
    assert "pairs under two labels: 1, such as blue/b.jpg and red/a.png; one may be wrong" in found.words()
    assert any("under the labels 'blue' and 'red'" in line for _, line in report(look(photo_folder)))


def test_a_folder_that_run_would_refuse_is_not_called_healthy(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    """A zip unpacked one level too deep looks like one class."""
    found = look(make_photos(tmp_path / "photos", classes=["only"], count=30))
    assert [line for line in found.advice if line.startswith("cannot be trained on as it is: one class only ('only')")]


def test_an_empty_split_is_train_where_others_are_given(photo_folder: Path) -> None:
    shutil.copy(photo_folder / "red" / "1.png", photo_folder / "red" / "copy.png")
    lines = [
        f"{path.relative_to(photo_folder.parent)},{path.parent.name},{'' if path.stem == 'copy' else 'train'}"
        for path in sorted(photo_folder.glob("*/*"))
    ]
    table = photo_folder.parent / "photos.csv"
    table.write_text("\n".join(["path,label,split", *lines]))
    found = diagnose(IngestConfig(data=str(table)), table.parent, table.parent / ".cache", Silent())
    assert [pair.kind for pair in found.duplicates] == ["exact"]
    assert found.leaks == ()
