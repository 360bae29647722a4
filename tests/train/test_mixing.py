from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pipeline.train.mixing import mix_batches

COUNT, SIDE = 64, 16


@pytest.fixture
def batches() -> tf.data.Dataset:
    """Four equal batches: image n is filled with the value n, its target is one-hot, its weight is n."""
    numbers = np.arange(COUNT, dtype=np.float32)
    pixels = np.broadcast_to(numbers[:, None, None, None], (COUNT, SIDE, SIDE, 1)).copy()
    one = (pixels, np.eye(COUNT, dtype=np.float32), numbers)
    return tf.data.Dataset.from_tensors(one).repeat(4)


def mixed(batches: tf.data.Dataset, **how: float) -> list[tuple[np.ndarray, ...]]:
    settings = {"mixup": 0.0, "cutmix": 0.0, "seed": 0} | how
    return [tuple(part.numpy() for part in batch) for batch in mix_batches(batches, **settings)]  # type: ignore[arg-type]


def test_off_means_untouched(batches: tf.data.Dataset) -> None:
    assert mix_batches(batches, mixup=0, cutmix=0, seed=0) is batches


def test_mixup_blends_inputs_targets_and_weights_with_one_share(batches: tf.data.Dataset) -> None:
    pixels, targets, weights = mixed(batches, mixup=1.0)[0]
    expected = targets @ np.arange(COUNT, dtype=np.float32)  # the blend that the targets claim
    np.testing.assert_allclose(pixels[:, 3, 5, 0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    assert (np.count_nonzero(targets > 1e-6, axis=1) == 2).mean() > 0.8


def test_cutmix_shares_targets_by_the_area_pasted(batches: tf.data.Dataset) -> None:
    pixels, targets, _ = mixed(batches, cutmix=1.0)[0]
    own = np.arange(COUNT)
    kept = (pixels[..., 0] == own[:, None, None]).mean(axis=(1, 2))
    partnered = (targets > 1e-6).sum(axis=1) == 2  # not blended with itself, nor by an empty box
    np.testing.assert_allclose(targets[own, own][partnered], kept[partnered], atol=1e-5)
    assert partnered.mean() > 0.7
    for image, target in zip(pixels[partnered], targets[partnered], strict=True):
        assert set(np.unique(image)) == set(np.flatnonzero(target > 1e-6))


def test_mean_share_of_a_symmetric_beta_is_a_half(batches: tf.data.Dataset) -> None:
    shares = np.concatenate([np.diag(targets) for _, targets, _ in mixed(batches, mixup=0.4)])
    assert 0.35 < shares.mean() < 0.68  # 256 draws; a partner that is oneself counts as 1
    assert np.var(shares) > 0.08  # alpha 0.4 prefers the ends: variance 0.139, against 0.083 of a uniform share


def test_both_take_turns_and_repeat_under_their_seed(batches: tf.data.Dataset) -> None:
    first, again = mixed(batches, mixup=1.0, cutmix=1.0), mixed(batches, mixup=1.0, cutmix=1.0)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    whole = [bool((pixels == np.round(pixels)).all()) for pixels, _, _ in first]
    assert whole == [False, True, False, True]  # cutmix makes no new values
    assert not np.array_equal(first[0][0], first[2][0])
    assert not np.array_equal(first[0][0], mixed(batches, mixup=1.0, cutmix=1.0, seed=1)[0][0])
