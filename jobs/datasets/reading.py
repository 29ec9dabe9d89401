"""Reads JSON of others: what is missing or of another type is named with its file and line."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from schemas.errors import DatasetError

_SHOWN = 5  # ids named in a message
_LIMIT = 2**63
_INTEGER = "a whole number of 64 bits"
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Record:
    """One JSON object and where it stands.

    Args:
        path: of the file.
        place: within it: `line 3`, `annotations[2]`; empty where the object is all of it.
        fields: by name.
    """

    path: Path
    place: str
    fields: Mapping[str, Any]

    @property
    def where(self) -> str:
        """File and place, for messages."""
        return f"{self.path}, {self.place}" if self.place else str(self.path)

    def text(self, name: str) -> str:
        """A field that must be a string."""
        value = self._typed(name, str, "a string")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise self._fault(name, "text; it holds half a character")
        return value

    def integer(self, name: str) -> int:
        """A field that must be a whole number."""
        value = self._typed(name, int, _INTEGER)
        if not _is_id(value):
            raise self._fault(name, _INTEGER)
        return value

    def identity(self, name: str) -> str:
        """A field that names something: a string or a whole number, which becomes a string."""
        value = self._required(name)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self._fault(name, "a whole number or a string")
        return str(value)

    def integers(self, name: str) -> list[int]:
        """A field that must be a list of whole numbers."""
        values = self._typed(name, list, f"a list, of {_INTEGER} each")
        if not all(map(_is_id, values)):
            raise self._fault(name, f"a list, of {_INTEGER} each")
        return values

    def records(self, name: str) -> list["Record"]:
        """A field that must be a list of objects."""
        place = f"{self.place}.{name}" if self.place else name
        return records(self._required(name), self.path, place)

    def _required(self, name: str) -> Any:
        if name not in self.fields:
            there = ", ".join(map(repr, self.fields)) or "nothing"
            raise DatasetError(f"{self.where}: no {name!r}; it has {there}")
        return self.fields[name]

    def _typed(self, name: str, kind: type[Kind], wanted: str) -> Kind:
        value = self._required(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self._fault(name, wanted)
        return value

    def _fault(self, name: str, wanted: str) -> DatasetError:
        return DatasetError(f"{self.where}: {name} is {self.fields[name]!r}; it must be {wanted}")


def read_document(path: Path) -> Any:
    """Reads a file of one JSON document.

    Raises:
        DatasetError: it cannot be read, or is not JSON in UTF-8.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error


def read_lines(path: Path) -> Iterator[Record]:
    """Reads a file of one JSON object a line; empty lines are passed over.

    Raises:
        DatasetError: it cannot be read, or a line is not a JSON object in UTF-8.
    """
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{path}, line {number}: not JSON: {error}") from error
        yield _record(fields, path, f"line {number}")


def read_bytes(path: Path) -> bytes:
    """Reads a file whole.

    Raises:
        DatasetError: it is not there, or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error


def records(values: Any, path: Path, place: str) -> list[Record]:
    """Takes what must be a list of JSON objects apart.

    Raises:
        DatasetError: it is not.
    """
    if not isinstance(values, list):
        raise DatasetError(
            f"{path}: {place} is of type {type(values).__name__}; it must be a list of objects"
        )
    return [_record(fields, path, f"{place}[{at}]") for at, fields in enumerate(values)]


def refuse_twice(where: str, what: str, identity: object, seen: Collection[object]) -> None:
    """Refuses what was there before.

    Raises:
        DatasetError: it was.
    """
    if identity in seen:
        raise DatasetError(f"{where}: {what} {identity!r} was there before; each may come once")


def some(identities: Collection[object]) -> str:
    """Names the first few of many."""
    shown = [repr(one) for one in list(identities)[:_SHOWN]]
    more = len(identities) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _record(fields: Any, path: Path, place: str) -> Record:
    if not isinstance(fields, dict):
        raise DatasetError(f"{path}, {place}: {fields!r} is not a JSON object")
    return Record(path, place, fields)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_LIMIT <= value < _LIMIT
