"""Hands a table, or the rows of it that a SQL condition names, to other people's tools.

Rows are streamed. What is written appears at once when it is complete, so a folder that is there is
whole; a row whose picture cannot be had is left out, counted and listed.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs import storage
from jobs.exporting import (
    clip_retrieval,
    coco,
    fiftyone,
    hugging_face,
    label_studio,
    parquet,
    web_dataset,
)
from jobs.exporting.selection import Failed, Selection
from jobs.index_source import vector_column
from jobs.pictures import fetcher_of, read_policy
from jobs.roles import roles_of
from jobs.table import existing_table
from schemas.config import nearest
from schemas.errors import ConfigError

Writer = Callable[[Selection, Path], int]


def _clip_retrieval(selection: Selection, folder: Path) -> int:
    return clip_retrieval.write(
        selection.batches(selection.columns),
        folder,
        vectors=vector_column(selection.table, None),
        caption=next(iter(selection.roles.captions), None),
    )


FORMATS: Mapping[str, Writer] = {
    "labelstudio": label_studio.write,
    "coco": coco.write,
    "fiftyone": fiftyone.write,
    "webdataset": web_dataset.write,
    "hf": hugging_face.write,
    "parquet": parquet.write,
    "clip-retrieval": _clip_retrieval,
}


@dataclass(frozen=True)
class Wanted:
    """Which rows are exported.

    Args:
        where: a SQL condition over the columns; None for all rows.
        limit: of rows; None for all.
        with_errors: whether rows with an error count.
    """

    where: str | None = None
    limit: int | None = None
    with_errors: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        format: of the folder.
        folder: where it is.
        rows: in it.
        failed: rows that were left out.
        failed_file: that lists them; None without any.
        seconds: it took.
    """

    format: str
    folder: str
    rows: int
    failed: tuple[Failed, ...]
    failed_file: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "format": self.format,
            "folder": self.folder,
            "rows": self.rows,
            "failed": len(self.failed),
            "failed_file": self.failed_file,
            "seconds": round(self.seconds, 3),
        }


def run(
    table: str, to: str, out: str, *, wanted: Wanted = Wanted(), images: str | None = None
) -> Exported:
    """Writes a folder.

    Args:
        table: path of an enriched table.
        to: one of `FORMATS`.
        out: a folder of this machine that is not there yet, or is empty.
        wanted: which rows.
        images: see `jobs.pictures.read_policy`.

    Raises:
        ConfigError: an argument cannot be, or the table has not what the format is made of.
        DatasetError: there is no table.
        TableError: something else lies there.
    """
    begun = time.monotonic()
    if to not in FORMATS:
        raise ConfigError(f"--to {to!r}: no such format; {nearest(to, FORMATS)}")
    if wanted.limit is not None and wanted.limit < 1:
        raise ConfigError(f"--limit is {wanted.limit}; it is a number of rows from 1 on")
    folder = _free_folder(out)
    opened = existing_table(table)
    fetcher = fetcher_of(read_policy(opened.path, images))
    selection = Selection(opened, roles_of(opened), fetcher, **asdict(wanted))
    selection.check()
    rows = _written(FORMATS[to], selection, folder)
    listed = folder.with_name(f"{folder.name}.failed.jsonl")
    if selection.failed:
        lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in selection.failed)
        storage.write_bytes(str(listed), "".join(lines).encode())
    return Exported(
        format=to,
        folder=out,
        rows=rows,
        failed=tuple(selection.failed),
        failed_file=str(listed) if selection.failed else None,
        seconds=time.monotonic() - begun,
    )


def _free_folder(out: str) -> Path:
    path = storage.normalise(out)
    if storage.scheme_of(path) != "file":
        raise ConfigError(f"--out {out!r}: exports are written to a folder of this machine")
    folder = Path(path)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"--out {out!r}: something is there; give a folder that is new or empty")
    return folder


def _written(write: Writer, selection: Selection, folder: Path) -> int:
    """Writes beside the folder and moves it there when it is complete."""
    beside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)  # of an export that was killed
    beside.mkdir(parents=True)
    try:
        rows = write(selection, beside)
        if folder.is_dir():
            folder.rmdir()
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return rows


if __name__ == "__main__":
    from jobs.cli import main

    main(["export"])
