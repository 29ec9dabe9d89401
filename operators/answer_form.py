"""The fields that a chat model's answer must have: asked for as a JSON schema, checked, typed."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa

from schemas.config import OPERATOR_NAME, nearest
from schemas.errors import ConfigError, RowFault

SHOWN_CHARACTERS = 200  # of an answer, in the message of its fault
INT64_BOUND = 2**63


class _Kind(NamedTuple):
    column: pa.DataType
    schema: Mapping[str, Any]


KINDS: Mapping[str, _Kind] = {
    "string": _Kind(pa.string(), {"type": "string"}),
    "integer": _Kind(pa.int64(), {"type": "integer"}),
    "number": _Kind(pa.float64(), {"type": "number"}),
    "boolean": _Kind(pa.bool_(), {"type": "boolean"}),
    "list of strings": _Kind(pa.list_(pa.string()), {"type": "array", "items": {"type": "string"}}),
}


class AnswerForm:
    """An object with exactly these fields.

    Args:
        fields: the name of each, and its kind: a key of `KINDS`.

    Raises:
        ConfigError: a name cannot be a column's, or there is no such kind; with every fault.
    """

    def __init__(self, fields: Mapping[str, str]) -> None:
        faults = _faults(fields)
        if faults:
            raise ConfigError("; ".join(faults))
        self.fields = dict(fields)

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """The type of each field's column."""
        return {field: KINDS[kind].column for field, kind in self.fields.items()}

    @property
    def response_format(self) -> dict[str, Any]:
        """What is asked of the endpoint, so that the model can only answer in this form."""
        schema = {
            "type": "object",
            "properties": {field: KINDS[kind].schema for field, kind in self.fields.items()},
            "required": list(self.fields),
            "additionalProperties": False,
        }
        return {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": schema},
        }

    def read(self, text: str) -> dict[str, Any]:
        """Reads an answer, for not every server keeps to the form.

        Returns:
            A value a field, in the order of `fields`.

        Raises:
            RowFault: it is not JSON, or has other fields or kinds than it should.
        """
        try:
            found = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise _fault("is not JSON", text) from error
        if not isinstance(found, dict):
            raise _fault("is not a JSON object", text)
        wrong = sorted(set(found) ^ set(self.fields))
        if wrong:
            raise _fault(f"lacks or has beyond the schema {', '.join(map(repr, wrong))}", text)
        values = {}
        for field, kind in self.fields.items():
            if not _is(kind, found[field]):
                raise _fault(f"has in {field!r} no {kind}", text)
            values[field] = int(found[field]) if kind == "integer" else found[field]
        return values


def is_text(value: object) -> bool:
    """Whether a value is text that can be stored: JSON also spells halves of surrogate pairs."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is(kind: str, value: object) -> bool:
    """Whether a value is of a kind; as in JSON schema, 3.0 is an integer and true is not."""
    if kind == "string":
        return is_text(value)
    if kind == "list of strings":
        return isinstance(value, list) and all(map(is_text, value))
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    if not isinstance(value, int | float):
        return False
    if kind == "integer":
        is_whole = isinstance(value, int) or value.is_integer()
        return is_whole and -INT64_BOUND <= value < INT64_BOUND
    return abs(value) < INT64_BOUND if isinstance(value, int) else math.isfinite(value)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _fault(what: str, text: str) -> RowFault:
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return RowFault("model", f"the answer {what}: {shown!r}")


def _faults(fields: object) -> list[str]:
    if not isinstance(fields, Mapping) or not fields:
        return [f"schema is {fields!r}; it must map names of fields to kinds: {{colour: string}}"]
    faults, taken = [], {"prompt_tokens", "completion_tokens", "key"}
    for field, kind in fields.items():
        if not isinstance(field, str) or not OPERATOR_NAME.fullmatch(field):
            faults.append(f"schema: {field!r} names a column; use letters, digits and _")
        elif field.lower() in taken:
            faults.append(f"schema: the field {field!r} is there already; choose another name")
        taken.add(str(field).lower())
        if not isinstance(kind, str) or kind not in KINDS:
            faults.append(f"schema: {field!r} is {kind!r}; {nearest(str(kind), KINDS)}")
    return faults
