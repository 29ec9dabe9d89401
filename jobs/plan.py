"""Decides what has to be computed: the manifest joined with the table, out of core, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jobs import storage
from jobs.shards import Plan
from operators.base import Operator
from schemas.config import JobConfig
from schemas.manifest import Manifest


@dataclass(frozen=True)
class Selection:
    """Which rows beside new and changed ones are wanted.

    Args:
        retry: `due` takes errors that something changed for and transient ones with attempts left;
            `errors` takes all rows with an error and nothing else; `transient` those of them that
            may pass.
        prune: removes rows the manifest no longer names.
        refresh: also takes rows whose image has another ETag than when it was fetched.
    """

    retry: Literal["due", "errors", "transient"] = "due"
    prune: bool = False
    refresh: bool = False


def open_manifest(config: JobConfig) -> Manifest:
    """Opens the manifest of a job; reads schemas, no rows.

    Raises:
        ManifestError: it cannot be read as one.
    """
    path = storage.normalise(config.manifest.path)
    return Manifest.open(path, config.manifest.columns, filesystem=storage.filesystem(path))


def plan(
    config: JobConfig,
    operators: Sequence[Operator],
    *,
    selection: Selection = Selection(),
    manifest: Manifest | None = None,
    actors: int = 1,
    write: bool = True,
) -> Plan:
    """Plans a run, or finds the plan that a run cut short has left.

    Args:
        config: names the manifest and the table.
        operators: in order: `build_operators(config, open_manifest(config).schema.names)`.
        selection: which rows are wanted.
        manifest: opened by `open_manifest`; opened here when None.
        actors: of the largest pool; decides how small shards are, where rows allow 4 for each.
        write: lays the shards down for a run. Without it nothing is written and the plan has no
            shards: that is `tagline plan`.

    Returns:
        The plan; when `is_empty`, nothing was written and there is nothing to run or commit.

    Raises:
        ConfigError: the manifest's columns clash with the operators' or with the table's types.
        ManifestError: the manifest cannot be read as one.
        TableError: the table's path holds something else.
    """
    raise NotImplementedError
