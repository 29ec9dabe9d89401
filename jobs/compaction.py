"""Keeps a table's data files few, by Delta's own optimize."""

import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import CommitProperties

from jobs import storage
from jobs.history import Note
from jobs.records import ANOTHER, read_tried, record_tried
from jobs.table import Table, existing_table, open_table
from schemas.enriched import ERROR
from schemas.errors import RunError
from schemas.manifest_files import STORE_ERRORS

logger = logging.getLogger(__name__)
SMALL_BYTES = 16_000_000
MANY_SMALL_FILES = 1_000
READ_THREADS = 16


@dataclass(frozen=True)
class Compacted:
    """What a compaction came to.

    Args:
        before: data files.
        after: data files.
        version: of the table now.
    """

    before: int
    after: int
    version: int


def run(path: str) -> Compacted:
    """Joins the small data files of a table into large ones, however few there are.

    Args:
        path: of the table.

    Raises:
        DatasetError: there is no table.
        RunError: another commit came between, or the store does not answer; the table is as it was.
    """
    table = existing_table(path)
    try:
        after = _joined(table, Note("compact"))
    except CommitFailedError as error:
        raise RunError(
            f"{path}: another commit came while the files were joined; nothing was changed: run "
            "the same command again"
        ) from error
    except (DeltaError, *STORE_ERRORS) as error:
        raise RunError(
            f"{path}: could not be compacted: {type(error).__name__}: {error}; no row was changed: "
            "run the same command when the table can be read and written"
        ) from error
    return Compacted(len(table.files), len(after.files), after.version)


def compact_when_many(path: str, run: str | None = None) -> None:
    """Joins small data files into large ones when there are too many.

    It loses to any other commit, and whatever fails here leaves the table as it was committed: it
    is tried again after the next commit.

    Args:
        path: of a table just committed.
        run: that committed.
    """
    try:
        table = open_table(path)
        if table and sum(file.size < SMALL_BYTES for file in table.files) > MANY_SMALL_FILES:
            _joined(table, Note("compact", run))
    except Exception as error:  # the job is done, whatever this is
        logger.warning("event=not_compacted table=%s error=%r", path, str(error))


def _joined(table: Table, note: Note) -> Table:
    """The table with its small files joined."""
    properties = CommitProperties(custom_metadata=note.metadata(), max_commit_retries=0)
    table.delta.optimize.compact(commit_properties=properties)
    after = existing_table(table.path)
    there, known = {f.path for f in after.files}, {f.path for f in table.files}
    _record(table, gone=sorted(known - there), made=sorted(there - known))
    return after


def _record(table: Table, *, gone: Sequence[str], made: Sequence[str]) -> None:
    """Says of the new files by which keys their errors were judged.

    Where the joined files say different keys of a stage in which rows of theirs failed, those rows
    are computed once more.
    """
    tried = read_tried(table.path, gone)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        stages = dict(zip(gone, pool.map(lambda path: _failed(table, path), gone), strict=True))
    judged = _judged(tried, stages)
    for path in made:
        record_tried(table.path, path.rpartition("/")[2].split(".")[0], judged)


def _judged(
    tried: Mapping[str, Mapping[str, str]], stages: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """The key of each stage by which all files with errors of it were judged, else `ANOTHER`."""
    names = sorted({name for keys in tried.values() for name in keys})
    judged = {}
    for name in names:
        files = [file for file, failed in stages.items() if name in failed]
        found = {tried.get(file, {}).get(name) for file in files or tried}
        key = found.pop() if len(found) == 1 else ANOTHER
        judged[name] = key or ANOTHER
    return judged


def _failed(table: Table, path: str) -> set[str]:
    """The stages in which rows of a data file failed."""
    full = storage.join(table.path, path)
    arrow = storage.arrow_filesystem(full)
    with pq.ParquetFile(storage.inner_path(full), filesystem=arrow) as file:
        errors = file.read([ERROR])[ERROR].combine_chunks()
    return {stage for stage in pc.unique(pc.struct_field(errors, "stage")).to_pylist() if stage}
