"""Bytes to pixels as TensorFlow graph functions: the one decoder of training, evaluation, predict and the export."""

from __future__ import annotations

import tensorflow as tf

from pipeline.images.orientation import read_orientation, turn_upright

#: ITU-R BT.601 luma, the weights that Pillow's `convert("L")` uses.
_LUMA = (0.299, 0.587, 0.114)


def decode_image(contents: tf.Tensor, image_size: tuple[int, int], channels: int) -> tf.Tensor:
    """Returns the pixels of one encoded image, resized: `(H, W, channels)` float32 in [0, 255].

    JPEG, PNG, BMP, GIF and WebP are told apart by their bytes, not their names; of an animation the first frame is
    taken. A JPEG is turned upright by its EXIF orientation. Transparency is composited onto white, in the values as
    they are stored (no gamma). The resize stretches to `image_size`, bilinear with antialiasing; its result is not
    rounded.

    Args:
        contents: Scalar string, an encoded image.
        image_size: (H, W) in pixels.
        channels: 3 for RGB, 1 for luma.
    """
    pixels, orientation = _decode(contents), read_orientation(contents)
    # Turned after the resize, when there is less to turn; so a picture that lies on its side is resized lying.
    lying = tf.where(orientation >= 5, image_size[::-1], image_size)
    count = tf.shape(pixels)[-1]
    colour = tf.cond(count >= 3, lambda: pixels[..., :3], lambda: tf.repeat(pixels[..., :1], 3, axis=-1))
    # Only what has transparency becomes float at its full size: a photograph of 24 megapixels would take 300 MB.
    resized = tf.cond(
        tf.equal(count % 2, 0),
        lambda: _resize(_onto_white(colour, pixels[..., -1:]), lying),
        lambda: _resize(colour, lying),
    )
    if channels == 1:
        resized = tf.tensordot(resized, tf.constant(_LUMA), axes=1)[..., tf.newaxis]
    return tf.ensure_shape(turn_upright(resized, orientation), (*image_size, channels))


def decode_batch(contents: tf.Tensor, image_size: tuple[int, int], channels: int) -> tf.Tensor:
    """Returns `decode_image` of each of `(B,)` strings: `(B, H, W, channels)` float32 in [0, 255]."""
    return tf.map_fn(
        lambda one: decode_image(one, image_size, channels),
        contents,
        fn_output_signature=tf.TensorSpec((*image_size, channels), tf.float32),
    )


def _decode(contents: tf.Tensor) -> tf.Tensor:
    """Returns `(H, W, C)` uint8 with the channels that the file has."""
    return tf.cond(
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


def _is_animated_webp(contents: tf.Tensor) -> tf.Tensor:
    """Returns whether a WebP container's animation flag is set (RFC 9649, section 2.7)."""
    start = tf.strings.substr(contents, 0, 21)
    return tf.cond(
        tf.strings.regex_full_match(start, rb"RIFF\C{4}WEBPVP8X\C{5}"),
        lambda: tf.bitwise.bitwise_and(tf.io.decode_raw(tf.strings.substr(start, 20, 1), tf.uint8)[0], 2) > 0,
        lambda: False,
    )


def _onto_white(colour: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    """Returns `(H, W, 3)` float32 in [0, 255] from `(H, W, 3)` and `(H, W, 1)` uint8."""
    opacity = tf.cast(alpha, tf.float32) / 255.0
    return tf.cast(colour, tf.float32) * opacity + 255.0 * (1.0 - opacity)


def _resize(pixels: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
    """Returns pixels of any type, resized, as float32."""
    return tf.image.resize(pixels, image_size, method="bilinear", antialias=True)
