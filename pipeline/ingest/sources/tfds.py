"""TFDS data sets as a source: read offline where they lie prepared, fetched by TFDS where they do not."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import TfdsConfig
from pipeline.errors import DataError, PipelineError, nearest
from pipeline.files import read_json
from pipeline.ingest.sources.base import SPLIT_NAMES, Item, check_labels
from pipeline.ingest.sources.tfds_download import download
from pipeline.ingest.sources.tfds_read import Part, Row, load_index, read_examples
from pipeline.ingest.store import ContentStore
from pipeline.progress import Progress

#: NAME or NAME/CONFIG, with or without :VERSION whose parts may be `*`, as TFDS spells them.
NAME = re.compile(
    r"(?P<name>[A-Za-z_]\w*)(/(?P<config>[\w+.-]+))?(:(?P<version>(\d+|\*)\.(\d+|\*)\.(\d+|\*)))?", re.ASCII
)
SPELLING = "write tfds:tf_flowers, tfds:NAME/CONFIG, tfds:NAME:3.*.* or tfds: and the folder of a prepared data set"
VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)

#: One of its splits, with a slice or without; several are joined by `+`.
SPLIT = re.compile(r"\s*(?P<name>[\w.-]+)\s*(\[[^\[\]]*\]\s*)?")
EVERYTHING = "all"  # TFDS' word for all its splits together

#: Files that every prepared data set has.
PREPARED = ("dataset_info.json", "features.json")


class TfdsSource:
    """The images of a TFDS data set, kept encoded as they were. Implements `pipeline.ingest.sources.base.Source`.

    An id is `<its split>/<TFDS' id of the example>`, which says the shard and the place in it, so it is the same
    whatever else is read. An index beside the images spares the next call both TensorFlow and the examples.

    Attributes:
        name: The data set's own name.
        origin: `tfds:` and what was asked for; a folder as an absolute path.
    """

    def __init__(self, name: str, config: TfdsConfig, store: ContentStore) -> None:
        folder = Path(name).expanduser().absolute()
        named = bool(NAME.fullmatch(name)) or not name  # without a name, the path is the working directory
        self._folder = folder if _is_prepared(folder) or (folder.is_dir() and not named) else None
        self._asked = name
        self._config = config
        self._store = store
        data_dir = config.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        self._data_dir = Path(data_dir).expanduser().absolute()
        self.origin = f"tfds:{self._folder or name}"
        self.name = _name_of(self._folder) if self._folder else re.split("[/:]", name)[0]

    def peek(self) -> list[Item] | None:
        """Returns the items where an earlier call has read them, else None; loads no TensorFlow.

        Raises:
            DataError: The name or a split cannot be.
        """
        _check_config(self._config)
        folder = self._find()
        if folder is None:
            return None
        rows = load_index(folder, _choose_parts(_split_names(folder), self._config, self.origin), self._store)
        return None if rows is None else self._items(rows)

    def items(self, progress: Progress) -> list[Item]:
        """Returns the images, ordered by id; the data set is fetched and prepared first where it is not prepared.

        Raises:
            DataError: It cannot be fetched or read, or is no data set of labelled images.
        """
        _check_config(self._config)
        folder = self._find()
        if folder is None:
            progress.say(f"{self.origin} is not prepared in {self._data_dir}: fetching it")
            download(self._asked, self._data_dir, progress)
            folder = self._find()
        if folder is None:
            raise DataError(f"TFDS has put no {self._asked} into {self._data_dir}; name its folder, tfds:FOLDER")
        names = _split_names(folder)
        parts = _choose_parts(names, self._config, self.origin)
        read = {name for part in parts for name in _base_names(part.spec)}
        if left := [name for name in names if name not in read and EVERYTHING not in read]:
            progress.say(f"{self.origin}: not read: {', '.join(left)}; ingest.tfds.train and others name what is read")
        rows = load_index(folder, parts, self._store)
        return self._items(read_examples(folder, parts, self._store, progress, self.name) if rows is None else rows)

    def _items(self, rows: Sequence[Row]) -> list[Item]:
        check_labels((row.label for row in rows), f"{self.origin}: label")
        top = os.path.abspath(self._store.root)
        return [Item(row.id, f"{top}/{row.file}", row.label, row.split) for row in rows]

    def _find(self) -> Path | None:
        """Returns the folder of the prepared data set, the newest version that fits; None where there is none."""
        if self._folder is not None:
            found = self._folder if _is_prepared(self._folder) else _newest(self._folder, None)
            if found is None:
                raise DataError(f"{self._folder} holds no data set prepared by TFDS ({PREPARED[0]}); {SPELLING}")
            return found
        asked = NAME.fullmatch(self._asked)
        if asked is None:
            raise DataError(f"{self.origin} is neither a name that TFDS could have nor a folder; {SPELLING}")
        top, version = self._data_dir / asked["name"], asked["version"]
        if asked["config"]:
            return _newest(top / asked["config"], version)
        return _newest(top, version) or self._find_config(top, version)

    def _find_config(self, top: Path, version: str | None) -> Path | None:
        found = {folder.name: path for folder in _folders(top) if (path := _newest(folder, version)) is not None}
        default = top / ".config" / "metadata.json"
        usual = read_json(default).get("default_config_name") if default.is_file() else None
        if usual is not None or len(found) < 2:
            return found.get(usual) if usual is not None else next(iter(found.values()), None)
        listed = ", ".join(f"tfds:{top.name}/{name}" for name in sorted(found))
        raise DataError(f"{self.origin} lies prepared in several configurations; name one: {listed}")


def _is_prepared(folder: Path) -> bool:
    return all((folder / name).is_file() for name in PREPARED)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _newest(folder: Path, version: str | None) -> Path | None:
    """Returns the folder of the newest prepared version below `folder` that fits `version`, which may hold `*`."""
    fits = re.compile((version or "*.*.*").replace(".", r"\.").replace("*", r"\d+"))
    found = [path for path in _folders(folder) if VERSION.fullmatch(path.name) and fits.fullmatch(path.name)]
    prepared = [path for path in found if _is_prepared(path)]
    return max(prepared, key=lambda path: [int(number) for number in path.name.split(".")], default=None)


def _name_of(folder: Path) -> str:
    try:
        return str(read_json(folder / PREPARED[0])["name"])
    except (PipelineError, KeyError, TypeError):
        return folder.name


def _split_names(folder: Path) -> list[str]:
    try:
        return [str(split["name"]) for split in read_json(folder / PREPARED[0])["splits"]]
    except (PipelineError, KeyError, TypeError) as error:
        raise DataError(f"{folder / PREPARED[0]} is damaged; take {folder} away and prepare it anew") from error


def _base_names(spec: str) -> list[str]:
    """Returns the splits that a spec such as `train[:80%]+test` is made of."""
    parts = [SPLIT.fullmatch(part) for part in spec.split("+")]
    return [part["name"] for part in parts if part is not None]


def _wanted(config: TfdsConfig) -> list[Part]:
    named = {"train": config.train, "validation": config.validation, "test": config.test}
    return [Part(spec, split) for split, spec in named.items() if spec is not None]


def _check_config(config: TfdsConfig) -> None:
    for part in _wanted(config):
        if len(_base_names(part.spec)) != part.spec.count("+") + 1:
            raise DataError(
                f"ingest.tfds.{part.split}={part.spec!r} is no split; write train, train[:80%] or train+test"
            )
    if config.train is None and _wanted(config):
        raise DataError(
            f"ingest.tfds.{_wanted(config)[0].split} is set but not ingest.tfds.train, so nothing would be trained on; "
            "set it too, for example to train"
        )


def _choose_parts(names: Sequence[str], config: TfdsConfig, origin: str) -> list[Part]:
    """Returns what is read: what the config names, else the splits whose names we know, else the only one."""
    if parts := _wanted(config):
        for part in parts:
            for name in _base_names(part.spec):
                if name not in (*names, EVERYTHING):
                    raise DataError(
                        f"ingest.tfds.{part.split}: {origin} has no split {name!r}: {nearest(name, names)}; "
                        f"it has {', '.join(names)}"
                    )
        return parts
    known = [Part(name, SPLIT_NAMES[name.lower()]) for name in names if name.lower() in SPLIT_NAMES]
    remedy = f"it has {', '.join(names) or 'none'}; set ingest.tfds.train, and .validation and .test where wanted"
    ours = [part.split for part in known]
    if twice := next((split for split in ours if ours.count(split) > 1), None):
        raise DataError(f"{origin} has two splits for {twice}; {remedy}")
    if len(names) == 1 or ours == ["train"]:
        return [Part(known[0].spec if known else names[0], None)]  # ours is dealt out of the only one
    if "train" not in ours:
        raise DataError(f"{origin} has no split called train; {remedy}")
    return known
