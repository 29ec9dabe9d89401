"""What an image file may ask for, judged before any of it is decoded: pixels, memory, pieces.

A few bytes can ask for much: a picture of one colour that unpacks to gigabytes, a thousand scans
over the same pixels, a million empty blocks that Python would read one by one. What is refused here
is refused by all who decode.
"""

import math
import re
import struct
from collections.abc import Iterator
from itertools import islice

from PIL import ImageFile, JpegImagePlugin

from schemas.errors import RowFault

PIXEL_LIMIT = 178_956_970  # pixels; Pillow's own bound for a decompression bomb
DECODING_LIMIT = 490_000_000  # bytes while one image is decoded, turned and made RGB: 61 million
# pixels of a camera's turned JPEG
MOST_PIECES = 50_000  # chunks, segments and blocks before the pixels, or in place of them
MOST_VALUES = 500_000  # numbers in the tags of a TIFF: places of its strips and tiles above all
MOST_SCANS = 100  # of a JPEG; encoders write about 10
MOST_EXIF = 64  # segments of a JPEG; one holds 64 KiB
MOST_RUN_BYTES = 4_000_000  # of a BMP in runs, which Pillow reads in Python
MOST_RUN_PIXELS = 8_000_000  # of one; Pillow fills what is left of a line pixel by pixel
RGB_BYTES = 4  # Pillow keeps RGB in four bytes a pixel
_PIXEL_BYTES = {
    "1": 1,
    "L": 1,
    "P": 1,
    "I;16": 3,
    "I;16B": 3,
    "I;16L": 3,
}  # of modes, 16 bits by way of 8; others 4
_WEBP_BYTES = 12  # a pixel: libwebp's two canvases and the frame that it gives
_MIXED_BYTES = 8  # a pixel of a strip that libtiff turns from luminance and colour into RGB
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # of a JPEG's scans
_SCAN, _END = 0xDA, 0xD9
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_BYTE_TYPES = frozenset({1, 2, 6, 7})  # of TIFF tags; their values are one piece of data
_BITS, _COMPRESSION, _PHOTOMETRIC = 258, 259, 262  # TIFF tags
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 278, 322, 323
_JPEG_COMPRESSIONS, _YCBCR = (6, 7), 6
_BMP_RUNS = (1, 2)  # compressions


def check_pieces(kind: str, encoded: bytes) -> None:
    """Refuses a file of so many pieces that reading its header alone would take seconds.

    Args:
        kind: `JPEG`, `PNG`, `GIF`, `TIFF`, `BMP` or `WebP`.
        encoded: the file.

    Raises:
        RowFault: `bomb`.
    """
    pieces = {"JPEG": _jpeg_segments, "PNG": _png_chunks, "GIF": _gif_blocks}.get(kind)
    if pieces and sum(1 for _ in islice(pieces(encoded), MOST_PIECES + 1)) > MOST_PIECES:
        raise RowFault("bomb", f"more than {MOST_PIECES} pieces stand before the pixels")
    if kind == "JPEG":
        _check_jpeg(encoded)
    if kind == "TIFF":
        _check_tags(encoded)
    if kind == "BMP" and len(encoded) > MOST_RUN_BYTES:
        (compression,) = struct.unpack_from("<I", encoded, 30)
        if encoded[14] >= 40 and compression in _BMP_RUNS:
            found = f"{len(encoded)} bytes of runs; at most {MOST_RUN_BYTES} are read"
            raise RowFault("bomb", found)


def check_size(image: ImageFile.ImageFile, pixel_limit: int, *, is_turned: bool) -> None:
    """Refuses an image of too many pixels, or one that takes too much memory until it is RGB.

    Raises:
        RowFault: `bomb`.
    """
    width, height = image.size
    if width * height > pixel_limit:
        raise RowFault(
            "bomb",
            f"{width} x {height} pixels are {width * height}; at most {pixel_limit} are allowed "
            "(limits.image_pixels)",
        )
    if width * height > MOST_RUN_PIXELS and _has_runs(image):
        found = f"{width} x {height} pixels of a BMP in runs"
        raise RowFault("bomb", f"{found}; at most {MOST_RUN_PIXELS} are read: save it without")
    needed = decoding_bytes(image, is_turned=is_turned)
    if needed > DECODING_LIMIT:
        raise RowFault(
            "bomb",
            f"{width} x {height} pixels of this kind take {needed} bytes to decode; "
            f"at most {DECODING_LIMIT} are allowed: scale the picture down",
        )


def decoding_bytes(image: ImageFile.ImageFile, *, is_turned: bool) -> int:
    """Memory that an image takes at most until it is RGB, judged on its header."""
    held = _PIXEL_BYTES.get(image.mode, RGB_BYTES)
    converted = held + RGB_BYTES if image.mode != "RGB" else 0
    pixels = image.size[0] * image.size[1]
    return int(
        max(
            pixels * (held + beside_pixels(image)) + _strip_bytes(image),
            pixels * converted,
            pixels * held * (2 if is_turned else 1),
        )
    )


