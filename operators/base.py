"""What an operator is, and the one function that runs one over a table.

The batch job, Serve, `tagline apply` and evaluation all call `apply`, so a row gets the same answer everywhere.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pyarrow as pa


class Operator(Protocol):
    """Adds columns to a table; cheap to build and to pickle, `load` reads weights once per process."""

    name: str
    key: str  # `fingerprint(description)`
    description: Mapping[str, Any]  # what the key is made of; JSON-able
    reads: tuple[str, ...]  # columns it needs; `image_encoded` for the image
    writes: pa.Schema  # columns it adds, named after `name`; its key column is added by `apply`
    batch_rows: int  # rows per call unless the caller knows better

    def load(self) -> None:
        """Reads the weights; does nothing when they are there."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Computes exactly `writes` for every row of `table`, in order.

        Raises:
            RowFaults: some rows cannot be computed; names each and why. Nothing else was computed.
        """


Fetch = Callable[[pa.Table], pa.Table]


def fingerprint(description: Mapping[str, Any]) -> str:
    """16 hex digits that change when, and only when, the description does."""
    text = json.dumps(description, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def apply(
    operator: Operator,
    table: pa.Table,
    *,
    batch_rows: int | None = None,
    fetch: Fetch | None = None,
) -> pa.Table:
    """Runs an operator over the rows that are due, healthy and stale.

    Stale is a row whose key column is not the operator's key. A failing batch is halved until the bad rows stand
    alone and carry the error; rows named by `RowFaults` are taken out at once. Out of memory halves it too.

    Args:
        operator: loaded by the first call.
        table: any columns; `is_due`, `attempts`, `error` and the operator's own columns are made when absent.
        batch_rows: rows per call of the operator; its own default when None.
        fetch: fills `image_encoded` where it is null, for shards too big to travel with their bytes.

    Returns:
        `table`, in its order, with `operator.writes`, its key column, `error` and `enriched_at` brought up to date.

    Raises:
        Exception: a fault that poisons the process (a lost CUDA context), so that its owner can replace it.
    """
    raise NotImplementedError
