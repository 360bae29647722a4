"""Where labelled images come from. Every source ends in the same list of items."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError, nearest
from pipeline.images.headers import SUFFIXES
from pipeline.ingest.samples import SAMPLES

#: Folder names that stand for a split, when they stand above the class folders.
SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One labelled image before it was looked at; `split` is None where the source leaves it open."""

    id: str
    path: Path
    label: str
    split: str | None


def resolve_source(source: str | None, data_dir: Path) -> Path:
    """Returns the folder that a SOURCE stands for; a sample is laid out below `data_dir` at first use.

    Raises:
        DataError: No source was named, or it is of a kind that is not known.
    """
    if source is None:
        raise DataError("no images named; use --data FOLDER (one sub-folder a class) or --data sample:digits")
    kind, colon, name = source.partition(":")
    if colon and kind == "sample":
        if name not in SAMPLES:
            raise DataError(f"unknown sample {name!r}: {nearest(name, SAMPLES)}")
        return SAMPLES[name](data_dir / name)
    if colon and kind == "tfds" and not Path(source).exists():
        raise DataError(f"{source}: TFDS sources are not supported yet; write the images into a folder a class")
    return Path(source).expanduser()


def is_sample(source: str | None) -> bool:
    """Tells whether a SOURCE is a sample that there is, laid out or not."""
    kind, _, name = (source or "").partition(":")
    return kind == "sample" and name in SAMPLES


def list_folder(root: Path) -> list[Item]:
    """Returns the images below a folder, labelled by their class folder, ordered by id.

    `root/<class>/**/image`, or `root/<split>/<class>/**/image` where the top folders are called train and validation
    or test (val, valid, training, testing too). Hidden files and files with other endings are passed over.

    Raises:
        DataError: The folder is missing, unreadable, empty, without class folders or without images.
    """
    tops = _folders(root)
    if not tops:
        raise DataError(f"{root} has no sub-folders; put the images of each class into a folder of its own below it")
    roles = [SPLIT_FOLDERS.get(top.name.lower()) for top in tops]
    strange = [top.name for top, role in zip(tops, roles, strict=True) if role is None]
    if "train" in roles and len(set(roles) - {None}) > 1:
        if strange:
            raise DataError(f"{root} has the folder {strange[0]!r} beside train and other splits; move it elsewhere")
        twice = [role for role, count in Counter(roles).items() if count > 1]
        if twice:
            raise DataError(f"{root} has two folders for the split {twice[0]}; keep one")
        items = [item for top, role in zip(tops, roles, strict=True) for item in _list_classes(root, top, role)]
    else:
        items = _list_classes(root, root, None)
    if not items:
        endings = ", ".join(SUFFIXES)
        raise DataError(f"{root} holds no image files in its class folders; endings looked for: {endings}")
    return sorted(items, key=lambda item: item.id)


def _list_classes(root: Path, above: Path, split: str | None) -> list[Item]:
    return [
        Item(path.relative_to(root).as_posix(), path, folder.name, split)
        for folder in _folders(above)
        for path in _images(folder)
    ]


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        raise DataError(f"no folder {root}; --data takes a folder with one sub-folder of images a class") from None
    except NotADirectoryError:
        raise DataError(f"{root} is a file; --data takes a folder with one sub-folder of images a class") from None
    except OSError as error:
        raise DataError(f"{root} cannot be read: {error.strerror}; check its permissions") from error


def _images(folder: Path) -> list[Path]:
    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}; check its permissions") from error

    return [
        Path(parent) / name
        for parent, _, names in os.walk(folder, onerror=stop)
        if not any(part.startswith(".") for part in Path(parent).relative_to(folder).parts)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
