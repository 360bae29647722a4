from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.augment.policy import Policy, load_policy
from pipeline.errors import DataError, ModelError
from pipeline.files import file_digest, keyed_seed
from pipeline.progress import Silent
from pipeline.train.bank import fill as fill_module
from pipeline.train.bank.features import BankedFeatures, ComputedFeatures, Features, feature_batches, plain_batches
from pipeline.train.bank.fill import Bank, Wanted
from pipeline.train.bank.store import FeatureStore
from pipeline.train.dataset import Images, InputSpec, epoch_order, epoch_views, view_batches

SPEC = InputSpec((6, 6), 3)
NOISE = load_policy([{"noise": {"probability": 1.0}}])


class Said(Silent):
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def make_images(root: Path, numbers: Sequence[int], *, view_seed: int = 0) -> Images:
    """Images that tell their number by their colour."""
    root.mkdir(exist_ok=True)
    paths = [root / f"{number}.png" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        if not path.exists():
            Image.new("RGB", (6, 6), (number * 3 % 256, 100, 200)).save(path)
    contents = [file_digest(path) for path in paths]
    seeds = np.array([keyed_seed(view_seed, content) for content in contents])
    targets = np.eye(4, dtype=np.float32)[np.array(numbers) % 4]
    return Images([str(path) for path in paths], contents, seeds, targets, np.arange(1, 5, dtype=np.float32))


def make_trunk(scale: float = 1.0) -> keras.Model:
    """A frozen network with BatchNorm and dropout; one feature grows beyond float16 with `scale`."""
    x = inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(1))(x)
    x = keras.layers.Dropout(0.5, seed=0)(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.Rescaling(scale)(keras.layers.GlobalAveragePooling2D()(x)))


