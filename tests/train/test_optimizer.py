from __future__ import annotations

import keras
import numpy as np
import pytest

from pipeline.config import FineTuneConfig, HeadPhaseConfig
from pipeline.train.optimizer import LayerwiseAdam, build_optimizer, rate_multipliers


def test_a_multiplier_scales_the_step_and_nothing_else() -> None:
    slow, fast, plain = (keras.Variable([1.0, -2.0]) for _ in range(3))
    layerwise, adam = (
        LayerwiseAdam([0.1, 1.0], [0.0, 0.0], learning_rate=0.01),
        keras.optimizers.Adam(learning_rate=0.01),
    )
    for gradient in ([3.0, -1.0], [1.0, 1.0], [-2.0, 5.0]):
        layerwise.apply([np.float32(gradient)] * 2, [slow, fast])
        adam.apply([np.float32(gradient)], [plain])
    start = np.float32([1.0, -2.0])
    np.testing.assert_allclose(fast, plain, rtol=1e-6)
    np.testing.assert_allclose(slow - start, 0.1 * (plain - start), rtol=1e-3)


def test_rates_rise_geometrically_from_the_cut_to_the_head() -> None:
    x = inputs = keras.Input((3,))
    layers = [keras.layers.Dense(3, name=f"dense_{place}") for place in range(4)]
    for layer in layers:
        x = layer(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    found = rate_multipliers(model, layers, 0.0625)
    assert found == pytest.approx([0.0625] * 2 + [0.125] * 2 + [0.25] * 2 + [0.5] * 2 + [1.0] * 2)
    assert rate_multipliers(model, layers, 1.0) == [1.0] * 10


def rates(phase: HeadPhaseConfig | FineTuneConfig, steps: int) -> list[float]:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    optimizer, found = build_optimizer(phase, model, [1.0], steps_per_epoch=steps, ema=0.0), []
    for _ in range(phase.epochs * steps):
        found.append(float(optimizer.learning_rate.numpy()))
        optimizer.apply([np.float32([[0.0]])], model.trainable_variables)
    return found


def test_warmup_is_linear_and_decay_a_cosine_to_nothing() -> None:
    found = rates(HeadPhaseConfig(epochs=5, learning_rate=0.4, warmup_epochs=1), steps=4)
    np.testing.assert_allclose(found[:5], [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-5)
    decay = 0.2 * (1 + np.cos(np.pi * np.arange(16) / 16))
    np.testing.assert_allclose(found[4:], decay, rtol=1e-4)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 1.0), (1, 0.0), (2, 5.0)])
def test_warmup_leaves_an_epoch_at_full_rate(epochs: int, warmup: float) -> None:
    found = rates(HeadPhaseConfig(epochs=epochs, learning_rate=1.0, warmup_epochs=warmup), steps=3)
    assert max(found) == pytest.approx(1.0)
    assert found[-1] < 0.5


def test_weight_decay_goes_by_each_variables_rate_and_spares_biases() -> None:
    layers = [keras.layers.Dense(2, bias_initializer="ones") for _ in range(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    before = model.get_weights()
    phase = HeadPhaseConfig(epochs=2, learning_rate=0.1, warmup_epochs=0, weight_decay=0.5)
    optimizer = build_optimizer(phase, model, [0.2, 0.2, 1.0, 1.0], steps_per_epoch=10, ema=0.0)
    optimizer.apply([np.zeros_like(weights) for weights in before], model.trainable_variables)
    slow, slow_bias, fast, fast_bias = model.get_weights()
    np.testing.assert_allclose(slow, before[0] * (1 - 0.1 * 0.2 * 0.5), rtol=1e-5)
    np.testing.assert_allclose(fast, before[2] * (1 - 0.1 * 0.5), rtol=1e-5)
    np.testing.assert_array_equal([slow_bias, fast_bias], [before[1], before[3]])
