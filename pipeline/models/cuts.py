"""Cut points: where a backbone can be parted into a frozen trunk and a trained top."""

from __future__ import annotations

import keras

from pipeline.errors import ModelError, nearest

#: Names that `fine_tune.from` takes beside layers, blocks and fractions.
INPUT = "input"


def cut_points(backbone: keras.Model) -> tuple[str, ...]:
    """Returns the layers, from input to output, whose output every path through the network passes.

    Behind such a layer one tensor carries everything, so what is below it can be computed apart from what is above.
    The input itself is not among them.
    """
    operations = backbone.operations  # in topological order
    place = {id(operation): number for number, operation in enumerate(operations)}
    last_use = list(range(len(operations)))
    for number, operation in enumerate(operations):
        for node in operation._inbound_nodes[:1]:  # the call that built the network, not a later one
            for tensor in node.input_tensors:
                source = place[id(tensor._keras_history.operation)]
                last_use[source] = max(last_use[source], number)
    names = []
    furthest = -1  # the last reader of anything that came before
    for number, operation in enumerate(operations):
        if furthest <= number and not isinstance(operation, keras.layers.InputLayer):
            names.append(operation.name)
        furthest = max(furthest, last_use[number])
    return tuple(names)


def resolve_cut(backbone: keras.Model, wanted: str | float) -> str:
    """Returns the name of the last frozen layer, or `"input"` when nothing is to be frozen.

    Args:
        backbone: The network, without scaling and head.
        wanted: A layer (`mixed8`), a block by its prefix (`block5`, `conv5_block1`: its last cut point), `"input"`,
            or a fraction of the layers to freeze, which goes to the nearest cut point.

    Raises:
        ModelError: There is no such layer, or it is inside a branch; the message names what is near.
    """
    points = cut_points(backbone)
    if not isinstance(wanted, str):
        return _nearest_fraction(backbone, points, wanted)
    if wanted == INPUT or wanted in points:
        return wanted
    block = [name for name in points if _in_block(name, wanted)]
    if block:
        return block[-1]
    layers = [layer.name for layer in backbone.layers]
    where = f"train.fine_tune.from: {wanted!r}"
    if wanted in layers:
        near = min(points, key=lambda name: abs(layers.index(name) - layers.index(wanted)))
        raise ModelError(f"{where} is inside a branch of {backbone.name}; the nearest cut point is {near!r}")
    known = {INPUT, *points, *(name.split("_")[0] for name in points)}
    raise ModelError(f"{where} is no layer or block of {backbone.name}: {nearest(wanted, known)}")


def _in_block(name: str, block: str) -> bool:
    """Tells whether `block5a_add` is in `block5`: the rest may start with a letter or `_`, not with a digit."""
    rest = name.removeprefix(block)
    return name != rest and not rest[:1].isdigit()


def _nearest_fraction(backbone: keras.Model, points: tuple[str, ...], fraction: float) -> str:
    if not 0 <= fraction <= 1:
        raise ModelError(f"train.fine_tune.from: a fraction is between 0 (nothing frozen) and 1, found {fraction}")
    order = {operation.name: number for number, operation in enumerate(backbone.operations)}
    wanted = fraction * (len(order) - 1)
    return min((INPUT, *points), key=lambda name: abs(order.get(name, 0) - wanted))
