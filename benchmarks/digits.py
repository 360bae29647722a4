"""The default recipe over split seeds 0 to 4: test accuracy and wall time of whole runs, as `make train` makes them.

    python benchmarks/digits.py [--seeds 5]

Each run is a process of its own; the first one also lays out the digits and makes the tracking store.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "configs" / "default.yaml"


def measure(seed: int, folder: Path) -> dict[str, float]:
    began = time.perf_counter()
    command = [
        sys.executable, "-m", "pipeline", "run", "-c", str(RECIPE), "--name", f"seed-{seed}",
        "--set", f"ingest.split.seed={seed}",
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    metrics = json.loads((folder / "runs" / f"seed-{seed}" / "evaluation.json").read_text())["metrics"]
    return {"split_seed": seed, "top_1": metrics["test/top_1"], "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    count = parser.parse_args().seeds
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        print("split seed  top-1   seconds")
        for seed in range(count):
            row = measure(seed, Path(folder))
            rows.append(row)
            print(f"{seed:>10}  {row['top_1']:.3f}  {row['seconds']:>8.1f}", flush=True)
    mean = statistics.mean(row["top_1"] for row in rows)
    print(f"{'mean':>10}  {mean:.4f}  {statistics.mean(row['seconds'] for row in rows):>7.1f}")
    print(json.dumps({"mean_top_1": mean, "runs": rows}))


if __name__ == "__main__":
    main()
