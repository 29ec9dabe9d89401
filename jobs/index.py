"""`tagline index`: makes an enriched table searchable, and keeps up with it.

A new index is built beside the one that answers; an index of the same embedder is brought up to
date with the rows that changed since. Either way `tagline.json` is replaced last, so killed at
any moment the old index still answers, and the same command goes on from it.
"""

import time
from dataclasses import dataclass
from typing import Any

from jobs import storage
from jobs.index_changes import Changes, compare, refuse_doubles
from jobs.index_embedder import check_embedder, placed
from jobs.index_source import Source, open_source, told
from jobs.index_store import (
    Store,
    delete,
    digests,
    forget,
    index_columns,
    locked,
    merge,
    prepare,
    read_state,
    tidy,
    train,
    write_state,
)
from jobs.recall import recall_of
from schemas.errors import ConfigError
from schemas.index import IndexState

RETRAIN_SHARE = 0.5  # of the rows: so many changes, and the vectors' index is trained again
MEASURE_SHARE = 0.01  # so many, and its recall is measured again


@dataclass(frozen=True)
class Indexed:
    """What a run did.

    Args:
        path: of the index.
        state: as it answers now.
        new: rows that came, `changed` and `removed` likewise.
        rebuilt: why all rows were written; None when only changes were.
        seconds: it took.
    """

    path: str
    state: IndexState
    new: int
    changed: int
    removed: int
    rebuilt: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "index": self.path,
            "rows": self.state.rows,
            "new": self.new,
            "changed": self.changed,
            "removed": self.removed,
            "left_out": dict(self.state.left_out),
            "rebuilt": self.rebuilt,
            "version": self.state.version,
            "column": self.state.column,
            "key": self.state.key,
            "recall_at_10": round(self.state.recall, 4),
            "is_exact": self.state.trained_rows == 0,
            "seconds": round(self.seconds, 2),
        }


def run(table: str, to: str, *, column: str | None = None, model: str | None = None) -> Indexed:
    """Builds an index of a table, or brings one up to date.

    Args:
        table: path of an enriched table.
        to: folder of the index.
        column: of the vectors; None for the only one.
        model: of the embedder that made them; None for where the table says that it was.

    Raises:
        ConfigError: there is no such column, or `to` is no place for this index.
        DatasetError: there is no table, or no row to index.
        ModelError: `model` is no embedder.
        RunError: another process is writing the index.
        TableError: the table or the index is damaged.
    """
    started = time.monotonic()
    path = storage.normalise(to)
    known = read_state(path)
    source = open_source(table, column or (known.column if known else None))
    if model is not None:
        check_embedder(model, key=source.key, description=source.description, where=table)
    prepare(path)
    with locked(path):
        before = read_state(path)
        if before is not None:
            _check_same_table(path, before, source)
        store, reason = Store(path), _why_anew(before, source)
        if before is None or reason is not None:
            state, changes = _build(store, source, before, model), None
        else:
            state, changes = _update(store, source, before, model)
    return Indexed(
        path=path,
        state=state,
        new=len(changes.new) if changes else state.rows,
        changed=len(changes.changed) if changes else 0,
        removed=len(changes.removed) if changes else 0,
        rebuilt=reason,
        seconds=time.monotonic() - started,
    )


def lines(done: Indexed) -> list[str]:
    """Tells people what a run did."""
    state = done.state
    said = [f"{done.path}: {state.rows:,} images of {state.table}, version {state.version}"]
    if done.rebuilt:
        said.append(f"built anew: {done.rebuilt}")
    changes = {"new": done.new, "changed": done.changed, "removed": done.removed}
    said.append(f"written: {told(changes)}, in {done.seconds:.1f} seconds")
    if state.left_out:
        said.append(f"not in it: {told(state.left_out)}")
    searched = "approximate" if state.trained_rows else "every image is compared"
    said.append(f"recall@10 against comparing every image: {state.recall:.3f} ({searched})")
    words = ", ".join(state.captions) or "no captions: search by words finds only labels"
    said.append(f"vectors: {state.column}; words: {words}; labels: {', '.join(state.labels)}")
    return said


