"""The stage ingest: source in, manifest out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import IngestConfig, SplitConfig
from pipeline.errors import DataError
from pipeline.ingest.manifest import SPLITS, Manifest, build_manifest
from pipeline.ingest.scan import Rejected, Scanned, scan
from pipeline.ingest.sources import Item, is_sample, list_folder, resolve_source
from pipeline.ingest.split import assign_splits, complete_splits
from pipeline.progress import Progress


@dataclass(frozen=True)
class IngestResult:
    """What ingest found: the manifest, and the images that were left out with the reason.

    Attributes:
        name: Of the data set, short: the folder's name or the sample's.
        source: Where it came from, whole: the folder's path or the sample.
        manifest: The images.
        rejected: Those left out.
    """

    name: str
    source: str
    manifest: Manifest
    rejected: tuple[Rejected, ...]

    def summary(self) -> dict[str, object]:
        """Returns what `ingest.json` holds."""
        return {
            "source": self.source,
            "images": len(self.manifest),
            "quarantined": len(self.rejected),
            "classes": list(self.manifest.classes),
            "counts": self.manifest.counts(),
            "digest": self.manifest.digest,
        }


def check_source(config: IngestConfig, data_dir: Path) -> None:
    """Looks whether the source is there and has images enough in classes enough, by their names alone.

    Raises:
        DataError: As `ingest` would if all the files were good.
    """
    if is_sample(config.data):
        return  # laid out when it is used; a dry run writes nothing
    items = list_folder(resolve_source(config.data, data_dir))
    _assign(items, [item.id for item in items], config.split)


def ingest(config: IngestConfig, data_dir: Path, progress: Progress) -> IngestResult:
    """Returns the manifest of the configured source: every readable image, with its label and split.

    Raises:
        DataError: The source cannot be used; or an image is bad and `ingest.on_bad` is stop.
    """
    root = resolve_source(config.data, data_dir).resolve()
    good, bad = scan(list_folder(root), progress)
    if bad and config.on_bad == "stop":
        first = bad[0]
        raise DataError(f"{first.item.path}: {first.reason} ({len(bad)} bad in all; ingest.on_bad=quarantine goes on)")
    if not good:
        first = bad[0]
        raise DataError(f"none of the {len(bad)} images in {root} can be read; {first.item.id}: {first.reason}")
    splits = _assign([image.item for image in good], [image.sha256 for image in good], config.split)
    manifest = build_manifest([_row(image, split) for image, split in zip(good, splits, strict=True)])
    _check_sides(manifest)
    source = config.data if config.data and is_sample(config.data) else str(root)
    return IngestResult(root.name, source, manifest, tuple(bad))


def _assign(items: Sequence[Item], clusters: Sequence[str], config: SplitConfig) -> list[str]:
    labels = [item.label for item in items]
    if any(item.split for item in items):
        return complete_splits([item.split for item in items], clusters, labels, config)
    return assign_splits(clusters, labels, config)


def _row(image: Scanned, split: str) -> dict[str, object]:
    return {
        "id": image.item.id,
        "path": str(image.item.path),
        "label": image.item.label,
        "split": split,
        "sha256": image.sha256,
        "cluster": image.sha256,
        "width": image.header.width,
        "height": image.header.height,
        "format": image.header.format,
        "mode": image.header.mode,
        "bytes": image.bytes,
    }


def _check_sides(manifest: Manifest) -> None:
    for split, counts in manifest.counts().items():
        if not sum(counts.values()):
            raise DataError(f"no readable image is left in {split}; the splits needed are {', '.join(SPLITS)}")
