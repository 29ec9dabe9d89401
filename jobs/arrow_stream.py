"""Hands batches that Python makes to a library in another language, without losing our errors.

Such a library wraps what a generator raises in an exception of its own.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from schemas.errors import TaglineError


@contextmanager
def streamed(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatchReader]:
    """Gives a reader of the batches; an error of ours comes out of the block as it was raised."""
    raised: list[TaglineError] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except TaglineError as error:
            raised.append(error)
            raise

    try:
        yield pa.RecordBatchReader.from_batches(schema, guarded())
    except Exception:
        if raised:
            raise raised[0] from None
        raise
