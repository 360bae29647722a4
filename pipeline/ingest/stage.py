"""The stage ingest: source in, manifest out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import IngestConfig
from pipeline.errors import DataError
from pipeline.ingest.manifest import SPLITS, Manifest, build_manifest
from pipeline.ingest.scan import Rejected, Scanned, scan
from pipeline.ingest.sources import list_folder, resolve_source
from pipeline.ingest.split import assign_splits, complete_splits
from pipeline.progress import Progress


@dataclass(frozen=True)
class IngestResult:
    """What ingest found: the manifest, and the images that were left out with the reason."""

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
    """Looks whether the source is there and holds images, without reading one.

    Raises:
        DataError: As `ingest` would, for what can be known from names alone.
    """
    list_folder(resolve_source(config.data, data_dir))


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
    clusters = [image.sha256 for image in good]
    labels = [image.item.label for image in good]
    if any(image.item.split for image in good):
        splits = complete_splits([image.item.split for image in good], clusters, labels, config.split)
    else:
        splits = assign_splits(clusters, labels, config.split)
    manifest = build_manifest([_row(image, split) for image, split in zip(good, splits, strict=True)])
    _check_sides(manifest)
    return IngestResult(config.data or str(root), manifest, tuple(bad))


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
