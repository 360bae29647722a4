"""What a row of the bank depends on.

What is common to the rows of a shelf is its description: the trunk with its weights, how pictures come to its input,
and the settings that change the last bits of an answer. The rest is in the row's key: the image's content and, of an
augmented view, the policy and the seed.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.augment.policy import Policy
from pipeline.files import json_digest, text_digest
from pipeline.train.bank.shelf import KEY, Keys

if TYPE_CHECKING:
    import keras

    from pipeline.train.dataset import InputSpec

#: The code between a file's bytes and the pixels that a trunk sees. Its text is part of every row's description: a
#: change here must not need to be remembered anywhere.
_PIXEL_CODE = ("pipeline.images.graph", "pipeline.images.orientation", "pipeline.train.dataset")

#: Likewise the code of augmented views.
_VIEW_CODE = ("pipeline.augment.policy", "pipeline.augment.table")

#: Of a layer's settings, those that say nothing about its answers: they are of its training, or of its first weights.
_OF_TRAINING = ("trainable", "seed", "activity_regularizer", "build_config", "module", "registered_name")
_OF_TRAINING_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def numeric_settings(batch_size: int) -> dict[str, Any]:
    """Returns the settings that change the last bits of an answer: they are fixed, and recorded in the run."""
    import tensorflow as tf

    return {
        "batch_size": batch_size,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
        "device": "GPU" if tf.config.list_physical_devices("GPU") else "CPU",
        "tensor_float_32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "tensorflow": tf.__version__,
    }


def trunk_description(trunk: keras.Model, spec: InputSpec, *, batch_size: int) -> dict[str, Any]:
    """Returns all that a trunk's answers depend on beside the image, as a JSON document."""
    return {
        "trunk": network_digest(trunk),
        "shape": list(trunk.output_shape[1:]),
        "image_size": list(spec.image_size),
        "channels": spec.channels,
        "resize": spec.resize,
        "pixels": _code_digest(_PIXEL_CODE),
        **numeric_settings(batch_size),
    }


def view_description(policy: Policy, dtype: str) -> dict[str, Any]:
    """Returns what augmented views depend on beside the trunk and the image, as a JSON document."""
    code = _code_digest(_VIEW_CODE)
    return {"dtype": dtype, "policy": policy.digest, "transforms": policy.describe(), "views": code}


def network_digest(network: keras.Model) -> str:
    """Returns the SHA-256 of a network's layers and weights; names of layers and settings of training do not count."""
    import keras

    digest = hashlib.sha256(f"keras {keras.__version__} {json_digest(_architecture(network))}".encode())
    for weight in network.weights:
        values = np.ascontiguousarray(weight.numpy())
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def row_keys(contents: Sequence[str]) -> Keys:
    """Returns the keys of images as they are, `(N,)`; `contents` are digests of the files."""
    return np.array([_key(content) for content in contents], KEY)


def view_keys(contents: Sequence[str], policy: Policy, seeds: np.ndarray) -> Keys:
    """Returns the keys of augmented views, `(V, N)`, for seeds `(V, N)`."""
    digest = policy.digest
    keys = [[_key(content, digest, str(seed)) for content, seed in zip(contents, view, strict=True)] for view in seeds]
    return np.array(keys, KEY).reshape(seeds.shape)


def _key(*parts: str) -> bytes:
    return bytes.fromhex(text_digest(*parts))[: KEY.itemsize]


def _code_digest(modules: Sequence[str]) -> str:
    """Returns the digest of the text of modules."""
    files = [importlib.import_module(name).__file__ for name in modules]
    return text_digest(*(Path(str(file)).read_text(encoding="utf-8") for file in files))


def _architecture(network: keras.Model) -> Any:
    """Returns a network's settings with every name replaced by the number of its first occurrence.

    Keras numbers the names of layers through a process: the same network built later has others.
    """
    numbers: dict[str, str] = {}

    def note_names(item: Any) -> None:
        if isinstance(item, Mapping):
            if item.get("class_name") == "DTypePolicy":
                return  # its name is no layer's: it is the precision
            if isinstance(item.get("name"), str):
                numbers.setdefault(item["name"], f"#{len(numbers)}")
            for value in item.values():
                note_names(value)
        elif isinstance(item, list | tuple):
            for value in item:
                note_names(value)

    def strip(item: Any) -> Any:
        if isinstance(item, Mapping):
            kept = {key: value for key, value in item.items() if not _is_of_training(str(key))}
            return {str(key): strip(value) for key, value in kept.items()}
        if isinstance(item, list | tuple):
            return [strip(value) for value in item]
        if isinstance(item, str):
            return numbers.get(item, item)
        return item if isinstance(item, int | float | bool | None) else repr(item)

    config = network.get_config()
    note_names(config)
    return strip(config)


def _is_of_training(key: str) -> bool:
    return key in _OF_TRAINING or key.endswith(_OF_TRAINING_ENDINGS)