def beside_pixels(image: ImageFile.ImageFile) -> float:
    """Bytes a pixel that the decoder holds beside the picture that it makes."""
    if image.format == "WEBP":
        return _WEBP_BYTES
    if image.format == "BMP":
        return 2 if _has_runs(image) else 0
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image.info.get("progressive"):
        samples = [across * down for _, across, down, _ in image.layer]
        return 2 * sum(samples) / max(1, *samples)  # libjpeg holds 16 bits of each
    return 0


def _has_runs(image: ImageFile.ImageFile) -> bool:
    return bool(image.format == "BMP" and image.tile and image.tile[0][0] == "bmp_rle")


def _strip_bytes(image: ImageFile.ImageFile) -> int:
    """What libtiff unpacks at once: a strip or a tile, whatever the picture's own size is."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None or not image.tile or image.tile[0][0] != "libtiff":
        return 0
    is_mixed = tags.get(_COMPRESSION) in _JPEG_COMPRESSIONS or tags.get(_PHOTOMETRIC) == _YCBCR
    sample_bytes = _MIXED_BYTES if is_mixed else math.ceil(sum(tags.get(_BITS, (1,))) / 8)
    if _TILE_WIDTH in tags:
        return int(tags[_TILE_WIDTH]) * int(tags.get(_TILE_LENGTH, 1)) * sample_bytes
    rows = min(int(tags.get(_ROWS_PER_STRIP, image.size[1])), image.size[1])
    return image.size[0] * rows * sample_bytes


def _png_chunks(encoded: bytes) -> Iterator[None]:
    at = 8
    while at + 8 <= len(encoded):
        at += 12 + int.from_bytes(encoded[at : at + 4], "big")
        yield


def _gif_blocks(encoded: bytes) -> Iterator[None]:
    """The blocks before the first frame; Pillow passes over what it does not know."""
    at = 13 + (3 << (encoded[10] % 8 + 1) if len(encoded) > 10 and encoded[10] & 0x80 else 0)
    while at < len(encoded) and encoded[at] != 0x2C:
        yield
        if encoded[at] != 0x21:
            at += 1
            continue
        at += 2
        while at < len(encoded) and encoded[at]:
            at += 1 + encoded[at]
            yield
        at += 1


def _jpeg_segments(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place of each segment up to and with the first scan."""
    at = 2
    while at + 4 <= len(encoded):
        marker = encoded[at + 1]
        if encoded[at] != 0xFF or marker in (0, 0xFF):
            at += 1  # padding, which Pillow passes over
            yield 0, at
            continue
        yield marker, at
        if marker == _SCAN:
            return
        is_alone = 0xD0 <= marker <= 0xD9 or marker == 1
        at += 2 if is_alone else 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")


def _check_jpeg(encoded: bytes) -> None:
    """Refuses more EXIF, or more scans over the same pixels, than any encoder writes."""
    channels, scan, exif = 0, 0, 0
    for marker, at in _jpeg_segments(encoded):
        exif += marker == 0xE1 and encoded[at + 4 : at + 8] == b"Exif"
        if exif > MOST_EXIF:
            raise RowFault("bomb", f"the JPEG has more than {MOST_EXIF} segments of EXIF")
        if marker in _FRAMES and at + 9 < len(encoded):
            channels = 0 if marker == 0xC2 else encoded[at + 9]
        if marker == _SCAN:
            scan = at
    if not scan or scan + 4 >= len(encoded) or encoded[scan + 4] == channels:
        return  # all channels in one scan: there is no other
    scans, at = 0, scan
    while found := _MARKER.search(encoded, at):
        marker, at = found[1][0], found.end()
        if marker == _END:
            return
        scans += marker == _SCAN
        if scans > MOST_SCANS:
            raise RowFault("bomb", f"the JPEG has more than {MOST_SCANS} scans")
        at += max(2, int.from_bytes(encoded[at : at + 2], "big"))


def _check_tags(encoded: bytes) -> None:
    """Refuses a TIFF whose first directory lists more than any picture needs."""
    order = "<" if encoded[:1] == b"I" else ">"
    is_big = encoded[2:4] in (b"+\0", b"\0+")
    offset, number, entry = ("Q", "Q", "HHQ8x") if is_big else ("I", "H", "HHI4x")
    try:
        (at,) = struct.unpack_from(order + offset, encoded, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + number, encoded, at)
        at += struct.calcsize(order + number)
        values = 0
        for index in range(min(count, MOST_PIECES)):
            place = at + index * struct.calcsize(order + entry)
            _, kind, amount = struct.unpack_from(order + entry, encoded, place)
            values += 1 if kind in _BYTE_TYPES else amount
    except (struct.error, OverflowError):
        return  # cut short, as Pillow will say
    if count > MOST_PIECES or values > MOST_VALUES:
        found = f"{count} tags of {values} numbers"
        raise RowFault("bomb", f"the TIFF has {found}; at most {MOST_VALUES} are read")
