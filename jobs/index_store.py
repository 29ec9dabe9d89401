"""Where an index lies: a folder with LanceDB's tables and `tagline.json`, which names the one.

LanceDB keeps the versions of a table. Readers take the version that `tagline.json` names, and that
file is replaced last, in one step: until then a run has only written what nobody reads. What a
killed run left is undone by the next that writes.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from jobs import storage
from jobs.arrow_stream import streamed
from schemas.enriched import IMAGE_ID
from schemas.errors import ConfigError, RunError, TableError
from schemas.index import DIGEST, VECTOR, WORDS, IndexState

STATE = "tagline.json"
LOCK = "tagline.lock"
SUFFIX = ".lance"  # of the folder that LanceDB makes of a table
KEPT = timedelta(days=1)  # how long readers may go on with a version after the next one
NEVER = timedelta(days=36_500)  # LanceDB's own default is 7 days
LOOSE_ROWS = 5000  # written since LanceDB's indexes took rows in; a query looks at each of them
LOOSE_FILES = 64  # of LanceDB; each update writes one
IDS_AT_ONCE = 1000  # in one condition of a deletion
ANN_ROWS = 5000  # from here on the search is approximate
PARTITION_ROWS = 2048  # of a trained index
CODE_BITS = 3  # a dimension: RaBitQ, arXiv:2409.09913
PROBES = 64  # partitions that a query looks into; more where a filter leaves too few hits
REFINED = 10  # times the hits: so many are compared by their whole vectors


class Store:
    """An index's folder.

    Args:
        path: normalised.

    Raises:
        ConfigError: LanceDB is not installed.
    """

    def __init__(self, path: str) -> None:
        try:
            import lancedb
        except ImportError as error:
            raise ConfigError(
                "LanceDB, which holds indexes, is not installed; pip install 'tagline[search]'"
            ) from error
        self.path = path
        self.database = lancedb.connect(path)

    def open(self, state: IndexState) -> Any:
        """LanceDB's table, held at the version that answers."""
        table = self.database.open_table(state.stored)
        table.checkout(state.stored_version)
        return table

    def reopen(self, state: IndexState) -> Any:
        """LanceDB's table to be written: what a killed run left in it is undone."""
        self._drop_all_but(state.stored)
        table = self.open(state)
        newest = self.database.open_table(state.stored)
        if newest.version != state.stored_version:
            table.restore()
            return table
        return newest

    def create(
        self, before: IndexState | None, schema: pa.Schema, rows: Iterator[pa.RecordBatch]
    ) -> Any:
        """Makes a new table beside the one that answers; remains of others go."""
        self._drop_all_but(before.stored if before else "")
        number = int(before.stored.rpartition("-")[2]) + 1 if before else 1
        with streamed(schema, rows) as reader:
            return self.database.create_table(f"images-{number}", reader)

    def _drop_all_but(self, stored: str) -> None:
        for name in os.listdir(self.path):
            if name.endswith(SUFFIX) and name != stored + SUFFIX:
                self.database.drop_table(name.removesuffix(SUFFIX))


