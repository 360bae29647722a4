"""The classic ConvNet has the shapes and the size of the tutorial's."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.models.backbones import find_backbone


def test_features_flatten_to_3136() -> None:
    model = find_backbone("convnet").build((28, 28))
    assert model.output_shape == (None, 7, 7, 64)
    assert np.prod(model.output_shape[1:]) == 3136


def test_parameters_with_the_classic_head() -> None:
    row = find_backbone("convnet")
    headless = row.build(row.default_size).count_params()
    hidden = 3136 * row.hidden[0] + row.hidden[0]
    logits = row.hidden[0] * 10 + 10
    assert headless + hidden + logits == row.parameters == 3_199_106


@pytest.mark.parametrize("size", [(8, 8), (9, 31)])
def test_any_size_from_the_smallest(size: tuple[int, int]) -> None:
    model = find_backbone("convnet").build(size)
    features = model(np.zeros((2, *size, 1), np.float32))
    assert features.shape == (2, size[0] // 4, size[1] // 4, 64)
