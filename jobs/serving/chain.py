"""The operators of a config as a server asks them: each with what it reads of the others first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from jobs.serving.refusals import Refusal
from jobs.serving.worker import Reply, Row
from operators.base import Operator
from operators.catalog import build_operators
from schemas.config import ChainConfig, nearest
from schemas.enriched import ERROR, IMAGE_ENCODED, key_column

TEXT_OPTIONS = ("hypothesis", "premise", "text")  # of operators: columns that say something


class Backend(Protocol):
    """Where the operators run."""

    async def answer(self, name: str, row: Row) -> Reply:
        """Has an operator answer a row; raises Refusal when it is not there to answer."""

    async def gone(self) -> list[str]:
        """The operators that have no process to answer."""


@dataclass(frozen=True)
class Link:
    """One operator of the chain.

    Args:
        name: in the config.
        use: which kind it is.
        reads: columns.
        writes: columns, its key included.
        said: the column that says what is judged or matched; None where nothing is.
        premise: the column with what is known besides the image.
    """

    name: str
    use: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    said: str | None
    premise: str | None


def build_chain(config: ChainConfig) -> tuple[list[Operator], list[Link]]:
    """Builds the operators of a config; columns that none of them writes are asked of clients.

    Raises:
        ConfigError: as `operators.catalog.build_operators`.
        ModelError: the same.
    """
    operators = build_operators(config, sorted(_given(config)))
    links = []
    for operator in operators:
        entry = config.operators[operator.name]
        said = getattr(operator, "hypothesis", None) or getattr(operator, "text", None)
        writes = (*operator.writes.names, key_column(operator.name))
        premise = getattr(operator, "premise", None)
        links.append(Link(operator.name, entry.use, operator.reads, writes, said, premise))
    return operators, links


def column_types(operators: Sequence[Operator]) -> pa.Schema:
    """The types of all columns that the operators write."""
    return pa.schema([field for operator in operators for field in operator.writes])


def _given(config: ChainConfig) -> set[str]:
    """Columns that a job would have from its manifest."""
    named = {
        entry.options.get(option) for entry in config.operators.values() for option in TEXT_OPTIONS
    }
    return {
        column
        for column in named
        if isinstance(column, str)
        and not any(column == name or column.startswith(f"{name}_") for name in config.operators)
    }


class Chain:
    """Asks operators, and before each those whose columns it reads.

    Args:
        links: in the order of the config.
        backend: where the operators run.
    """

    def __init__(self, links: Sequence[Link], backend: Backend) -> None:
        self.links: Mapping[str, Link] = {link.name: link for link in links}
        self.backend = backend
        self._writers = {column: link.name for link in links for column in link.writes}

    def find(self, use: str, name: str | None = None) -> Link:
        """The operator of a kind that a question means: the one it names, else the first.

        Raises:
            Refusal: 404 `no_operator`; says which there are.
        """
        fit = [link.name for link in self.links.values() if link.use == use]
        if not fit:
            has = ", ".join(f"{link.name} ({link.use})" for link in self.links.values())
            raise Refusal(
                404,
                "no_operator",
                f"this server's config uses no {use}; it has {has}; add one to it",
            )
        if name is not None and name not in fit:
            raise Refusal(404, "no_operator", f"no {use} is called {name!r}; {nearest(name, fit)}")
        return self.links[name or fit[0]]

    def named(self, name: str) -> Link:
        """Looks up an operator of any kind.

        Raises:
            Refusal: 404 `no_operator`.
        """
        if name not in self.links:
            message = f"no operator is called {name!r}; {nearest(name, self.links)}"
            raise Refusal(404, "no_operator", message)
        return self.links[name]

    async def answer(self, name: str, row: Row) -> Row:
        """Gives a row an operator's columns, computing first those that it reads.

        Raises:
            Refusal: an image or a text is needed, or the row cannot be computed.
        """
        link = self.links[name]
        for column in link.reads:
            if column not in row and column in self._writers:
                row = await self.answer(self._writers[column], row)
        for column in link.reads:
            if column not in row:
                raise _needed(column, link)
        return {**row, **await self.ask(name, {column: row[column] for column in link.reads})}

    async def ask(self, name: str, row: Row) -> Row:
        """Has one operator answer a row as it is.

        Raises:
            Refusal: the row cannot be computed.
        """
        reply = await self.backend.answer(name, row)
        if reply.row[ERROR]:
            raise Refusal.of_error(reply.row[ERROR])
        return {column: value for column, value in reply.row.items() if column != ERROR}


def _needed(column: str, link: Link) -> Refusal:
    if column == IMAGE_ENCODED:
        return Refusal(
            422, "no_image", "an image is needed: a file, a data URL or a URL in `image`"
        )
    what = "premise" if column == link.premise else "text"
    message = f"{link.name} reads {column!r}, which no operator writes; give it as `{what}`"
    return Refusal(422, f"no_{what}", message)
