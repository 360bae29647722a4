"""Where labelled images come from: folders, tables, TFDS, samples. Every source ends in the same list of items."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import IngestConfig
from pipeline.errors import DataError, nearest
from pipeline.ingest.sources.base import Item, Source
from pipeline.ingest.sources.folder import FolderSource
from pipeline.ingest.sources.samples import SAMPLES, SampleSource
from pipeline.ingest.sources.table import SUFFIXES as TABLES
from pipeline.ingest.sources.table import TableSource
from pipeline.ingest.sources.tfds import TfdsSource
from pipeline.ingest.store import ContentStore

__all__ = ["Item", "Source", "open_source"]


def open_source(config: IngestConfig, data_dir: Path, store: ContentStore) -> Source:
    """Returns the source that `ingest.data` names; nothing of it is read yet.

    Args:
        config: The section `ingest`.
        data_dir: Where samples are laid out at first use.
        store: Where images go that are not files of their own.

    Raises:
        DataError: No source was named, or there is none of that kind.
    """
    source = config.data
    if source is None:
        raise DataError("no images named; use --data FOLDER (one sub-folder a class) or --data sample:digits")
    kind, colon, name = source.partition(":")
    if colon and kind == "sample":
        if name not in SAMPLES:
            raise DataError(f"unknown sample {name!r}: {nearest(name, SAMPLES)}")
        return SampleSource(name, data_dir)
    if colon and kind == "tfds" and not Path(source).exists():
        return TfdsSource(name, config.tfds, store)
    path = Path(source).expanduser()
    return TableSource(path) if path.suffix.lower() in TABLES and not path.is_dir() else FolderSource(path)
