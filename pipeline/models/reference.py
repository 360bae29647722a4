"""The arithmetic of a convolutional network in plain NumPy: written to be read, and to hold Keras against.

Everything is channels last and batches first: images `(B, H, W, C)`, kernels `(f_h, f_w, C_in, C_out)` as Keras keeps
them. Windows and strides are one number or `(vertical, horizontal)`; values are finite; float32 stays float32, float64
stays float64. Every `NAME_gradient` takes the gradient of a loss with respect to what `NAME` returned, then what `NAME`
took, and returns the gradient with respect to that; `NAME_gradients` returns several.

The arithmetic of sizes is that of Dumoulin & Visin, "A guide to convolution arithmetic for deep learning",
arXiv:1603.07285; the rest is in Goodfellow, Bengio & Courville, "Deep Learning" (2016), chapters 6 and 9.

A filter answers to the shape it holds: this one, of a right-hand curve, to such a curve, and to other strokes not.

>>> curve = np.zeros((7, 7))
>>> curve[[0, 1, 2, 3, 4, 5], [5, 5, 3, 3, 3, 3]] = 30
>>> alike, other = np.zeros((2, 7, 7))
>>> alike[0, 6], alike[1, 4:], alike[2, 3:5], alike[3:, 3:5] = 30, 50, (20, 50), 50
>>> other[[1, 2, 2, 3, 3], [1, 0, 2, 0, 1]] = 40, 40, 40, 40, 20
>>> other[[4, 5, 6, 6, 6], [1, 2, 0, 1, 3]] = 50, 50, 25, 25, 50
>>> convolve(np.stack([alike, other])[..., np.newaxis], curve[:, :, np.newaxis, np.newaxis]).ravel()
array([6600.,    0.])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Size = int | tuple[int, int]
Pads = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))
Padding = Literal["valid", "same"] | Pads

#: What Keras keeps a logarithm and a division away from zero by: `keras.config.epsilon()`, unless someone set it.
EPSILON = 1e-7


def output_size(n: int, f: int, stride: int = 1) -> int:
    """Returns how many windows of size `f` fit on `n` pixels, padding included: floor((n - f) / stride) + 1.

    Relationships 5 and 6 of arXiv:1603.07285.

    >>> output_size(5, 3), output_size(28, 2, stride=2), output_size(224 + 3 + 3, 7, stride=2)
    (3, 14, 112)

    Raises:
        ValueError: A size or the stride is below 1, or the window is larger than what it moves on.
    """
    if not (1 <= f <= n and stride >= 1):
        raise ValueError(f"a window of {f} with stride {stride} cannot be moved over {n} pixels, padding included")
    return (n - f) // stride + 1


def padding_sizes(size: tuple[int, int], window: Size, stride: Size = 1, padding: Padding = "valid") -> Pads:
    """Returns the zeros around images of `size` (H, W): ((top, bottom), (left, right)).

    "valid" adds none. "same" is TensorFlow's: as few as make ceil(n / stride) windows, an odd one at the bottom or on
    the right.

    >>> padding_sizes((8, 9), window=(3, 2), stride=2, padding="same")
    ((0, 1), (0, 1))

    Raises:
        ValueError: There is no such padding, no window fits, or some would see nothing but padding.
    """
    vertical = horizontal = (0, 0)
    dimensions = list(zip(size, _pair(window), _pair(stride), strict=True))
    if padding == "same":
        wanted = [max((output_size(n, 1, s) - 1) * s + f - n, 0) for n, f, s in dimensions]
        vertical, horizontal = ((total // 2, total - total // 2) for total in wanted)
    elif not isinstance(padding, str):
        vertical, horizontal = padding
    elif padding != "valid":
        raise ValueError(f"padding is 'valid', 'same' or ((top, bottom), (left, right)), found {padding!r}")
    for (n, f, s), pads in zip(dimensions, (vertical, horizontal), strict=True):
        output_size(n + sum(pads), f, s)
        if min(pads) < 0 or max(pads) >= f:
            raise ValueError(f"a window of {f} takes paddings from 0 to {f - 1}, found {pads}")
    return vertical, horizontal


def convolve(
    images: Array, kernels: Array, bias: Array | None = None, *, stride: Size = 1, padding: Padding = "valid"
) -> Array:
    """Returns the cross-correlation, which networks call convolution: `(B, H, W, C_in)` to `(B, H', W', C_out)`.

    Each output is the sum of a window times a filter, over all channels, plus the filter's `bias` `(C_out,)`. The
    filter is not turned around, unlike in mathematics (Deep Learning, equation 9.6).

    >>> image = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
    >>> cross = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    >>> convolve(image[np.newaxis, :, :, np.newaxis], cross[:, :, np.newaxis, np.newaxis])[0, :, :, 0]
    array([[4, 3, 4],
           [2, 4, 3],
           [2, 3, 4]])

    Raises:
        ValueError: The filters have other channels than the images, or do not fit on them.
    """
    if images.shape[-1] != kernels.shape[2]:
        raise ValueError(f"the images have {images.shape[-1]} channels, the filters {kernels.shape[2]}")
    summed = np.tensordot(_windows(images, kernels.shape[:2], stride, padding), kernels, axes=3)
    return summed if bias is None else summed + bias


def convolve_gradients(
    upstream: Array, images: Array, kernels: Array, *, stride: Size = 1, padding: Padding = "valid"
) -> tuple[Array, Array, Array]:
    """Returns the gradients of images, kernels and bias; `upstream` is `(B, H', W', C_out)`."""
    of_windows = np.tensordot(upstream, kernels, axes=(3, 3))  # (B, H', W', f_h, f_w, C_in)
    of_images = _add_windows(of_windows, images.shape, stride, padding)
    windows = _windows(images, kernels.shape[:2], stride, padding)
    of_kernels = np.tensordot(windows, upstream, axes=((0, 1, 2), (0, 1, 2)))
    return of_images, of_kernels, upstream.sum(axis=(0, 1, 2))


def max_pool(images: Array, window: Size, stride: Size, padding: Padding = "valid") -> Array:
    """Returns the largest value of each window, channel by channel; padding never is one.

    >>> max_pool(np.arange(16.0).reshape(1, 4, 4, 1), window=2, stride=2).ravel()
    array([ 5.,  7., 13., 15.])
    """
    return _windows(images, window, stride, padding, outside=-np.inf).max(axis=(3, 4))


def max_pool_gradient(upstream: Array, images: Array, window: Size, stride: Size, padding: Padding = "valid") -> Array:
    """Returns the gradient of the images: each window's goes to its largest value, of equal ones to the first.

    First is the uppermost, in a row the leftmost, as in TensorFlow; where windows overlap their gradients add up.
    """
    windows = _windows(images, window, stride, padding, outside=-np.inf)
    flat = windows.reshape(*windows.shape[:3], -1, windows.shape[5])  # (B, H', W', f_h * f_w, C)
    chosen = np.arange(flat.shape[3])[:, np.newaxis] == flat.argmax(axis=3, keepdims=True)
    of_windows = (chosen * upstream[:, :, :, np.newaxis]).reshape(windows.shape)
    return _add_windows(of_windows, images.shape, stride, padding)


def average_pool(images: Array, window: Size, stride: Size, padding: Padding = "valid") -> Array:
    """Returns the mean of each window, channel by channel, over what is image and not padding, as in TensorFlow."""
    return _windows(images, window, stride, padding).sum(axis=(3, 4)) / _pixels(images, window, stride, padding)


def average_pool_gradient(
    upstream: Array, images: Array, window: Size, stride: Size, padding: Padding = "valid"
) -> Array:
    """Returns the gradient of the images: each window's is shared out evenly among its pixels."""
    share = upstream / _pixels(images, window, stride, padding)
    of_windows = share[:, :, :, np.newaxis, np.newaxis] * np.ones((*_pair(window), 1), share.dtype)
    return _add_windows(of_windows, images.shape, stride, padding)


