"""Every kind of file becomes the pixels of the published loaders, or a fault of the right code."""

import io
import struct
import warnings
import weakref
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps
from PIL import ImageFile as PillowImageFile

from operators.images import decode, decode_column, verify
from schemas.errors import RowFault, RowFaults

WIDTH, HEIGHT = 37, 23


def noise(*shape: int, high: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape)


def picture(mode: str) -> Image.Image:
    rgb = Image.fromarray(noise(HEIGHT, WIDTH, 3).astype(np.uint8)).resize((WIDTH, HEIGHT))
    if mode == "I;16":
        return Image.fromarray(noise(HEIGHT, WIDTH, high=65536).astype(np.uint16))
    if mode == "RGBA":
        rgb.putalpha(Image.fromarray(noise(HEIGHT, WIDTH, seed=1).astype(np.uint8)))
        return rgb
    if mode == "LA":
        return picture("RGBA").convert("LA")
    return rgb.convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def animated(kind: str) -> bytes:
    frames = [picture("RGB"), ImageOps.invert(picture("RGB"))]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=40)


def palette_with(transparency: int | bytes) -> bytes:
    return saved(picture("RGB").quantize(16), "PNG", transparency=transparency)


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


ZOO: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved(picture("RGB"), "JPEG"),
    "progressive jpeg": lambda: saved(picture("RGB"), "JPEG", progressive=True),
    "grey jpeg": lambda: saved(picture("L"), "JPEG"),
    "cmyk jpeg": lambda: saved(picture("CMYK"), "JPEG"),
    "png": lambda: saved(picture("RGB"), "PNG"),
    "rgba png": lambda: saved(picture("RGBA"), "PNG"),
    "grey and alpha png": lambda: saved(picture("LA"), "PNG"),
    "one bit png": lambda: saved(picture("1"), "PNG"),
    "16-bit png": lambda: saved(picture("I;16"), "PNG"),
    "palette png": lambda: saved(picture("P"), "PNG"),
    "palette png, one colour transparent": lambda: palette_with(3),
    "palette png, alpha by colour": lambda: palette_with(bytes(range(0, 256, 16))),
    "rgb png, one colour transparent": lambda: saved(picture("RGB"), "PNG", transparency=(1, 2, 3)),
    "animated png": lambda: animated("PNG"),
    "webp": lambda: saved(picture("RGB"), "WEBP"),
    "lossless rgba webp": lambda: saved(picture("RGBA"), "WEBP", lossless=True),
    "animated webp": lambda: animated("WEBP"),
    "gif": lambda: saved(picture("P"), "GIF"),
    "animated gif": lambda: animated("GIF"),
    "bmp": lambda: saved(picture("RGB"), "BMP"),
    "palette bmp": lambda: saved(picture("P"), "BMP"),
    "tiff": lambda: saved(picture("RGB"), "TIFF"),
    "cmyk tiff": lambda: saved(picture("CMYK"), "TIFF"),
    "16-bit tiff": lambda: saved(picture("I;16"), "TIFF"),
    "float tiff": lambda: saved(picture("F"), "TIFF"),
    "lab tiff": lambda: saved(picture("LAB"), "TIFF"),
    "compressed tiff": lambda: saved(picture("RGB"), "TIFF", compression="tiff_lzw"),
    "jpeg in tiff": lambda: saved(picture("RGB"), "TIFF", compression="jpeg"),
    "tiff of two pages": lambda: animated("TIFF"),
    "1 x 1": lambda: saved(Image.new("RGB", (1, 1), "red"), "JPEG"),
    "1 x 5000": lambda: saved(Image.new("RGB", (1, 5000), "red"), "JPEG"),
    "5000 x 1 png": lambda: saved(Image.new("L", (5000, 1), 9), "PNG"),
}


