"""Bytes to pixels as TensorFlow graph functions: the one decoder of training, evaluation, predict and the export."""

from __future__ import annotations

import tensorflow as tf

from pipeline.config import Resize
from pipeline.images.orientation import read_orientation, turn_upright

#: ITU-R BT.601 luma, the weights that Pillow's `convert("L")` uses.
_LUMA = (0.299, 0.587, 0.114)


def decode_image(
    contents: tf.Tensor, image_size: tuple[int, int], channels: int, resize: Resize = "stretch"
) -> tf.Tensor:
    """Returns the pixels of one encoded image, resized: `(H, W, channels)` float32 in [0, 255].

    JPEG, PNG, BMP, GIF and WebP are told apart by their bytes, not their names; of an animation the first frame is
    taken. The picture is turned upright by its EXIF orientation. Transparency is composited onto white, in the values
    as they are stored (no gamma); of 16 bits the upper 8 count. The resize is bilinear with antialiasing; its result
    is not rounded.

    Args:
        contents: Scalar string, an encoded image.
        image_size: (H, W) in pixels.
        channels: 3 for RGB, 1 for luma.
        resize: "stretch" to `image_size`; "crop": scaled until the shorter side fits, the middle is kept; "pad":
            scaled until the longer side fits, with black on both sides.
    """
    pixels, orientation = _decode(contents), read_orientation(contents)
    # Turned after the resize, when there is less to turn; so a picture that lies on its side is resized lying.
    lying = tf.where(orientation >= 5, image_size[::-1], image_size)
    colour = tf.cond(
        tf.equal(tf.shape(pixels)[-1], 3),
        lambda: _resize(pixels, lying, resize),
        lambda: _resize_other(pixels, lying, resize),
    )
    if channels == 1:
        colour = tf.tensordot(colour, tf.constant(_LUMA), axes=1)[..., tf.newaxis]
    return tf.ensure_shape(turn_upright(colour, orientation), (*image_size, channels))


def decode_batch(
    contents: tf.Tensor, image_size: tuple[int, int], channels: int, resize: Resize = "stretch"
) -> tf.Tensor:
    """Returns `decode_image` of each of `(B,)` strings: `(B, H, W, channels)` float32 in [0, 255]."""
    return tf.map_fn(
        lambda one: decode_image(one, image_size, channels, resize),
        contents,
        fn_output_signature=tf.TensorSpec((*image_size, channels), tf.float32),
    )


def _decode(contents: tf.Tensor) -> tf.Tensor:
    """Returns `(H, W, C)` uint8 with the channels that the file has."""
    pixels = tf.cond(
        tf.equal(tf.strings.substr(contents, 0, 3), b"\xff\xd8\xff"),
        # The default, a faster approximation, is several values off every other decoder.
        lambda: tf.io.decode_jpeg(contents, channels=0, dct_method="INTEGER_ACCURATE"),
        lambda: tf.cond(
            _is_animated_webp(contents),
            # Four or an error: told to find out, TensorFlow 2.21 writes four channels into room for three.
            lambda: tf.io.decode_image(contents, channels=4, expand_animations=False),
            lambda: tf.io.decode_image(contents, channels=0, expand_animations=False),
        ),
    )
    return tf.ensure_shape(pixels, (None, None, None))


def _is_animated_webp(contents: tf.Tensor) -> tf.Tensor:
    """Returns whether a WebP container's animation flag is set (RFC 9649, section 2.7)."""
    start = tf.strings.substr(contents, 0, 21)
    return tf.cond(
        tf.strings.regex_full_match(start, rb"RIFF\C{4}WEBPVP8X\C{5}"),
        lambda: tf.bitwise.bitwise_and(tf.io.decode_raw(tf.strings.substr(start, 20, 1), tf.uint8)[0], 2) > 0,
        lambda: False,
    )


def _resize_other(pixels: tf.Tensor, image_size: tf.Tensor, resize: Resize) -> tf.Tensor:
    """Returns RGB, resized, of pixels that are gray or have transparency."""
    # Nothing becomes float at its full size: a picture of 24 megapixels would take 300 MB.
    resized = tf.cond(
        tf.equal(tf.shape(pixels)[-1], 1),
        lambda: _resize(pixels, image_size, resize),
        lambda: _resize(_onto_white(pixels[..., :-1], pixels[..., -1:]), image_size, resize) * (1 / 255),
    )
    return tf.cond(tf.equal(tf.shape(resized)[-1], 1), lambda: tf.repeat(resized, 3, axis=-1), lambda: resized)


def _onto_white(colour: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    """Returns `(H, W, C)` uint16 in [0, 255 * 255] from `(H, W, C)` and `(H, W, 1)` uint8.

    Whole numbers, since TensorFlow's optimiser rewrites divisions, and otherwise in training than in an export.
    """
    opacity = tf.cast(alpha, tf.uint16)
    return tf.cast(colour, tf.uint16) * opacity + 255 * (255 - opacity)


def _resize(pixels: tf.Tensor, image_size: tf.Tensor, resize: Resize) -> tf.Tensor:
    """Returns pixels of any type, resized, as float32; a turned picture gives the turned result."""
    if resize == "pad":
        border = _borders(tf.shape(pixels)[:2], image_size)
        inner = _resize(pixels, image_size - 2 * border, "stretch")
        return tf.pad(inner, tf.stack([[border[0], border[0]], [border[1], border[1]], [0, 0]]))
    size, wanted = tf.cast(tf.shape(pixels)[:2], tf.float32), tf.cast(image_size, tf.float32)
    scale, moved = wanted / size, tf.zeros(2)
    if resize == "crop":
        scale = tf.repeat(tf.reduce_max(scale), 2)
        moved = (wanted - scale * size) / 2  # fractions of a pixel too; and what is cut off is never computed
    # What tf.image.resize(method="bilinear", antialias=True) calls.
    return tf.raw_ops.ScaleAndTranslate(
        images=pixels[tf.newaxis], size=image_size, scale=scale, translation=moved,
        kernel_type="triangle", antialias=True,
    )[0]  # fmt: skip


def _borders(size: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
    """Returns the rows above and the columns left, `(2,)` int32, that leave a picture's shape to the middle.

    As many follow below and right, so that turning changes nothing: the shape is kept to within a pixel.
    """
    size, wanted = tf.cast(size, tf.int64), tf.cast(image_size, tf.int64)
    across = tf.reverse(size, [0])
    spare = wanted * across - size * tf.reverse(wanted, [0])  # the border, times two, times `across`
    border = (spare + across) // (2 * across)
    return tf.cast(tf.clip_by_value(border, 0, (wanted - 1) // 2), tf.int32)
