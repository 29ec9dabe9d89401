"""Damages files where it counts: inside of what their own checks and lengths protect.

A PNG whose checksum is wrong never reaches the decoder, so chunks are changed and sealed again,
pixels unpacked and packed, lengths of segments set right. The same chance makes the same change.
"""

import gzip
import random
import struct
import zlib
from collections.abc import Callable

from tests.bombs import png_chunk, segment

NUMBERS = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")
BOUNDS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 4096, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
MOST_BYTES = 3_000_000  # that a file may grow to
MOST_PIXEL_BYTES = 200_000  # that are packed again
_TAGS = (*range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 317, *range(320, 326))
_OTHER_TAGS = (330, 338, 339, 347, 530, 531, 532, 700, 34377, 34665, 34675, 34853, 40965)
_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34676, 34677, 34712, 34925, 50000, 50001)

Chance = random.Random
Piece = tuple[bytes, bytes]  # a name, and what it holds


def mutated(seed: bytes, others: list[bytes], chance: Chance) -> bytes:
    """Changes a file by its structure, byte by byte, or both."""
    way = chance.random()
    data = structured(seed, chance) if way < 0.6 else seed
    return damaged(data, others, chance) if way > 0.45 else data


def damaged(seed: bytes, others: list[bytes], chance: Chance) -> bytes:
    """One to eight changes: cut, flip, put numbers at their bounds, repeat, splice, drop."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        end = at + chance.choice((1, 4, 64, 1000))
        what = chance.randrange(9)
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
        del data[MOST_BYTES:]
    return bytes(data)


def structured(data: bytes, chance: Chance) -> bytes:
    """Changes an image by the rules of its format; another file, or one past knowing, not."""
    ways: dict[bytes, Callable[[bytes, Chance], bytes]] = {
        b"\x89PNG": _png,
        b"\xff\xd8\xff": _jpeg,
        b"RIFF": _webp,
        b"GIF8": _gif,
        b"BM": _bmp,
        b"II": _tiff,
        b"MM": _tiff,
    }
    for sign, way in ways.items():
        if data.startswith(sign):
            try:
                return way(data, chance)
            except (struct.error, IndexError, zlib.error):
                return data
    return data


def _shuffled(pieces: list[Piece], chance: Chance, *, keep: int = 0) -> list[Piece]:
    """Changes, repeats, drops or moves one to three pieces; the first `keep` stay."""
    pieces = list(pieces)
    for _ in range(chance.choice((1, 1, 2, 3))):
        if len(pieces) <= keep:
            break
        at = chance.randrange(keep, len(pieces))
        name, body = pieces[at]
        what = chance.randrange(6)
        if what <= 2:
            pieces[at] = (name, _poked(body, chance))
        elif what == 3:
            pieces[at:at] = [(name, body)] * chance.choice((1, 1, 2, 120))
        elif what == 4:
            del pieces[at]
        else:
            pieces.insert(chance.randrange(keep, len(pieces)), pieces.pop(at))
    return pieces


def _poked(body: bytes, chance: Chance) -> bytes:
    """A few bytes of what a piece holds changed, or its end cut or drawn out."""
    data = bytearray(body)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(data) + 1)
        what = chance.randrange(5)
        if what == 0:
            del data[at:]
        elif what == 1:
            data += bytes([chance.randrange(256)]) * chance.choice((1, 8, 300))
        elif what == 2 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        else:
            number = chance.choice((*NUMBERS, bytes([chance.randrange(256)])))
            data[at : at + len(number)] = number
    return bytes(data)


def _png(data: bytes, chance: Chance) -> bytes:
    pieces, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        pieces.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    what = chance.randrange(5)
    if what == 0:
        pieces = [(name, _packed_again(body, chance, b"IDAT", name)) for name, body in pieces]
    elif what == 1:
        pieces[0] = (b"IHDR", _png_header(pieces[0][1], chance))
    elif what == 2:
        pieces.insert(chance.randrange(1, len(pieces)), _png_extra(chance))
    else:
        pieces = _shuffled(pieces, chance, keep=chance.randrange(2))
    return data[:8] + b"".join(png_chunk(name[:4], body) for name, body in pieces)


def _packed_again(body: bytes, chance: Chance, wanted: bytes, name: bytes) -> bytes:
    if name != wanted:
        return body
    pixels = zlib.decompressobj().decompress(body, MOST_PIXEL_BYTES)
    return zlib.compress(_poked(pixels, chance), 1)


def _png_header(body: bytes, chance: Chance) -> bytes:
    width, height, *rest = struct.unpack(">IIBBBBB", body)
    choices = ((1, 2, 4, 8, 16), (0, 2, 3, 4, 6), (0, 0, 1), (0, 0, 1), (0, 1))
    at = chance.randrange(7)
    if at < 2:
        width, height = (chance.choice((1, 7, width, 300)), height)[:: chance.choice((1, -1))]
    else:
        rest[at - 2] = chance.choice(choices[at - 2])
    return struct.pack(">IIBBBBB", width, height, *rest)


def _png_extra(chance: Chance) -> Piece:
    packed = zlib.compress(bytes([chance.randrange(256)]) * chance.choice((9, 5_000, 2_000_000)))
    packed = _poked(packed, chance) if chance.random() < 0.5 else packed
    name = chance.choice(
        b"zTXt iTXt iCCP eXIf tRNS PLTE acTL fcTL fdAT gAMA cHRM pHYs tEXt sRGB CgBI".split()
    )
    heads = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0e\0k\0", b"iCCP": b"k\0\0", b"tEXt": b"k\0"}
    if name in heads:
        return name, heads[name] + packed
    if name == b"eXIf":
        return name, _poked(_EXIF, chance)
    return name, chance.randbytes(chance.choice((0, 1, 3, 8, 26, 30, 768)))


def _jpeg(data: bytes, chance: Chance) -> bytes:
    pieces, at = [], 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        pieces.append((data[at + 1 : at + 2], data[at + 4 : at + 2 + length]))
        at += 2 + length
    scans = data[at:]
    what = chance.randrange(6)
    if what == 0:  # arithmetic, lossless, progressive and others over the same scans
        pieces = [
            (bytes([chance.randrange(0xC0, 0xD0)]) if 0xC0 <= name[0] <= 0xC2 else name, body)
            for name, body in pieces
        ]
    elif what == 1:
        exif = (b"\xe1", b"Exif\0\0" + _poked(_EXIF, chance))
        pieces.insert(chance.randrange(len(pieces)), exif)
    elif what == 2:
        extra = chance.choice(
            ((b"\xdd", b"\0\1"), (b"\xcc", b"\0\0"), (b"\xee", b"Adobe" + bytes(7)))
        )
        pieces.insert(chance.randrange(len(pieces)), extra)
    elif what == 3:
        scans = scans[:2] + _poked(scans[2:], chance)
    else:
        pieces = _shuffled(pieces, chance)
    return data[:2] + b"".join(segment(name[0], body[:65_533]) for name, body in pieces) + scans


def _webp(data: bytes, chance: Chance) -> bytes:
    pieces, at = [], 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        pieces.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    if chance.random() < 0.2:
        extra = ((b"EXIF", _poked(_EXIF, chance)), (b"ALPH", chance.randbytes(20)), (b"ICCP", b"x"))
        pieces.insert(chance.randrange(len(pieces) + 1), chance.choice(extra))
    if chance.random() < 0.2:
        flags = struct.pack("<I", chance.randrange(256)) + b"\x17\0\0\x0f\0\0"
        pieces.insert(0, (b"VP8X", flags))
    body = b"WEBP" + b"".join(
        name[:4] + struct.pack("<I", len(held)) + held + b"\0" * (len(held) % 2)
        for name, held in _shuffled(pieces, chance)
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif(data: bytes, chance: Chance) -> bytes:
    pieces = [(b"head", data[:13])]
    at = 13 + (3 << (data[10] % 8 + 1) if data[10] & 0x80 else 0)
    pieces.append((b"palette", data[13:at]))
    while data[at : at + 1] in (b"!", b","):
        begin = at
        if data[at] == 0x2C:
            at += 11 + (3 << (data[at + 9] % 8 + 1) if data[at + 9] & 0x80 else 0)
        else:
            at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
        pieces.append((b"block", data[begin:at]))
    return b"".join(body for _, body in _shuffled(pieces, chance)) + b";"


def _bmp(data: bytes, chance: Chance) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2))):
        at, form, choices = chance.choice(
            (
                (10, "<I", BOUNDS),
                (14, "<I", (12, 16, 40, 52, 56, 64, 108, 124)),
                (18, "<i", (1, 24, 300, -24, 2**31 - 1)),
                (22, "<i", (1, 16, 300, -16, -(2**31))),
                (28, "<H", (0, 1, 2, 4, 8, 16, 24, 32, 64)),
                (30, "<I", (0, 1, 2, 3, 4, 5, 6, 11)),
                (46, "<I", (0, 1, 2, 16, 255, 256, 257, 2**31)),
            )
        )
        struct.pack_into(form, changed, at, chance.choice(choices))
    return bytes(changed)


def _tiff(data: bytes, chance: Chance) -> bytes:
    """Entries of the first directory changed: tag, type, count or value."""
    order = "<" if data[:1] == b"I" else ">"
    changed = bytearray(data)
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = at + 2 + 12 * chance.randrange(count)
        tag, kind, number, value = struct.unpack_from(order + "HHII", data, place)
        what = chance.randrange(5)
        if what == 0:
            tag = chance.choice((*_TAGS, *_OTHER_TAGS))
        elif what == 1:
            kind = chance.randrange(20)
        elif what == 2:
            number = chance.choice(BOUNDS)
        else:
            value = chance.choice(_COMPRESSIONS if tag == 259 else BOUNDS)
        struct.pack_into(order + "HHII", changed, place, tag, kind, number, value)
    return bytes(changed)


_EXIF = b"II*\0\x08\0\0\0" + struct.pack(
    "<HHHIIHHIIHHIII", 3, 0x112, 3, 1, 6, 0x10F, 2, 6, 50, 0x8769, 4, 1, 8, 0
)
_EXIF += b"maker\0"


def mutated_manifest(kind: str, seed: bytes, others: list[bytes], chance: Chance) -> bytes:
    """Damages a manifest; of a packed one mostly what is inside, packed again."""
    if kind.endswith(".gz") and chance.random() < 0.7:
        return gzip.compress(damaged(gzip.decompress(seed), others, chance), 1)
    if kind == ".parquet" and chance.random() < 0.4:  # leaves the footer whole
        end = len(seed) - 8 - int.from_bytes(seed[-8:-4], "little")
        return _poked_within(seed, 4, end, chance)
    if kind == ".parquet" and chance.random() < 0.5:  # and here changes it alone
        end = len(seed) - 8 - int.from_bytes(seed[-8:-4], "little")
        return _poked_within(seed, end, len(seed) - 8, chance)
    return damaged(seed, others, chance)


def _poked_within(seed: bytes, begin: int, end: int, chance: Chance) -> bytes:
    """A few bytes between two places changed, none added or taken away."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(begin, end)
        number = chance.choice((*NUMBERS, bytes([chance.randrange(256)])))
        data[at : at + len(number)] = number[: end - at]
    return bytes(data)
