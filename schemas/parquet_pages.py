"""The pages of a Parquet file by their heads: what kinds they are, and what they unpack to.

What the footer says of sizes is the writer's word; the heads are what every reader follows. Nothing
is unpacked here but dictionaries of texts, and what lies between the heads is passed over.

Layout: Apache Parquet's parquet.thrift; heads are in Thrift's compact protocol.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from schemas.thrift import Struct, integer, struct_at, structs_of

DICTIONARY_BYTES = 16 << 20  # of one that is looked through; a larger one may be of one text
WINDOW_BYTES = 64 << 10  # read at once where a head is to be; it has about 50 bytes
HEAD_BYTES = 4 << 20  # of one head, with the smallest and the largest text of its page
FREE_PAGES = 20_000  # which any file may have; a head takes 20 microseconds
PAGE_SHARE = 100  # bytes of its file for each page, on average, where there are more
_DICTIONARY_PAGE = 2
_DETAILS = {0: (5, 2), 2: (7, 2), 3: (8, 4)}  # type of page: fields of its details and encoding
_IN_DICTIONARY, _SHARING = (2, 8), 7  # encodings
_CODECS = (None, "snappy", "gzip", None, "brotli", "lz4", "zstd", "lz4_raw")
_GROUPS = 4  # the field of the footer
MAGIC = b"PAR1"


@dataclass(frozen=True)
class Page:
    """One page.

    Args:
        kind: its type in the format's numbers.
        start: where its bytes begin in the file.
        packed: bytes.
        unpacked: bytes that its head promises; a reader makes room for them.
        values: nulls too.
        encoding: of the values, in the format's numbers.
    """

    kind: int
    start: int
    packed: int
    unpacked: int
    values: int
    encoding: int

    @property
    def is_dictionary(self) -> bool:
        """Whether it holds the dictionary of the others."""
        return self.kind == _DICTIONARY_PAGE

    @property
    def needs_dictionary(self) -> bool:
        """Whether its values are places in the dictionary."""
        return self.encoding in _IN_DICTIONARY

    @property
    def shares_beginnings(self) -> bool:
        """Whether each text is told by its difference from the one before."""
        return self.encoding == _SHARING


@dataclass(frozen=True)
class Chunk:
    """A column in a row group.

    Args:
        start: where its pages begin in the file.
        packed: bytes.
        values: of all pages.
        codec: number of the compression.
    """

    start: int
    packed: int
    values: int
    codec: int


@dataclass(frozen=True)
class RowGroup:
    """So many rows, and their columns."""

    rows: int
    chunks: list[Chunk]


def row_groups(source: Any) -> Iterator[RowGroup]:
    """The row groups that the footer of an opened file tells of.

    Raises:
        IndexError: the footer is cut short.
        ValueError: it is damaged.
    """
    size = source.size()
    tail = source.read_at(8, size - 8) if size >= 12 else b""
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or length > size - 12:
        raise ValueError("no footer")
    for group in structs_of(source.read_at(length, size - 8 - length), _GROUPS):
        yield RowGroup(integer(group, 3), [_chunk(one, size) for one in group.get(1, ())])


def _chunk(told: Struct, size: int) -> Chunk:
    column = told.get(3)
    if not isinstance(column, dict):
        raise ValueError("a column without its data")
    start, dictionary = integer(column, 9), integer(column, 11, 0)
    start = dictionary if 0 < dictionary < start else start
    if start > size:
        raise ValueError("it begins outside of the file")
    packed = min(integer(column, 7), size - start)
    return Chunk(start, packed, integer(column, 5), integer(column, 4))


class PageReader:
    """Finds the pages of an opened file.

    Args:
        source: pyarrow's.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.size: int = source.size()
        self.most = max(FREE_PAGES, self.size // PAGE_SHARE)
        self.found = 0
        self._window, self._at = b"", 0  # bytes of the file, and where they begin

    def pages(self, chunk: Chunk) -> Iterator[Page]:
        """The pages that a reader reads until it has all values of a chunk.

        Raises:
            ArrowInvalid: there are too many in all chunks so far.
            IndexError: a head is cut short.
            ValueError: it is no page's head.
        """
        at, end, seen = chunk.start, chunk.start + chunk.packed, 0
        self._window = b""
        while seen < chunk.values and at < end:
            head, at = self._head(at, end)
            page = _page(head, at)
            self.found += 1
            if self.found > self.most:
                raise pa.ArrowInvalid(
                    f"more than {self.most} pages in {self.size} bytes; refused: write larger "
                    "pages, or larger row groups"
                )
            yield page
            at += page.packed
            seen += 0 if page.is_dictionary else page.values

    def longest_text(self, page: Page, codec: int) -> int:
        """Bytes of the longest text of a dictionary, or more where that cannot be told."""
        if max(page.packed, page.unpacked) > DICTIONARY_BYTES:
            return page.unpacked
        data = self.source.read_at(page.packed, page.start)
        return _longest_text(page, data, codec)

    def _head(self, at: int, end: int) -> tuple[Struct, int]:
        """The head that begins at a place, and where it ends, which is before `end`."""
        begin = at - self._at
        if 0 <= begin < len(self._window):
            try:
                head, after = struct_at(self._window, begin)
                return head, self._at + after
            except IndexError:
                pass  # the window may have cut it
        size, self._at = WINDOW_BYTES, at
        while True:
            self._window = self.source.read_at(min(size, end - at), at)
            try:
                head, after = struct_at(self._window, 0)
                return head, at + after
            except IndexError:
                if len(self._window) < size or size >= HEAD_BYTES:
                    raise
                size *= 4


def _page(head: Struct, start: int) -> Page:
    kind = integer(head, 1)
    place, encoding = _DETAILS.get(kind, (0, 0))
    details = head.get(place, {})
    if not isinstance(details, dict):
        raise ValueError("a number in place of its details")
    return Page(
        kind=kind,
        start=start,
        packed=integer(head, 3),
        unpacked=integer(head, 2),
        values=integer(details, 1) if place else 0,
        encoding=integer(details, encoding) if place else 0,
    )


def _longest_text(page: Page, data: bytes, codec: int) -> int:
    name = _CODECS[codec] if codec < len(_CODECS) else None
    if codec:
        try:
            data = pa.Codec(name).decompress(data, page.unpacked, asbytes=True)
        except (pa.ArrowException, TypeError, ValueError, OSError):
            return page.unpacked
    at = longest = 0
    read, end = struct.Struct("<I").unpack_from, len(data) - 4
    while at <= end:
        (length,) = read(data, at)
        if length > longest:
            longest = length
        at += 4 + length
    return min(longest, page.unpacked)
