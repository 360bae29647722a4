"""EXIF orientation as TensorFlow graph functions, so that a phone's photograph is upright in training and when served.

Cameras store the sensor's pixels as they come and note in tag 0x0112 how to hold them (Exif 2.3, section 4.6.4).
"""

from __future__ import annotations

import tensorflow as tf

_TAG = 0x0112
#: An APP1 segment holds at most 64 KiB, and stands before the pixels, after little else.
_SEARCHED = 2**17
_SEGMENT = 2**16
#: More than any camera writes; a damaged count must not cost memory.
_MOST_ENTRIES = 1024


def read_orientation(contents: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of an encoded JPEG, a scalar int32 from 1 (upright) to 8.

    1 as well where there is none, where it is damaged, and for files other than JPEG.
    """
    start = tf.strings.substr(contents, 0, _SEARCHED)
    # RE2 reads patterns as UTF-8, so bytes above 127 cannot be written in one: \C stands for any byte.
    before = tf.strings.length(tf.strings.regex_replace(start, rb"^(\C*?)Exif\x00\x00\C*$", rb"\1"))
    is_jpeg = tf.equal(tf.strings.substr(start, 0, 3), b"\xff\xd8\xff")
    is_segment = tf.logical_and(before >= 6, before < tf.strings.length(start))
    marker = tf.strings.substr(start, tf.where(is_segment, before - 4, 0), 2)
    return tf.cond(
        is_jpeg & is_segment & tf.equal(marker, b"\xff\xe1"),
        lambda: _walk(tf.io.decode_raw(tf.strings.substr(contents, before + 6, _SEGMENT), tf.uint8)),
        lambda: 1,
    )


def turn_upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns `(H, W, C)` or, for orientations 5 to 8, `(W, H, C)` pixels as they are to be seen."""

    def is_one_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(tf.equal(orientation, values))

    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
    pixels = tf.cond(is_one_of(2, 3, 6, 7), lambda: tf.reverse(pixels, [1]), lambda: pixels)
    return tf.cond(is_one_of(3, 4, 7, 8), lambda: tf.reverse(pixels, [0]), lambda: pixels)


def _walk(tiff: tf.Tensor) -> tf.Tensor:
    """Returns the orientation that the first directory of a TIFF header (`(N,)` uint8) names, else 1."""
    # Behind the end everything is 0: an offset that leads there finds no tag.
    data = tf.cast(tf.concat([tiff, tf.zeros(2, tf.uint8)], axis=0), tf.int32)
    last = tf.size(data) - 2
    big_endian = tf.equal(data[0], ord("M"))

    def word(at: tf.Tensor) -> tf.Tensor:
        at = tf.clip_by_value(at, 0, last)
        first, second = tf.gather(data, at), tf.gather(data, at + 1)
        return tf.where(big_endian, 256 * first + second, first + 256 * second)

    high, low = tf.where(big_endian, 4, 6), tf.where(big_endian, 6, 4)  # halves of the directory's offset
    directory = tf.where(word(high) > 0, last, word(low))  # one over 64 KiB leads nowhere
    entries = directory + 2 + 12 * tf.range(tf.minimum(word(directory), _MOST_ENTRIES))
    values = tf.boolean_mask(word(entries + 8), tf.equal(word(entries), _TAG))
    first = tf.concat([values, [1]], axis=0)[0]
    return tf.where((first >= 1) & (first <= 8), first, 1)
