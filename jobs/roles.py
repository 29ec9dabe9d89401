"""What the columns of a table are: captions, labels, matches, tags, verdicts, found by their types.

A column's type says what kind of answer it holds (`operators.claims`); the records of its operator
say which text it was asked about.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.records import read_description
from jobs.table import Table
from operators.claims import Source, claims_of, sources_of
from schemas.enriched import ERROR, VERDICTS_TYPE
from schemas.errors import TableError

AGREEMENT = "agreement"  # in [0, 1]: what the models say of each other's answers
TEXT_OPTIONS = {"entailment": "hypothesis", "matcher": "text"}  # the column an operator judges
PROBABILITIES = {"entailment": "{}_yes", "matcher": "{}"}  # what it says of it

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Roles:
    """Which column of a table is what.

    Args:
        sources: the columns of answers but tags.
        texts: the column of text that an operator judged, by operator.
        keys: by which most healthy rows were computed, by operator.
        tags: columns of a tagger.
        verdicts: columns of an acceptance.
        agreement: whether the table has that column.
    """

    sources: tuple[Source, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    agreement: bool = False

    def of_kind(self, kind: str) -> list[Source]:
        """The columns of answers that a kind of operator wrote."""
        return [one for one in self.sources if one.kind == kind]

    @property
    def captions(self) -> list[str]:
        """The columns of captions."""
        return [one.column for one in self.of_kind("captioner")]

    def judges_of(self, column: str, kind: str) -> list[str]:
        """The operators of a kind that judged a column of text."""
        of_kind = {one.column for one in self.of_kind(kind)}
        return [name for name, text in self.texts.items() if text == column and name in of_kind]

    @property
    def quality_reads(self) -> tuple[str, ...]:
        """The columns that `quality` needs."""
        if self.agreement:
            return (AGREEMENT,)
        return self._first.reads if self._first else ()

    @property
    def quality_name(self) -> str:
        """What `quality` is made of, for people; empty where the table has nothing of the kind."""
        if self.agreement:
            return "the agreement of the models"
        return f"the confidence of {self._first.column!r}" if self._first else ""

    def quality(self, table: pa.Table) -> Floats:
        """How good each row's answers seem, in [0, 1]; not a number where there is no answer.

        It is the agreement of the models where the table has that, else the confidence of the first
        captioner, else of the first column of answers.
        """
        if self.agreement:
            return np.asarray(pc.cast(table[AGREEMENT], pa.float64()).to_numpy(), np.float64)
        return self.confidence(table, self._first.column if self._first else "")

    def confidence(self, table: pa.Table, column: str) -> Floats:
        """How sure each row's answer in a column is, in [0, 1]; of a list the least sure of it.

        Not a number where there is no answer, and for a column that holds none.
        """
        found = np.full(table.num_rows, np.nan)
        for source in self.sources:
            if source.column == column:
                claims = claims_of(table, source)
                np.fmin.at(found, claims.rows, claims.confidence)
        return found

    @property
    def _first(self) -> Source | None:
        return next(iter([*self.of_kind("captioner"), *self.sources]), None)


def roles_of(table: Table) -> Roles:
    """Finds out what the columns of a table are."""
    keys = present_keys(table)
    descriptions = {name: read_description(table.path, key) for name, key in keys.items()}
    kinds = {one.name: one.type for one in table.schema}
    found = sources_of(table.schema, judges_of(descriptions))
    return Roles(
        sources=tuple(one for one in found if one.kind != "tags"),
        texts=text_columns(descriptions),
        keys=keys,
        tags=tuple(one.column for one in found if one.kind == "tags"),
        verdicts=tuple(name for name in kinds if kinds.get(f"{name}_verdicts") == VERDICTS_TYPE),
        agreement=pa.types.is_floating(kinds.get(AGREEMENT, pa.null())),
    )


def present_keys(table: Table) -> dict[str, str]:
    """The key by which most healthy rows of each operator were computed.

    Raises:
        TableError: a data file is damaged.
    """
    names = [
        name
        for name in table.schema.names
        if name.endswith("_key") and name.removesuffix("_key") in table.schema.names
    ]
    if not names:
        return {}
    modes = ", ".join(f'mode("{name}")' for name in names)
    try:
        with duckdb.connect() as database:
            database.register("enriched", table.delta.to_pyarrow_dataset())
            query = f"SELECT {modes} FROM enriched WHERE {ERROR} IS NULL"
            found = database.execute(query).fetchone()
    except duckdb.Error as error:
        raise TableError(f"{table.path}: its data files cannot be read: {error}") from error
    values = zip(names, found or (), strict=True)
    return {name.removesuffix("_key"): str(key) for name, key in values if key is not None}


def text_columns(descriptions: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The column of text that an operator judges, by operator."""
    found = {}
    for name, description in descriptions.items():
        option = TEXT_OPTIONS.get(description.get("operator", ""))
        text = description.get("options", {}).get(option) if option else None
        if text:
            found[name] = str(text)
    return found


def judges_of(descriptions: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """For a column of text, the columns of probabilities that operators said of it."""
    judges: dict[str, tuple[str, ...]] = {}
    for name, text in text_columns(descriptions).items():
        said = PROBABILITIES[descriptions[name]["operator"]].format(name)
        judges[text] = (*judges.get(text, ()), said)
    return judges