def dense(features: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Returns `features @ kernel + bias`: `(B, D)` and `(D, units)` to `(B, units)`."""
    return features @ kernel if bias is None else features @ kernel + bias


def dense_gradients(upstream: Array, features: Array, kernel: Array) -> tuple[Array, Array, Array]:
    """Returns the gradients of features, kernel and bias; `upstream` is `(B, units)`."""
    return upstream @ kernel.T, features.T @ upstream, upstream.sum(axis=0)


def relu(x: Array) -> Array:
    """Returns what is positive of `x`, zero for the rest."""
    return np.maximum(x, 0)


def relu_gradient(upstream: Array, x: Array) -> Array:
    """Returns the gradient of `x`; at zero, where there is none, it is zero, as in TensorFlow."""
    return upstream * (x > 0)


def softmax(logits: Array) -> Array:
    """Returns probabilities `(B, num_classes)`; the largest logit is subtracted first, so `exp` cannot overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def softmax_gradient(upstream: Array, logits: Array) -> Array:
    """Returns the gradient of the logits."""
    probabilities = softmax(logits)
    return probabilities * (upstream - (upstream * probabilities).sum(axis=-1, keepdims=True))


def categorical_crossentropy(targets: Array, probabilities: Array) -> Array:
    """Returns `-sum(target * log(probability))` of each row: twice `(B, num_classes)` to `(B,)`.

    As Keras computes it from probabilities: each row is divided by its sum, then clipped to [1e-7, 1 - 1e-7]. (Of the
    output of a softmax Keras takes the logits instead, and clips nothing.)
    """
    shares = probabilities / probabilities.sum(axis=-1, keepdims=True)
    return -(targets * np.log(np.clip(shares, EPSILON, 1 - EPSILON))).sum(axis=-1)


def categorical_crossentropy_gradient(upstream: Array, targets: Array, probabilities: Array) -> Array:
    """Returns the gradient of the probabilities; `upstream` is `(B,)`. What is clipped has none of its own."""
    total = probabilities.sum(axis=-1, keepdims=True)
    shares = probabilities / total
    inside = (shares >= EPSILON) & (shares <= 1 - EPSILON)
    of_shares = -upstream[:, np.newaxis] * targets * inside / np.clip(shares, EPSILON, 1 - EPSILON)
    return (of_shares - (of_shares * shares).sum(axis=-1, keepdims=True)) / total


def run_network(model: Any, images: Array) -> Array:
    """Returns the outputs of a Keras model whose layers form a chain, at inference; models may stand inside models.

    Only its configuration and weights are read, Keras computes nothing. Float64 images are computed in float64.

    Raises:
        ValueError: A layer, or an option of one, is not known here, or the layers form no chain; it is named.
    """
    if len(model.outputs) != 1:
        raise ValueError(f"model {model.name!r} has {len(model.outputs)} outputs; only a chain of layers can be run")
    before: list[str] = []
    for entry in model.get_config()["layers"]:
        kind, name = entry["class_name"], entry["config"]["name"]
        reads = _sources(entry["inbound_nodes"]) if "inbound_nodes" in entry else before  # a Sequential is a chain
        if reads != before:
            raise ValueError(f"layer {name!r} ({kind}) has inputs {reads}; in a chain of layers it would be {before}")
        if kind in ("Functional", "Sequential"):
            images = run_network(model.get_layer(name), images)
        elif kind in _LAYERS:
            _check_options(entry["config"])
            images = _LAYERS[kind](images, entry["config"], model.get_layer(name).get_weights())
            images = _ACTIVATIONS[entry["config"].get("activation", "linear")](images)
        elif kind != "InputLayer":
            raise ValueError(f"layer {name!r} is a {kind}; known are {', '.join(sorted(_LAYERS))} and models of them")
        before = [name]
    return images


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _windows(images: Array, window: Size, stride: Size, padding: Padding, outside: float = 0.0) -> Array:
    """Returns what the window sees at each of its places: `(B, H', W', f_h, f_w, C)`."""
    pads = padding_sizes((images.shape[1], images.shape[2]), window, stride, padding)
    padded = np.pad(images, ((0, 0), *pads, (0, 0)), constant_values=outside)
    everywhere = np.lib.stride_tricks.sliding_window_view(padded, _pair(window), axis=(1, 2))
    down, across = _pair(stride)
    return np.moveaxis(everywhere[:, ::down, ::across], 3, 5)


def _add_windows(windows: Array, shape: tuple[int, ...], stride: Size, padding: Padding) -> Array:
    """Returns images of `shape` into which each window was added at its place: the transpose of `_windows`."""
    count, rows, columns, f_h, f_w, channels = windows.shape
    (top, bottom), (left, right) = padding_sizes((shape[1], shape[2]), (f_h, f_w), stride, padding)
    down, across = _pair(stride)
    padded = np.zeros((count, top + shape[1] + bottom, left + shape[2] + right, channels), windows.dtype)
    for y, x in np.ndindex(f_h, f_w):  # one pixel of all windows at a time: those never overlap
        padded[:, y : y + rows * down : down, x : x + columns * across : across] += windows[:, :, :, y, x]
    return padded[:, top : top + shape[1], left : left + shape[2]]


def _pixels(images: Array, window: Size, stride: Size, padding: Padding) -> Array:
    """Returns how many pixels of the image each window sees: `(1, H', W', 1)`."""
    return _windows(np.ones_like(images[:1, :, :, :1]), window, stride, padding).sum(axis=(3, 4))


def _sources(call: Any) -> list[str]:
    """Returns the layers that a call reads, in whatever lists and dicts Keras keeps them."""
    if isinstance(call, dict):
        return [call["keras_history"][0]] if "keras_history" in call else _sources(list(call.values()))
    return [name for part in call for name in _sources(part)] if isinstance(call, (list, tuple)) else []


def _check_options(config: Mapping[str, Any]) -> None:
    for option, known in _OPTIONS.items():
        if config.get(option, known) != known:
            raise ValueError(f"layer {config['name']!r}: {option} is {config[option]!r}; known is only {known!r}")
    if str(config.get("activation", "linear")) not in _ACTIVATIONS:
        raise ValueError(f"layer {config['name']!r}: activation is {config['activation']!r}; known: {[*_ACTIVATIONS]}")


def _normalize(x: Array, config: Mapping[str, Any], weights: list[Array]) -> Array:
    # Statistics that were given are in the configuration, those that were measured among the weights.
    mean, variance = weights[:2] or (np.array(config[key], np.float32) for key in ("mean", "variance"))
    return (x - mean) / np.maximum(np.sqrt(variance), EPSILON)


#: Options of which one value is known: of most layers, of a convolution, of a normalization, of a ReLU.
_OPTIONS: Mapping[str, Any] = {
    "data_format": "channels_last", "dilation_rate": (1, 1), "groups": 1, "axis": (-1,), "invert": False,
    "max_value": None, "negative_slope": 0.0, "threshold": 0.0,
}  # fmt: skip
_ACTIVATIONS: Mapping[str, Any] = {"linear": lambda x: x, "relu": relu, "softmax": softmax, "tanh": np.tanh}
_LAYERS: Mapping[str, Callable[[Array, Mapping[str, Any], list[Array]], Array]] = {  # of inputs, options, weights
    **dict.fromkeys(("Activation", "Dropout", "Identity"), lambda x, *_: x),
    "AveragePooling2D": lambda x, config, _: average_pool(x, config["pool_size"], config["strides"], config["padding"]),
    "Conv2D": lambda x, config, weights: convolve(x, *weights, stride=config["strides"], padding=config["padding"]),
    "Dense": lambda x, config, weights: dense(x, *weights),
    "Flatten": lambda x, *_: x.reshape(len(x), -1),
    "GlobalAveragePooling2D": lambda x, config, weights: x.mean(axis=(1, 2), keepdims=config["keepdims"]),
    "MaxPooling2D": lambda x, config, _: max_pool(x, config["pool_size"], config["strides"], config["padding"]),
    "Normalization": _normalize,
    "ReLU": lambda x, *_: relu(x),
}
