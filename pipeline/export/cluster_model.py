"""Predictions by the workers of a Ray cluster: the rows that one machine gives, in the same order, bit for bit.

Ray Data hands blocks of paths to a pool of actors. Each loads the export once, reads the files itself, and asks the
network in the batches that one machine would have made. A worker that dies is started anew and given its blocks again.
Rows come back in order, so those that are finished can be kept and gone on from.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError, one_line
from pipeline.export.cluster import Workers
from pipeline.export.predict import BATCH_SIZE, Prediction, Predictor, require_model, row_prediction
from pipeline.export.urls import place_of

#: Batches of a block, at most. A block is what is done again when a worker dies, and how often rows come in.
_BATCHES = 8

#: Blocks that each worker should get of a small job, so that all end at the same time.
_BLOCKS = 8

#: Paths that are encoded at a time.
_PATHS = 2**16

#: Files of an export that answers depend on.
_SERVED = ("saved_model.pb", "fingerprint.pb", "labels.txt", "variables/*", "assets/*")


class ClusterModel:
    """An exported model on the workers of the Ray cluster that this process is connected to.

    Implements `pipeline.export.predict.Model`. TensorFlow is loaded by the workers only.

    Args:
        folder: The export, on this machine.
        workers: Who answers.

    Raises:
        ExportError: The folder holds no export.
    """

    def __init__(self, folder: Path, workers: Workers) -> None:
        import ray

        require_model(folder)
        self.folder = folder
        self.labels = tuple((folder / "labels.txt").read_text(encoding="utf-8").splitlines())
        self._workers = workers
        files = _served_files(folder)
        # In a list, since Ray would put the files themselves in the place of a reference that stands alone.
        self._sent = [ray.put(files)], _files_digest(files)

    def predict(self, paths: Iterable[Path | str]) -> Iterator[Prediction]:
        """Yields a prediction for each file, in order; a bad file does not fail its neighbours. A string is a URL.

        All paths are taken before the first is answered, since Ray is handed all; answers come as they are needed.

        Raises:
            PipelineError: A worker cannot load the export or does not see the files, or Ray gave up.
        """
        blocks = _blocks(paths, self._workers.count)
        if not blocks:
            return
        with _ray_errors():
            for table in self._answers(blocks):
                for row in table.to_pylist():
                    _require_answer(row)
                    yield row_prediction(self.labels, row["path"], row["error"], row["confident"], row["values"])

    def _answers(self, blocks: list[Any]) -> Iterator[Any]:
        """Yields tables of answers, one a block, in the order of the blocks."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = context.print_on_execution_start = False
        answers = ray.data.from_arrow(blocks).map_batches(
            Worker,
            fn_constructor_args=(*self._sent, self._workers.cores, os.getcwd(), _own_version()),
            batch_size=None,  # a whole block
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(size=min(self._workers.count, len(blocks))),
            num_cpus=self._workers.cores,
            num_gpus=self._workers.gpus,
        )
        yield from answers.iter_batches(batch_size=None, batch_format="pyarrow")


class Worker:
    """One process of the cluster, with the export loaded.

    Whatever keeps it from answering is an answer too, and not an exception: Ray would wrap that, or try again.

    Args:
        sent: A reference to the files of the export.
        digest: What they must add up to.
        cores: Threads of TensorFlow.
        home: Where relative paths begin, if there is such a folder on this machine.
        wanted: Version of this package that sends the files.
    """

    def __init__(self, sent: Sequence[Any], digest: str, cores: int, home: str, wanted: str) -> None:
        self._trouble: str | None = None
        if os.path.isdir(home):
            os.chdir(home)
        warnings.simplefilter("ignore")
        try:
            if _own_version() != wanted:
                raise PipelineError(
                    f"has transfer-pipeline {_own_version()}, not {wanted}; install the same everywhere"
                )
            self._model = _load(sent, digest, cores)
        except PipelineError as error:
            self._trouble = str(error)

    def __call__(self, paths: Any) -> Any:
        """Returns a table with a row a path, or one whose only row says what keeps this worker from answering."""
        places = [place_of(os.fsdecode(name)) for name in paths["path"].to_pylist()]
        try:
            if self._trouble:
                raise PipelineError(self._trouble)
            rows = [_row(place, found) for place, found in zip(places, self._model.predict(places), strict=True)]
        except PipelineError as error:
            rows = [{"trouble": f"worker on {platform.node()}: {error}"}]
        return _table(rows)


