"""How a file's bytes become pixels, everywhere alike: first frame, EXIF orientation, RGB.

The pixels equal those of the published loaders, which do `convert("RGB")` after Pillow's
`exif_transpose`: alpha is dropped without blending, an embedded colour profile is ignored, CMYK and
16-bit grey become what Pillow makes of them. Pillow's plugins are called directly rather than
through `Image.open`: only the six formats named here are ever parsed, the size is judged by our own
limit, and neither Pillow's global settings nor its warnings come into it.
"""

import base64
import io
import struct
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
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from schemas.errors import RowFault, RowFaults

PIXEL_LIMIT = 178_956_970  # pixels; Pillow's own bound for a decompression bomb
PIXEL_BYTES = 4  # Pillow keeps RGB in four bytes a pixel
COEFFICIENT_BYTES = 6  # libjpeg holds a progressive file whole: 3 channels of 16 bits a pixel
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
    ("DirectDraw", 0, b"DDS "),
    ("QOI", 0, b"qoif"),
    ("OpenEXR", 0, b"\x76\x2f\x31\x01"),
    ("Netpbm", 0, b"P4\n"),
    ("Netpbm", 0, b"P5\n"),
    ("Netpbm", 0, b"P6\n"),
    ("SVG", 0, b"<svg"),
)
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
    AttributeError,
    struct.error,
    UserWarning,
)  # what Pillow's plugins raise on damaged files; the last where warnings are errors
_UNSUPPORTED_SIGNS = ("unknown pixel mode", "cannot handle", "nsupported", "not yet supported")
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
    image = _open(encoded, pixel_limit)
    _load(image)
    _turn(image)
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
    if image.format != "JPEG":
        _load(image)
        _turn(image)
        return image.size
    width, height = image.size
    image.draft(image.mode, (max(1, width // 8), max(1, height // 8)))
    _load(image)
    return (height, width) if _orientation(image) in _QUARTER_TURNS else (width, height)


def verified_bytes(encoded: bytes, *, pixel_limit: int = PIXEL_LIMIT) -> int:
    """Memory that `verify` will take, judged on the header; raises as it does."""
    image = _open(encoded, pixel_limit)
    pixels = image.size[0] * image.size[1]
    if image.format != "JPEG":
        return pixels * PIXEL_BYTES
    return pixels * COEFFICIENT_BYTES if image.info.get("progressive") else pixels // 16


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
    is_still = getattr(image, "n_frames", 1) == 1
    is_plain = image.mode in ("RGB", "L") and "transparency" not in image.info
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
    try:
        image = kind.open(io.BytesIO(encoded))
    except _DAMAGE as error:
        raise _fault_of(kind.name, error) from error
    width, height = image.size
    if width * height > pixel_limit:
        raise RowFault(
            "bomb",
            f"{width} x {height} pixels are {width * height}; at most {pixel_limit} are allowed "
            "(limits.image_pixels)",
        )
    return image


def _recognised(encoded: bytes) -> _Format:
    if not encoded:
        raise RowFault("empty", "the file has no bytes")
    head = encoded[:32]
    for kind in _FORMATS:
        if kind.matches(head):
            return kind
    for name, offset, signature in _OTHER_FORMATS:
        if head[offset:].startswith(signature):
            raise RowFault("unsupported_format", f"the file is {name}; supported are {SUPPORTED}")
    raise RowFault("not_an_image", f"the file begins with {head[:16]!r}; supported are {SUPPORTED}")


def _load(image: ImageFile.ImageFile) -> None:
    try:
        image.load()
    except _DAMAGE as error:
        raise _fault_of(str(image.format), error) from error


def _fault_of(name: str, error: Exception) -> RowFault:
    """Sorts what Pillow raises for a file whose first bytes are right.

    Pillow has no exception of its own for a variant it cannot read; its texts are the only sign.
    """
    text = str(error)
    if any(sign in text for sign in _UNSUPPORTED_SIGNS):
        return RowFault("unsupported_format", f"a {name} of a kind that cannot be read: {text}")
    if "MAX_TEXT" in text:
        return RowFault("bomb", f"the text chunks of this {name} unpack to too much: {text}")
    return RowFault("truncated", f"the {name} file is cut short or damaged: {text}")


def _turn(image: ImageFile.ImageFile) -> None:
    """Applies the EXIF orientation; metadata that cannot be read turns nothing."""
    with suppress(*_DAMAGE):
        ImageOps.exif_transpose(image, in_place=True)


def _orientation(image: ImageFile.ImageFile) -> int:
    with suppress(*_DAMAGE):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1
