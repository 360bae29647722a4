from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.augment.policy import Policy, load_policy
from pipeline.config import Resize
from pipeline.errors import DataError
from pipeline.files import file_digest
from pipeline.progress import Silent
from pipeline.train.dataset import (
    Images,
    InputSpec,
    check_unchanged,
    chosen_batches,
    decode_in_memory,
    epoch_order,
    epoch_views,
    live_batches,
    naming_bad_images,
    view_batches,
    view_seeds,
)

SPEC = InputSpec((6, 8), 3)
NOISY = load_policy([{"shift": {"pixels": 2, "probability": 1.0}}, {"noise": {"probability": 1.0}}])


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """Seven images that tell their number by their gray value."""
    for number in range(7):
        Image.new("RGB", (8, 6), (number * 30,) * 3).save(tmp_path / f"{number}.png")
    return Images(
        paths=[str(tmp_path / f"{number}.png") for number in range(7)],
        contents=[file_digest(tmp_path / f"{number}.png") for number in range(7)],
        seeds=np.arange(7, dtype=np.int64) * 1_000_003,
        targets=np.eye(7, dtype=np.float32),
        weights=np.linspace(1, 2, 7, dtype=np.float32),
    )


def epochs(
    images: Images, policy: Policy, *, seed: int = 0, count: int = 3, decoded: tf.Tensor | None = None
) -> list[list[tuple[np.ndarray, ...]]]:
    """Returns the batches of each epoch, cut up by the number of steps an epoch has."""
    steps = -(-len(images) // 3)
    batches = live_batches(images, SPEC, policy, seed=seed, epochs=range(count), batch_size=3, decoded=decoded)
    found = [tuple(part.numpy() for part in batch) for batch in batches]
    assert len(found) == steps * count
    return [found[start : start + steps] for start in range(0, len(found), steps)]


def shown(epoch: list[tuple[np.ndarray, ...]]) -> list[int]:
    return [int(number) for batch in epoch for number in batch[1].argmax(axis=1)]


def test_what_is_decoded_before_gives_the_same_batches(images: Images) -> None:
    decoded = decode_in_memory(images, SPEC, Silent())
    for policy in (Policy(), NOISY):
        for one, other in zip(epochs(images, policy), epochs(images, policy, decoded=decoded), strict=True):
            for batch, same in zip(one, other, strict=True):
                np.testing.assert_equal(same, batch)


def test_files_are_not_read_again_when_their_pixels_are_in_memory(images: Images) -> None:
    decoded = decode_in_memory(images, SPEC, Silent())
    for path in images.paths:
        Path(path).unlink()
    assert len(epochs(images, NOISY, decoded=decoded)) == 3


def test_what_would_fill_the_memory_is_not_decoded_before(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.train.dataset.MEMORY_BYTES", 7 * 6 * 8 * 3 * 4)
    assert decode_in_memory(images, SPEC, Silent()) is not None
    monkeypatch.setattr("pipeline.train.dataset.MEMORY_BYTES", 7 * 6 * 8 * 3 * 4 - 1)
    assert decode_in_memory(images, SPEC, Silent()) is None


def test_an_epoch_shows_each_image_once_and_the_next_in_another_order(images: Images) -> None:
    orders = [shown(epoch) for epoch in epochs(images, Policy())]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert [shown(epoch) for epoch in epochs(images, Policy())] == orders
    assert [shown(epoch) for epoch in epochs(images, Policy(), seed=1)] != orders


def test_batches_can_be_taken_up_at_any_epoch(images: Images) -> None:
    whole = epochs(images, NOISY)
    late = live_batches(images, SPEC, NOISY, seed=0, epochs=range(2, 3), batch_size=3)
    for expected, found in zip(whole[2], late, strict=True):
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_pixels_targets_and_weights_stay_together(images: Images) -> None:
    for pixels, targets, weights in epochs(images, Policy(), count=1)[0]:
        numbers = targets.argmax(axis=1)
        np.testing.assert_array_equal(pixels[:, 0, 0, 0], numbers * 30)
        np.testing.assert_allclose(weights, images.weights[numbers])


def test_a_live_epoch_shows_the_view_of_its_number(images: Images) -> None:
    for number, epoch in enumerate(epochs(images, NOISY)):
        view = np.concatenate(list(view_batches(images, SPEC, NOISY, number + 1, batch_size=4)))
        for pixels, targets, _ in epoch:
            np.testing.assert_array_equal(pixels, view[targets.argmax(axis=1)])


def test_views_are_what_the_policy_makes_of_their_seeds(images: Images) -> None:
    plain = np.concatenate(list(view_batches(images, SPEC, NOISY, 0, batch_size=4)))
    np.testing.assert_array_equal(plain[:, 0, 0, 0], np.arange(7) * 30)
    seeds = view_seeds(tf.constant(images.seeds), tf.constant(2)).numpy()
    expected = NOISY.apply_batch(plain.astype(np.uint8), seeds)
    np.testing.assert_array_equal(np.concatenate(list(view_batches(images, SPEC, NOISY, 2, batch_size=2))), expected)


def test_chosen_views_stand_image_by_image(images: Images) -> None:
    wanted: list[list[int]] = [[0, 3], [], [2], [0], [1, 2, 5], [], [4]]
    found = np.concatenate(list(chosen_batches(images, SPEC, NOISY, wanted, 3)))
    views = {view: np.concatenate(list(view_batches(images, SPEC, NOISY, view, 7))) for view in range(6)}
    expected = [views[view][image] for image, chosen in enumerate(wanted) for view in chosen]
    np.testing.assert_array_equal(found, expected)


def test_live_batches_can_show_the_views_of_a_bank(images: Images) -> None:
    views = {view: np.concatenate(list(view_batches(images, SPEC, NOISY, view, 7))) for view in range(3)}
    seen = set()
    for epoch in range(6):
        shows = epoch_views(7, 3, tf.constant(epoch), 2).numpy()
        batches = live_batches(images, SPEC, NOISY, seed=3, epochs=range(epoch, epoch + 1), batch_size=4, kept=2)
        for pixels, targets, _ in batches:
            for image, number in zip(pixels, targets.numpy().argmax(axis=1), strict=True):
                np.testing.assert_array_equal(image, views[shows[number]][number])
        seen.add(tuple(shows))
    assert len(seen) == 6


@pytest.mark.parametrize("fault", ["changed", "vanished"])
def test_a_file_that_is_not_what_ingest_saw_is_named(images: Images, fault: str) -> None:
    check_unchanged(images, range(7))
    other = Path(images.paths[2])
    other.write_bytes(Path(images.paths[3]).read_bytes()) if fault == "changed" else other.unlink()
    check_unchanged(images, [0, 1, 3])
    with pytest.raises(DataError, match=r"2\.png is not what it was at ingest"):
        check_unchanged(images, range(7))


@pytest.mark.parametrize("fault", ["damaged", "vanished"])
def test_the_image_that_cannot_be_read_is_named(images: Images, fault: str) -> None:
    bad = Path(images.paths[4])
    bad.write_bytes(bad.read_bytes()[:40]) if fault == "damaged" else bad.unlink()
    with pytest.raises(DataError, match=r"4\.png"), naming_bad_images(images.paths):
        list(view_batches(images, SPEC, Policy(), 0, 3))


def test_view_seeds_do_not_collide() -> None:
    roots = tf.constant(np.random.default_rng(0).integers(0, 2**63, 500))
    seeds = np.stack([view_seeds(roots, tf.constant(view)) for view in range(100)])
    assert len(np.unique(seeds)) == seeds.size
    assert seeds.min() >= 0


def test_epoch_order_is_a_permutation_of_its_own() -> None:
    orders = np.stack([epoch_order(1000, 5, tf.constant(epoch)) for epoch in range(3)])
    np.testing.assert_array_equal(np.sort(orders), np.broadcast_to(np.arange(1000), (3, 1000)))
    assert (orders[0] == orders[1]).mean() < 0.02  # two independent orders agree in one place on average


def test_the_spec_says_how_pictures_come_to_size(images: Images) -> None:
    def corners(resize: Resize) -> list[float]:
        batches = view_batches(images, InputSpec((8, 4), 3, resize), Policy(), 0, 3)
        return [float(pixels[0, 0, 0]) for batch in batches for pixels in batch.numpy()]

    grays = [30.0 * number for number in range(7)]
    assert corners("stretch") == pytest.approx(grays)
    assert corners("crop") == pytest.approx(grays)
    assert corners("pad") == [0.0] * 7
