"""The part of a shard: one Parquet file, put once, that says itself how it came about.

A part that exists is done. Its report lies in its footer, so that a run that goes on after a kill
counts what was computed before as if it had never been killed.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import storage
from jobs.damage import DamagedFile, lost_data_file, read_checked
from jobs.shards import Plan, Shard, part_path, part_schema
from jobs.store_patience import asked_again
from jobs.table import open_table
from schemas.errors import RunError
from schemas.manifest_files import STORE_ERRORS

REPORT = b"tagline.report"  # in a part's footer
STORE_SECONDS = 60.0  # until a disk, or what the retries of S3 gave up, is asked no more
EXAMPLE_CHARACTERS = 300  # of an error's message in a report
REFUSALS = ("forbidden", "missing")  # of most rows of a part, by a store that is not the right one
READERS = 16  # footers read at once

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartReport:
    """How a part came about.

    Args:
        shard: its id.
        rows: in the part.
        tried: rows that were due.
        errors: those of them that ended in an error, by code.
        repeated: those of rows that had an error before this run too, by code.
        transient: the other errors that may pass.
        failed: rows that ended in an error, by stage.
        examples: the message of one error that is not `repeated`, by code.
        retries: tries of images beyond the first, by the code of what had failed.
        fetched: `rows` and `bytes` of the images that were fetched.
        computed: rows by operator.
        copied: those of them that got the answer of another row with the same picture.
        cut: those of them with a text too long to be read to its end.
        busy: seconds by stage.
        actors: which actor took it through a stage.
    """

    shard: str
    rows: int
    tried: int
    errors: Mapping[str, int] = field(default_factory=dict)
    repeated: Mapping[str, int] = field(default_factory=dict)
    transient: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    retries: Mapping[str, int] = field(default_factory=dict)
    fetched: Mapping[str, int] = field(default_factory=dict)
    computed: Mapping[str, int] = field(default_factory=dict)
    copied: Mapping[str, int] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)
    actors: Mapping[str, str] = field(default_factory=dict)

    @property
    def refused(self) -> int:
        """Errors that tell of the set-up at that time, such as credentials, not of the images."""
        new = Counter(self.errors) - Counter(self.repeated)
        refused = max(new[code] for code in REFUSALS)
        return refused if refused * 2 > self.tried else 0

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> "PartReport":
        """Reads what `to_json` wrote; what a later release tells besides is left out."""
        known = {each.name for each in fields(PartReport)}
        told = json.loads(text).items()
        return PartReport(**{name: value for name, value in told if name in known})


def put_part(plan: Plan, shard: Shard, table: pa.Table, report: PartReport) -> PartReport:
    """Writes the part of a shard unless one is there, which then is as good.

    Args:
        plan: its shards are not needed.
        shard: whose part it is.
        table: at least the columns of `part_schema`, all rows of the shard, in order.
        report: goes into the footer.

    Returns:
        The report of the part that stands.

    Raises:
        RunError: the store does not take it.
    """
    schema = part_schema(plan)
    part = table.select(schema.names).cast(schema)
    part = part.replace_schema_metadata({REPORT: report.to_json().encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(part, sink, compression="zstd", write_page_checksum=True)
    path, data = part_path(plan, shard), sink.getvalue().to_pybytes()
    standing = None
    while standing is None:
        is_ours = patiently(lambda: storage.put_if_absent(path, data), f"put {path}")
        standing = report if is_ours else read_report(plan, shard)
    return standing


def read_report(plan: Plan, shard: Shard) -> PartReport | None:
    """Reads how a part came about; None when there is no part yet.

    Parts are put whole, so one whose footer cannot be read was damaged since. Unless the table has
    it, it is removed, to be computed again.

    Raises:
        RunError: the store does not answer.
        TableError: the part is damaged, and a data file of the table.
    """
    path = part_path(plan, shard)
    while True:
        try:
            return patiently(lambda: read_checked(path, _report), f"read {path}")
        except FileNotFoundError:
            return None
        except DamagedFile as damaged:
            file, reason = damaged.file, damaged.reason
        if _is_committed(plan, shard):
            raise lost_data_file(path, reason)
        if patiently(partial(storage.delete_same, file), f"remove {path}"):
            logger.warning("event=part_damaged path=%s reason=%r", path, reason)
            return None


def _report(file: pa.NativeFile) -> PartReport:
    return PartReport.from_json(pq.read_schema(file).metadata[REPORT])


def _is_committed(plan: Plan, shard: Shard) -> bool:
    """Whether the table has a part, be it that another driver of the plan was faster."""
    table = open_table(plan.table)
    if table is None:
        return False
    is_done = table.delta.transaction_version(plan.id) is not None
    path = part_path(plan, shard)
    return is_done or any(storage.join(plan.table, file.path) == path for file in table.files)


def read_reports(plan: Plan, shards: Sequence[Shard]) -> list[PartReport]:
    """Reads the reports of parts that are there, many at once."""
    light = replace(plan, shards=(), replaced=())
    with ThreadPoolExecutor(READERS) as pool:
        found: Iterable[PartReport | None] = pool.map(lambda s: read_report(light, s), shards)
        return [report for report in found if report is not None]


def reports_of_files(table: str, files: Sequence[str]) -> dict[str, PartReport]:
    """Reads how data files came about, many at once; files without a report are left out.

    Args:
        table: its path.
        files: relative to it.
    """

    def read(file: str) -> PartReport | None:
        path = storage.join(table, file)
        schema = pq.read_schema(storage.inner_path(path), filesystem=storage.arrow_filesystem(path))
        data = (schema.metadata or {}).get(REPORT)
        return PartReport.from_json(data) if data else None

    with ThreadPoolExecutor(READERS) as pool:
        found = zip(files, pool.map(read, files), strict=True)
        return {file: report for file, report in found if report is not None}


def patiently(ask: Callable[[], T], what: str) -> T:
    """Asks the store again while it does not answer, with growing pauses, and says so.

    Raises:
        FileNotFoundError: at once.
        RunError: at last, naming what was asked.
    """
    try:
        return asked_again(ask, what, passes=_passes, seconds=STORE_SECONDS)
    except FileNotFoundError:
        raise
    except STORE_ERRORS as error:
        raise RunError(
            f"could not {what}: {type(error).__name__}: {error}; parts already written are kept: "
            "run the same command when the store answers"
        ) from error


def _passes(error: Exception) -> bool:
    is_final = isinstance(error, FileNotFoundError | PermissionError)
    return isinstance(error, STORE_ERRORS) and not is_final
