"""How many copies are found across the splits of a folder of photographs, and how many likenesses are taken for copies.

    python benchmarks/duplicates.py FOLDER [--copies 200] [--seed 0] [--idx DIR]

The images of FOLDER go into train; copies of some of them into test: equal pixels in another file, JPEG at quality 30
to 90, resized to 50 to 150 %, slightly cropped, mirrored. Then the doctor is asked. Beside it: how many of the
handwritten digits and (with Debian's package dataset-fashion-mnist) of Fashion-MNIST are taken for copies, and whether
all old images keep their side when a tenth is added.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fashion_mnist import IDX, lay_out
from PIL import Image, ImageOps

from pipeline.config import IngestConfig
from pipeline.images.pixels import read_picture
from pipeline.ingest import IngestResult, Previous, ingest
from pipeline.ingest.signature import LARGE, SMALLEST
from pipeline.progress import Silent

Copy = Callable[[Image.Image, np.random.Generator], bytes]


def encoded(image: Image.Image, format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def resized(image: Image.Image, random: np.random.Generator) -> bytes:
    factor = random.uniform(0.5, 1.5)
    size = [max(1, round(factor * side)) for side in image.size]
    return encoded(image.resize((size[0], size[1]), Image.Resampling.LANCZOS), "PNG")


def cropped(image: Image.Image, random: np.random.Generator) -> bytes:
    left, top, right, bottom = random.uniform(0, 0.05, 4) * [*image.size, *image.size]
    return encoded(
        image.crop((round(left), round(top), round(image.width - right), round(image.height - bottom))), "PNG"
    )


COPIES: dict[str, Copy] = {
    "exact": lambda image, _: encoded(image, "BMP"),
    "jpeg": lambda image, random: encoded(image, "JPEG", quality=int(random.integers(30, 91))),
    "resized": resized,
    "cropped": cropped,
    "mirrored": lambda image, _: encoded(ImageOps.mirror(image), "PNG"),
}
#: The bar is on these; crops and mirrored copies are found on top of it.
BARRED = ("exact", "jpeg", "resized")


def examined(config: IngestConfig, root: Path, previous: Previous | None = None) -> IngestResult:
    return ingest(config, root / "data", root / ".cache", Silent(), previous)


def plant(folder: Path, root: Path, count: int, random: np.random.Generator) -> dict[tuple[str, str], tuple[str, bool]]:
    """Writes originals and copies below `root`; returns (copy, original) -> (kind, whether both are small), by ids."""
    originals = sorted(path for path in folder.glob("*/*") if path.is_file())
    for path in originals:
        place = root / "train" / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    planted = {}
    for number in range(count):
        kind = list(COPIES)[number % len(COPIES)]
        path = originals[int(random.integers(len(originals)))]
        original = Image.fromarray(read_picture(path.read_bytes(), None).pixels)
        content = COPIES[kind](original, random)
        with Image.open(io.BytesIO(content)) as copy:
            suffix = {"JPEG": "jpg"}.get(str(copy.format), str(copy.format).lower())
            sides = sorted((max(copy.size), max(original.size)))
        small = sides[0] < SMALLEST or sides[1] < LARGE
        place = root / "test" / path.parent.name / f"{number:04d}-{kind}.{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        planted[place.relative_to(root).as_posix(), f"train/{path.relative_to(folder).as_posix()}"] = (kind, small)
    for place in sorted((root / "train").iterdir()):  # every class on every side, with pictures that have no copies
        for side in ("validation", "test"):
            (root / side / place.name).mkdir(parents=True, exist_ok=True)
            noise = random.integers(0, 256, (80, 80, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / side / place.name / "filler.png")
    return planted


def measure_copies(folder: Path, count: int, seed: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        planted = plant(folder, root / "photos", count, np.random.default_rng(seed))
        found = examined(IngestConfig(data=str(root / "photos")), root)
    # Named as a leak directly; that copies of copies lead to the same cluster does not count here.
    linked = {frozenset((pair.first_id, pair.second_id)) for pair in found.leaks}
    missed = [(pair, kind) for pair, (kind, small) in planted.items() if frozenset(pair) not in linked and not small]
    print("missed:", *missed, sep="\n  ", file=sys.stderr)
    rows = {}
    for kind in COPIES:
        entries = [(frozenset(pair), small) for pair, (what, small) in planted.items() if what == kind]
        rows[kind] = {
            "planted": len(entries), "found": sum(pair in linked for pair, _ in entries),
            "small": sum(small for _, small in entries),
            "found_of_large": sum(pair in linked for pair, small in entries if not small),
        }  # fmt: skip
    originals = [
        pair for pair in found.duplicates if pair.first_id.startswith("train") and pair.second_id.startswith("train")
    ]
    images = sum(name.startswith("train/") for name in found.manifest.column("id"))
    return {
        "kinds": rows,
        "originals": images,
        "false_alarms": len({name for p in originals for name in (p.first, p.second)}),
    }


def measure_clusters(config: IngestConfig, root: Path) -> tuple[int, int]:
    """Returns the number of images, and of those that share a cluster with another."""
    sizes = Counter(examined(config, root).manifest.column("cluster"))
    return sizes.total(), sum(size for size in sizes.values() if size > 1)


def measure_stability(folder: Path) -> tuple[int, int]:
    """Returns the number of old images, and of those that keep their side when a tenth is added."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        paths = sorted(path for path in folder.glob("*/*") if path.is_file())
        config = IngestConfig(data=str(root / "photos"))
        for late in (False, True):
            for number, path in enumerate(paths):
                if (number % 11 == 5) == late:
                    place = root / "photos" / path.relative_to(folder)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(path.read_bytes())
            if not late:
                before = examined(config, root).manifest
        after = examined(config, root, Previous("before", before, True)).manifest
    sides = dict(zip(after.column("id"), after.column("split"), strict=True))
    kept = sum(sides[name] == side for name, side in zip(before.column("id"), before.column("split"), strict=True))
    return len(before), kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--idx", type=Path, default=IDX)
    options = parser.parse_args()
    copies = measure_copies(options.folder.resolve(), options.copies, options.seed)
    print("copies     planted  found  of those that are not small")
    for kind, row in copies["kinds"].items():  # type: ignore[attr-defined]
        large = row["planted"] - row["small"]
        print(f"{kind:<10} {row['planted']:>7}  {row['found']:>5}  {row['found_of_large']} of {large}")
    print(f"false alarms: {copies['false_alarms']} of {copies['originals']} originals")
    old, kept = measure_stability(options.folder.resolve())
    print(f"sides kept when a tenth is added: {kept} of {old}")
    document = copies | {"old": old, "kept": kept}
    with tempfile.TemporaryDirectory() as name:
        total, clustered = measure_clusters(IngestConfig(data="sample:digits", allow=("two_labels",)), Path(name))
        print(f"digits in clusters: {clustered} of {total}")
        document |= {"digits": total, "digits_clustered": clustered}
    if options.idx.is_dir():
        with tempfile.TemporaryDirectory() as name:
            folder = lay_out(Path(name) / "photos", idx_dir=options.idx)
            total, clustered = measure_clusters(IngestConfig(data=str(folder), allow=("two_labels",)), Path(name))
            print(f"Fashion-MNIST in clusters: {clustered} of {total}")
            document |= {"fashion_mnist": total, "fashion_mnist_clustered": clustered}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
