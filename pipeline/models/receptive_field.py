"""Receptive fields: which pixels of the image a unit of a feature map depends on.

The arithmetic of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019,
walked forward over the graph: windows widen a field by their reach times the stride so far, and where branches meet the
field spans all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import layers

_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
_POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D)

_Pair = tuple[int, int]


@dataclass(frozen=True)
class ReceptiveField:
    """What a unit of a feature map sees. Pairs are (height, width), in pixels of the network's input.

    Attributes:
        size: How many pixels.
        stride: How far apart the fields of neighbouring units lie ("jump", "effective stride").
        start: The first pixel that unit (0, 0) sees; negative where padding comes before the image.
        whole_image: Whether something of the whole image comes in beside, by a gate (squeeze-and-excite). `size` counts
            windows only, since what comes through a gate is the same for every unit.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    start: tuple[int, int]
    whole_image: bool

    def box(self, unit: tuple[int, int], image_size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Returns (top, left, bottom, right) of what a unit sees of an image, the last two exclusive; never empty."""
        first = [start + place * stride for start, place, stride in zip(self.start, unit, self.stride, strict=True)]
        top, left = (min(max(low, 0), side - 1) for low, side in zip(first, image_size, strict=True))
        bottom, right = (min(low + size, side) for low, size, side in zip(first, self.size, image_size, strict=True))
        return top, left, max(bottom, top + 1), max(right, left + 1)


@dataclass(frozen=True)
class _Axis:
    """A field along one axis of a feature map of `length` units.

    Unit `i` sees the pixels from `low + i * stride` to `high + i * stride`, both inclusive.
    """

    length: int
    low: int = 0
    high: int = 0
    stride: int = 1

    def window(self, kernel: int, stride: int, dilation: int, padding: str) -> _Axis:
        """Returns the field behind a window, with the padding that TensorFlow chooses."""
        reach = (kernel - 1) * dilation + 1
        if padding == "same":
            length = -(-self.length // stride)
            before = max((length - 1) * stride + reach - self.length, 0) // 2
        else:
            length, before = (self.length - reach) // stride + 1, 0
        low, high = self.low - before * self.stride, self.high + (reach - 1 - before) * self.stride
        return _Axis(length, low, high, self.stride * stride)

    def pad(self, before: int, after: int) -> _Axis:
        """Returns the field with units added at both ends, or taken away where the numbers are negative."""
        moved = before * self.stride
        return _Axis(self.length + before + after, self.low - moved, self.high - moved, self.stride)

    def span(self, other: _Axis) -> _Axis:
        """Returns the field of a unit that sees what both see."""
        return _Axis(
            max(self.length, other.length), min(self.low, other.low), max(self.high, other.high),
            max(self.stride, other.stride),
        )  # fmt: skip


@dataclass(frozen=True)
class _Field:
    """A field along both axes; `whole_image` as in `ReceptiveField`."""

    rows: _Axis
    columns: _Axis
    whole_image: bool = False

    @property
    def units(self) -> int:
        """How many units the feature map has."""
        return self.rows.length * self.columns.length

    def window(self, kernel: _Pair, stride: _Pair, dilation: _Pair, padding: str) -> _Field:
        """Returns the field behind a window."""
        rows = self.rows.window(kernel[0], stride[0], dilation[0], padding)
        columns = self.columns.window(kernel[1], stride[1], dilation[1], padding)
        return replace(self, rows=rows, columns=columns)

    def pad(self, above: _Pair, beside: _Pair) -> _Field:
        """Returns the field with units added at the ends of both axes."""
        return replace(self, rows=self.rows.pad(*above), columns=self.columns.pad(*beside))

    def public(self) -> ReceptiveField:
        """Returns the field as others take it."""
        rows, columns = self.rows, self.columns
        size = (rows.high - rows.low + 1, columns.high - columns.low + 1)
        return ReceptiveField(size, (rows.stride, columns.stride), (rows.low, columns.low), self.whole_image)


@dataclass(frozen=True)
class _Unplaced:
    """What stands in for a field where there are no places any more; `whole_image` as in `ReceptiveField`."""

    whole_image: bool


_Seen = _Field | _Unplaced


def receptive_fields(network: keras.Model) -> dict[str, ReceptiveField]:
    """Returns the field of each operation of a network, by name, from the input to the output.

    Operations without places, such as those between a global pooling and the gate that it works, are left out. What
    keeps height and width and is no window is taken to work on each unit alone, as activations do, and normalizations
    by stored statistics.

    Args:
        network: One input `(B, H, W, C)` of a fixed size; networks may be nested in it.
    """
    height, width = network.inputs[0].shape[1:3]
    found = _follow(network, _Field(_Axis(height), _Axis(width)))
    return {name: field.public() for name, field in found.values() if isinstance(field, _Field)}


def _follow(network: keras.Model, field: _Field) -> dict[int, tuple[str, _Seen]]:
    """Returns for each tensor of a network the operation that made it and its field.

    Args:
        network: Of one input.
        field: The input's.
    """
    graph = network._functional if isinstance(network, keras.Sequential) else network
    found: dict[int, tuple[str, _Seen]] = {}
    for depth in sorted(graph._nodes_by_depth, reverse=True):  # nodes, not layers: one layer may be used twice
        for node in graph._nodes_by_depth[depth]:
            sources = [found[id(tensor)][1] for tensor in node.input_tensors]
            behind = _behind(node, sources) if sources else field
            found |= {id(tensor): (node.operation.name, behind) for tensor in node.outputs}
    return found


def _behind(node: Any, sources: Sequence[_Seen]) -> _Seen:
    """Returns the field of what an operation gives, from those of what it takes."""
    field = _merge(sources)
    if isinstance(field, _Unplaced):
        return field
    layer = node.operation
    if isinstance(layer, keras.Model):
        inside = layer._functional if isinstance(layer, keras.Sequential) else layer
        return _follow(layer, field)[id(inside.outputs[0])][1]
    if isinstance(layer, _CONVOLUTIONS):
        return field.window(layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
    if isinstance(layer, _POOLINGS):
        return field.window(layer.pool_size, layer.strides, (1, 1), layer.padding)
    if isinstance(layer, layers.ZeroPadding2D):
        return field.pad(*layer.padding)
    if isinstance(layer, layers.Cropping2D):
        return field.pad(*((-first, -last) for first, last in layer.cropping))
    after, before = node.outputs[0].shape, {tensor.shape[1:3] for tensor in node.input_tensors}
    if len(after) == 4 and after[1:3] in before:
        return field
    # Only laid out otherwise, pixels stay apart: AlexNet's normalization works on neighbouring channels in that way.
    return _Unplaced(field.whole_image or type(layer).__name__ != "Reshape")


def _merge(sources: Sequence[_Seen]) -> _Seen:
    """Returns the field of what sees several tensors, one for each unit of the largest; smaller ones are gates."""
    placed = [field for field in sources if isinstance(field, _Field)]
    whole_image = any(field.whole_image for field in sources)
    if not placed:
        return _Unplaced(whole_image)
    most = max(field.units for field in placed)
    merged, *others = [field for field in placed if field.units == most]
    for field in others:
        merged = replace(merged, rows=merged.rows.span(field.rows), columns=merged.columns.span(field.columns))
    return replace(merged, whole_image=whole_image or any(field.units < most for field in placed))