class Counted:
    """A bank in a folder, opened anew for each call as a new process would, that counts what passes the trunk."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.said, self.passes = FeatureStore(root / "features"), Said(), 0
        forward = fill_module.padded_forward

        def counting(network: keras.Model, batch_size: int) -> Callable[[tf.Tensor], np.ndarray]:
            pass_on = forward(network, batch_size)

            def count(pixels: tf.Tensor) -> np.ndarray:
                self.passes += int(tf.reduce_any(pixels > 0, axis=[1, 2, 3]).numpy().sum())  # the blank ones measure
                return pass_on(pixels)

            return count

        monkeypatch.setattr(fill_module, "padded_forward", counting)

    def open(
        self, *wanted: Wanted, trunk: keras.Model | None = None, policy: Policy = NOISE, batch_size: int = 4,
        dtype: str = "float32", spec: InputSpec = SPEC,
    ) -> list[Any]:  # fmt: skip
        """Opens sets; `self.passes` is what that took."""
        bank = Bank(
            self.store, trunk or make_trunk(), spec, policy, batch_size=batch_size, dtype=dtype, title="net to cut"
        )
        self.passes = 0
        found = bank.open(wanted, self.said, "features")
        assert bank.forward_passes == self.passes
        return found


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(tmp_path, monkeypatch)


def values(features: BankedFeatures) -> np.ndarray:
    """Returns `(1 + K, N, ...)`."""
    views, images = np.mgrid[: 1 + len(features.view_places), : len(features.images)]
    return features.take(images.ravel(), views.ravel()).reshape(*views.shape, -1)


def test_a_row_is_the_trunks_answer_for_that_view_of_that_image(bank: Counted, tmp_path: Path) -> None:
    images, trunk = make_images(tmp_path / "p", range(11)), make_trunk()
    train, validation = bank.open(Wanted(images, 3), Wanted(make_images(tmp_path / "p", [20, 21])))
    assert bank.passes == 11 * 4 + 2
    found = values(train)
    for view in range(4):
        pixels = np.concatenate(list(view_batches(images, SPEC, NOISE, view, 5)))
        np.testing.assert_allclose(found[view], trunk(pixels, training=False), atol=1e-4)
    assert not np.allclose(found[1], found[2])
    assert values(validation).shape == (1, 2, 4)


# Never stale, always incremental.


def test_a_second_run_computes_nothing(bank: Counted, tmp_path: Path) -> None:
    wanted = Wanted(make_images(tmp_path / "p", range(7)), 2)
    (first,) = bank.open(wanted)
    (second,) = bank.open(wanted)
    assert bank.passes == 0
    np.testing.assert_array_equal(values(first), values(second))
    assert "21 forward passes" in bank.said.lines[0]
    assert "0 forward passes, the bank has them all" in bank.said.lines[1]


def test_new_images_alone_are_computed_and_give_what_a_fresh_bank_gives(bank: Counted, tmp_path: Path) -> None:
    bank.open(Wanted(make_images(tmp_path / "p", range(8)), 2))
    grown = Wanted(make_images(tmp_path / "p", [30, *range(4), 31, *range(4, 8), *range(32, 40)]), 2)
    (train,) = bank.open(grown)
    assert bank.passes == 10 * 3
    bank.store = FeatureStore(tmp_path / "fresh")
    (fresh,) = bank.open(grown)
    assert bank.passes == 18 * 3
    np.testing.assert_array_equal(values(train), values(fresh))  # to the last bit, in other batches


def test_a_changed_split_costs_the_views_of_images_new_to_train(bank: Counted, tmp_path: Path) -> None:
    both = [make_images(tmp_path / "p", numbers) for numbers in (range(8), range(8, 12))]
    bank.open(Wanted(both[0], 2), Wanted(both[1]))
    moved = [make_images(tmp_path / "p", numbers) for numbers in (range(3, 11), [0, 1, 2, 11])]
    bank.open(Wanted(moved[0], 2), Wanted(moved[1]))
    assert bank.passes == 3 * 2


def test_more_views_cost_the_new_ones(bank: Counted, tmp_path: Path) -> None:
    images = make_images(tmp_path / "p", range(5))
    bank.open(Wanted(images, 1))
    bank.open(Wanted(images, 4))
    assert bank.passes == 5 * 3
    bank.open(Wanted(images, 0))
    assert bank.passes == 0


def test_another_policy_costs_the_augmented_views(bank: Counted, tmp_path: Path) -> None:
    wanted = Wanted(make_images(tmp_path / "p", range(5)), 2)
    (noisy,) = bank.open(wanted)
    (blurred,) = bank.open(wanted, policy=load_policy([{"noise": {"probability": 1.0, "sigma": 0.3}}]))
    assert bank.passes == 5 * 2
    np.testing.assert_array_equal(values(noisy)[0], values(blurred)[0])
    assert not np.allclose(values(noisy)[1:], values(blurred)[1:])
    reseeded = make_images(tmp_path / "p", range(5), view_seed=1)
    bank.open(Wanted(reseeded, 2))
    assert bank.passes == 5 * 2


@pytest.mark.parametrize("change", ["weights", "batch", "resize", "size"])
def test_another_trunk_or_other_pixels_cost_everything(bank: Counted, tmp_path: Path, change: str) -> None:
    images, options = make_images(tmp_path / "p", range(5)), {}
    bank.open(Wanted(images, 1))
    if change == "weights":
        trunk = make_trunk()
        trunk.layers[1].bias.assign([0.0, 0.0, 0.0, 1e-3])
        options = {"trunk": trunk}
    elif change == "batch":
        options = {"batch_size": 8}
    elif change == "resize":
        options = {"spec": InputSpec((6, 6), 3, "pad")}
    else:
        options = {"spec": InputSpec((6, 6), 1), "trunk": _gray()}
    bank.open(Wanted(images, 1), **options)
    assert bank.passes == 10


def _gray() -> keras.Model:
    inputs = keras.Input((6, 6, 1))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))


def test_labels_and_their_weights_do_not_matter(bank: Counted, tmp_path: Path) -> None:
    images = make_images(tmp_path / "p", range(5))
    bank.open(Wanted(images, 1))
    targets = np.roll(images.targets, 1, axis=1)
    relabelled = Images(images.paths, images.contents, images.seeds, targets, images.weights[::-1])
    (train,) = bank.open(Wanted(relabelled, 1))
    assert bank.passes == 0
    np.testing.assert_array_equal(next(train.epochs(0, range(1), 5))[1], targets[epoch_order(5, 0, tf.constant(0))])


def test_images_of_equal_bytes_are_computed_once(bank: Counted, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    images = make_images(tmp_path / "p", [1, 257])  # 3 and 771, the same colour modulo 256
    assert images.contents[0] == images.contents[1]
    (train,) = bank.open(Wanted(images, 2))
    assert bank.passes == 3
    np.testing.assert_array_equal(values(train)[:, 0], values(train)[:, 1])


def test_a_moved_file_is_known_by_its_bytes(bank: Counted, tmp_path: Path) -> None:
    bank.open(Wanted(make_images(tmp_path / "p", range(5)), 1))
    (tmp_path / "p").rename(tmp_path / "q")
    bank.open(Wanted(make_images(tmp_path / "q", range(5)), 1))
    assert bank.passes == 0


@pytest.mark.parametrize("fault", ["changed", "gone"])
def test_a_file_that_changed_since_ingest_never_gets_a_row(bank: Counted, tmp_path: Path, fault: str) -> None:
    images = make_images(tmp_path / "p", range(5))
    changed = Path(images.paths[2])
    Image.new("RGB", (6, 6), (9, 9, 9)).save(changed) if fault == "changed" else changed.unlink()
    with pytest.raises((DataError, tf.errors.NotFoundError)):
        bank.open(Wanted(images, 1))
    Image.new("RGB", (6, 6), (6, 100, 200)).save(changed)
    (train,) = bank.open(Wanted(images, 1))
    pixels = np.concatenate(list(view_batches(images, SPEC, NOISE, 0, 5)))
    np.testing.assert_allclose(values(train)[0], make_trunk()(pixels, training=False), atol=1e-4)


def test_damage_on_the_disk_is_computed_again(bank: Counted, tmp_path: Path) -> None:
    wanted = Wanted(make_images(tmp_path / "p", range(6)), 1)
    (before,) = bank.open(wanted)
    expected = values(before)
    for path in bank.store.root.glob("*/*.rows"):
        contents = bytearray(path.read_bytes())
        contents[20] ^= 1
        path.unlink()  # what is mapped stays as it is
        path.write_bytes(contents)
    (after,) = bank.open(wanted)
    assert bank.passes == 2
    np.testing.assert_array_equal(values(after), expected)
    bank.open(wanted)
    assert bank.passes == 0


# Types and budget.


def test_float16_is_for_augmented_views_alone(bank: Counted, tmp_path: Path) -> None:
    images = make_images(tmp_path / "p", range(6))
    (exact,) = bank.open(Wanted(images, 2))
    (half,) = bank.open(Wanted(images, 2), dtype="float16")
    assert bank.passes == 12
    np.testing.assert_array_equal(values(half)[0], values(exact)[0])
    np.testing.assert_array_equal(values(half)[1:], values(exact)[1:].astype(np.float16))


def test_a_feature_beyond_float16_is_an_error_and_not_infinity(bank: Counted, tmp_path: Path) -> None:
    wanted = Wanted(make_images(tmp_path / "p", range(3)), 1)
    with pytest.raises(ModelError, match=r"train\.bank\.dtype=float32"):
        bank.open(wanted, dtype="float16", trunk=make_trunk(1e5))
    bank.open(wanted, trunk=make_trunk(1e5))


def test_what_does_not_fit_is_computed_live_to_the_same_rows(bank: Counted, tmp_path: Path) -> None:
    images = make_images(tmp_path / "p", range(10))
    banked: Features = bank.open(Wanted(images, 2))[0]
    bank.store = FeatureStore(tmp_path / "small", budget=100)
    live = bank.open(Wanted(images, 2))[0]
    assert isinstance(live, ComputedFeatures)
    assert isinstance(banked, BankedFeatures)
    assert "live, since" in bank.said.lines[-1]
    assert "train.bank.budget_gb" in bank.said.lines[-1]
    assert not (tmp_path / "small").exists()
    for one, other in zip(banked.epochs(5, range(2, 4), 6), live.epochs(5, range(2, 4), 6), strict=True):
        for mine, its in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, its)
    assert bank.passes == 20
    np.testing.assert_array_equal(np.concatenate(list(live.plain())), np.concatenate(list(banked.plain())))
    for features in (banked, live):
        data = list(plain_batches(features, (4,)))
        np.testing.assert_array_equal(np.concatenate([part[1] for part in data]), images.targets)
        assert len(data) == plain_batches(features, (4,)).cardinality().numpy()


def test_a_warm_bank_is_used_whatever_the_budget(bank: Counted, tmp_path: Path) -> None:
    wanted = Wanted(make_images(tmp_path / "p", range(10)), 1)
    bank.open(wanted)
    bank.store = FeatureStore(bank.store.root, budget=10)
    (found,) = bank.open(wanted)
    assert isinstance(found, BankedFeatures)
    assert bank.passes == 0


def test_views_of_other_seeds_go_when_they_are_too_many(bank: Counted, tmp_path: Path) -> None:
    bank.store = FeatureStore(bank.store.root, budget=1500)
    for seed in range(6):
        bank.store = FeatureStore(bank.store.root, budget=1500)  # of another run
        (found,) = bank.open(Wanted(make_images(tmp_path / "p", range(10), view_seed=seed), 1))
        assert isinstance(found, BankedFeatures)
        assert bank.store.used() <= 1500


def test_what_is_used_is_used_last(bank: Counted, tmp_path: Path) -> None:
    wanted = Wanted(make_images(tmp_path / "p", range(5)))
    bank.open(wanted)
    (index,) = bank.store.root.glob("*/*.index")
    os.utime(index, (1000, 1000))
    bank.open(wanted)
    assert index.stat().st_mtime > 1000


def test_names_do_not_part_what_is_equal(bank: Counted, tmp_path: Path) -> None:
    wanted = Wanted(make_images(tmp_path / "p", range(5)))
    bank.open(wanted)
    other = Bank(bank.store, make_trunk(), SPEC, NOISE, batch_size=4, dtype="float32", title="net to add_26")
    other.open([wanted], Silent(), "features")
    assert other.forward_passes == 0


def test_old_features_make_room_for_new_ones(bank: Counted, tmp_path: Path) -> None:
    bank.store = FeatureStore(tmp_path / "features", budget=1200)
    first, second = (Wanted(make_images(tmp_path / "p", numbers), 1) for numbers in (range(10), range(10, 20)))
    bank.open(first)
    assert 320 < bank.store.used() < 1200
    bank.store = FeatureStore(tmp_path / "features", budget=1200)  # of another run: its own it keeps
    bank.open(second, trunk=make_trunk(2.0))
    assert bank.passes == 20
    assert bank.store.used() <= 1200
    bank.store = FeatureStore(tmp_path / "features", budget=1200)
    bank.open(first)
    assert bank.passes == 20  # they had to go


# Order and views.


def test_an_epoch_takes_one_view_of_each_image(bank: Counted, tmp_path: Path) -> None:
    images = make_images(tmp_path / "p", range(5))
    (train,) = bank.open(Wanted(images, 3))
    all_views, seen = values(train), []
    for epoch in range(40):
        batches = list(feature_batches(train, (4,), seed=3, epochs=range(epoch, epoch + 1), batch_size=2))
        assert [len(batch[0]) for batch in batches] == [2, 2, 1]
        features, targets, weights = (np.concatenate(part) for part in zip(*batches, strict=True))
        order = epoch_order(5, 3, tf.constant(epoch)).numpy()
        views = epoch_views(5, 3, tf.constant(epoch), 3).numpy()[order]
        np.testing.assert_array_equal(features, all_views[views, order])
        np.testing.assert_array_equal(targets, images.targets[order])
        np.testing.assert_allclose(weights, images.targets[order] @ images.weights)
        seen += views.tolist()
    assert (np.bincount(seen, minlength=4) > 30).all()  # of 200, each of four views by chance 50


# Faults.


def test_a_run_that_broke_off_goes_on_where_it_was(
    bank: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill_module, "CHUNK_ROWS", 8)
    wanted = Wanted(make_images(tmp_path / "p", range(20)), 1)

    class Interrupted(Said):
        done = 0

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.done += steps
            if self.done >= 24:
                raise KeyboardInterrupt

    said, bank.said = bank.said, Interrupted()
    with pytest.raises(KeyboardInterrupt):
        bank.open(wanted)
    bank.said = said
    (train,) = bank.open(wanted)
    assert bank.passes == 40 - 24
    bank.store = FeatureStore(tmp_path / "fresh")
    (fresh,) = bank.open(wanted)
    np.testing.assert_array_equal(values(train), values(fresh))


def test_a_bank_that_is_deleted_while_it_is_filled_is_an_error(bank: Counted, tmp_path: Path) -> None:
    class Deleting(Said):
        def advance(self, steps: int = 1, note: str = "") -> None:
            shutil.rmtree(bank.store.root, ignore_errors=True)

    bank.said = Deleting()
    with pytest.raises(DataError, match="vanished"):
        bank.open(Wanted(make_images(tmp_path / "p", range(9)), 1))


def test_a_process_that_finds_another_at_it_waits_and_takes_its_rows(
    bank: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Wanted(make_images(tmp_path / "p", range(9)), 1)
    find, other = Bank._find, Counted.open
    done: list[int] = []

    def overtaken(self: Bank, keys: Any, before: Any = None) -> Any:
        found = find(self, keys, before)
        if not done:  # after the first look, another process fills the bank
            done.append(1)
            other(bank, wanted)
            bank.passes = 0
        return found

    monkeypatch.setattr(Bank, "_find", overtaken)
    late = Bank(bank.store, make_trunk(), SPEC, NOISE, batch_size=4, dtype="float32", title="net to cut")
    (train,) = late.open([wanted], bank.said, "features")
    assert late.forward_passes == 0
    assert values(train).shape == (2, 9, 4)


#: Fills a bank of 160 rows and is ended by the system at a random moment, as kill -9 would.
KILLED = """
    import signal, sys
    import numpy as np
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    import test_fill as these
    from pipeline.train.bank import fill as module

    root, seed = Path(sys.argv[2]), int(sys.argv[3])
    module.CHUNK_ROWS = 8
    bank = these.Bank(
        these.FeatureStore(root / "features"), these.make_trunk(), these.SPEC, these.NOISE,
        batch_size=4, dtype="float32", title="net to cut",
    )
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if seed >= 0:
        signal.setitimer(signal.ITIMER_REAL, np.random.default_rng(seed).uniform(0.0, 0.6))
    numbers = range(80) if seed >= -1 else range(79, -1, -1)
    (train,) = bank.open([these.Wanted(these.make_images(root / "p", numbers), 1)], these.Silent(), "features")
    pixels = np.concatenate(list(these.view_batches(train.images, these.SPEC, these.NOISE, 1, 8)))
    np.testing.assert_allclose(these.values(train)[1], these.make_trunk()(pixels, training=False), atol=1e-4)
