"""Logs as one event a line: time, level, logger, the run, and `event=NAME key=value …`.

Everything of ours is logged as `logger.info("event=shard_done shard=%s rows=%d", …)`. On a line for
people a value with blanks stands in quotes; with TAGLINE_LOG_FORMAT=json a line is a JSON object
with the same fields, numbers as numbers. Lines of a run carry its id, those of its workers too.
Values of secrets never reach a line.
"""

import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from operators.masking import without_secrets

FORMAT_VARIABLE = "TAGLINE_LOG_FORMAT"  # `json`, else lines for people
OURS = ("jobs", "operators", "schemas")
FIELD = re.compile(r"(\w+)=(%\S+|[^\s%]*)")

_run: str | None = None  # of this process; a process works for one run at a time


@dataclass(frozen=True)
class Logs:
    """How the processes of a run log; travels to its workers.

    Args:
        run: its id.
        as_json: whether lines are JSON.
    """

    run: str
    as_json: bool

    def begin(self) -> None:
        """Sets up the logs of a worker's process."""
        global _run
        _run = self.run
        set_up(as_json=self.as_json)


def wants_json() -> bool:
    """Whether the environment asks for JSON."""
    return os.environ.get(FORMAT_VARIABLE, "").strip().lower() == "json"


def set_up(*, as_json: bool | None = None) -> None:
    """Sends this process's logs to standard error: warnings, and events where nobody watches."""
    formatter = Formatter(as_json=wants_json() if as_json is None else as_json)
    handler = _StandardError()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for other in [one for one in root.handlers if isinstance(one.formatter, Formatter)]:
        root.removeHandler(other)
    root.addHandler(handler)
    is_watched = sys.stderr.isatty() and not formatter.as_json
    logging.getLogger("jobs").setLevel(logging.WARNING if is_watched else logging.INFO)
    logging.getLogger("jobs.waiting").setLevel(logging.INFO)
    # whoever watches sees a run's bar, summary and error by themselves
    logging.getLogger("jobs.observed").setLevel(logging.CRITICAL if is_watched else logging.NOTSET)


@contextmanager
def of_run(run: str) -> Iterator[Logs]:
    """Marks all lines of this process with a run's id, for the length of a `with`."""
    global _run
    before, _run = _run, run
    try:
        yield Logs(run, wants_json())
    finally:
        _run = before


def rendered(name: str, message: str, *values: Any) -> str:
    """An event as this process logs it, for what is shown whatever the level; plain without set-up.

    Args:
        name: of the logger.
        message: as a logger takes it.
        values: of the message.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, Formatter):
            record = logging.LogRecord(name, logging.INFO, "", 0, message, values, None)
            return handler.formatter.format(record)
    return without_secrets(_logfmt(fields_of(message, values) or {"message": message % values}))


class _StandardError(logging.Handler):
    """Writes to what is standard error at that moment, which a test or a notebook may exchange."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class Formatter(logging.Formatter):
    """Writes a record as a line for people or as JSON.

    Args:
        as_json: which.
    """

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Writes one line; a traceback follows on lines of its own, or in JSON as a field."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"time": moment, "level": record.levelname, "logger": record.name}
        run = {"run": _run} if _run and record.name.partition(".")[0] in OURS else {}
        fields = _fields(record)
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self.as_json:
            document = {**head, **run, **fields, **({"traceback": trace} if trace else {})}
            return without_secrets(json.dumps(document, ensure_ascii=False, default=str))
        line = " ".join([*head.values(), _logfmt({**run, **fields})])
        return without_secrets(f"{line}\n{trace}" if trace else line)


def fields_of(message: str, values: Any) -> dict[str, Any] | None:
    """The fields of an event's message and their values; None for a message of another form."""
    words = message.split(" ")
    found = [FIELD.fullmatch(word) for word in words]
    if not message.startswith("event=") or not all(found):
        return None
    named = [(match[1], match[2]) for match in found if match]
    if sum(shape.startswith("%") for _, shape in named) != len(values):
        return None
    waiting = iter(values)
    fields: dict[str, Any] = {}
    for name, shape in named:
        value = next(waiting) if shape.startswith("%") else shape
        is_rounded = isinstance(value, float) and math.isfinite(value) and shape.startswith("%.")
        fields[name] = json.loads(shape % value) if is_rounded else value
    return fields


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    message, values = str(record.msg), record.args or ()
    fields = fields_of(message, values) if isinstance(values, tuple) else None
    return fields if fields is not None else {"message": record.getMessage()}


def _logfmt(fields: Mapping[str, Any]) -> str:
    if list(fields) == ["message"]:
        return str(fields["message"])
    return " ".join(_pair(name, value) for name, value in fields.items())


def _pair(name: str, value: Any) -> str:
    text = str(value)
    if name == "message":
        return text
    is_plain = text and not re.search(r"[\s\"=]", text)
    return f"{name}={text if is_plain else json.dumps(text, ensure_ascii=False)}"
