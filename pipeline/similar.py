"""The training images nearest to an image, in the eyes of a run's network. TensorFlow is loaded when it is needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import Config, build_config, parse_yaml
from pipeline.errors import ConfigError, DataError, ModelError, one_line, shown
from pipeline.images.headers import quiet_pillow, read_contents
from pipeline.images.pixels import encode_png, read_picture
from pipeline.ingest.manifest import Manifest, load_manifest
from pipeline.progress import Progress
from pipeline.tasks.table import load_task
from pipeline.workdir import RunDir, check_done, find_run

if TYPE_CHECKING:
    import keras

    from pipeline.models.network import Network
    from pipeline.train.bank.features import Features
    from pipeline.train.dataset import InputSpec


@dataclass(frozen=True)
class Query:
    """An image to look for.

    Attributes:
        path: Its file.
        sha256: Of the file's bytes, in hex.
        pixels: `(H, W, 3)` uint8, upright, over white.
        encoded: What TensorFlow decodes: the file's bytes, or a PNG of `pixels` where it would not read them alike.
    """

    path: Path
    sha256: str
    pixels: np.ndarray
    encoded: bytes


@dataclass(frozen=True)
class Neighbour:
    """A training image.

    Attributes:
        path: The file that the source named.
        stored: The file that was trained on; another one where ingest had to store the image anew.
        id, label: As in the manifest.
        similarity: Cosine between its feature and the query's, in [-1, 1].
        same_image: Whether it has the very bytes of the query.
    """

    path: str
    stored: str
    id: str
    label: str
    similarity: float
    same_image: bool


@dataclass(frozen=True)
class Similar:
    """The neighbours of a query, the nearest first.

    Attributes:
        query: What was looked for.
        run: The run's name.
        neighbours: At least one.
        note: What was compared, in one line.
    """

    query: Query
    run: str
    neighbours: Sequence[Neighbour]
    note: str

    def document(self, picture: Path | None) -> dict[str, Any]:
        """Returns what `similar --json` prints; `picture` is the file that was drawn, if one was."""
        fields = ("path", "id", "label", "similarity", "same_image")
        return {
            "image": _text(self.query.path),
            "run": self.run,
            "neighbours": [{field: getattr(one, field) for field in fields} for one in self.neighbours],
            "picture": None if picture is None else _text(picture),
        }

    def lines(self) -> list[str]:
        """Returns a table for people, a line a neighbour: similarity, label, path."""
        from rich.cells import cell_len

        from pipeline.figures import one_line

        labels = [one_line(one.label, 40) for one in self.neighbours]
        width = max(map(cell_len, labels))
        return [
            f"{one.similarity:6.3f}  {label}{' ' * (width - cell_len(label))}  {shown(one.path)}"
            f"{'  (the image itself)' if one.same_image else ''}"
            for one, label in zip(self.neighbours, labels, strict=True)
        ]

    def save_picture(self, output: Path) -> None:
        """Writes the query and its neighbours as a picture."""
        from pipeline.figures import save_figure
        from pipeline.pictures.neighbours import Tile, neighbours_figure

        tiles = [
            Tile(one.stored, Path(one.path).name, one.label, one.similarity, one.same_image) for one in self.neighbours
        ]
        title = f"nearest training images of run {self.run}"
        save_figure(neighbours_figure(self.query.pixels, self.query.path.name, tiles, title, self.note), output)


def trained_run(runs: Path, name: str) -> RunDir:
    """Returns the run of a name, a folder or an MLflow run id.

    Raises:
        ConfigError: There is no such run.
        StageOrderError: Its stage train is not done.
    """
    run = find_run(runs, name)
    check_done("similar", "train", run)
    return run


def read_query(path: Path) -> Query:
    """Returns an image file, read and checked as ingest does.

    Raises:
        DataError: It is not there or no image; one line that says why.
    """
    if path.is_dir():
        raise DataError(f"{shown(str(path))} is a folder; name one image")
    if not os.path.lexists(path):
        raise DataError(f"no file {shown(str(path))}; name an image")
    try:
        contents = read_contents(path)
        with quiet_pillow():
            picture = read_picture(contents, None)
    except DataError as error:
        raise DataError(f"{shown(str(path))}: {error}") from error
    encoded = encode_png(picture.pixels) if picture.transcode else contents
    return Query(path, hashlib.sha256(contents).hexdigest(), picture.pixels, encoded)


def find_similar(run: RunDir, query: Query, top: int, progress: Progress) -> Similar:
    """Returns the `top` images of a run's train split that are nearest to a query.

    Compared are the pooled features of the run's trained network, by cosine. Those of the training images come from
    the feature bank; what it lacks is computed, and kept.

    Raises:
        PipelineError: Something of the run cannot be read, or an image changed since ingest; one line.
    """
    from pipeline.evaluate.neighbours import nearest_neighbours
    from pipeline.models.network import FEATURES
    from pipeline.train.dataset import InputSpec, naming_bad_images

    config, manifest = _recipe(run), load_manifest(run.manifest)
    network = _trained_network(run, config, manifest)
    trunk = network.cut(FEATURES).trunk
    spec = InputSpec(network.image_size, network.channels, network.resize)
    train = manifest.split("train")
    feature = _feature(query, trunk, spec, network.row.extraction_batch)
    with naming_bad_images(train.column("path")):
        rows = _bank_rows(run, config, train, network, trunk, spec, progress)
        found = nearest_neighbours(feature, rows.plain(), top)
    columns = {name: train.column(name) for name in ("original", "path", "id", "label", "sha256")}
    neighbours = [
        Neighbour(
            columns["original"][place], columns["path"][place], columns["id"][place], columns["label"][place],
            float(similarity), columns["sha256"][place] == query.sha256,
        )
        for place, similarity in zip(found.places[0], found.similarities[0], strict=True)
    ]  # fmt: skip
    note = f"by the cosine between features of the trained {network.row.name}; {len(train):,} training images"
    return Similar(query, run.name, neighbours, note)


def _recipe(run: RunDir) -> Config:
    try:
        return build_config(parse_yaml(run.config.read_text(encoding="utf-8"), str(run.config)))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{run.config} cannot be read ({one_line(error)}); begin a new run") from error


def _trained_network(run: RunDir, config: Config, manifest: Manifest) -> Network:
    """Returns the network of a run's recipe with the weights that were trained; the pretrained ones are not needed."""
    import keras

    from pipeline.models.network import build_network

    task = load_task(config.task)
    network = build_network(config.model, task, len(manifest.classes), seed=config.seed, weights=None)
    try:
        trained = keras.models.load_model(run.model, compile=False, safe_mode=True)
        network.full.set_weights(trained.get_weights())
    except (OSError, ValueError) as error:
        raise ModelError(f"{run.model} cannot be loaded ({one_line(error)}); run the stage train again") from error
    return network


