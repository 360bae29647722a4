from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.ingest.store import ContentStore


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_an_image_is_kept_under_its_digest(tmp_path: Path) -> None:
    path = ContentStore(tmp_path / "images").put(b"pixels", ".png")
    digest = hashlib.sha256(b"pixels").hexdigest()
    assert path == tmp_path / "images" / digest[:2] / f"{digest}.png"
    assert path.read_bytes() == b"pixels"
    assert files(tmp_path) == [path]


def test_nothing_is_made_before_the_first_image(tmp_path: Path) -> None:
    ContentStore(tmp_path / "images")
    assert list(tmp_path.iterdir()) == []


def test_the_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ContentStore(Path("images")).put(b"pixels", ".png").is_relative_to(tmp_path / "images")


@pytest.mark.parametrize("contents", [b"", b"a", os.urandom(3_000_000)])
def test_contents_of_any_size_come_back(contents: bytes, tmp_path: Path) -> None:
    assert ContentStore(tmp_path).put(contents, ".bin").read_bytes() == contents


def test_an_entry_is_written_once(tmp_path: Path) -> None:
    path = ContentStore(tmp_path).put(b"pixels", ".png")
    before = path.stat()
    assert ContentStore(tmp_path).put(b"pixels", ".png") == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_entry_cut_short_is_written_again(tmp_path: Path) -> None:
    path = ContentStore(tmp_path).put(b"pixels", ".png")
    path.write_bytes(b"pix")
    assert ContentStore(tmp_path).put(b"pixels", ".png").read_bytes() == b"pixels"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); make room"):
        ContentStore(tmp_path).put(b"pixels", ".png")
    assert files(tmp_path) == []


def test_a_disk_that_takes_it_in_pieces_gets_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:2]))
    assert ContentStore(tmp_path).put(b"pixels", ".png").read_bytes() == b"pixels"


def test_a_folder_where_the_store_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").touch()
    with pytest.raises(DataError, match="cannot be written"):
        ContentStore(tmp_path / "images").put(b"pixels", ".png")


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    contents = [bytes([number % 50]) * 1000 for number in range(400)]
    with ThreadPoolExecutor(8) as workers:
        paths = list(workers.map(lambda data: store.put(data, ".png"), contents))
    assert [path.read_bytes() for path in paths] == contents
    assert len(files(tmp_path)) == 50


def test_two_processes_share_a_store(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pipeline.ingest.store import ContentStore\n"
        "store = ContentStore(Path(sys.argv[1]))\n"
        "for number in range(300): store.put(number.to_bytes(2) * 500, '.png')"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    found = files(tmp_path)
    assert len(found) == 300
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in found)


def test_a_killed_process_leaves_no_wrong_file_under_a_final_name(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from pipeline.ingest.store import ContentStore\n"
        "write = os.write\n"
        "def die(file, data): write(file, data[:3]); os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.write = die\n"
        "ContentStore(Path(sys.argv[1])).put(b'pixels', '.png')"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -9
    assert [path.name.startswith(".") for path in files(tmp_path)] == [True]
    assert ContentStore(tmp_path).put(b"pixels", ".png").read_bytes() == b"pixels"
