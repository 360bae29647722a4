"""The stage build: backbone, scaling and head become one network that can be parted at a cut."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import keras

from pipeline.config import ModelConfig, Resize
from pipeline.errors import ModelError
from pipeline.models.backbones import Backbone, build_scaling, find_backbone, input_size
from pipeline.models.backbones.row import load
from pipeline.models.cuts import INPUT, cut_points, resolve_cut
from pipeline.models.operations import count_multiply_adds
from pipeline.models.weights import load_weights
from pipeline.tasks.base import Task

#: The cut of the head phase: the pooled feature, before dropout.
FEATURES = "features"


class InferenceMode(keras.layers.Layer):
    """Calls a network in inference mode whatever the mode around it: BatchNorm keeps its statistics, dropout is off.

    Its weights can be trained all the same. `network(x, training=False)` would not do: Keras 3 writes the mode of an
    outer model over the one given where the graph was built, so `fit` would train the statistics.
    """

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name=f"{network.name}_inference")
        self.network = network

    def call(self, inputs: Any) -> Any:
        """Returns the network's answer."""
        return self.network(inputs, training=False)


@dataclass(frozen=True)
class Cut:
    """A network in two parts that share its layers: `top(trunk(pixels))` equals the whole.

    Attributes:
        name: The last frozen layer, `"input"` or `"features"`.
        trunk: Raw pixels `(B, H, W, C)` in [0, 255] -> the cut.
        top: The cut -> logits `(B, num_classes)`.
        sided: The cut -> the same logits and those of the auxiliary classifiers above it; None where there are none.
    """

    name: str
    trunk: keras.Model
    top: keras.Model
    sided: keras.Model | None = None


@dataclass(frozen=True)
class Parts:
    """What `Network.full` runs through, one after the other.

    Attributes:
        scaling: Raw pixels `(B, H, W, C)` in [0, 255] -> what the backbone takes.
        backbone: -> features `(B, h, w, F)`.
        pooling: -> what is kept of a frozen backbone.
        classifier: -> logits.
    """

    scaling: keras.Model
    backbone: keras.Model
    pooling: keras.Model
    classifier: keras.Model


@dataclass(frozen=True)
class Network:
    """What `build` makes. `full` is what is trained, saved and exported; the other parts are inside it.

    Attributes:
        row: The backbone's row in the zoo table.
        full: Raw pixels `(B, H, W, C)` float32 in [0, 255] -> logits `(B, num_classes)` float32.
        scaling, backbone, pooling, classifier: `full`, part by part.
        batch_norm: "frozen" or "trained": the statistics of BatchNorm layers above a cut.
        precision: "float32", "mixed_float16" or "mixed_bfloat16".
        weights_digest: SHA-256 of the weights file, None when the weights are random.
        resize: "stretch", "crop" or "pad": how pictures are brought to the size of the pixels.
        auxiliary: Classifiers that training adds, by the layer of the backbone whose output they read.
    """

    row: Backbone
    full: keras.Model
    scaling: keras.Model
    backbone: keras.Model
    pooling: keras.Model
    classifier: keras.Model
    batch_norm: str
    precision: str
    weights_digest: str | None
    resize: Resize
    auxiliary: Mapping[str, keras.Model]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self.full.input_shape[1:3]
        return height, width

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.full.input_shape[-1])

    def cut(self, wanted: str | float) -> Cut:
        """Returns the network parted at `"features"`, or where `train.fine_tune.from` says (see `resolve_cut`).

        The layers are shared, not copied. Those of the trunk are made untrainable, those of the top trainable.

        Raises:
            ModelError: There is no such cut.
        """
        name = FEATURES if wanted == FEATURES else resolve_cut(self.backbone, wanted)
        pixels = keras.Input(self.full.input_shape[1:])
        scaled = self.scaling(pixels)
        sided = None
        if name == FEATURES:
            feature = self.pooling(self.backbone(scaled))
            below, cut, top = [self.backbone], feature, self.classifier
        else:
            lower = self._part_backbone(name)[0]
            cut = lower(scaled) if lower else scaled
            below = [lower] if lower else []
            top, sided = self._tops(name, cut)
        _set_trainable(self.full, True)
        for part in below:
            _set_trainable(part, False)
        return Cut(name, keras.Model(pixels, cut, name="trunk"), top, sided)

    def _tops(self, name: str, cut: keras.KerasTensor) -> tuple[keras.Model, keras.Model | None]:
        """Returns the layers above a cut with the classifier, and with the auxiliary classifiers too."""
        order = [operation.name for operation in self.backbone.operations]
        first = 0 if name == INPUT else order.index(name) + 1
        after = [layer for layer in self.auxiliary if order.index(layer) >= first]
        upper = self._part_backbone(name, after)[1]
        above = features = keras.Input(cut.shape[1:], dtype=cut.dtype)
        sides: list[keras.KerasTensor] = []
        if upper:
            above = self._as_trained(upper)(features)
        if after:
            above, *maps = above
            sides = [self.auxiliary[layer](tensor) for layer, tensor in zip(after, maps, strict=True)]
        logits = self.classifier(self.pooling(above))
        top = keras.Model(features, logits, name="top")
        return top, keras.Model(features, [logits, *sides], name="sided") if sides else None

    def rest(self, lower: str, upper: str) -> keras.Model:
        """Returns the layers from a cut to the end of the backbone, and those of the pooling if `upper` is "features".

        Features at `lower`, a name as in `Cut`, -> features at `upper`.
        """
        above = self._part_backbone(lower)[1]
        x = features = keras.Input((above.input_shape if above else self.backbone.output_shape)[1:])
        if above:
            x = above(features)
        return keras.Model(features, self.pooling(x) if upper == FEATURES else x)

    def _part_backbone(self, name: str, tapped: Sequence[str] = ()) -> tuple[keras.Model | None, keras.Model | None]:
        """Returns the backbone below and above a layer; None where nothing is left on a side.

        The upper part gives the output of layers that are `tapped`, too.
        """
        outputs = [self.backbone.output, *(self.backbone.get_layer(layer).output for layer in tapped)]
        if name == INPUT:
            return None, keras.Model(self.backbone.input, outputs) if tapped else self.backbone
        # Not `get_layer`: where paths meet there may be an operation that is no layer (ConvNeXt adds with `+`).
        tensor = next(operation.output for operation in self.backbone.operations if operation.name == name)
        if tensor is self.backbone.output:
            return self.backbone, None
        return keras.Model(self.backbone.input, tensor), keras.Model(tensor, outputs if tapped else outputs[0])

    def _as_trained(self, upper: keras.Model) -> keras.layers.Layer:
        return InferenceMode(upper) if self.batch_norm == "frozen" else upper

    def describe(self) -> dict[str, Any]:
        """Returns what `model.json` holds: input contract, parameters, cut points and a summary."""
        text = io.StringIO()
        self.full.summary(print_fn=lambda line: text.write(line + "\n"), line_length=100)
        return {
            "backbone": self.row.name,
            "weights_sha256": self.weights_digest,
            "input": {
                "image_size": list(self.image_size),
                "channels": self.channels,
                "resize": self.resize,
                "range": [0, 255],
                "scaling": "inside the model",
            },
            "num_classes": int(self.full.output_shape[-1]),
            "parameters": int(self.full.count_params()),
            "multiply_adds": count_multiply_adds(self.full),
            "backbone_parameters": int(self.backbone.count_params()),
            "batch_norm": self.batch_norm,
            "cut_points": [INPUT, *cut_points(self.backbone)],
            "summary": text.getvalue().splitlines(),
        }