def _build(
    store: Store, source: Source, before: IndexState | None, model: str | None
) -> IndexState:
    """Writes all rows to a table of their own, which answers once it is complete."""
    files = source.table.files
    schema = source.schema(source.dimension())
    stored = store.create(before, schema, source.batches(files, schema))
    refuse_doubles(source, digests(stored))
    index_columns(stored, source.labels)
    trained = train(stored)
    state = _state(source, stored, model, trained_rows=trained, recall=_recall(stored, trained))
    write_state(store.path, state)
    return state


def _update(
    store: Store, source: Source, before: IndexState, model: str | None
) -> tuple[IndexState, Changes]:
    """Writes what changed as a new version, which answers once it is complete."""
    taken = before.files if before.table_id == _id_of(source) else None
    changes = compare(source, taken, digests(store.open(before)))
    if not changes.count:
        state = _state(source, None, model, before=before)
        if state != before:
            write_state(store.path, state)
        return state, changes
    stored = store.reopen(before)
    schema = stored.schema
    if len(changes.written):
        merge(stored, schema, source.batches(changes.files, schema, changes.written))
    delete(stored, changes.removed.to_pylist())
    was_tidied = tidy(stored)
    state = _measured(stored, source, before, changes.count, model)
    write_state(store.path, state)
    if was_tidied:
        forget(stored)
    return state, changes


def _measured(
    stored: Any, source: Source, before: IndexState, changes: int, model: str | None
) -> IndexState:
    """Trains and measures again where so much has changed."""
    rows = int(stored.count_rows())
    trained, changed = before.trained_rows, before.changed + changes
    if changed >= RETRAIN_SHARE * max(rows, before.trained_rows):
        trained, changed = train(stored), 0
    unmeasured, recall = before.unmeasured + changes, before.recall
    if not changed or unmeasured >= MEASURE_SHARE * rows:
        unmeasured, recall = 0, _recall(stored, trained)
    return _state(
        source,
        stored,
        model,
        before=before,
        trained_rows=trained,
        changed=changed,
        unmeasured=unmeasured,
        recall=recall,
    )


def _state(
    source: Source,
    stored: Any | None,
    model: str | None,
    *,
    before: IndexState | None = None,
    **figures: Any,
) -> IndexState:
    """What the index says of itself now; what is not given stays as it was before."""
    if stored is not None:
        figures |= {
            "stored": stored.name,
            "stored_version": stored.version,
            "rows": int(stored.count_rows()),
        }
    was = before.model_dump() if before else {}
    return IndexState.model_validate(
        {
            **was,
            **figures,
            "table": source.table.path,
            "table_id": _id_of(source),
            "version": source.table.version,
            "files": [file.path for file in source.table.files],
            "column": source.column,
            "key": source.key,
            "description": source.description,
            "model": placed(model) if model else source.model or was.get("model"),
            "matcher": source.matcher,
            "copied": source.copied,
            "captions": source.captions,
            "labels": source.labels,
            "left_out": source.left_out,
        }
    )


def _recall(stored: Any, trained: int) -> float:
    """A search that compares every row misses none."""
    return recall_of(stored) if trained else 1.0


def _id_of(source: Source) -> str:
    return str(source.table.delta.metadata().id)


def _why_anew(before: IndexState | None, source: Source) -> str | None:
    """Why an index has to be built from all rows though there is one; None when it has not."""
    if before is None:
        return None
    if (before.column, before.key) != (source.column, source.key):
        return (
            f"its vectors were {before.column!r} of the embedder {before.key}, most of the "
            f"table's are {source.column!r} of {source.key}"
        )
    copied = (before.copied, before.captions, before.labels)
    if copied != (source.copied, source.captions, source.labels):
        return "the table has other columns"
    return None


def _check_same_table(path: str, before: IndexState, source: Source) -> None:
    is_same = before.table_id == _id_of(source) or before.table == source.table.path
    if not is_same:
        raise ConfigError(
            f"--to {path}: is the index of {before.table}, not of {source.table.path}; give "
            "another folder, or delete this one"
        )


if __name__ == "__main__":
    from jobs.cli import main

    main(["index"])
