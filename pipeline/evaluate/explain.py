"""What a network sees in an image: first filters, feature maps, receptive fields, what speaks for a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Resize
from pipeline.ingest.manifest import Manifest
from pipeline.models.cuts import cut_points
from pipeline.models.explanation import ClassScore, Depth, Explanation, Filters, FloatArray, Growth
from pipeline.models.network import Parts, part_network
from pipeline.models.receptive_field import ReceptiveField, receptive_fields
from pipeline.progress import Progress
from pipeline.tasks.base import UNCALIBRATED, Calibration, Evaluation, Example, Task
from pipeline.train.dataset import InputSpec, naming_bad_images

#: Of an explanation, at most; `HEATS` of its `CLASSES` have Grad-CAM.
DEPTHS, CHANNELS, CLASSES, HEATS = 6, 8, 5, 3

#: Images that `heat_maps` takes at a time: each keeps the feature maps of the head's way for the pass backwards.
HEAT_BATCH = 16

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)

#: What such a layer gives is the picture before it, framed or in other units.
_SAME = (
    keras.layers.ZeroPadding2D, keras.layers.Cropping2D, keras.layers.Dropout, keras.layers.Identity,
    keras.layers.Rescaling, keras.layers.Normalization,
)  # fmt: skip
#: What such a layer takes is an intermediate result.
_FINISHING = (
    *_SAME, keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.Activation,
    keras.layers.ReLU,
)  # fmt: skip


class Explainer:
    """Explains images by one network; what does not depend on the image is computed once.

    Args:
        full: A network of `build_network`, loaded or new: raw pixels -> logits.
        task: What it was trained for.
        classes: The labels, in the order of the logits.
        calibration: How logits become probabilities.

    Raises:
        ModelError: It is another network.
    """

    def __init__(
        self, full: keras.Model, task: Task, classes: Sequence[str], calibration: Calibration = UNCALIBRATED
    ) -> None:
        self._parts, self._task, self._classes, self._calibration = part_network(full), task, classes, calibration
        self._filters = first_filters(self._parts)
        backbone = self._parts.backbone
        self._fields = receptive_fields(backbone)
        self._depths = choose_depths(backbone, self._fields, DEPTHS)
        measured = {*cut_points(backbone), *self._depths} & set(self._fields)
        self._growth = tuple(
            Growth(number, operation.name, self._fields[operation.name])
            for number, operation in enumerate(backbone.operations)
            if operation.name in measured
        )
        tensors = {operation.name: operation.output for operation in backbone.operations}
        probe = keras.Model(backbone.input, [backbone.output, *(tensors[name] for name in self._depths)])
        # A graph: outside of one ConvNeXt's convolutions are compiled anew at each call, and TensorFlow complains.
        self._look = tf.function(
            lambda pixels: probe(self._parts.scaling(pixels, training=False), training=False), autograph=False
        )

    def explain(self, pixels: tf.Tensor, truth: str | None = None) -> Explanation:
        """Returns what the network sees in an image.

        Args:
            pixels: `(1, H, W, C)` float32 in [0, 255].
            truth: The class that the image is known to be of.
        """
        features, *maps = self._look(pixels)
        depths = tuple(
            strongest_maps(name, self._fields[name], np.asarray(values[0]))
            for name, values in zip(self._depths, maps, strict=True)
        )
        return Explanation(
            self._parts.backbone.name, np.asarray(pixels[0]), self._filters, depths, self._growth,
            self._score(features, truth),
        )  # fmt: skip

    def _score(self, features: tf.Tensor, truth: str | None) -> tuple[ClassScore, ...]:
        """Returns the likeliest classes and the true one, with Grad-CAM of the first few and of the true one."""
        scores = self._task.class_scores(_head(self._parts, features))
        if scores is None:
            return ()
        probabilities = self._task.probabilities(np.asarray(scores), self._calibration)[0]
        ranked = np.argsort(-probabilities, kind="stable").tolist()
        true = None if truth is None else self._classes.index(truth)
        heated = _with_true(ranked[:HEATS], true)
        heats = grad_cam(features, lambda copies: self._task.class_scores(_head(self._parts, copies)), heated)
        heat = dict(zip(heated, heats, strict=True))
        return tuple(
            ClassScore(self._classes[place], float(probabilities[place]), place == true, heat.get(place))
            for place in _with_true(ranked[:CLASSES], true)
        )


def explain_examples(
    full: keras.Model, task: Task, manifest: Manifest, evaluation: Evaluation, count: int, *, resize: Resize,
    calibration: Calibration, progress: Progress,
) -> Iterator[tuple[Example, str, Explanation]]:  # fmt: skip
    """Yields up to `count` test images that the task finds worth a look: why, which (its id), what the network sees.

    Args:
        full: The network that was evaluated.
        task: What it was trained for.
        manifest: With the test images that were evaluated.
        evaluation: What came out.
        count: How many at most.
        resize: How pictures are brought to the size that the network takes.
        calibration: How logits become probabilities.
        progress: Where to show how far it is.
    """
    examples = task.choose_examples(evaluation, count)
    if not examples:
        return
    height, width, channels = full.input_shape[1:]
    test, spec = manifest.split("test"), InputSpec((height, width), channels, resize)
    paths, ids, labels = (test.column(name) for name in ("path", "id", "label"))
    explainer = Explainer(full, task, manifest.classes, calibration)
    with progress.bar("explain", len(examples)) as bar, naming_bad_images(paths):
        for example in examples:
            pixels = spec.decode(tf.io.read_file(paths[example.row]))[tf.newaxis]
            yield example, ids[example.row], explainer.explain(pixels, labels[example.row])
            bar.advance()


def grad_cam(
    features: tf.Tensor, scores: Callable[[tf.Tensor], tf.Tensor], classes: Sequence[int]
) -> FloatArray:  # fmt: skip
    """Returns what speaks for each of K classes in one image, `(K, h, w)` float32, at least 0.

    Args:
        features: `(1, h, w, F)`, the last feature map.
        scores: `(B, h, w, F)` -> `(B, C)`, each image by itself.
        classes: Of those C.
    """
    copies = tf.repeat(features, len(classes), axis=0)  # one a class, so that one pass backwards does for all
    return np.asarray(_speaks_for(copies, scores, tf.constant(classes)), np.float32)


def heat_maps(full: keras.Model, task: Task, pixels: np.ndarray, class_ids: Sequence[int]) -> FloatArray | None:
    """Returns what speaks in each of N images for one class, `(N, h, w)` float32, at least 0; None without classes.

    Args:
        full: A network of `build_network`, loaded or new: raw pixels -> logits.
        task: What it was trained for.
        pixels: `(N, H, W, C)` in [0, 255].
        class_ids: N of them, one an image.

    Raises:
        ModelError: It is another network.
    """
    parts = part_network(full)
    if task.class_scores(tf.zeros((1, *full.output_shape[1:]))) is None:
        return None
    count = max(1, min(len(pixels), HEAT_BATCH))
    maps = np.zeros((len(pixels), *parts.backbone.output_shape[1:3]), np.float32)

    def look(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        features = parts.backbone(parts.scaling(images, training=False), training=False)
        return _speaks_for(features, lambda maps: task.class_scores(_head(parts, maps)), classes)

    traced = tf.function(look, autograph=False)
    for start in range(0, len(pixels), count):
        # The last batch is filled up with its own last image: another size would be another graph to trace.
        rows = np.minimum(np.arange(start, start + count), len(pixels) - 1)
        images = tf.constant(pixels[rows], tf.float32)
        found = traced(images, tf.constant(np.asarray(class_ids)[rows], tf.int32))
        maps[start : start + count] = np.asarray(found)[: len(pixels) - start]
    return maps


def _head(parts: Parts, features: tf.Tensor) -> tf.Tensor:
    """Returns the logits of feature maps, `(B, C)`."""
    return parts.classifier(parts.pooling(features, training=False), training=False)


def _speaks_for(features: tf.Tensor, scores: Callable[[tf.Tensor], tf.Tensor], classes: tf.Tensor) -> tf.Tensor:
    """Returns Grad-CAM of B images, `(B, h, w)`, of each for its own one of the classes, `(B,)`.

    Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2: a channel's weight is the mean over the map of the
    derivative of the class's score, before the softmax; the weighted sum of the channels, where it is positive.
    """
    with tf.GradientTape() as tape:
        tape.watch(features)
        wanted = tf.gather(scores(features), classes, axis=1, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(wanted, features), axis=(1, 2))  # (B, F)
    return tf.nn.relu(tf.einsum("bhwf,bf->bhw", features, weights))


def strongest_maps(layer: str, field: ReceptiveField, maps: np.ndarray) -> Depth:
    """Returns the channels that vary most over the image; of single units those of the largest values.

    Args:
        layer: That gives them.
        field: What one of their units sees.
        maps: `(h, w, channels)`.
    """
    height, width, channels = maps.shape
    strength = maps.std(axis=(0, 1)) if height * width > 1 else np.abs(maps[0, 0])
    chosen = np.argsort(-strength, kind="stable")[:CHANNELS]
    shown = np.ascontiguousarray(maps[..., chosen].transpose(2, 0, 1), np.float32)
    return Depth(layer, (height, width, channels), field, tuple(chosen.tolist()), shown)


def first_filters(parts: Parts) -> Filters:
    """Returns the kernels of the backbone's first convolution as they act on raw pixels."""
    layer = next(layer for layer in _flat(parts.backbone) if isinstance(layer, _CONVOLUTIONS))
    kernel = np.asarray(layer.kernel if hasattr(layer, "kernel") else layer.depthwise_kernel)
    if not isinstance(layer, keras.layers.Conv2D):  # (h, w, C, multiplier): each filter looks at one channel
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    height, width, channels = parts.scaling.input_shape[1:]
    raw = kernel.transpose(3, 0, 1, 2)
    if kernel.shape[2] == channels:
        # Channel by channel, what the scaling makes of one unit more: its sign, its factor, and where BGR is wanted.
        probe = np.concatenate([np.zeros((1, channels)), np.eye(channels)])[:, np.newaxis, np.newaxis]
        answers = np.asarray(parts.scaling(np.broadcast_to(probe, (channels + 1, height, width, channels))))[:, 0, 0]
        raw = np.einsum("nhws,rs->nhwr", raw, answers[1:] - answers[:1])
    return Filters(layer.name, np.asarray(raw, np.float32))


