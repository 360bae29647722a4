from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.augment.policy import load_policy
from pipeline.train.bank import keys as keys_module
from pipeline.train.bank.keys import network_digest, row_keys, trunk_description, view_description, view_keys
from pipeline.train.dataset import InputSpec

SPEC = InputSpec((8, 8), 3)


def build(units: int = 4, *, activation: str = "relu", seed: int = 0, dropout: float = 0.5) -> keras.Model:
    inner_input = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, activation=activation, kernel_initializer=keras.initializers.GlorotUniform(7))(
        inner_input
    )
    inner = keras.Model(inner_input, keras.layers.BatchNormalization()(x))
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inner(pixels))
    x = keras.layers.Dropout(dropout, seed=seed)(x)
    dense = keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(5))
    return keras.Model(pixels, dense(x))


def test_the_same_network_has_the_same_digest_however_often_it_is_built() -> None:
    assert network_digest(build()) == network_digest(build()) == network_digest(build(seed=3))


def test_freezing_and_cutting_leave_the_digest_alone() -> None:
    network = build()
    before = network_digest(network)
    network.trainable = False
    keras.Model(network.input, network.layers[2].output)
    network.layers[1](keras.Input((8, 8, 3)))  # another call of a shared layer
    assert network_digest(network) == before


def nudge(network: keras.Model, layer: int, weight: int) -> keras.Model:
    """Returns the network with one number of one weight changed by one part in a million."""
    values = network.layers[layer].get_weights()
    values[weight] = values[weight] * np.float32(1 + 1e-6) + np.float32(1e-6)
    network.layers[layer].set_weights(values)
    return network


@pytest.mark.parametrize(
    "other",
    [
        lambda: build(5),
        lambda: build(activation="tanh"),
        lambda: build(dropout=0.4),  # of no effect here, but a layer's setting
        lambda: nudge(build(), -1, 0),
        lambda: nudge(build(), 1, 4),  # a moving mean inside the inner network
        lambda: keras.Sequential([build()]),
    ],
    ids=["units", "activation", "dropout", "a weight", "a statistic", "wrapped"],
)
def test_another_network_has_another_digest(other: Callable[[], keras.Model]) -> None:
    assert network_digest(other()) != network_digest(build())


def test_the_digest_is_the_same_in_every_process(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pipeline, keras; "
    script += "[keras.layers.Dense(1) for _ in range(3)]; import test_keys as t; print(t.network_digest(t.build()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == network_digest(build())


def described(**changes: object) -> dict[str, object]:
    settings: dict[str, object] = {"spec": SPEC, "batch_size": 8} | changes
    return trunk_description(build(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 16},
        {"spec": InputSpec((8, 9), 3)},
        {"spec": InputSpec((8, 8), 1)},
        {"spec": InputSpec((8, 8), 3, "crop")},
    ],
    ids=["batch", "size", "channels", "resize"],
)
def test_what_changes_an_answer_is_in_the_description(changes: dict[str, object]) -> None:
    assert described() == described()
    assert described(**changes) != described()


def mixed() -> keras.Model:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return build()
    finally:
        keras.config.set_dtype_policy("float32")


def test_precision_is_in_the_architecture() -> None:
    assert keys_module._architecture(mixed()) != keys_module._architecture(build())
    names = json.dumps(keys_module._architecture(mixed()))
    assert "mixed_bfloat16" in names


@pytest.mark.parametrize("setting", ["onednn", "tensorflow", "code"])
def test_so_are_the_settings_of_the_libraries_and_the_code(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    before = described()
    if setting == "onednn":
        monkeypatch.setitem(os.environ, "TF_ENABLE_ONEDNN_OPTS", "0")
    elif setting == "tensorflow":
        monkeypatch.setattr(tf, "__version__", "2.99.0")
    else:
        read = Path.read_text
        changed = "orientation.py"
        monkeypatch.setattr(Path, "read_text", lambda path, **how: read(path, **how) + "#" * (path.name == changed))
    assert described() != before


def test_views_depend_on_policy_type_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    blur, read = load_policy(["blur"]), Path.read_text
    before = view_description(blur, "float32")
    assert before == view_description(load_policy(["blur"]), "float32")
    assert before != view_description(blur, "float16")
    assert before != view_description(load_policy(["noise"]), "float32")
    monkeypatch.setattr(Path, "read_text", lambda path, **how: read(path, **how) + "#" * (path.name == "table.py"))
    assert before != view_description(blur, "float32")


def test_a_key_depends_on_content_policy_and_seed() -> None:
    blur, noise = load_policy(["blur"]), load_policy(["noise"])
    contents, seeds = ["a", "b"], np.array([[1, 2], [3, 4]])
    plain = row_keys(contents)
    views = view_keys(contents, blur, seeds)
    assert views.shape == (2, 2)
    assert len({*plain.tolist(), *views.ravel().tolist()}) == 6
    np.testing.assert_array_equal(row_keys(contents), plain)
    np.testing.assert_array_equal(view_keys(contents, blur, seeds), views)
    assert not set(view_keys(contents, noise, seeds).ravel()) & set(views.ravel())
    assert view_keys(contents, blur, np.empty((0, 2), np.int64)).shape == (0, 2)
    assert row_keys([]).shape == (0,)