def published(encoded: bytes) -> np.ndarray:
    """What the published pipelines' loader does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB"))


@pytest.mark.parametrize("kind", ZOO)
def test_every_kind_of_file_gives_the_published_pixels(kind):
    encoded = ZOO[kind]()
    image = decode(encoded)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), published(encoded))
    assert verify(encoded) == image.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_says(kind, orientation):
    encoded = saved(picture("RGB"), kind, exif=exif(orientation))
    image = decode(encoded)
    assert image.size == ((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH))
    np.testing.assert_array_equal(np.asarray(image), published(encoded))
    assert verify(encoded) == image.size


def test_an_orientation_in_xmp_counts_too():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    encoded = saved(picture("RGB"), "JPEG", xmp=xmp)
    assert decode(encoded).size == verify(encoded) == (HEIGHT, WIDTH)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow says so; the pixels are whole
def test_damaged_exif_turns_nothing():
    encoded = saved(picture("RGB"), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert decode(encoded).size == verify(encoded) == (WIDTH, HEIGHT)


def test_an_embedded_colour_profile_changes_nothing():
    plain = decode(saved(picture("RGB"), "PNG"))
    profiled = decode(saved(picture("RGB"), "PNG", icc_profile=b"not even a profile"))
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(profiled))


def code_of(function: Callable[..., Any], encoded: bytes, **options: int) -> str | None:
    try:
        function(encoded, **options)
    except RowFault as fault:
        return fault.code if fault.message and not fault.transient else "no message"
    return None


@pytest.mark.parametrize("function", [decode, verify])
@pytest.mark.parametrize(
    ("encoded", "code"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>Not here</body></html>", "not_an_image"),
        (b"BMW and other words", "not_an_image"),
        (b"\0", "not_an_image"),
        (b"\0\0\0 ftypavif\0\0\0\0", "unsupported_format"),
        (b"\0\0\0 ftypheic\0\0\0\0", "unsupported_format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        (b"%PDF-1.7", "unsupported_format"),
        (saved(Image.new("RGB", (2, 2)), "JPEG2000"), "unsupported_format"),
        (saved(Image.new("RGB", (2, 2)), "PPM"), "unsupported_format"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"II*\0", "truncated"),
        (b"RIFF\x04\0\0\0WEBP", "truncated"),
        (b"GIF89a", "truncated"),
    ],
)
def test_what_is_no_image_gets_the_right_code(function, encoded, code):
    assert code_of(function, encoded) == code


def test_a_tiff_whose_tags_are_of_other_types_is_damaged():
    encoded = bytearray(saved(picture("RGB"), "TIFF", compression="tiff_lzw"))
    at = encoded.index(struct.pack("<HH", 278, 4)) if struct.pack("<HH", 278, 4) in encoded else 0
    at = at or encoded.index(struct.pack("<HH", 278, 3))
    encoded[at + 2] = 7  # rows of a strip: bytes in place of a number
    assert code_of(verify, bytes(encoded)) == "truncated"


def test_html_is_shown_in_the_message():
    with pytest.raises(RowFault, match=r"begins with b'<!DOCTYPE html>.*JPEG, PNG, WebP"):
        decode(b"<!DOCTYPE html><html>")


@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize("part", [0.35, 0.6, 0.85])
def test_a_file_cut_short_is_truncated_and_verify_notices_too(kind, part):
    encoded = ZOO[kind]()
    cut = encoded[: int(len(encoded) * part)]
    code = code_of(decode, cut)
    assert code == code_of(verify, cut)
    if code is None:  # only what follows the first frame's pixels is lost
        np.testing.assert_array_equal(np.asarray(decode(cut)), published(encoded))
    else:
        assert code == "truncated"


@pytest.mark.parametrize("kind", ZOO)
def test_damaged_bytes_never_raise_anything_but_a_row_fault(kind):
    encoded = bytearray(ZOO[kind]())
    places = np.random.default_rng(5).integers(12, len(encoded), (12, 3))
    for place in places:
        damaged = bytearray(encoded)
        for at in place:
            damaged[at] ^= 0x5A
        code_of(decode, bytes(damaged))
        code_of(verify, bytes(damaged))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises what its few bytes do not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(20_000, 20_000), (15_000, 15_000), (65_000, 65_000)])
@pytest.mark.parametrize("function", [decode, verify])
def test_a_bomb_is_told_by_its_header(function, size):
    assert code_of(function, png_of_size(*size)) == "bomb"


def test_the_pixel_limit_is_exact():
    encoded = saved(picture("RGB"), "PNG")
    assert code_of(decode, encoded, pixel_limit=WIDTH * HEIGHT) is None
    assert code_of(decode, encoded, pixel_limit=WIDTH * HEIGHT - 1) == "bomb"
    assert code_of(verify, encoded, pixel_limit=WIDTH * HEIGHT - 1) == "bomb"


def test_pillows_settings_neither_matter_nor_change(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(PillowImageFile, "LOAD_TRUNCATED_IMAGES", False)
    assert decode(ZOO["png"]()).size == (WIDTH, HEIGHT)
    assert Image.MAX_IMAGE_PIXELS == 10


def column(encoded: list[bytes | None]) -> pa.ChunkedArray:
    half = len(encoded) // 2
    chunks = [pa.array(part, pa.large_binary()) for part in (encoded[:half], encoded[half:])]
    return pa.chunked_array(chunks)


def test_a_column_is_decoded_in_order():
    sizes = [(3, 4), (5, 6), (7, 8)]
    decoded = decode_column(column([saved(Image.new("RGB", size), "PNG") for size in sizes]))
    assert [image.size for image in decoded] == sizes


def test_a_column_names_every_row_that_cannot_be_decoded():
    good = ZOO["png"]()
    with pytest.raises(RowFaults) as raised:
        decode_column(column([good, b"", good, b"<html>", None]))
    codes = {position: fault.code for position, fault in raised.value.faults.items()}
    assert codes == {1: "empty", 3: "not_an_image", 4: "missing"}


def test_a_damaged_row_is_named_by_its_place_in_the_column():
    good = ZOO["png"]()
    cut = good[: len(good) // 2]
    decoded = decode_column(column([good, good, cut, good]))
    with pytest.raises(RowFaults) as raised:
        list(decoded[1:])
    assert {position: fault.code for position, fault in raised.value.faults.items()} == {
        2: "truncated"
    }


def test_of_a_column_one_image_at_a_time_is_decoded():
    decoded = decode_column(column([ZOO["png"]()] * 3))
    first = next(iter(decoded))
    held = weakref.ref(first)
    del first
    assert len(decoded) == 3
    assert held() is None