def choose_depths(backbone: keras.Model, fields: Mapping[str, ReceptiveField], most: int) -> tuple[str, ...]:
    """Returns operations to look behind, at most `most`, from the input to the output, which is the last of them.

    Cut points at which something is finished: the last of each stride, then the middles of the longest stretches.
    """
    names = _finished(backbone, set(cut_points(backbone)) & set(fields))
    if len(names) < most:  # hardly a cut in it (NASNet): where branches meet does as well
        merges = (keras.layers.Concatenate, keras.layers.Add)
        meeting = {operation.name for operation in backbone.operations if isinstance(operation, merges)}
        names = _finished(backbone, (set(cut_points(backbone)) | meeting) & set(fields))
    strides = [fields[name].stride for name in names]
    last = [place for place, stride in enumerate(strides) if stride not in strides[place + 1 :]]
    chosen = [last[place] for place in np.linspace(0, len(last) - 1, min(most, len(last))).round().astype(int)]
    while len(chosen) < min(most, len(names)):
        before = [-1, *chosen]
        start, end = max(zip(before, chosen, strict=False), key=lambda pair: pair[1] - pair[0])
        chosen = sorted([*chosen, (start + end) // 2 if start >= 0 else end // 2])
    return tuple(names[place] for place in chosen)


def _finished(backbone: keras.Model, allowed: set[str]) -> list[str]:
    """Returns the allowed operations, in order, without padding and without what only the next layer finishes."""
    readers: dict[str, list[keras.Operation]] = {}
    for operation in backbone.operations:
        for tensor in operation._inbound_nodes[0].input_tensors:
            readers.setdefault(tensor._keras_history.operation.name, []).append(operation)
    return [
        operation.name
        for operation in backbone.operations
        if operation.name in allowed
        and (operation.name not in readers or not isinstance(operation, _SAME))
        and not (operation.name in readers and all(isinstance(r, _FINISHING) for r in readers[operation.name]))
    ]


def _flat(network: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields the layers of a network, from the input to the output, those of nested networks in their place."""
    for layer in network.layers:
        yield from _flat(layer) if isinstance(layer, keras.Model) else [layer]


def _with_true(places: list[int], true: int | None) -> list[int]:
    """Returns the places of classes, the last of them replaced by the true one if it is not among them."""
    return places if true is None or true in places else [*places[:-1], true]
