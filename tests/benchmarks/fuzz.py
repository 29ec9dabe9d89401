"""Throws damaged images and manifests at what reads them, and counts what comes out.

python -m tests.benchmarks.fuzz --seconds 3600 --seed 1

An image must give pixels or a RowFault, a manifest rows or a ManifestError; never another
exception, 5 seconds at one input, or the death of the process. What did is named by seed, lot and
position, and `--lot N` throws that lot alone. Exits with 1 when there was any.
"""

import argparse
import gzip
import io
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from schemas.errors import ManifestError
from schemas.manifest import Manifest
from tests.hostile import Lot, image_outcome, judged

IMAGES, MANIFESTS = 400, 60  # inputs of a lot
SMALL_PIXELS = 1_000_000  # the limit for most images: a large one takes a second
MANIFEST_BYTES = 3_000_000  # the longest that a manifest may grow to
NUMBERS = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")


def image_seeds() -> list[bytes]:
    """Small images of every format and mode."""
    noise = Image.frombytes("RGB", (24, 16), random.Random(0).randbytes(24 * 16 * 3))
    ways: list[tuple[str, str, dict[str, Any]]] = [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("L", "JPEG", {"exif": _exif(), "icc_profile": b"profile" * 20, "comment": b"words"}),
        ("RGB", "PNG", {"exif": _exif(), "icc_profile": b"profile" * 20}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("1", "PNG", {}),
        ("RGB", "WEBP", {"exif": _exif()}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("P", "GIF", {}),
        ("RGB", "BMP", {}),
        ("P", "BMP", {}),
        *[
            ("RGB", "TIFF", {"compression": kind})
            for kind in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        ],
        ("1", "TIFF", {"compression": "group4"}),
        ("F", "TIFF", {}),
        ("LAB", "TIFF", {}),
        ("I;16", "TIFF", {}),
    ]
    seeds = []
    for mode, kind, options in ways:
        image = noise.convert("L").convert("I;16") if mode == "I;16" else noise.convert(mode)
        target = io.BytesIO()
        image.save(target, kind, **options)
        seeds.append(target.getvalue())
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        target = io.BytesIO()
        noise.save(target, kind, save_all=True, append_images=[noise.rotate(90)])
        seeds.append(target.getvalue())
    return seeds


def manifest_seeds() -> list[tuple[str, bytes]]:
    """Small manifests of every format, with their endings."""
    rows = {
        "image_id": [f"id-{number}" for number in range(50)],
        "uri": [f"s3://photos/{number}.jpg" for number in range(50)],
        "title": ["words", None] * 25,
        "size": list(range(50)),
        "tags": [["a", "b"], None] * 25,
        "shot": [{"at": "2024-01-02", "by": 1}] * 50,
    }
    table = pa.table(rows)
    seeds = []
    for options in (
        {},
        {"compression": "zstd", "use_dictionary": False},
        {"compression": "gzip", "data_page_version": "2.0"},
        {"compression": "none", "column_encoding": {"size": "DELTA_BINARY_PACKED"}}
        | {"use_dictionary": ["uri"]},
    ):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **options)
        seeds.append((".parquet", sink.getvalue().to_pybytes()))
    lines = "\n".join(json.dumps(row) for row in table.to_pylist()) + "\n"
    csv = "image_id,uri,note\n" + "".join(f'{n},"s3://x/{n}","a\nb"\n' for n in range(50))
    for ending, text in ((".jsonl", lines), (".csv", csv)):
        seeds.append((ending, text.encode()))
        seeds.append((f"{ending}.gz", gzip.compress(text.encode())))
    return seeds


def mutated(seed: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """One to eight changes: cut, flip, put numbers at their bounds, repeat, splice, drop."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 2, 4, 16, 200)))
        what = chance.randrange(8)
        if what == 0:
            del data[at:]
        elif what <= 3 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif what == 4:
            number = chance.choice(NUMBERS)
            data[at : at + len(number)] = number
        elif what == 5:
            data[at:at] = data[at:end] * chance.choice((1, 2, 50, 2000))
        elif what == 6:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            data[at:end] = other[begin : begin + chance.choice((4, 64, 1000))]
        else:
            del data[at:end]
        del data[MANIFEST_BYTES:]
    return bytes(data)


def image_lot(seed: int, lot: int) -> Iterator[tuple[bytes, int]]:
    """Images of one lot, each with its pixel limit; the same for the same numbers."""
    chance = random.Random(f"{seed} {lot}")
    seeds = image_seeds()
    for _ in range(IMAGES):
        limit = 178_956_970 if chance.random() < 0.01 else SMALL_PIXELS
        yield mutated(chance.choice(seeds), seeds, chance), limit


def manifest_lot(seed: int, lot: int) -> Iterator[tuple[str, bytes]]:
    """Manifests of one lot."""
    chance = random.Random(f"{seed} {lot}")
    seeds = manifest_seeds()
    for _ in range(MANIFESTS):
        ending, data = chance.choice(seeds)
        others = [other for _, other in seeds]
        if ending.endswith(".gz") and chance.random() < 0.7:  # what is inside, packed again
            data = gzip.compress(mutated(gzip.decompress(data), others, chance))
        else:
            data = mutated(data, others, chance)
        yield ending, data


def manifest_outcome(given: tuple[str, bytes]) -> str:
    """Reads a manifest to its end, as a plan does."""
    ending, data = given
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / f"m{ending}"
        path.write_bytes(data)
        try:
            manifest = Manifest.open(str(path), {}, filesystem=fsspec.filesystem("file"))
            for batch in manifest.batches():
                batch.validate(full=True)
        except ManifestError:
            return f"{ending} error"
    return f"{ending} rows"


def thrown(seed: int, lot: int) -> Lot:
    """Throws one lot; every fourth is of manifests."""
    if lot % 4 == 3:
        return judged(manifest_lot(seed, lot), manifest_outcome)
    return judged(image_lot(seed, lot), lambda given: image_outcome(*given))


def run(seconds: float, seed: int, first: int = 0, most: int | None = None) -> dict[str, Any]:
    """Throws lots until the time is over; counts and what went wrong."""
    total: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    tried, slowest, lot = 0, 0.0, first
    began = time.monotonic()
    while time.monotonic() - began < seconds and (most is None or lot - first < most):
        found = thrown(seed, lot)
        tried += found.tried
        total += found.outcomes
        slowest = max(slowest, found.seconds)
        faults = [outcome for outcome in found.outcomes if outcome.startswith("!")]
        if found.fate != "done" or faults:
            at = {"seed": seed, "lot": lot, "position": found.tried - 1}
            wrong.append({**at, "fate": found.fate, "faults": faults[:5]})
        lot += 1
    passed = round(time.monotonic() - began, 1)
    return {
        "tried": tried,
        "seconds": passed,
        "slowest": round(slowest, 2),
        "outcomes": dict(sorted(total.items())),
        "wrong": wrong,
    }


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    return exif.tobytes()


def main() -> None:
    """Reads the arguments, throws, and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lot", type=int, help="this lot alone")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    one = {} if given.lot is None else {"first": given.lot, "most": 1}
    result = run(given.seconds, given.seed, **one)
    print(json.dumps(result, indent=2))
    sys.exit(bool(result["wrong"]))


if __name__ == "__main__":
    main()
