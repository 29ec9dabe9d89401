"""Small whole files of every format and kind, for fuzzing to damage."""

import gzip
import io
import json
import zlib
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin

from tests.bombs import bmp, gif, png, tiff_tiled

SIZE = (24, 16)
TIFF_COMPRESSIONS = (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "tiff_deflate")
ROWS = 50


def image_seeds() -> list[tuple[str, bytes]]:
    """Format and file of small images."""
    noise = Image.frombytes("RGB", SIZE, Random(0).randbytes(SIZE[0] * SIZE[1] * 3))
    exif = _exif()
    ways: list[tuple[str, str, dict[str, Any]]] = [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "restart_marker_blocks": 1}),
        ("RGB", "JPEG", {"subsampling": 2, "optimize": True, "exif": exif}),
        ("CMYK", "JPEG", {}),
        ("L", "JPEG", {"exif": exif, "icc_profile": b"profile" * 20, "comment": b"words"}),
        ("RGB", "PNG", {"exif": exif, "icc_profile": b"profile" * 20, "pnginfo": _texts()}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("P", "PNG", {"bits": 4}),
        ("1", "PNG", {}),
        ("I;16", "PNG", {}),
        ("RGB", "WEBP", {"exif": exif}),
        ("RGBA", "WEBP", {"quality": 30}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("P", "GIF", {}),
        ("P", "GIF", {"transparency": 0, "interlace": False}),
        ("RGB", "BMP", {}),
        ("RGBA", "BMP", {}),
        ("P", "BMP", {}),
        ("1", "BMP", {}),
        *[("RGB", "TIFF", {"compression": kind}) for kind in TIFF_COMPRESSIONS],
        *[("1", "TIFF", {"compression": kind}) for kind in ("group3", "group4")],
        *[(mode, "TIFF", {}) for mode in ("F", "LAB", "I;16", "I;16B", "CMYK", "P", "RGBA")],
    ]
    seeds = []
    for mode, kind, options in ways:
        grey = noise.convert("L").convert("I;16")
        image = (
            grey if mode == "I;16" else noise.convert(mode) if mode != "I;16B" else _swapped(grey)
        )
        seeds.append((kind, _saved(image, kind, **options)))
    frames = [noise.rotate(90), noise.convert("RGBA").rotate(180)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        seeds.append((kind, _saved(noise, kind, save_all=True, append_images=frames)))
    return [*seeds, *_handmade()]


def _handmade() -> list[tuple[str, bytes]]:
    """Kinds that Pillow reads and does not write."""
    runs = (b"\x18\1" + b"\0\0") * 15 + b"\x10\2\0\3abc\0\0\0\0\1"
    pixels = zlib.compress(bytes(range(256)) * 4)
    filtered = zlib.compress(bytes(Random(1).randrange(5) for _ in range(3000)))
    return [
        ("BMP", bmp(24, 16, bits=8, compression=1, data=runs)),
        ("BMP", bmp(24, 16, bits=4, compression=2, data=runs)),
        ("TIFF", tiff_tiled(32, 32, pixels)),
        (
            "GIF",
            gif(24, 16, before=b"!\xf9\4\1\0\0\0\0!\xff\x0bNETSCAPE2.0\3\1\0\0\0!\xfe\4note\0"),
        ),
        ("PNG", png(*SIZE, interlaced=1, data=filtered)),
        ("PNG", png(*SIZE, depth=16, colour=6, data=zlib.compress(bytes(4000)))),
    ]


def manifest_seeds() -> list[tuple[str, bytes]]:
    """Ending and file of small manifests."""
    table = pa.table(
        {
            "image_id": [f"id-{number}" for number in range(ROWS)],
            "uri": [f"s3://photos/{number}.jpg" for number in range(ROWS)],
            "title": ["words", None] * (ROWS // 2),
            "size": list(range(ROWS)),
            "tags": [["a", "b"], None] * (ROWS // 2),
            "shot": [{"at": "2024-01-02", "by": 1}] * ROWS,
        }
    )
    ways: list[dict[str, Any]] = [
        {},
        {"compression": "zstd", "use_dictionary": False},
        {"compression": "gzip", "data_page_version": "2.0", "data_page_size": 64},
        {"compression": "none", "row_group_size": 7, "use_dictionary": ["uri"]}
        | {"column_encoding": {"size": "DELTA_BINARY_PACKED", "image_id": "DELTA_BYTE_ARRAY"}},
        {"compression": "brotli", "use_byte_stream_split": False, "store_schema": False},
    ]
    seeds = []
    for options in ways:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **options)
        seeds.append((".parquet", sink.getvalue().to_pybytes()))
    lines = "\n".join(json.dumps(row) for row in table.to_pylist()) + "\n"
    csv = "image_id,uri,note\n" + "".join(f'{n},"s3://x/{n}","a\nb"\n' for n in range(ROWS))
    for ending, text in ((".jsonl", lines), (".csv", csv)):
        seeds.append((ending, text.encode()))
        seeds.append((f"{ending}.gz", gzip.compress(text.encode())))
    return seeds


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def _swapped(grey: Image.Image) -> Image.Image:
    """16 bits a pixel, the larger half first, which Pillow writes as a big-endian TIFF."""
    pixels = grey.tobytes()
    other = bytes(byte for at in range(0, len(pixels), 2) for byte in (pixels[at + 1], pixels[at]))
    return Image.frombytes("I;16B", grey.size, other)


def _texts() -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("one", "words " * 50, zip=True)
    texts.add_itxt("two", "词" * 50, "zh", "two", zip=True)
    texts.add_text("three", "plain")
    return texts


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif.get_ifd(0x8769)[0x9003] = "2024:01:02 03:04:05"
    return exif.tobytes()
