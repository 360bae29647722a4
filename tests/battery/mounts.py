"""Disks for the battery: small ones, and such as cannot be written. Only root may mount them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Bytes of a disk that has room for everything.
ROOMY = 2**28


class Disk:
    """A tmpfs whose room can be changed while it is in use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def leave(self, room: int) -> None:
        """Leaves so many bytes beside what is there now."""
        found = os.statvfs(self._folder)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        subprocess.run(["mount", "-o", f"remount,size={used + room}", self._folder], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """Puts a folder, with what is in it, on a roomy disk of its own for the block."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f"{folder.name}-aside")
    shutil.copytree(folder, aside)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOMY}", "none", folder], check=True)
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        shutil.rmtree(aside)
        yield Disk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Makes a folder one that nobody can write, not even root, for the block."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
