"""The optimizer of both phases: Adam with warm-up, cosine decay and a rate of its own for each variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from pipeline.config import FineTuneConfig, HeadPhaseConfig


class LayerwiseAdam(keras.optimizers.Adam):
    """Adam whose learning rate is multiplied, and whose decoupled weight decay is chosen, variable by variable.

    Scaling gradients would not do: Adam divides their scale out again. Keras' own weight decay would not either: it
    goes by the optimizer's one rate, and so would pull slow variables down many times harder than they learn.

    Args:
        multipliers: One factor for each trainable variable, in the model's order.
        decays: Likewise, the share of a variable's value that a step at rate 1 takes away.
        **settings: As of `keras.optimizers.Adam`.
    """

    def __init__(self, multipliers: Sequence[float], decays: Sequence[float], **settings: Any) -> None:
        super().__init__(**settings)
        self._multipliers, self._decays = tuple(multipliers), tuple(decays)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Applies one gradient to one variable."""
        index = self._get_variable_index(variable)
        rate = keras.ops.cast(learning_rate, variable.dtype) * self._multipliers[index]
        if self._decays[index]:
            self.assign_sub(variable, variable * rate * self._decays[index])
        super().update_step(gradient, variable, rate)


def build_optimizer(
    phase: HeadPhaseConfig | FineTuneConfig, model: keras.Model, multipliers: Sequence[float], *,
    steps_per_epoch: int, ema: float,
) -> LayerwiseAdam:  # fmt: skip
    """Returns the optimizer of a phase; weight decay spares biases and BatchNorm."""
    spared = ("bias", "gamma", "beta")
    decays = [0.0 if variable.name in spared else phase.weight_decay for variable in model.trainable_variables]
    schedule = _schedule(phase, steps_per_epoch)
    return LayerwiseAdam(multipliers, decays, learning_rate=schedule, use_ema=ema > 0, ema_momentum=ema or 0.99)


def _schedule(phase: HeadPhaseConfig | FineTuneConfig, steps_per_epoch: int) -> keras.optimizers.schedules.CosineDecay:
    warmup = round(min(phase.warmup_epochs, phase.epochs - 1) * steps_per_epoch)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else phase.learning_rate,
        warmup_target=phase.learning_rate if warmup else None,
        warmup_steps=warmup,
        decay_steps=phase.epochs * steps_per_epoch - warmup,
    )


def rate_multipliers(
    model: keras.Model, trained_backbone: Sequence[keras.layers.Layer], rate_at_cut: float
) -> list[float]:
    """Returns a factor for each trainable variable of `model`, in its order.

    The head has 1; the trained layers of the backbone rise geometrically from `rate_at_cut` at the cut towards 1
    (Howard and Ruder 2018, "discriminative fine-tuning").
    """
    with_weights = [layer for layer in trained_backbone if layer.trainable_variables]
    factors: dict[int, float] = {}
    for place, layer in enumerate(with_weights):
        factor = rate_at_cut ** (1 - place / len(with_weights))
        factors |= {id(variable): factor for variable in layer.trainable_variables}
    return [factors.get(id(variable), 1.0) for variable in model.trainable_variables]
