"""What can go wrong: with the set-up (a `TaglineError`), and with one row (a `RowFault`).

A `TaglineError` ends the command before or after the run with its `exit_code`. A `RowFault` never
ends a job: `operators.base.apply` turns it into the `error` column of its row (see
`schemas.enriched.ERROR_TYPE`).
"""

import re
from collections.abc import Mapping
from typing import Literal

MESSAGE_CHARACTERS = 1_000  # of a row's fault, which may quote what a stranger wrote
UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # of terminals and UTF-8

ErrorCode = Literal[
    "policy",  # where the image lies is not allowed; no connection was made
    "missing",
    "forbidden",
    "unavailable",  # the store did not answer; transient
    "too_large",  # more bytes than limits.image_bytes
    "empty",
    "not_an_image",
    "truncated",
    "bomb",  # more pixels than limits.image_pixels
    "unsupported_format",
    "model",  # the operator failed on this row
    "out_of_memory",
    "timeout",
    "crashed",  # the row killed the process that computed it
]


class TaglineError(Exception):
    """Ends a command; the message says where, what was found, what is allowed, what to do."""

    exit_code = 1


class ConfigError(TaglineError):
    """A job config or a command's arguments are wrong."""

    exit_code = 2


class ManifestError(TaglineError):
    """A manifest cannot be read as one."""

    exit_code = 2


class ModelError(TaglineError):
    """A model directory is missing, damaged, unsafe or of another task."""

    exit_code = 2


class TableError(TaglineError):
    """What lies at the table's path is not a table that tagline may write."""

    exit_code = 2


class DatasetError(TaglineError):
    """Annotations or predictions are not what their format says, or do not fit each other."""

    exit_code = 2


class RunError(TaglineError):
    """A run started and could not be finished; what was computed is kept."""

    exit_code = 1


class OperatorError(TaglineError):
    """An operator does not keep its contract (see `operators.base.Operator`)."""

    exit_code = 1


class RowFault(Exception):  # noqa: N818  it is a fault of data, not of the program
    """Says why one row could not be computed.

    Args:
        code: what kind of fault it is.
        message: for the person who reads the table; its first `MESSAGE_CHARACTERS` are kept.
        transient: whether the same row may succeed later.
        wait_seconds: that the store asks to wait before the next try; does not travel.
    """

    def __init__(
        self, code: ErrorCode, message: str, *, transient: bool = False, wait_seconds: float = 0.0
    ) -> None:
        message = UNPRINTABLE.sub("\ufffd", message)
        if len(message) > MESSAGE_CHARACTERS:
            message = f"{message[: MESSAGE_CHARACTERS - 1]}…"
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.transient = transient
        self.wait_seconds = wait_seconds

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles the three fields; Exception alone would lose the keyword."""
        return _restore, (self.code, self.message, self.transient)


class RowFaults(Exception):  # noqa: N818
    """Says which rows of a batch cannot be computed; the others are then computed together.

    Args:
        faults: by position in the batch.
    """

    def __init__(self, faults: Mapping[int, RowFault]) -> None:
        super().__init__(f"{len(faults)} rows failed")
        self.faults = dict(faults)


def _restore(code: ErrorCode, message: str, transient: bool) -> RowFault:
    return RowFault(code, message, transient=transient)
