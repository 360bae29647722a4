"""What is asked of a trained run: its recipe, its network, an image to show it. TensorFlow is loaded when needed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import Config, build_config, parse_yaml
from pipeline.errors import ConfigError, DataError, ModelError, one_line, shown
from pipeline.files import read_json
from pipeline.images.headers import quiet_pillow, read_contents
from pipeline.images.pixels import encode_png, read_picture
from pipeline.ingest.manifest import Manifest
from pipeline.tasks.base import Calibration
from pipeline.tasks.table import load_task
from pipeline.workdir import RunDir, check_done, find_run

if TYPE_CHECKING:
    import keras
    import pyarrow as pa
    import tensorflow as tf

    from pipeline.models.network import Network
    from pipeline.train.dataset import InputSpec


@dataclass(frozen=True)
class Query:
    """An image that a network is asked about.

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

    @property
    def name(self) -> str:
        """The path as it can be printed and stored: bytes that are no UTF-8 are escaped."""
        return printable(self.path)

    def decode(self, spec: InputSpec) -> tf.Tensor:
        """Returns the image as training decodes it, `(1, H, W, C)` float32 in [0, 255].

        Raises:
            DataError: TensorFlow cannot.
        """
        import tensorflow as tf

        try:
            (pixels,) = tf.data.Dataset.from_tensors(self.encoded).map(spec.decode).batch(1)
        except tf.errors.InvalidArgumentError as error:
            path = shown(str(self.path))
            raise DataError(f"{path} cannot be decoded by TensorFlow; save it anew") from error
        return pixels


def trained_run(command: str, runs: Path, name: str) -> RunDir:
    """Returns the run of a name, a folder or an MLflow run id, for a command that needs its trained network.

    Raises:
        ConfigError: There is no such run.
        StageOrderError: Its stage train is not done.
    """
    run = find_run(runs, name)
    check_done(command, "train", run)
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


def load_recipe(run: RunDir) -> Config:
    """Returns the recipe that a run was made by.

    Raises:
        ConfigError: It is gone or damaged.
    """
    try:
        return build_config(parse_yaml(run.config.read_text(encoding="utf-8"), str(run.config)))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{run.config} cannot be read ({one_line(error)}); begin a new run") from error


def load_trained(run: RunDir) -> keras.Model:
    """Returns a run's trained network: raw pixels -> logits.

    Raises:
        ModelError: It is gone, damaged, or holds what no trained network does: code, links to other files.
    """
    import keras

    from pipeline.models.model_file import require_harmless_network

    try:
        require_harmless_network(run.model)
        return keras.models.load_model(run.model, compile=False, safe_mode=True)
    # Keras, h5py and zipfile have a class of their own for every kind of damage, and hostile files find more.
    except Exception as error:
        raise unloadable(run, error) from error


def load_trained_network(run: RunDir, config: Config, manifest: Manifest) -> Network:
    """Returns the network of a run's recipe with the weights that were trained; the pretrained ones are not needed."""
    from pipeline.models.network import build_network

    task = load_task(config.task)
    network = build_network(config.model, task, len(manifest.classes), seed=config.seed, weights=None)
    trained = load_trained(run)
    try:
        network.full.set_weights(trained.get_weights())
    except ValueError as error:
        raise unloadable(run, error) from error
    return network


def load_calibration(run: RunDir) -> Calibration:
    """Returns how a run's logits become probabilities.

    Raises:
        ModelError: It is gone or damaged.
    """
    try:
        return Calibration(**read_json(run.calibration))
    except (OSError, ValueError, TypeError) as error:
        raise unloadable(run, error) from error


def load_predictions(run: RunDir) -> dict[str, list[Any]] | None:
    """Returns the columns of `predictions.parquet`; None where the stage evaluate is not done.

    Raises:
        DataError: It is done, and the file is gone or damaged.
    """
    if run.stage_state("evaluate") != "done":
        return None
    columns: dict[str, list[Any]] = read_predictions(run).to_pydict()
    return columns


def read_predictions(run: RunDir) -> pa.Table:
    """Returns the table `predictions.parquet` of a run whose stage evaluate is done.

    Raises:
        DataError: It is gone or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(run.predictions)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{run.predictions} cannot be read; run the stage evaluate again") from error


def unloadable(run: RunDir, error: Exception) -> ModelError:
    """Returns the error for a network that is not what its run says."""
    return ModelError(f"{run.model} cannot be loaded ({one_line(error)}); run the stage train again")


def printable(path: Path) -> str:
    """Returns a path as it is, but for bytes that are no UTF-8 and cannot be printed."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
