"""EXIF orientation as TensorFlow graph functions, so that a phone's photograph is upright in training and when served.

Cameras store the sensor's pixels as they come and note in tag 0x0112 how to hold them (Exif 2.3, section 4.6.4).
`pipeline.images.structure.graph_orientation` is the same without TensorFlow: change both.
"""

from __future__ import annotations

import tensorflow as tf

_TAG = 0x0112
#: Exif 2.3 (section 4.5.4) wants the segment first of all; a PNG's chunk comes after little else. Searching costs time.
_SEARCHED = 2**12
#: What a JPEG's segment can hold.
_SEGMENT = 2**16
#: A file that may have an orientation. RE2 reads patterns as UTF-8, so bytes above 127 cannot be written in one: \C
#: stands for any byte.
_NOTED = rb"\C*(?:Exif\x00\x00|eXIf)\C*|RIFF\C{4}WEBPVP8X\C*"
#: More than any camera writes; a damaged count must not cost memory.
_MOST_ENTRIES = 1024
_NOWHERE = -1


def read_orientation(contents: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of an encoded JPEG, PNG or WebP, a scalar int32 from 1 (upright) to 8.

    1 as well where there is none, where it is damaged or far from the start, and for other files.
    """
    start = tf.strings.substr(contents, 0, _SEARCHED)

    def look() -> tf.Tensor:
        at = tf.cond(
            tf.equal(tf.strings.substr(start, 0, 3), b"\xff\xd8\xff"),
            lambda: _jpeg_block(start),
            lambda: tf.cond(
                tf.strings.regex_full_match(start, rb"\CPNG\r\n\x1a\n\C*"),
                lambda: _chunk(contents, b"eXIf", png=True),
                lambda: _webp_block(contents),
            ),
        )
        return tf.cond(at >= 0, lambda: _walk(_tiff(contents, at)), lambda: 1)

    return tf.cond(tf.strings.regex_full_match(start, _NOTED), look, lambda: 1)


def turn_upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns `(H, W, C)` or, for orientations 5 to 8, `(W, H, C)` pixels as they are to be seen."""

    def is_one_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(tf.equal(orientation, values))

    def turn() -> tf.Tensor:
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
        turned = tf.cond(is_one_of(2, 3, 6, 7), lambda: tf.reverse(turned, [1]), lambda: turned)
        return tf.cond(is_one_of(3, 4, 7, 8), lambda: tf.reverse(turned, [0]), lambda: turned)

    return tf.cond(tf.equal(orientation, 1), lambda: pixels, turn)


def _jpeg_block(start: tf.Tensor) -> tf.Tensor:
    """Returns where the TIFF structure of a JPEG's first bytes begins, -1 without one."""
    before = tf.strings.length(tf.strings.regex_replace(start, rb"^(\C*?)Exif\x00\x00\C*$", rb"\1"))
    is_segment = tf.logical_and(before >= 6, before < tf.strings.length(start))
    marker = tf.strings.substr(start, tf.where(is_segment, before - 4, 0), 2)
    return tf.where(is_segment & tf.equal(marker, b"\xff\xe1"), before + 6, _NOWHERE)


def _webp_block(contents: tf.Tensor) -> tf.Tensor:
    """Returns where a WebP's chunk EXIF begins, -1 where the container's flag says that there is none (RFC 9649)."""
    start = tf.strings.substr(contents, 0, 21)
    return tf.cond(
        tf.strings.regex_full_match(start, rb"RIFF\C{4}WEBPVP8X\C{5}"),
        lambda: tf.cond(
            tf.bitwise.bitwise_and(tf.io.decode_raw(tf.strings.substr(start, 20, 1), tf.uint8)[0], 8) > 0,
            lambda: _chunk(contents, b"EXIF", png=False),
            lambda: _NOWHERE,
        ),
        lambda: _NOWHERE,
    )


def _chunk(contents: tf.Tensor, name: bytes, *, png: bool) -> tf.Tensor:
    """Returns where the data of the first chunk of a name begin, -1 without one (in a PNG: before the pixels)."""
    total = tf.strings.length(contents)
    weights = tf.constant([2**24, 2**16, 2**8, 1] if png else [1, 2**8, 2**16, 2**24], tf.int64)

    def name_at(at: tf.Tensor) -> tf.Tensor:
        return tf.strings.substr(contents, tf.minimum(at + (4 if png else 0), total), 4)

    def wanted(at: tf.Tensor) -> tf.Tensor:
        return (at + 8 <= total) & tf.reduce_all(tf.not_equal(name_at(at), [name, b"IDAT"]))

    def following(at: tf.Tensor) -> tuple[tf.Tensor]:
        digits = tf.io.decode_raw(tf.strings.substr(contents, at + (0 if png else 4), 4), tf.uint8)
        length = tf.reduce_sum(tf.cast(digits, tf.int64) * weights)
        length += 12 if png else 8 + length % 2
        return (tf.cast(tf.minimum(tf.cast(at, tf.int64) + length, tf.cast(total, tf.int64)), tf.int32),)

    (at,) = tf.while_loop(wanted, following, (tf.constant(8 if png else 12),))
    return tf.where(tf.equal(name_at(at), name) & (at + 8 <= total), at + 8, _NOWHERE)


def _tiff(contents: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Returns up to 64 KiB from a place on, `(N,)` uint8, without the prefix that JPEG has and some give the others."""
    prefixed = tf.equal(tf.strings.substr(contents, at, 6), b"Exif\x00\x00")
    return tf.io.decode_raw(tf.strings.substr(contents, at + tf.where(prefixed, 6, 0), _SEGMENT), tf.uint8)


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
