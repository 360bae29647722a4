"""The optimizer of both phases: Adam with warm-up, cosine decay and a rate of its own for each variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from pipeline.config import FineTuneConfig, HeadPhaseConfig


class LayerwiseAdam(keras.optimizers.Adam):
    """Adam whose learning rate is multiplied, variable by variable.

    Scaling gradients would not do: Adam divides their scale out again.

    Args:
        multipliers: One factor for each trainable variable, in the model's order.
        **settings: As of `keras.optimizers.Adam`.
    """

    def __init__(self, multipliers: Sequence[float], **settings: Any) -> None:
        super().__init__(**settings)
        self._multipliers = tuple(multipliers)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Applies one gradient to one variable."""
        factor = self._multipliers[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)


def build_optimizer(
    phase: HeadPhaseConfig | FineTuneConfig, multipliers: Sequence[float], *, steps_per_epoch: int, ema: float
) -> LayerwiseAdam:
    """Returns the optimizer of a phase; weight decay is decoupled and spares biases and BatchNorm."""
    optimizer = LayerwiseAdam(
        multipliers,
        learning_rate=_schedule(phase, steps_per_epoch),
        weight_decay=phase.weight_decay or None,
        use_ema=ema > 0,
        ema_momentum=ema or 0.99,
    )
    if phase.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


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
