"""Reads numbers and structs of Thrift's compact protocol, as the footer and pages of Parquet have.

pyarrow's own view of a footer ends the process where some of them are damaged.
"""

from collections.abc import Iterator
from typing import Any

_DEEPEST = 16  # structs and lists in each other; Parquet has 7
_MOST_BITS = 63  # of a number

Struct = dict[int, Any]  # by field; a text is 0


def integer(fields: Struct, number: int, default: int | None = None) -> int:
    """A field that must be there, as a number of at least 0; `default` where it is absent.

    Raises:
        ValueError: it is not.
    """
    value = fields.get(number, default)
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"field {number} is {value!r}")
    return value


def structs_of(data: bytes, field: int) -> Iterator[Struct]:
    """The structs in a list that is a field of the struct that `data` begins with, one by one.

    Raises:
        IndexError: it is cut short.
        ValueError: it is no such struct.
    """
    at = number = 0
    places = []
    while head := data[at]:
        kind = head & 15
        number, at = _field(data, at, number)
        if number == field:
            places.append((kind, at))
        _, at = _value(data, at, kind, 0)
    if not places:
        return
    kind, at = places[-1]
    size, kind, at = _list_head(data, at) if kind == 9 else (0, 0, at)
    if kind != 12 or len(places) > 1:
        raise ValueError(f"field {field} is no list of structs")
    for _ in range(size):
        found, at = struct_at(data, at)
        yield found


def struct_at(data: bytes, at: int, depth: int = 0) -> tuple[Struct, int]:
    """The struct that begins at a place, and where it ends; raises as `structs_of` does."""
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    found: Struct = {}
    number = 0
    while head := data[at]:
        number, at = _field(data, at, number)
        found[number], at = _value(data, at, head & 15, depth)
    return found, at + 1


def _field(data: bytes, at: int, number: int) -> tuple[int, int]:
    delta = data[at] >> 4
    return (number + delta, at + 1) if delta else _number(data, at + 1)


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return kind == 1, at
    if kind in (4, 5, 6):  # integers
        return _number(data, at)
    if kind in (3, 7):  # a byte, a double
        return 0, at + (1 if kind == 3 else 8)
    if kind == 8:  # a text
        length, at = _varint(data, at)
        return 0, at + length
    if kind in (9, 10):  # a list, a set
        return _list(data, at, depth + 1)
    if kind == 12:
        return struct_at(data, at, depth + 1)
    raise ValueError(f"type {kind}")


def _list(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    size, kind, at = _list_head(data, at)
    if kind in (1, 2):
        return [], at + size
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    found = []
    for _ in range(size):
        value, at = _value(data, at, kind, depth)
        found.append(value)
    if at > len(data):
        raise IndexError("cut short")
    return found, at


def _list_head(data: bytes, at: int) -> tuple[int, int, int]:
    """How many there are, of which type, and where they begin."""
    head = data[at]
    size, at = (head >> 4, at + 1) if head >> 4 < 15 else _varint(data, at + 1)
    return size, head & 15, at


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > _MOST_BITS:
            raise ValueError("a number of too many bits")
