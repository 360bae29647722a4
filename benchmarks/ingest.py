"""Ingest of 7,000 and of 70,000 real images: the first time, again unchanged, and again by content; time and memory.

    python benchmarks/ingest.py [--idx DIR] [--count 70000]

The images are Fashion-MNIST's, as PNG in class folders (Debian's package dataset-fashion-mnist). Every ingest is a
process of its own; its imports are not counted. Memory is the peak of that process and of its workers, added up.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fashion_mnist import IDX, WHOLE, lay_out

from pipeline.config import IngestConfig
from pipeline.ingest import Previous, ingest
from pipeline.ingest.index import _TICK
from pipeline.ingest.manifest import load_manifest, save_manifest
from pipeline.progress import Silent


def ingest_once(folder: Path, root: Path, rescan: str) -> None:
    """Ingests as a run would, the earlier run's manifest at hand, and prints what it took."""
    earlier = root / "manifest.parquet"
    config = IngestConfig.model_validate_json(json.dumps({"data": str(folder), "rescan": rescan}))
    began = time.perf_counter()
    previous = Previous("before", load_manifest(earlier), True) if earlier.exists() else None
    found = ingest(config, root / "data", root / ".cache", Silent(), previous)
    save_manifest(found.manifest, earlier)
    seconds = time.perf_counter() - began
    own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    memory = (own + workers * (os.cpu_count() or 1)) / 1024
    print(json.dumps({"images": len(found.manifest), "seconds": seconds, "memory_mb": memory}))


def measure(folder: Path, root: Path, rescan: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(folder), str(root), rescan]
    row: dict[str, Any] = json.loads(subprocess.check_output(command))
    return row


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        ingest_once(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idx", type=Path, default=IDX, metavar="DIR", help="where the *-ubyte.gz files are")
    parser.add_argument("--count", type=int, default=WHOLE, help="images, of 70,000")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        for count in (options.count // 10, options.count):
            root = Path(name) / str(count)
            folder = lay_out(root / "fashion", count, options.idx)
            time.sleep(_TICK / 1e9)  # files changed within a tick of the clock are read again, here as everywhere
            for what, rescan in (("first", "stat"), ("unchanged", "stat"), ("by content", "content")):
                row = measure(folder, root, rescan)
                rows[f"{count} {what}"] = row
                speed = row["images"] / row["seconds"]
                print(
                    f"{row['images']:>6} images, {what:<10}  {row['seconds']:6.2f} s  {speed:8,.0f} images/s"
                    f"  {row['memory_mb']:5.0f} MB",
                    flush=True,
                )
    seconds = {what: row["seconds"] for what, row in rows.items()}
    small, large = options.count // 10, options.count
    print(f"ten times the images: {seconds[f'{large} first'] / seconds[f'{small} first']:.1f} times the time")
    print(f"unchanged: {seconds[f'{large} first'] / seconds[f'{large} unchanged']:.1f} times faster than first")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
