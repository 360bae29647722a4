"""Hostile files of weights and networks: each is refused with a line, and nothing of theirs runs or is allocated."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.models.backbones import find_backbone
from pipeline.models.model_file import open_arrays, require_harmless_network
from pipeline.models.weights import load_weights
from pipeline.trained import load_trained
from pipeline.workdir import RunDir

# Keras saves variables so.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CONVNET, SIZE = find_backbone("convnet"), (8, 8)
SECRET = "secret.h5"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good files of a network, and one beside them that is nobody's business."""
    folder = tmp_path_factory.mktemp("good")
    model = CONVNET.build(SIZE)
    model.save(folder / "model.keras")
    model.save_weights(folder / "w.weights.h5")
    with h5py.File(folder / SECRET, "w") as file:
        file["numbers"] = np.full((5, 5, 1, 32), 7, np.float32)
    return folder


Attack = Callable[[h5py.File, str, Path], None]


def external_link(file: h5py.File, name: str, folder: Path) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(str(folder / SECRET), "/numbers")


def external_link_to_a_group(file: h5py.File, name: str, folder: Path) -> None:
    del file[name]
    file["elsewhere"] = h5py.ExternalLink(str(folder / SECRET), "/")


def soft_link(file: h5py.File, name: str, folder: Path) -> None:
    file["again"] = h5py.SoftLink(f"/{name}")