def _set_trainable(model: keras.Model, value: bool) -> None:
    """Sets the flag layer by layer: on a model that has the value already, Keras would not pass it on to its layers."""
    for layer in model._flatten_layers():
        layer.trainable = value


def build_network(
    config: ModelConfig, task: Task, num_classes: int, *, seed: int, weights: Path | None, precision: str = "float32"
) -> Network:
    """Returns the network of a recipe, its backbone loaded from `weights`, or random where that is None.

    Raises:
        ModelError: The image size is too small for the backbone, or the weights do not fit it.
    """
    row = find_backbone(config.backbone)
    keras.utils.set_random_seed(seed)  # of backbones that start from random weights
    batch_norm = config.batch_norm or ("trained" if weights is None else "frozen")
    with _dtype_policy(precision):
        backbone = row.build(input_size(config), config.options)
        digest = load_weights(backbone, row, weights) if weights else None
        pixels = keras.Input(backbone.input_shape[1:], dtype="float32", name="pixels")
        scaling = keras.Model(pixels, build_scaling(row)(pixels), name="scaling")
        pooling, classifier = task.build_head(backbone.output_shape, num_classes, config.head, row, seed)
        full = keras.Model(pixels, classifier(pooling(backbone(scaling(pixels)))), name=row.name)
        auxiliary = _build_auxiliary(row, backbone, num_classes, seed)
    return Network(
        row, full, scaling, backbone, pooling, classifier, batch_norm, precision, digest, config.resize, auxiliary
    )


def _build_auxiliary(row: Backbone, backbone: keras.Model, num_classes: int, seed: int) -> dict[str, keras.Model]:
    if not row.auxiliary:
        return {}
    build = load(row.auxiliary.builder)
    return {
        after: build(
            backbone.get_layer(after).output.shape, num_classes, name=f"auxiliary_{number}", seed=seed + number
        )
        for number, after in enumerate(row.auxiliary.after, start=1)
    }


def part_network(full: keras.Model) -> Parts:
    """Returns the parts of a network that `build_network` made, of one that was saved and loaded again too.

    Raises:
        ModelError: It was made elsewhere.
    """
    inside = [layer for layer in full.layers if not isinstance(layer, keras.layers.InputLayer)]
    if len(inside) != len(fields(Parts)) or not all(isinstance(layer, keras.Model) for layer in inside):
        raise ModelError(f"{full.name} is no network of this pipeline: scaling, backbone, pooling, classifier")
    return Parts(*inside)


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)
