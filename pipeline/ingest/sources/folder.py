"""A folder of images, one sub-folder a class."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from pipeline.errors import DataError
from pipeline.images.headers import SUFFIXES
from pipeline.ingest.sources.base import SPLIT_NAMES, Item, check_labels
from pipeline.progress import Progress

#: A folder's device and inode, and those of the folders above it: a link back to one of them is a loop.
_Above = frozenset[tuple[int, int]]


class FolderSource:
    """Images below a folder, labelled by their class folder. Implements `pipeline.ingest.sources.base.Source`.

    `root/<class>/**/image`, or `root/<split>/<class>/**/image` where the top folders are called train and validation
    or test (val, valid, training, testing too). Hidden files and files with other endings are passed over; links are
    followed. What has an image's name and is none (a folder, a pipe, a broken link) is listed all the same, so that
    the scan can say so.
    """

    def __init__(self, root: Path, origin: str | None = None) -> None:
        """Takes the folder; `origin` where people know it by another name."""
        self._root = root
        self.name = root.resolve().name
        self.origin = origin or str(root.resolve())

    def peek(self) -> list[Item]:
        """Returns the items: a folder can be listed at any time."""
        return self.items()

    def items(self, progress: Progress | None = None) -> list[Item]:
        """Returns the images, ordered by id, which is the path below the folder with "/" on every system.

        Raises:
            DataError: The folder is missing, unreadable, empty, without class folders or without images; two class
                folders or two split folders have the same name in other spelling; a class name cannot be kept.
        """
        tops = _folders(self._root)
        if not tops:
            raise DataError(f"{self._root} has no sub-folders; put the images of each class into a folder of its own")
        roles = [SPLIT_NAMES.get(top.name.lower()) for top in tops]
        if "train" in roles and len(set(roles) - {None}) > 1:
            self._check_split_folders(tops, roles)
            places = [(folder, role) for top, role in zip(tops, roles, strict=True) for folder in _folders(top)]
        else:
            places = [(top, None) for top in tops]
        check_labels([folder.name for folder, _ in places], "class folder")
        root = f"{self._root.resolve()}{os.sep}"
        items = [
            Item(path[len(root) :].replace(os.sep, "/"), path, folder.name, role)
            for folder, role in places
            for path in _images(root + os.path.relpath(folder, self._root))
        ]
        if not items:
            endings = ", ".join(SUFFIXES)
            raise DataError(f"{self._root} holds no image files in its class folders; endings looked for: {endings}")
        return sorted(items)

    def _check_split_folders(self, tops: list[Path], roles: list[str | None]) -> None:
        strange = [top.name for top, role in zip(tops, roles, strict=True) if role is None]
        if strange:
            raise DataError(
                f"{self._root} has the folder {strange[0]!r} beside train and other splits; move it elsewhere"
            )
        twice = [role for role, count in Counter(roles).items() if count > 1]
        if twice:
            raise DataError(f"{self._root} has two folders for the split {twice[0]}; keep one")


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        raise DataError(f"no folder {root}; --data takes a folder with one sub-folder of images a class") from None
    except NotADirectoryError:
        raise DataError(f"{root} is a file; --data takes a folder with one sub-folder of images a class") from None
    except OSError as error:
        raise _unreadable(str(root), error) from error


def _images(folder: str) -> list[str]:
    """Returns the paths of what has an image's name below a folder, and of links that lead back above themselves."""
    found: list[str] = []
    waiting: list[tuple[str, _Above]] = [(folder, _all_above(folder))]
    while waiting:
        place, above = waiting.pop()
        try:
            here = os.stat(place)
            if (here.st_dev, here.st_ino) in above:
                found.append(place)
                continue
            inside = above | {(here.st_dev, here.st_ino)}
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        waiting.append((entry.path, inside))
                    if _has_image_suffix(entry.name):
                        found.append(entry.path)
        except OSError as error:
            raise _unreadable(place, error) from error
    return found


def _all_above(folder: str) -> _Above:
    found = [os.stat(above) for above in Path(os.path.realpath(folder)).parents]
    return frozenset((place.st_dev, place.st_ino) for place in found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _has_image_suffix(name: str) -> bool:
    return name[name.rfind(".") :].lower() in SUFFIXES


def _unreadable(place: str, error: OSError) -> DataError:
    return DataError(f"{place} cannot be read: {error.strerror}; check its permissions")
