"""Small files that ask for much: the kinds of bombs that we know of, made on the fly.

The largest that the pixel limit lets in are among them, for these are what a worker must bear.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

SIDE = 13_377  # pixels; its square is the largest that limits.image_pixels lets in


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deflated_zeros(count: int) -> bytes:
    """A zlib stream of so many zero bytes, without compressing them one by one."""
    block = 1 << 20
    head = zlib.compressobj(9)
    first = head.compress(bytes(block)) + head.flush(zlib.Z_FULL_FLUSH)
    again = head.compress(bytes(block)) + head.flush(zlib.Z_FULL_FLUSH)
    rest = head.compress(bytes(count % block)) + head.flush(zlib.Z_FINISH)
    whole = count // block
    if whole == 0:
        return zlib.compress(bytes(count), 9)
    adler = struct.pack(">I", (count % 65521) << 16 | 1)
    return first + again * (whole - 1) + rest[:-4] + adler


def png(
    width: int = SIDE,
    height: int = SIDE,
    *,
    depth: int = 8,
    colour: int = 2,
    interlaced: int = 0,
    before: bytes = b"",
    after: bytes = b"",
    data: bytes | None = None,
) -> bytes:
    """A black PNG, as large as one likes, with further chunks before and after its pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = (width * channels * depth + 7) // 8 + 1
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    palette = png_chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    pixels = deflated_zeros(row * height * (2 if interlaced else 1)) if data is None else data
    parts = [png_chunk(b"IHDR", header), palette, before, png_chunk(b"IDAT", pixels), after]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + png_chunk(b"IEND", b"")


