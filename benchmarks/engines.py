"""What the engines of `pipeline predict` cost: to start, a row, to stop; and from how many images on a cluster pays.

    python benchmarks/engines.py [--images 2000] [--backbone efficientnet_lite0] [--driver 200000]

Each engine predicts the same 400 x 300 JPEGs into a CSV in a process of its own, and its output must have the same
bytes as the local engine's. `start` is from the start of the process to the first row (Python, TensorFlow, the export;
with Ray its processes and its workers), the rate is that of the rows after the first block, `stop` is the end. The
weights are random: they cost what others cost. Ray runs on this machine, so its workers share its cores.

The last lines are arithmetic: n images take start + n / rate + stop on one machine, and with Ray start + n / (M x rate)
+ stop on M such machines; both are equal at the n that is printed. Then the driver, through which all rows go: how many
it takes in a second if workers have them ready, and its memory for as many paths.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from pipeline.cli_predict import _loaded
from pipeline.export.cluster_model import _blocks, _table
from pipeline.export.inputs import find_images
from pipeline.export.job import predict_to_file
from pipeline.export.predict import Prediction, row_prediction
from pipeline.progress import Silent
from pipeline.terminal import TerminalProgress

#: Engine, workers.
ENGINES: list[tuple[str, int | None]] = [("local", None), ("ray", 1), ("ray", 2)]

MACHINES = (2, 4, 8, 16)


class Clock(Silent):
    """A `Progress` that keeps when each row came."""

    def __init__(self) -> None:
        self.rows: list[float] = []

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Keeps the time."""
        self.rows.append(time.time())


def run_engine(engine: str, workers: int | None, export: Path, photos: Path, output: Path, began: float) -> None:
    """Prints the times of one engine as JSON."""
    clock = Clock()
    images, total = find_images([photos])
    with _loaded(export, engine, workers, TerminalProgress()) as model:
        predict_to_file(model, images, total, output, clock)
        written = time.time()
    skipped = 128  # the first block of a worker is answered while others still start
    rate = (len(clock.rows) - skipped) / (clock.rows[-1] - clock.rows[skipped - 1])
    times = {"start": clock.rows[0] - began, "rate": rate, "written": written, "stopped": time.time()}
    print(json.dumps(times))


def measure(engine: str, workers: int | None, export: Path, photos: Path, output: Path) -> dict[str, float]:
    """Returns start, rate and stop of one engine."""
    words = [engine, workers or 0, export, photos, output, time.time()]
    printed = subprocess.check_output(
        [sys.executable, __file__, "--child", *map(str, words)],
        env={**os.environ, "RAY_ADDRESS": "local"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    times: dict[str, float] = json.loads(printed.splitlines()[-1])
    return {"start": times["start"], "rate": times["rate"], "stop": time.time() - times["written"]}


class Ready:
    """A model whose rows are ready: what is left is the driver's work."""

    def __init__(self, folder: Path, classes: int) -> None:
        self.folder, self.labels = folder, tuple(f"class {number}" for number in range(classes))

    def predict(self, paths: Iterable[Path | str]) -> Iterator[Prediction]:
        """Yields the same row for each file, out of a table as it comes from a worker."""
        row = {"path": "a.jpg", "confident": True, "values": [1 / 3 / (place + 1) for place in range(len(self.labels))]}
        table, left = _table([row] * 128), iter(paths)
        while block := list(islice(left, 128)):
            for found in table.to_pylist()[: len(block)]:
                yield row_prediction(self.labels, found["path"], found["error"], found["confident"], found["values"])


def measure_driver(count: int, folder: Path) -> None:
    """Prints rows/s of the driver, and what its blocks of paths weigh."""
    names = [f"s3://bucket/photos/2024/some folder/{number:09}.jpg" for number in range(count)]
    for classes in (10, 1000):
        rows = count if classes == 10 else count // 50
        began = time.perf_counter()
        predict_to_file(Ready(folder, classes), iter(names[:rows]), rows, folder / "ready.csv", Silent())
        print(f"driver, {classes:5,} classes: {rows / (time.perf_counter() - began):8,.0f} rows/s")
    size = sum(block.nbytes for block in _blocks(iter(names), 2))
    print(f"driver, {count:,} paths of {len(names[0])} characters: {size / 2**20:.0f} MiB")


def print_break_even(found: dict[str, dict[str, float]]) -> None:
    """Prints from how many images on M machines with Ray are done before one without."""
    one, many = found["local"], found["ray, 1 worker"]
    for machines in MACHINES:
        gain = 1 / one["rate"] - 1 / (machines * many["rate"])
        fixed = many["start"] + many["stop"] - one["start"] - one["stop"]
        even = f"{fixed / gain:8,.0f} images" if gain > 0 else "   never"
        print(f"{machines:3} machines with Ray are done before one without from {even}")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        engine, workers, export, photos, output, began = sys.argv[2:]
        run_engine(engine, int(workers) or None, Path(export), Path(photos), Path(output), float(began))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="0: the driver alone is measured")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--driver", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if options.images:
            print_break_even(measure_engines(options.backbone, options.images, root))
        measure_driver(options.driver, root)


def measure_engines(backbone: str, images: int, root: Path) -> dict[str, dict[str, float]]:
    """Returns the times of every engine, which are printed as they come."""
    export, photos = make_subject(backbone, images, root)
    found: dict[str, dict[str, float]] = {}
    for engine, workers in ENGINES:
        title = f"{engine}, {workers} worker{'s' * (workers > 1)}" if workers else engine
        output = root / f"{title}.csv"
        found[title] = times = measure(engine, workers, export, photos, output)
        assert output.read_bytes() == (root / "local.csv").read_bytes()
        line = "{:15} start {start:5.1f} s, {rate:6.1f} images/s, stop {stop:4.1f} s"
        print(line.format(title, **times), flush=True)
    return found


def make_subject(backbone: str, images: int, root: Path) -> tuple[Path, Path]:
    """Returns a folder with an export, and one with photographs."""
    from input import write_photos
    from predict import build_export, link

    (root / "written").mkdir()
    paths = write_photos(root / "written", min(images, 2000))
    return build_export(backbone, root / "export"), link(paths, images, root / "photos")


if __name__ == "__main__":
    main()