def _feature(query: Query, trunk: keras.Model, spec: InputSpec, batch_size: int) -> np.ndarray:
    """Returns the query's feature, `(1, D)` float32, decoded and computed as training does."""
    import tensorflow as tf

    from pipeline.train.extraction import padded_forward

    try:
        (pixels,) = tf.data.Dataset.from_tensors(query.encoded).map(spec.decode).batch(1)
    except tf.errors.InvalidArgumentError as error:
        path = shown(str(query.path))
        raise DataError(f"{path} cannot be decoded by TensorFlow; save it anew") from error
    return padded_forward(trunk, batch_size)(pixels)


def _bank_rows(
    run: RunDir, config: Config, train: Manifest, network: Network, trunk: keras.Model, spec: InputSpec,
    progress: Progress,
) -> Features:  # fmt: skip
    """Returns the features of the training images as they are."""
    from pipeline.augment.policy import Policy
    from pipeline.models.network import FEATURES
    from pipeline.train.bank.fill import Bank, Wanted
    from pipeline.train.bank.store import GIB, FeatureStore
    from pipeline.train.dataset import load_images

    nothing = np.zeros((len(train), 0), np.float32)
    store = FeatureStore(_project(run) / ".cache" / "features", int(config.train.bank.budget_gb * GIB))
    bank = Bank(
        store, trunk, spec, Policy(), batch_size=network.row.extraction_batch, dtype="float32",
        title=f"{network.row.name} to {FEATURES}",
    )  # fmt: skip
    images = load_images(train, nothing, nothing[:0], config.augment.seed)
    (rows,) = bank.open([Wanted(images)], progress, f"features of {run.name}")
    return rows


def _project(run: RunDir) -> Path:
    """Returns the folder whose bank holds a run's features: the one that `runs/` is in."""
    return run.path.parent.parent if run.path.parent.name == "runs" else Path.cwd()


def _text(path: Path) -> str:
    """Returns a path as it is, but for bytes that are no UTF-8 and cannot be printed."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