def prepare(path: str) -> None:
    """Makes the folder of an index, or makes sure that it is one.

    Raises:
        ConfigError: the path is not local, is a file, or a folder of something else.
    """
    if storage.scheme_of(path) != "file":
        raise ConfigError(f"--to {path}: an index lies on a local disk; give a local folder")
    if os.path.isfile(path):
        raise ConfigError(f"--to {path}: is a file; give a folder")
    os.makedirs(path, exist_ok=True)
    names = sorted(os.listdir(path))
    ours = (STATE, LOCK)
    foreign = [name for name in names if name not in ours and not name.endswith(SUFFIX)]
    foreign = [name for name in foreign if not name.endswith(".writing")]
    if foreign and STATE not in names:
        raise ConfigError(
            f"--to {path}: holds {', '.join(foreign[:3])} and no index; "
            "give a folder that is empty or does not exist"
        )


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Keeps other writers away while a block runs; the lock goes with the process.

    Raises:
        RunError: another process is writing.
    """
    with open(os.path.join(path, LOCK), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{path}: another `tagline index` is writing this index; wait for it to end"
            ) from error
        yield


def read_state(path: str) -> IndexState | None:
    """What an index says of itself; None when there is none, or none is complete yet.

    Raises:
        TableError: another version of tagline wrote it.
    """
    data = storage.read_bytes(storage.join(path, STATE)) if os.path.isdir(path) else None
    if data is None:
        return None
    try:
        return IndexState.model_validate_json(data)
    except ValidationError as error:
        raise TableError(
            f"{path}/{STATE}: not an index of this version of tagline; delete the folder and run "
            "`tagline index` again"
        ) from error


def write_state(path: str, state: IndexState) -> None:
    """Makes a version the one that answers."""
    storage.write_bytes(storage.join(path, STATE), state.model_dump_json(indent=1).encode())


def digests(table: Any) -> Iterator[pa.RecordBatch]:
    """The image_id and digest of every row."""
    columns = table.search().select([IMAGE_ID, DIGEST]).limit(None)
    yield from columns.to_batches()


def merge(table: Any, schema: pa.Schema, rows: Iterator[pa.RecordBatch]) -> None:
    """Adds rows, in place of those with the same image_id."""
    merging = table.merge_insert(IMAGE_ID).when_matched_update_all().when_not_matched_insert_all()
    with streamed(schema, rows) as reader:
        merging.execute(reader)


def delete(table: Any, ids: Sequence[str]) -> None:
    """Removes rows."""
    for start in range(0, len(ids), IDS_AT_ONCE):
        quoted = ", ".join(_quoted(one) for one in ids[start : start + IDS_AT_ONCE])
        table.delete(f"{IMAGE_ID} IN ({quoted})")


def index_columns(table: Any, labels: Sequence[str]) -> None:
    """Makes the indexes of ids, labels and words of a new table."""
    from lancedb.index import FTS, Bitmap, BTree, LabelList

    table.create_index(IMAGE_ID, config=BTree())
    table.create_index(WORDS, config=FTS(base_tokenizer="whitespace"))
    for name in labels:
        is_list = pa.types.is_list(table.schema.field(name).type)
        table.create_index(name, config=LabelList() if is_list else Bitmap())


def train(table: Any) -> int:
    """Makes, or makes anew, the index of the vectors where there are many.

    Returns:
        The rows that it was trained on; 0 where every row is to be searched.
    """
    from lancedb.index import IvfRq

    rows = int(table.count_rows())
    if rows < ANN_ROWS:
        return 0
    partitions = max(1, rows // PARTITION_ROWS)
    config = IvfRq(distance_type="cosine", num_partitions=partitions, num_bits=CODE_BITS)
    table.create_index(VECTOR, config=config, replace=True)
    return rows


def tidy(table: Any) -> bool:
    """Takes the rows of many updates into the indexes, and joins their files.

    Not done at every update, for it may write rows anew that have not changed.

    Returns:
        whether it was time to.
    """
    loose = table.index_stats(f"{IMAGE_ID}_idx").num_unindexed_rows
    if loose < LOOSE_ROWS and table.stats()["fragment_stats"]["num_fragments"] < LOOSE_FILES:
        return False
    table.optimize(cleanup_older_than=NEVER)  # the version that answers may be old
    return True


def forget(table: Any) -> None:
    """Deletes what only versions of long ago need."""
    table.optimize(cleanup_older_than=KEPT)


def nearest(table: Any, vector: Any, limit: int) -> Any:
    """A query for the rows whose vectors are nearest, to be given a filter and columns."""
    query = table.search(vector, vector_column_name=VECTOR).distance_type("cosine").limit(limit)
    return query.minimum_nprobes(PROBES).maximum_nprobes(0).refine_factor(REFINED)


def with_words(table: Any, words: str, limit: int, *, needs_all: bool) -> Any:
    """A query for the rows with any, or all, of some words, to be given a filter and columns."""
    from lancedb import query

    build: Any = query.MatchQuery  # whose optional fields mypy takes for required
    operator = query.FullTextOperator.AND if needs_all else query.FullTextOperator.OR
    return table.search(build(words, WORDS, operator=operator), query_type="fts").limit(limit)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