"""


@pytest.mark.slow
def test_twenty_killed_extractions_leave_the_bank_of_one_that_lived(tmp_path: Path) -> None:
    make_images(tmp_path / "p", range(80))
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(Path(__file__).parent)]
    codes = [subprocess.run([*script, str(tmp_path), str(seed)], check=False).returncode for seed in range(20)]
    assert codes.count(-14) >= 10, codes
    subprocess.run([*script, str(tmp_path), "-1"], check=True)
    (tmp_path / "whole").mkdir()
    (tmp_path / "p").rename(tmp_path / "whole" / "p")
    subprocess.run([*script, str(tmp_path / "whole"), "-1"], check=True)
    killed, whole = (
        {path.parent.name: path.read_bytes() for path in root.glob("features/*/*.rows")}
        for root in (tmp_path, tmp_path / "whole")
    )
    assert len(whole) == 2
    assert killed == whole


@pytest.mark.slow
def test_two_processes_fill_one_bank(tmp_path: Path) -> None:
    make_images(tmp_path / "p", range(80))
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(Path(__file__).parent), str(tmp_path)]
    both = [subprocess.Popen([*script, seed]) for seed in ("-1", "-2")]  # one from the first image, one from the last
    assert [one.wait() for one in both] == [0, 0]
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("features/*/*.rows"))
    assert sizes == [80 * 16, 80 * 16]