def external_storage(file: h5py.File, name: str, folder: Path) -> None:
    dataset = file[name]
    shape, dtype = dataset.shape, dataset.dtype
    del file[name]
    file.create_dataset(name, shape, dtype, external=[(str(folder / SECRET), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, name: str, folder: Path) -> None:
    shape = file[name].shape
    del file[name]
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[:] = h5py.VirtualSource(str(folder / SECRET), "numbers", shape=shape)
    file.create_virtual_dataset(name, layout)


def shape_without_numbers(file: h5py.File, name: str, folder: Path) -> None:
    shape, dtype = (10**6, 10**6), file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, chunks=(1000, 1000), compression="gzip")


ATTACKS = {
    "external_link": (external_link, "link"),
    "external_link_to_a_group": (external_link_to_a_group, "link"),
    "soft_link": (soft_link, "link"),
    "external_storage": (external_storage, "another file"),
    "virtual": (virtual, "another file"),
    "shape_without_numbers": (shape_without_numbers, "hardly any numbers"),
}


def first_array(file: h5py.File) -> str:
    """The name of the first kernel."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return next(name for name in names if file[name].ndim == 4)


def save_legacy(good: Path, path: Path) -> None:
    """The layout of Keras 2, in which a hostile file is not looked at by Keras."""
    model = keras.models.load_model(good / "model.keras", compile=False)
    with h5py.File(path, "w") as file:
        layers = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [weight.name.encode() for weight in layer.weights]
            for weight in layer.weights:
                group[weight.name] = weight.numpy()


def rewrite(archive: Path, **members: Callable[[bytes], bytes]) -> None:
    """Changes members of a `.keras` file; "__" stands for a dot in their names."""
    changed = {name.replace("__", "."): change for name, change in members.items()}
    with zipfile.ZipFile(archive) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in contents.items():
            new.writestr(name, changed.get(name, bytes)(content))


def attacked(good: Path, folder: Path, suffix: str, attack: Attack) -> Path:
    """A file of weights with something planted in it."""
    shutil.copy(good / SECRET, folder)
    arrays = folder / "model.weights.h5"
    if suffix == ".h5":
        save_legacy(good, arrays)
    elif suffix == ".weights.h5":
        shutil.copy(good / "w.weights.h5", arrays)
    else:
        with zipfile.ZipFile(good / "model.keras") as archive:
            archive.extract(arrays.name, folder)
    with h5py.File(arrays, "r+") as file:
        attack(file, first_array(file), folder)
    target = folder / f"attacked{suffix}"
    if suffix == ".keras":
        shutil.copy(good / "model.keras", target)
        rewrite(target, model__weights__h5=lambda _: arrays.read_bytes())
    else:
        shutil.copy(arrays, target)
    return target


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize("name", ATTACKS)
def test_what_reaches_out_of_a_weights_file_is_refused(suffix: str, name: str, good: Path, tmp_path: Path) -> None:
    attack, reason = ATTACKS[name]
    path = attacked(good, tmp_path, suffix, attack)
    with pytest.raises(ModelError, match=reason) as error:
        load_weights(CONVNET.build(SIZE), CONVNET, path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_run_with_such_a_network_is_refused(name: str, good: Path, tmp_path: Path) -> None:
    attack, reason = ATTACKS[name]
    path = attacked(good, tmp_path, ".keras", attack)
    with pytest.raises(ModelError, match=f"{reason}.*run the stage train again"):
        load_trained(RunDir(_as_run(path, tmp_path)))


def _as_run(archive: Path, folder: Path) -> Path:
    run = folder / "run"
    run.mkdir(exist_ok=True)
    shutil.copy(archive, RunDir(run).model)
    return run


@pytest.mark.parametrize("levels", [4, 40])
def test_groups_that_hold_each_other_are_walked_once(levels: int, tmp_path: Path) -> None:
    """Each of 40 groups holds the next one twice: 2 ** 40 ways to walk, one array."""
    with h5py.File(tmp_path / "w.h5", "w") as file:
        group = file
        for _ in range(levels):
            inner = group.create_group("a")
            group["b"] = inner
            group = inner
        group["numbers"] = np.zeros(3)
        group["up"] = file["/"]
    with open_arrays(tmp_path / "w.h5") as file:
        assert len(file) == 2


def change_config(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        config = json.loads(content)
        change(config)
        return json.dumps(config).encode()

    return changed


def a_billion_filters(config: Any) -> None:
    last = [layer for layer in config["config"]["layers"] if layer["class_name"] == "Conv2D"][-1]
    last["config"]["filters"] = 10**9


def code(config: Any) -> None:
    layer = config["config"]["layers"][-1]
    layer["class_name"] = "Lambda"
    layer["config"] = {
        "name": layer["config"]["name"],
        "function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None, "closure": None}},
    }


def a_class_of_another_module(config: Any) -> None:
    config["config"]["layers"][-1] |= {"module": "subprocess", "class_name": "Popen", "registered_name": None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (a_billion_filters, "parameters"),
        (code, "[Ll]ambda|arbitrary code"),
        (a_class_of_another_module, "deserialized"),
    ],
)
def test_a_network_that_is_no_network(change: Callable[[Any], None], reason: str, good: Path, tmp_path: Path) -> None:
    run = _as_run(good / "model.keras", tmp_path)
    rewrite(RunDir(run).model, config__json=change_config(change))
    with pytest.raises(ModelError, match=reason) as error:
        load_trained(RunDir(run))
    assert "\n" not in str(error.value)


def test_what_was_counted_is_not_made_later(good: Path, tmp_path: Path) -> None:
    """Keras makes what is yet to be made when it next leaves such a scope, as whenever it infers a shape."""
    run = _as_run(good / "model.keras", tmp_path)
    rewrite(RunDir(run).model, config__json=change_config(a_billion_filters))
    with pytest.raises(ModelError, match="parameters"):
        load_trained(RunDir(run))
    require_harmless_network(good / "model.keras")
    with keras.StatelessScope():
        layer = keras.layers.Dense(3)
        layer.build((None, 2))
    assert layer.kernel.numpy().shape == (2, 3)


@pytest.mark.parametrize("content", [b"[" * 10_000, b" " * (2**25 + 1), b"{}", b"null", b"\xff"])
def test_a_description_that_is_none(content: bytes, good: Path, tmp_path: Path) -> None:
    run = _as_run(good / "model.keras", tmp_path)
    rewrite(RunDir(run).model, config__json=lambda _: content)
    with pytest.raises(ModelError, match="run the stage train again") as error:
        load_trained(RunDir(run))
    assert "\n" not in str(error.value)


def test_a_member_that_would_lie_outside_is_not_written(good: Path, tmp_path: Path) -> None:
    run = _as_run(good / "model.keras", tmp_path)
    with zipfile.ZipFile(RunDir(run).model, "a") as archive:
        archive.writestr("../../planted.txt", "planted")
        archive.writestr("assets/../../planted.txt", "planted")
    with pytest.raises(ModelError):
        load_trained(RunDir(run))
    assert not list(tmp_path.parent.rglob("planted.txt"))


def test_a_good_network_is_taken(good: Path, tmp_path: Path) -> None:
    require_harmless_network(good / "model.keras")
    loaded = load_trained(RunDir(_as_run(good / "model.keras", tmp_path)))
    assert loaded.count_params() == CONVNET.build(SIZE).count_params()
