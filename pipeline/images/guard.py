"""What must not reach a decoder that is open to anyone, as TensorFlow graph functions: it travels inside the export.

TensorFlow's decoders take the memory that a header asks for, read some files wrongly without a word, and fail a whole
batch over one image. Here a file's header is read first, and an image that fails leaves its neighbours alone.
"""

from __future__ import annotations

import tensorflow as tf

from pipeline.config import Resize
from pipeline.images.graph import decode_image
from pipeline.images.headers import BYTE_LIMIT, PIXEL_LIMIT

#: Images of a batch that are decoded at a time, at most: it bounds the memory that pictures of full size take.
PARALLEL = 16

#: Larger GIFs are refused: finding out what their blocks hold takes twelve times their size.
GIF_BYTE_LIMIT = 2**26

#: What is said of an image whose header passes and that TensorFlow cannot decode.
UNDECODABLE = "cannot be decoded: damaged, or cut short"

#: The longest header that is looked at: a BMP's.
_HEADER = 54

#: Kinds whose headers are looked at once more, one by one.
_JPEG, _GIF = "JPEG", "GIF"


def decode_apart(
    contents: tf.Tensor, image_size: tuple[int, int], channels: int, resize: Resize = "stretch"
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `decode_image` of each of `(B,)` strings, and what is wrong with each.

    Pixels are `(B, H, W, channels)` float32 in [0, 255], zeros for a bad image. Errors are `(B,)` strings, empty for a
    good one.
    """
    count = tf.shape(contents, tf.int64)[0]
    nothing = tf.zeros((*image_size, channels))

    def decode(place: tf.Tensor, content: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        obstacle = _look_closer(content, found)
        pixels = tf.cond(
            tf.equal(obstacle, ""), lambda: decode_image(content, image_size, channels, resize), lambda: nothing
        )
        return place, obstacle, pixels

    images = tf.data.Dataset.from_tensor_slices((tf.range(count), contents, find_obstacles(contents)))
    decoded = images.map(decode, num_parallel_calls=PARALLEL, deterministic=True).ignore_errors()
    # One more at the end: a batch of nothing cannot be taken out of a data set, and every image may be bad.
    last = tf.data.Dataset.from_tensors((count, tf.constant(""), nothing))
    places, errors, pixels = decoded.concatenate(last).batch(count + 1).get_single_element()

    def spread() -> tuple[tf.Tensor, tf.Tensor]:
        where, size = places[:, tf.newaxis], count + 1
        known = tf.tensor_scatter_nd_update(tf.fill([size], UNDECODABLE), where, errors)
        return tf.scatter_nd(where, pixels, tf.stack([size, *nothing.shape])), known

    # Most batches are whole, and copying pixels about takes time.
    pixels, errors = tf.cond(tf.equal(tf.size(places, tf.int64), count + 1), lambda: (pixels, errors), spread)
    return tf.ensure_shape(pixels[:-1], (None, *image_size, channels)), errors[:-1]


def find_obstacles(contents: tf.Tensor) -> tf.Tensor:
    """Returns why encoded images must not be decoded, `(B,)` strings, empty where a header gives no reason.

    Of JPEG and GIF, whose sizes do not stand at one place, nothing is said but of which kind they are.
    """
    lengths = tf.strings.length(contents)
    # All at once, and zeros behind what is shorter: a dozen operations an image would take as long as a small picture.
    start = tf.strings.substr(contents, 0, _HEADER)
    data = tf.cast(tf.io.decode_raw(start, tf.uint8, fixed_length=_HEADER), tf.float64)  # (B, _HEADER)

    def begins(pattern: bytes) -> tf.Tensor:
        return tf.strings.regex_full_match(start, pattern + rb"\C*")  # RE2 takes \C for any byte

    found = tf.where(
        tf.equal(lengths, 0), "the file is empty", "holds no JPEG, PNG, GIF, BMP or WebP image that can be recognised"
    )
    for is_it, text in (
        (begins(rb"BM"), _bmp(data)),
        (begins(rb"RIFF\C{4}WEBPVP8"), _webp(data)),
        (begins(rb"GIF8[79]a"), tf.constant(_GIF)),
        (begins(rb"\CPNG\r\n\x1a\n"), _png(data)),
        (tf.equal(tf.strings.substr(start, 0, 3), b"\xff\xd8\xff"), tf.constant(_JPEG)),
        (lengths > BYTE_LIMIT, tf.constant(f"over {BYTE_LIMIT:,} bytes; save the image smaller")),
    ):
        found = tf.where(is_it, text, found)
    return found


def _look_closer(content: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
    """Returns what `find_obstacles` found of one image, once JPEG and GIF are looked into too."""
    return tf.cond(
        tf.equal(found, _JPEG),
        lambda: _jpeg(content),
        lambda: tf.cond(tf.equal(found, _GIF), lambda: _gif(content), lambda: found),
    )


def _number(data: tf.Tensor, at: int, size: int, *, big_endian: bool = False) -> tf.Tensor:
    """Returns the numbers that `size` bytes of headers stand for; of floats, so that products cannot overflow."""
    powers = [256.0**place for place in range(size)]
    return tf.linalg.matvec(data[..., at : at + size], tf.constant(powers[::-1] if big_endian else powers, tf.float64))


def _check_size(width: tf.Tensor, height: tf.Tensor, limit: int = PIXEL_LIMIT) -> tf.Tensor:
    sides = [tf.strings.as_string(tf.cast(side, tf.int64)) for side in (width, height)]
    size = tf.strings.join([sides[0], " x ", sides[1]])
    over = tf.strings.join([size, f" is over {limit:,} pixels; scale the image down"])
    none = tf.strings.join([size, " pixels"])
    return tf.where(width * height > limit, over, tf.where(width * height < 1, none, ""))


def _jpeg(content: tf.Tensor) -> tf.Tensor:
    """Looks at a JPEG's frame header; raises TensorFlow's error where there is none."""
    shape = tf.cast(tf.io.extract_jpeg_shape(content), tf.float64)
    return _check_size(shape[1], shape[0])


def _png(data: tf.Tensor) -> tf.Tensor:
    """Looks at the chunk IHDR of PNGs (PNG specification, section 11.2.2)."""
    return _check_size(_number(data, 16, 4, big_endian=True), _number(data, 20, 4, big_endian=True))


def _bmp(data: tf.Tensor) -> tf.Tensor:
    """Looks at BITMAPINFOHEADERs. TensorFlow reads palettes and empty fourth channels as if they were colours."""
    width, height = _number(data, 18, 4), _number(data, 22, 4)
    height = tf.where(height >= 2**31, 2**32 - height, height)  # negative: stored from the top
    plain = (_number(data, 14, 4) >= 40) & tf.equal(_number(data, 28, 2), 24) & tf.equal(_number(data, 30, 4), 0)
    other = "BMP of other than 24 bits a pixel; save it as PNG"
    return tf.where(plain, _check_size(width, height), other)


def _webp(data: tf.Tensor) -> tf.Tensor:
    """Looks at the first chunk of WebPs (RFC 9649, sections 2.5 to 2.7)."""
    bits, kind = _number(data, 21, 4), data[..., 15]
    lossless = (tf.math.floormod(bits, 2**14) + 1, tf.math.floormod(tf.floor(bits / 2**14), 2**14) + 1)
    canvas = (_number(data, 24, 3) + 1, _number(data, 27, 3) + 1)
    lossy = tuple(tf.math.floormod(_number(data, at, 2), 2**14) for at in (26, 28))
    width, height = (
        tf.where(
            tf.equal(kind, ord("X")), canvas[side], tf.where(tf.equal(kind, ord("L")), lossless[side], lossy[side])
        )
        for side in (0, 1)
    )
    return _check_size(width, height, PIXEL_LIMIT // 2)  # libwebp keeps an animation's canvas several times


def _gif(contents: tf.Tensor) -> tf.Tensor:
    """Looks at the blocks of a GIF: giflib decodes all its pictures, and half a one passes for whole."""
    too_large = f"GIF of over {GIF_BYTE_LIMIT:,} bytes; save its first picture alone"
    length = tf.strings.length(contents)
    return tf.cond(length > GIF_BYTE_LIMIT, lambda: tf.constant(too_large), lambda: _gif_blocks(contents))


def _gif_blocks(contents: tf.Tensor) -> tf.Tensor:
    data = tf.cast(tf.io.decode_raw(contents, tf.uint8), tf.int32)
    total, ends = tf.size(data), _chain_ends(data)
    data = tf.pad(data, [[0, 16]])  # behind the end everything is 0

    def word(at: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[at] + 256 * data[at + 1], tf.float64)

    def is_block(at: tf.Tensor, pixels: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        return (at < total) & tf.reduce_any(tf.equal(data[at], [ord("!"), ord(",")])) & (pixels <= PIXEL_LIMIT)

    def following(at: tf.Tensor, pixels: tf.Tensor, whole: tf.Tensor) -> tuple[tf.Tensor, ...]:
        is_picture = tf.equal(data[at], ord(","))
        first = at + tf.where(is_picture, 11 + _colour_table(data[at + 9]), 2)
        end = ends[tf.minimum(first, total)]
        area = tf.where(is_picture, word(at + 5) * word(at + 7), 0)
        return end + 1, pixels + area, whole | (is_picture & (end < total))

    begin = (13 + _colour_table(data[10]), word(6) * word(8), tf.constant(False))
    _, pixels, whole = tf.while_loop(is_block, following, begin)
    over = f"GIF whose pictures have over {PIXEL_LIMIT:,} pixels together; save its first picture alone"
    return tf.where(pixels > PIXEL_LIMIT, over, tf.where(whole, "", UNDECODABLE))


def _colour_table(flags: tf.Tensor) -> tf.Tensor:
    """Returns the bytes that a colour table takes whose flags are given."""
    return tf.where(flags >= 128, 3 * 2 ** (tf.math.floormod(flags, 8) + 1), 0)


def _chain_ends(data: tf.Tensor) -> tf.Tensor:
    """Returns where the chain of sub-blocks ends that begins at each byte, `(N + 1,)` int32; N: not within the file.

    A sub-block starts with its length and an empty one ends the chain. All chains are followed at once and twice as far
    at each step, which takes a dozen steps for a million bytes instead of four thousand.
    """
    total = tf.size(data)
    place = tf.range(total + 1)
    length = tf.pad(data, [[0, 1]])
    ends = tf.where(length > 0, tf.minimum(place + 1 + length, total), place)

    def moves(now: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(tf.not_equal(now, before))

    def double(now: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(now, now), now

    ends, _ = tf.while_loop(moves, double, (tf.gather(ends, ends), ends))
    return ends
