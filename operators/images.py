"""How a file's bytes become pixels, everywhere alike: first frame, EXIF orientation, RGB.

The pixels equal those of the published loaders, which do `convert("RGB")` after Pillow's
`exif_transpose`: alpha is dropped without blending, an embedded colour profile is ignored, CMYK and
16-bit grey become what Pillow makes of them. Pillow's plugins are called directly rather than
through `Image.open`: only the six formats named here are ever parsed, the size is judged by our own
limit, and neither Pillow's global settings nor its warnings come into it. Whatever Pillow raises on
a file is a fault of that file, and its row's.
"""

import base64
import io
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, overload

import pyarrow as pa
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from operators.image_limits import (
    PIXEL_LIMIT,
    RGB_BYTES,
    beside_pixels,
    check_pieces,
    check_size,
    decoding_bytes,
)
from schemas.errors import RowFault, RowFaults

SVG_HEAD_BYTES = 1024  # within which an SVG file says so
SUPPORTED = "JPEG, PNG, WebP, GIF, BMP and TIFF"


class _Format(NamedTuple):
    name: str
    matches: Callable[[bytes], bool]
    open: Callable[[io.BytesIO], ImageFile.ImageFile]


_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})  # bytes; tells BMP from text


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and len(head) > 14 and head[14] in _BMP_HEADER_SIZES


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _begins(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


_FORMATS = (
    _Format("JPEG", _begins(b"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    _Format("PNG", _begins(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    _Format("WebP", _is_webp, WebPImagePlugin.WebPImageFile),
    _Format("GIF", _begins(b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile),
    _Format("BMP", _is_bmp, BmpImagePlugin.BmpImageFile),
    _Format("TIFF", _begins(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImagePlugin.TiffImageFile),
)
_ENDINGS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WebP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
}
_OTHER_FORMATS = (
    ("AVIF or HEIF", 4, b"ftyp"),
    ("JPEG 2000", 0, b"\x00\x00\x00\x0cjP  "),
    ("JPEG 2000", 0, b"\xff\x4f\xff\x51"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 0, b"\x00\x00\x00\x0cJXL "),
    ("Photoshop", 0, b"8BPS"),
    ("icon", 0, b"\x00\x00\x01\x00"),
    ("cursor", 0, b"\x00\x00\x02\x00"),
    ("icon", 0, b"icns"),
    ("PDF", 0, b"%PDF"),
    ("PostScript", 0, b"%!PS"),
    ("PostScript", 0, b"\xc5\xd0\xd3\xc6"),
    ("Windows metafile", 0, b"\xd7\xcd\xc6\x9a"),
    ("Windows metafile", 40, b" EMF"),
    ("DirectDraw", 0, b"DDS "),
    ("QOI", 0, b"qoif"),
    ("OpenEXR", 0, b"\x76\x2f\x31\x01"),
    ("Netpbm", 0, b"P4\n"),
    ("Netpbm", 0, b"P5\n"),
    ("Netpbm", 0, b"P6\n"),
    ("Netpbm", 0, b"Pf\n"),
    ("Sun raster", 0, b"\x59\xa6\x6a\x95"),
    ("SGI", 0, b"\x01\xda"),
    ("PCX", 0, b"\x0a\x05\x01"),
    ("FITS", 0, b"SIMPLE  ="),
    ("HDF5", 0, b"\x89HDF"),
    ("FLIF", 0, b"FLIF"),
    ("Blizzard", 0, b"BLP"),
)
_SVG = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<(?:\?|!)[^>]*>\s*)*<svg\b")
_UNSUPPORTED_SIGNS = ("unknown pixel mode", "cannot handle", "nsupported", "not yet supported")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
_QUARTER_TURNS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
_WEB_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def decode(encoded: bytes, *, pixel_limit: int = PIXEL_LIMIT) -> Image.Image:
    """Decodes an image file.

    Args:
        encoded: a JPEG, PNG, WebP, GIF, BMP or TIFF file of any mode, told by its first bytes.
        pixel_limit: width times height of the largest image that is decoded.

    Returns:
        The first frame, RGB, turned as its EXIF orientation says.

    Raises:
        RowFault: `empty`, `not_an_image`, `unsupported_format`, `bomb` (judged on the header) or
            `truncated` (cut short or damaged).
    """
    opened = _open(encoded, pixel_limit)
    _load(opened)
    image = _turned(opened)
    image.info.pop("transparency", None)  # has no part in RGB, but makes Pillow warn
    return image if image.mode == "RGB" else image.convert("RGB")


def verify(encoded: bytes, *, pixel_limit: int = PIXEL_LIMIT) -> tuple[int, int]:
    """Checks all of an image file that `decode` would read, in less time and memory.

    A JPEG is decoded at an eighth of its size, for that reads every byte too.

    Returns:
        Width and height in pixels, after its EXIF orientation.

    Raises:
        RowFault: as `decode` does.
    """
    image = _open(encoded, pixel_limit)
    width, height = image.size
    image.draft(image.mode, (max(1, width // 8), max(1, height // 8)))  # of a JPEG alone
    _load(image)
    return (height, width) if _orientation(image) in _QUARTER_TURNS else (width, height)


def verified_bytes(encoded: bytes, *, pixel_limit: int = PIXEL_LIMIT) -> int:
    """Memory that `verify` will take, judged on the header; raises as it does."""
    image = _open(encoded, pixel_limit)
    if image.format != "JPEG":
        return decoding_bytes(image, is_turned=False)
    pixels = image.size[0] * image.size[1]
    return int(pixels * (beside_pixels(image) + RGB_BYTES / 64))


def name_ending(encoded: bytes) -> str:
    """The usual ending of the name of an image file, such as `.jpg`, told by its first bytes.

    Raises:
        RowFault: as `decode` does.
    """
    return _ENDINGS[_recognised(encoded).name]


def data_url(encoded: bytes, *, pixel_limit: int = PIXEL_LIMIT) -> str:
    """Writes an image file as a URL that holds the picture itself.

    A JPEG, PNG or WebP that every reader shows as `decode` does goes as it is; one that is turned,
    moves, or has other channels than RGB or grey goes as a PNG of what `decode` gives.

    Raises:
        RowFault: as `decode` does.
    """
    image = _open(encoded, pixel_limit)
    media_type = _WEB_TYPES.get(str(image.format))
    is_plain = image.mode in ("RGB", "L") and "transparency" not in image.info
    is_still = media_type is None or getattr(image, "n_frames", 1) == 1  # a GIF is read whole
    if not (media_type and is_still and is_plain and _orientation(image) == 1):
        png = io.BytesIO()
        decode(encoded, pixel_limit=pixel_limit).save(png, "PNG")
        encoded, media_type = png.getvalue(), "image/png"
    return f"data:{media_type};base64,{base64.b64encode(encoded).decode()}"


def decode_column(column: pa.ChunkedArray, *, pixel_limit: int = PIXEL_LIMIT) -> "DecodedImages":
    """Decodes every row of an `image_encoded` column, in order, each when it is asked for.

    Raises:
        RowFaults: the rows whose first bytes are not those of an image that may be decoded; later,
            from the sequence, a row that turns out to be damaged.
    """
    faults: dict[int, RowFault] = {}
    for position, encoded in enumerate(column):
        try:
            _open(_bytes_of(encoded), pixel_limit)
        except RowFault as fault:
            faults[position] = fault
    if faults:
        raise RowFaults(faults)
    return DecodedImages(column, range(len(column)), pixel_limit)


class DecodedImages(Sequence[Image.Image]):
    """The images of a column, of which only the one asked for is held decoded; a slice is one too.

    Iterate once: every access decodes again.
    """

    def __init__(self, column: pa.ChunkedArray, positions: range, pixel_limit: int) -> None:
        self._column, self._positions, self._pixel_limit = column, positions, pixel_limit

    def __len__(self) -> int:
        """How many there are; decodes none."""
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "DecodedImages": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | DecodedImages":
        """Decodes one image.

        Raises:
            RowFaults: it is damaged; names its position in the column.
        """
        if isinstance(index, slice):
            return DecodedImages(self._column, self._positions[index], self._pixel_limit)
        position = self._positions[index]
        try:
            return decode(_bytes_of(self._column[position]), pixel_limit=self._pixel_limit)
        except RowFault as fault:
            raise RowFaults({position: fault}) from fault


def _bytes_of(encoded: pa.Scalar) -> bytes:
    if not encoded.is_valid:
        raise RowFault("missing", "the image was not fetched; run the row again")
    return bytes(encoded.as_py())


def _open(encoded: bytes, pixel_limit: int) -> ImageFile.ImageFile:
    """Reads the header: which format, how many pixels."""
    kind = _recognised(encoded)
    check_pieces(kind.name, encoded)
    try:
        image = kind.open(io.BytesIO(encoded))
        is_jpeg = image.format == "JPEG"  # whose EXIF stands before the pixels
        check_size(image, pixel_limit, is_turned=is_jpeg and _orientation(image) in _TURNS)
    except RowFault:
        raise
    except Exception as error:
        raise _fault_of(kind.name, error) from error
    return image


def _recognised(encoded: bytes) -> _Format:
    if not encoded:
        raise RowFault("empty", "the file has no bytes")
    head = encoded[:64]
    for kind in _FORMATS:
        if kind.matches(head):
            return kind
    for name, offset, signature in _OTHER_FORMATS:
        if head[offset:].startswith(signature):
            raise RowFault("unsupported_format", f"the file is {name}; supported are {SUPPORTED}")
    if _SVG.match(encoded[:SVG_HEAD_BYTES]):
        raise RowFault("unsupported_format", f"the file is SVG; supported are {SUPPORTED}")
    raise RowFault("not_an_image", f"the file begins with {head[:16]!r}; supported are {SUPPORTED}")


def _load(image: ImageFile.ImageFile) -> None:
    """Decodes, and judges once more: some formats tell their orientation after the pixels."""
    try:
        image.load()
        check_size(image, PIXEL_LIMIT, is_turned=_orientation(image) in _TURNS)
    except RowFault:
        raise
    except Exception as error:
        raise _fault_of(str(image.format), error) from error


def _fault_of(name: str, error: Exception) -> RowFault:
    """Sorts what Pillow raises for a file whose first bytes are right.

    Pillow has no exception of its own for a variant it cannot read; its texts are the only sign.
    """
    text = str(error)
    if isinstance(error, Image.DecompressionBombError):
        return RowFault("bomb", f"the {name} is too large: {text}")
    if isinstance(error, MemoryError):
        return RowFault("out_of_memory", f"the {name} asks for more memory than there is")
    if any(sign in text for sign in _UNSUPPORTED_SIGNS):
        return RowFault("unsupported_format", f"a {name} of a kind that cannot be read: {text}")
    if "MAX_TEXT" in text:
        return RowFault("bomb", f"the text chunks of this {name} unpack to too much: {text}")
    return RowFault("truncated", f"the {name} file is cut short or damaged: {text}")


def _turned(image: ImageFile.ImageFile) -> Image.Image:
    """Applies the EXIF orientation."""
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: ImageFile.ImageFile) -> int:
    with suppress(Exception):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1
