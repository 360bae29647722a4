"""Mixup and cutmix: training on blends of two images."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def mix_batches(batches: tf.data.Dataset, *, mixup: float, cutmix: float, seed: int, first: int = 0) -> tf.data.Dataset:
    """Returns (inputs, targets, weights) with pairs of examples blended; alphas of 0 leave the batches alone.

    Where both are on, batches take turns. The n-th batch is always mixed the same way under one seed; the number
    of the first one that is given is `first`.
    """
    kinds: list[Callable[[Batch, tf.Tensor], Batch]] = []
    if mixup:
        kinds.append(lambda batch, seed: _mixup(batch, mixup, seed))
    if cutmix:
        kinds.append(lambda batch, seed: _cutmix(batch, cutmix, seed))
    if not kinds:
        return batches

    def mix(number: tf.Tensor, batch: Batch) -> Batch:
        key = tf.stack([tf.constant(seed, tf.int64), number])  # each draw adds a constant of its own to `number`
        return tf.switch_case(
            tf.cast(number % len(kinds), tf.int32), [lambda kind=kind: kind(batch, key) for kind in kinds]
        )

    return batches.enumerate(first).map(mix)


def _mixup(batch: Batch, alpha: float, seed: tf.Tensor) -> Batch:
    """Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization": one share an example, of inputs and targets."""
    inputs, targets, weights = batch
    partner = _partners(inputs, seed)
    share = _beta(alpha, tf.shape(inputs)[:1], seed)  # (B,)
    over_inputs = tf.reshape(share, [-1] + [1] * (inputs.shape.rank - 1))
    mixed = over_inputs * inputs + (1 - over_inputs) * tf.gather(inputs, partner)
    return mixed, _blend(targets, partner, share[:, None]), _blend(weights, partner, share)


def _cutmix(batch: Batch, alpha: float, seed: tf.Tensor) -> Batch:
    """Yun et al. 2019, "CutMix": a box of the partner is pasted in, and targets are shared out by area."""
    pixels, targets, weights = batch
    partner = _partners(pixels, seed)
    count, height, width = tf.shape(pixels)[0], tf.shape(pixels)[1], tf.shape(pixels)[2]
    side = tf.sqrt(1 - _beta(alpha, [count], seed))  # (B,) of the box, as a share of the image's
    centre = tf.random.stateless_uniform([2, count], seed + tf.constant([0, 2**40], tf.int64))  # (2, B)

    def inside(length: tf.Tensor, middle: tf.Tensor) -> tf.Tensor:  # (B, length) bool
        where = (tf.range(length, dtype=tf.float32) + 0.5) / tf.cast(length, tf.float32)
        return tf.abs(where[None, :] - middle[:, None]) < side[:, None] / 2

    box = inside(height, centre[0])[:, :, None] & inside(width, centre[1])[:, None, :]  # (B, H, W)
    kept = 1 - tf.reduce_mean(tf.cast(box, tf.float32), axis=[1, 2])  # (B,), of the box as it was clipped
    mixed = tf.where(box[..., None], tf.gather(pixels, partner), pixels)
    return mixed, _blend(targets, partner, kept[:, None]), _blend(weights, partner, kept)


def _blend(values: tf.Tensor, partner: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    return share * values + (1 - share) * tf.gather(values, partner)


def _partners(inputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_shuffle(tf.range(tf.shape(inputs)[0]), seed=seed)


def _beta(alpha: float, shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns samples of Beta(alpha, alpha), made from two gamma variates."""
    first = tf.random.stateless_gamma(shape, seed + tf.constant([0, 2**41], tf.int64), alpha)
    second = tf.random.stateless_gamma(shape, seed + tf.constant([0, 2**42], tf.int64), alpha)
    return first / (first + second)