def _load(sent: Sequence[Any], digest: str, cores: int) -> Predictor:
    """Returns the export, loaded from files that are gone again.

    Raises:
        PipelineError: It is not what was sent, or cannot be loaded.
    """
    import ray
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(cores)
    files = ray.get(sent[0])
    if _files_digest(files) != digest:
        raise PipelineError("the export did not arrive as it was sent; try again")
    with tempfile.TemporaryDirectory(prefix="export-") as name:
        for relative, contents in files.items():
            path = Path(name, relative)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(contents)
        try:
            return Predictor(Path(name))
        except PipelineError as error:
            raise PipelineError(str(error).replace(name, "the export")) from error


def _row(place: Path | str, found: Prediction) -> dict[str, Any]:
    """Returns an answer as it travels; `absent` is the machine that has no such file."""
    missing = found.error is not None and isinstance(place, Path) and not os.path.lexists(place)
    return {
        "path": found.path,
        "error": found.error,
        "confident": found.confident,
        "values": list(found.probabilities.values()),
        "absent": platform.node() if missing else None,
    }


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    types = {"path": pa.string(), "error": pa.string(), "confident": pa.bool_(), "values": pa.list_(pa.float64())}
    return pa.Table.from_pylist(rows, pa.schema({**types, "absent": pa.string(), "trouble": pa.string()}))


def _require_answer(row: Mapping[str, Any]) -> None:
    """Looks whether a row is an answer.

    Raises:
        PipelineError: A worker says why it has none, or does not see a file that is here.
    """
    if row["trouble"]:
        raise PipelineError(row["trouble"])
    if row["absent"] and os.path.exists(row["path"]):
        raise PipelineError(
            f"{row['path']} is here, but not on the machine {row['absent']}: workers read the files themselves; name a "
            "folder that all machines share, or a URL such as s3://bucket/photos"
        )


def _blocks(paths: Iterable[Path | str], workers: int) -> list[Any]:
    """Returns tables of paths, which are whole batches but for the last: batches are those of one machine."""
    import pyarrow as pa

    left, pieces = iter(paths), []
    while piece := [os.fsencode(path) for path in islice(left, _PATHS)]:
        pieces.append(pa.array(piece, pa.large_binary()))
    if not pieces:
        return []
    table = pa.table({"path": pa.chunked_array(pieces)})
    batches = -(-len(table) // BATCH_SIZE)
    rows = BATCH_SIZE * min(_BATCHES, max(1, batches // (workers * _BLOCKS)))
    return [table.slice(start, rows) for start in range(0, len(table), rows)]


def _served_files(folder: Path) -> dict[str, Any]:
    """Returns the files by their names in the export, as arrays of bytes, which Ray hands on without a copy."""
    found = sorted(path for pattern in _SERVED for path in folder.glob(pattern))
    return {path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8) for path in found}


def _files_digest(files: Mapping[str, Any]) -> str:
    sums = hashlib.sha256()
    for name, contents in files.items():
        sums.update(f"{name}\0{len(contents)}\0".encode())
        sums.update(contents)
    return sums.hexdigest()


def _own_version() -> str:
    return importlib.metadata.version("transfer-pipeline")


@contextmanager
def _ray_errors() -> Iterator[None]:
    """Turns an error of Ray's into one line.

    Raises:
        PipelineError: Ray could not do the work.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if "No module named 'pipeline" in lines[-1]:
            raise PipelineError(
                f"a worker has no transfer-pipeline {_own_version()}; install it on every machine of the cluster"
            ) from error
        kept = "the same command goes on from the rows that are kept"
        raise PipelineError(f"Ray gave up: {one_line(RuntimeError(lines[-1]))}; {kept}") from error
