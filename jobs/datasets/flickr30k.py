"""Flickr30k: results_20130124.token, one caption a line: `1000092795.jpg#0`, a tab, the caption.

Or results.csv: `image_name| comment_number| comment`, then `1000092795.jpg| 0| the caption`; in the
file that goes round, one line lacks its second bar.

Format: Young et al. 2014, https://shannon.cs.illinois.edu/DenotationGraph.
"""

import re
from pathlib import Path

import pyarrow as pa

from jobs.datasets.reading import read_bytes, refuse_twice
from jobs.datasets.tables import CAPTIONS
from schemas.errors import DatasetError

_LINE = re.compile(r"([^\t#]+)#(\d+)\t(.*)")
_BARS = re.compile(r"([^|]+?) *\| *(\d+)(?: *\| *| +)(.*)")
_HEAD = re.compile(r"image(_name)? *\| *comment_number *\| *comment *")


def read_tokens(path: Path) -> pa.Table:
    """Reads the captions.

    Returns:
        `tables.CAPTIONS`: in the order of the file; the id is the file's name without its suffix.

    Raises:
        DatasetError: a line is of another form or not UTF-8, or a caption comes twice.
    """
    captions: dict[str, list[str]] = {}
    seen: set[object] = set()
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        where = f"{path}, line {number}"
        text = _decoded(where, line)
        if not text.strip() or (number == 1 and _HEAD.fullmatch(text)):
            continue
        file, caption_number, caption = _parts(where, text)
        refuse_twice(where, "caption", f"{file}#{caption_number}", seen)
        seen.add(f"{file}#{caption_number}")
        captions.setdefault(file, []).append(caption)
    identities = [Path(file).stem for file in captions]
    columns = [identities, list(captions), [None] * len(captions), list(captions.values())]
    return pa.table(columns, schema=CAPTIONS)


def _decoded(where: str, line: bytes) -> str:
    try:
        return line.rstrip(b"\r").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{where}: not UTF-8: {error}") from error


def _parts(where: str, line: str) -> tuple[str, str, str]:
    found = _LINE.fullmatch(line) or _BARS.fullmatch(line)
    if not found:
        raise DatasetError(
            f"{where}: {line!r} is neither 'FILE.jpg#NUMBER', a tab and a caption, nor "
            "'FILE.jpg| NUMBER| CAPTION'"
        )
    return found[1], found[2], found[3]