def tag_table(count: int, filler: int, *, first: int = 40_000) -> bytes:
    """TIFF or EXIF data whose many tags all mean the same large piece of it."""
    start = 8 + 2 + 12 * count + 4
    entries = b"".join(
        struct.pack("<HHII", first + number, 7, filler, start) for number in range(count)
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + bytes(4) + bytes(filler)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image file that Pillow writes."""
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def jpeg_parts() -> dict[str, bytes]:
    """The tables of a plain JPEG with the standard Huffman codes: `DQT`, `DHT`."""
    encoded = saved(Image.new("RGB", (8, 8)), "JPEG", subsampling=0)
    at, found = 2, {"DQT": b"", "DHT": b""}
    while encoded[at + 1] != 0xDA:
        length = struct.unpack(">H", encoded[at + 2 : at + 4])[0] + 2
        name = {0xDB: "DQT", 0xC4: "DHT"}.get(encoded[at + 1])
        if name:
            found[name] += encoded[at : at + length]
        at += length
    return found


def segment(marker: int, data: bytes) -> bytes:
    """One segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(
    width: int = SIDE,
    height: int = SIDE,
    *,
    frame: int = 0xC0,
    before: bytes = b"",
    scans: bytes | None = None,
    channels: int = 3,
) -> bytes:
    """A grey JPEG, as large as one likes; `scans` in place of its pixels."""
    tables = jpeg_parts()
    parts = b"".join(bytes([1 + n, 0x11, 1 if n else 0]) for n in range(channels))
    size = struct.pack(">BHHB", 8, height, width, channels) + parts
    if scans is None:
        blocks = -(-width // 8) * -(-height // 8)
        four = b"\x28\xa2\x8a" if channels == 1 else b"\x28\x00\xa0\x02\x80\x0a\x00"
        scans = scan(range(channels), (0, 63, 0)) + four * (blocks // 4 + 1)
    return (
        b"\xff\xd8" + before + tables["DQT"] + segment(frame, size) + tables["DHT"] + scans
    ) + b"\xff\xd9"


def scan(channels: range, span: tuple[int, int, int]) -> bytes:
    """The head of one scan."""
    parts = b"".join(bytes([1 + n, 0x11 if n else 0]) for n in channels)
    return segment(0xDA, bytes([len(channels)]) + parts + bytes(span))


def gif(width: int, height: int, *, before: bytes = b"", data: bytes | None = None) -> bytes:
    """A GIF of one colour; `data` in place of its pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    place = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return head + before + place + (gif_pixels(width * height) if data is None else data) + b";"


def gif_pixels(count: int) -> bytes:
    """LZW codes of so many black pixels: each code stands for one more than the one before."""
    width, following = 3, 6
    codes = [(4, 3), (0, 3)]
    run, done = 1, 1
    while done < count:
        run += 1
        codes.append((following, width))
        done += run
        following += 1
        if following == 1 << width and width < 12:
            width += 1
        if following >= 4095:
            codes.append((4, width))
            width, following, run = 3, 6, 1
            codes.append((0, 3))
            done += 1
    packed, held, at = bytearray(), 0, 0
    for code, size in [*codes, (5, width)]:
        held |= code << at
        at += size
        while at >= 8:
            packed.append(held & 255)
            held >>= 8
            at -= 8
    packed.append(held & 255)
    pieces = [bytes(packed[n : n + 255]) for n in range(0, len(packed), 255)]
    return b"\x02" + b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def webp(width: int, height: int, *chunks: tuple[bytes, bytes], flags: int = 0) -> bytes:
    """An extended WebP; its canvas may promise what the chunks do not hold."""
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for kind, data in ((b"VP8X", struct.pack("<I", flags) + sizes), *chunks)
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_image(size: tuple[int, int] = (4, 4), **options: object) -> tuple[bytes, bytes]:
    """The one chunk that holds the pixels of a plain WebP."""
    encoded = saved(Image.new("RGB", size), "WEBP", **options)
    return encoded[12:16], encoded[20:]


def webp_lossless(width: int, height: int) -> bytes:
    """A lossless WebP whose every pixel is black and takes no bit."""
    size = 0x2F | (width - 1) << 8 | (height - 1) << 22 | 1 << 36
    # no transform, no cache, one group of five codes of a single symbol each: 1 (simple), 0, 0, 0
    bits, at = 0, 0
    for value, length in [(0, 1), (0, 1), (0, 1), *[(1, 1), (0, 1), (0, 1), (0, 1)] * 5]:
        bits |= value << at
        at += length
    data = size.to_bytes(5, "little") + bits.to_bytes(8, "little")
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_frames(count: int, canvas: tuple[int, int] = (4, 4)) -> bytes:
    """An animated WebP."""
    kind, data = webp_image()
    inner = kind + struct.pack("<I", len(data)) + data
    edge = (3).to_bytes(3, "little")
    frame = bytes(6) + edge + edge + bytes(4) + inner
    loop = (b"ANIM", bytes(6))
    return webp(*canvas, loop, *[(b"ANMF", frame)] * count, flags=2)


def tiff(tags: dict[int, tuple[int, int, int]], data: bytes = b"", *, following: int = 0) -> bytes:
    """A TIFF of given tags (type, count, value), its data at 8; a value of -1 is where data is."""
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, 8 if value == -1 else value)
        for tag, (kind, count, value) in sorted(tags.items())
    )
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def tiff_of(
    width: int, height: int, *, compression: int, data: bytes, bits: int = 8, rows: int = 0
) -> bytes:
    """A grey TIFF of one strip."""
    return tiff(
        {
            256: (4, 1, width),
            257: (4, 1, height),
            258: (3, 1, bits),
            259: (3, 1, compression),
            262: (3, 1, 1),
            273: (4, 1, 8),
            277: (3, 1, 1),
            278: (4, 1, rows or height),
            279: (4, 1, len(data)),
            339: (3, 1, 3 if bits == 32 else 1),
        },
        data,
    )


def tiff_tiled(side: int, tile: int, data: bytes) -> bytes:
    """A deflated grey TIFF of one tile."""
    return tiff(
        {
            256: (4, 1, side),
            257: (4, 1, side),
            258: (3, 1, 8),
            259: (3, 1, 8),
            262: (3, 1, 1),
            277: (3, 1, 1),
            322: (4, 1, tile),
            323: (4, 1, tile),
            324: (4, 1, 8),
            325: (4, 1, len(data)),
        },
        data,
    )


def tiff_strips(count: int) -> bytes:
    """An uncompressed TIFF cut into very many strips, which all lie at one place."""
    offsets = struct.pack("<I", 8) * count
    tags = {
        256: (4, 1, 100),
        257: (4, 1, count),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, count, 8),
        277: (3, 1, 1),
        278: (4, 1, 1),
        279: (4, count, 8),
    }
    return tiff(tags, offsets)


def bmp(width: int, height: int, *, bits: int = 24, compression: int = 0, data: bytes) -> bytes:
    """A BMP; a palette is black."""
    palette = bytes(4 << bits) if bits <= 8 else b""
    start = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    size = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return head + size + palette + data


def text_chunks(kind: bytes, unpacked: int, count: int = 1) -> bytes:
    """Compressed text or profile chunks of a PNG."""
    packed = deflated_zeros(unpacked)
    head = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[kind]
    return png_chunk(kind, head + packed) * count


def raw_exif_text() -> bytes:
    """EXIF as ImageMagick puts it into a text chunk of a PNG."""
    table = tag_table(9_000, 200_000)
    text = b"\nexif\n" + str(len(table)).encode() + b"\n" + table.hex().encode()
    return png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))


def progressive(scans: int, side: int = SIDE) -> bytes:
    """A progressive JPEG with very many empty scans."""
    first = scan(range(3), (0, 0, 0))
    return jpeg(side, side, frame=0xC2, scans=first + scan(range(1), (1, 63, 0)) * scans)


SMALL = png(4, 4)
GIB = 1 << 30
TURNED = segment(0xE1, b"Exif\0\0" + tiff({0x112: (3, 1, 6)}))
LARGEST: dict[str, Callable[[], bytes]] = {  # that are let in, by what they take to decode
    "png: rgb": lambda: png(10_900, 10_900),
    "png: rgba": lambda: png(7_700, 7_700, colour=6),
    "png: palette": lambda: png(9_700, 9_700, colour=3),
    "png: grey, 16 bits": lambda: png(8_200, 8_200, colour=0, depth=16),
    "jpeg: turned": lambda: jpeg(7_700, 7_700, before=TURNED),
    "jpeg: progressive": lambda: progressive(1, 6_900),
    "gif": lambda: gif(9_700, 9_700),
    "webp: lossless": lambda: webp_lossless(5_400, 5_400),
    "tiff: deflated strip": lambda: tiff_of(
        6_000, 6_000, compression=8, data=deflated_zeros(6_000 * 6_000)
    ),
    "bmp: runs": lambda: bmp(2_800, 2_800, bits=8, compression=1, data=(b"\1\0" + b"\0\0") * 2_800),
}
BOMBS: dict[str, Callable[[], bytes]] = {
    "png: header of 65,000 x 65,000": lambda: png(65_000, 65_000, data=b"x"),
    "png: header of 2^31 x 2^31": lambda: png(2**31 - 1, 2**31 - 1, data=b"x"),
    "png: rgb at the pixel limit": png,
    "png: rgba at the pixel limit": lambda: png(colour=6),
    "png: rgba, 16 bits, at the pixel limit": lambda: png(colour=6, depth=16),
    "png: grey, 16 bits, at the pixel limit": lambda: png(colour=0, depth=16),
    "png: grey and alpha at the pixel limit": lambda: png(colour=4),
    "png: palette at the pixel limit": lambda: png(colour=3),
    "png: one bit at the pixel limit": lambda: png(colour=0, depth=1),
    "png: interlaced at the pixel limit": lambda: png(interlaced=1),
    "png: zTXt of 1 GiB": lambda: png(4, 4, before=text_chunks(b"zTXt", GIB)),
    "png: iTXt of 1 GiB": lambda: png(4, 4, before=text_chunks(b"iTXt", GIB)),
    "png: iCCP of 1 GiB": lambda: png(4, 4, before=text_chunks(b"iCCP", GIB)),
    "png: 1,000 zTXt of 1 MB": lambda: png(4, 4, before=text_chunks(b"zTXt", 1_000_000, 1000)),
    "png: zTXt of 1 GiB at the end": lambda: png(4, 4, after=text_chunks(b"zTXt", GIB)),
    "png: 1 GiB more pixels than it has": lambda: png(4, 4, data=deflated_zeros(GIB)),
    "png: a million empty chunks": lambda: png(4, 4, before=png_chunk(b"tEXt", b"") * 1_000_000),
    "png: a million frames": lambda: png(
        4,
        4,
        before=png_chunk(b"acTL", struct.pack(">II", 1_000_000, 0)),
        after=png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 1, 4, 4, 0, 0, 1, 1, 0, 0)) * 100_000,
    ),
    "png: overlapping eXIf": lambda: png(4, 4, before=png_chunk(b"eXIf", tag_table(25_000, 10**6))),
    "png: eXIf as text": lambda: png(4, 4, before=raw_exif_text()),
    "jpeg: header of 65,000 x 65,000": lambda: jpeg(65_000, 65_000, scans=b""),
    "jpeg: at the pixel limit": jpeg,
    "jpeg: grey at the pixel limit": lambda: jpeg(channels=1),
    "jpeg: cmyk at the pixel limit": lambda: jpeg(channels=4, scans=scan(range(4), (0, 63, 0))),
    "jpeg: at the pixel limit and turned": lambda: jpeg(before=TURNED),
    "jpeg: progressive at the pixel limit": lambda: progressive(1),
    "jpeg: progressive, 100,000 scans": lambda: progressive(100_000, 5_000),
    "jpeg: sequential, 100,000 scans": lambda: jpeg(
        5_000, 5_000, scans=scan(range(1), (0, 63, 0)) * 100_000
    ),
    "jpeg: overlapping EXIF": lambda: jpeg(
        4, 4, before=segment(0xE1, b"Exif\0\0" + tag_table(2_700, 33_000))
    ),
    "jpeg: EXIF in 600 pieces": lambda: jpeg(
        4, 4, before=segment(0xE1, b"Exif\0\0" + tag_table(2_700, 33_000)[:65_000]) * 600
    ),
    "jpeg: 700 APP segments of 64 KiB": lambda: jpeg(
        4, 4, before=segment(0xED, b"Photoshop 3.0\0" + bytes(65_000)) * 700
    ),
    "jpeg: ICC in 700 pieces": lambda: jpeg(
        4, 4, before=segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(65_000)) * 700
    ),
    "jpeg: a million comments": lambda: jpeg(4, 4, before=segment(0xFE, b"") * 1_000_000),
    "gif: header of 65,535 x 65,535": lambda: gif(65_535, 65_535, data=b"\x02\0"),
    "gif: at the pixel limit": lambda: gif(SIDE, SIDE),
    "gif: a frame larger than its screen": lambda: gif(4, 4, data=b"\x02\0").replace(
        struct.pack("<HHHHB", 0, 0, 4, 4, 0), struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
    ),
    "gif: a million frames": lambda: gif(4, 4)[:-1] + gif(4, 4)[19:-1] * 1_000_000 + b";",
    "gif: a comment of 20 MB": lambda: gif(
        4, 4, before=b"!\xfe" + (b"\xff" + b"c" * 255) * 80_000 + b"\0"
    ),
    "gif: 3 million empty blocks": lambda: gif(4, 4, before=b"!\xfe\0" * 3_000_000),
    "webp: canvas of 16,777,216 x 200": lambda: webp(2**24, 200, webp_image()),
    "webp: canvas of 20,000 x 20,000": lambda: webp(20_000, 20_000, webp_image()),
    "webp: animated canvas at the pixel limit": lambda: webp_frames(2, (SIDE, SIDE)),
    "webp: lossless at the pixel limit": lambda: webp_lossless(SIDE, SIDE),
    "webp: 100,000 frames": lambda: webp_frames(100_000),
    "webp: overlapping EXIF": lambda: webp(
        4, 4, webp_image(), (b"EXIF", tag_table(25_000, 10**6)), flags=8
    ),
    "tiff: overlapping tags": lambda: tag_table(25_000, 10**6),
    "tiff: deflated strip at the pixel limit": lambda: tiff_of(
        SIDE, SIDE, compression=8, data=deflated_zeros(SIDE * SIDE)
    ),
    "tiff: floats at the pixel limit": lambda: tiff_of(
        SIDE, SIDE, compression=8, bits=32, data=deflated_zeros(SIDE * SIDE * 4)
    ),
    "tiff: one bit at the pixel limit": lambda: tiff_of(
        SIDE, SIDE, compression=8, bits=1, data=deflated_zeros((SIDE + 7) // 8 * SIDE)
    ),
    "tiff: a tile of 60,000 x 60,000": lambda: tiff_tiled(100, 60_000, deflated_zeros(GIB)),
    "tiff: a strip of 2^31 rows": lambda: tiff_of(
        100, 100, compression=8, rows=2**31, data=deflated_zeros(GIB)
    ),
    "tiff: a million strips": lambda: tiff_strips(1_000_000),
    "tiff: a directory that leads to itself": lambda: tiff(
        {256: (4, 1, 4), 257: (4, 1, 4)}, bytes(16), following=24
    ),
    "bmp: header of 65,000 x 65,000": lambda: bmp(65_000, 65_000, data=b""),
    "bmp: runs at the pixel limit": lambda: bmp(
        SIDE, SIDE, bits=8, compression=1, data=(b"\xff\0" * 53 + b"\0\0") * SIDE
    ),
    "bmp: one line of 67 million pixels that ends after one": lambda: bmp(
        67_000_000, 1, bits=8, compression=1, data=b"\1\0" + b"\0\0"
    ),
    "bmp: 10 million runs of one pixel": lambda: bmp(
        SIDE, SIDE, bits=4, compression=2, data=b"\x01\0" * 10_000_000
    ),
    "bmp: 10 million empty lines": lambda: bmp(
        SIDE, SIDE, bits=8, compression=1, data=b"\1\0" + b"\0\0" * 10_000_000
    ),
    "nested: a gzipped picture": lambda: gzip.compress(SMALL),
}
