"""A question to a chat model, with places for the columns of a row: `Is {caption} true?`."""

import json
import string
from collections.abc import Mapping
from typing import Any

from schemas.enriched import IMAGE_ENCODED
from schemas.errors import ConfigError, RowFault


class Prompt:
    """A text with columns in braces; a brace that is meant as one is doubled.

    Raises:
        ConfigError: a brace stands alone, or holds no plain name of a column.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = _parts(text)
        columns = (column for _, column in self._parts if column is not None)
        self.columns = tuple(dict.fromkeys(columns))

    def fill(self, row: Mapping[str, Any]) -> str:
        """Puts a row's values in their places; what is no text comes as JSON.

        Raises:
            RowFault: a value is null.
        """
        return "".join(
            literal + ("" if column is None else _as_text(column, row[column]))
            for literal, column in self._parts
        )


def _parts(text: str) -> list[tuple[str, str | None]]:
    """Each piece of plain text with the column after it, None at the end."""
    try:
        found = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"the prompt has a brace alone ({error}); {_ADVICE}") from error
    parts = []
    for literal, column, form, conversion in found:
        if column is not None and (not column or form or conversion):
            inside = f"{column}{'!' if conversion else ''}{conversion or ''}"
            inside += f":{form}" if form else ""
            raise ConfigError(f"the prompt has {{{inside}}}, which names no column; {_ADVICE}")
        if column == IMAGE_ENCODED:
            raise ConfigError(f"the prompt has {{{column}}}; the picture is sent by image: true")
        parts.append((literal, column))
    return parts


_ADVICE = "write {column} for a row's value, and {{ or }} for a brace itself"


def _as_text(column: str, value: Any) -> str:
    if value is None:
        raise RowFault("model", f"{column!r} is null in this row; the prompt needs it")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
