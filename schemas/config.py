"""The config of a job, as YAML: what is read, what is made of it, with what, within which limits.

All faults of a config are found before any is reported. What only an operator knows, its options,
is checked by the function given as `check`; `operators.catalog.read_config` gives it.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from schemas.documents import StrictLoader, read_document
from schemas.enriched import ATTEMPTS, DUPLICATE_OF, ENRICHED_AT, ERROR, IMAGE_ID, IS_DUE, URI
from schemas.errors import ConfigError
from schemas.sections import Duration
from schemas.sections import Strict as Strict  # for the modules that take it from here
from schemas.serving import ServeConfig

FETCH = "fetch"  # the stage that fetches images: may have resources, no operator may be called so
NOT_POOLS = ("cost_per_hour", "machines")  # what else `resources` says
OPERATOR_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
RESERVED_NAMES = frozenset(
    {FETCH, *NOT_POOLS, "image", IMAGE_ID, URI, ERROR, ENRICHED_AT, DUPLICATE_OF, IS_DUE, ATTEMPTS}
)
MANIFEST_COLUMNS = (IMAGE_ID, URI)

PLAIN_FAULTS = {  # pydantic's kinds of fault in the words of YAML
    "model_type": "it must be {}a mapping",
    "dict_type": "it must be a mapping",
    "tuple_type": "it must be a list",
    "too_short": "it must not be empty",
    "string_too_short": "it must not be empty",
    "byte_size": "it must be a number of bytes, or a size such as 50 MB",
}

CheckOperator = Callable[[str, Mapping[str, Any]], list[str]]
Parsed = TypeVar("Parsed", bound="ChainConfig")


class ManifestConfig(Strict):
    """Where the manifest lies, and which of its columns are meant.

    Args:
        path: a file, a folder or a glob of Parquet, CSV or JSONL; one that would take in files of
            the table is refused.
        columns: our name of a column to its name in the files: `{image_id: id, uri: url}`.
    """

    path: str = Field(min_length=1)
    columns: dict[str, str] = Field(default_factory=dict)


class OperatorConfig(BaseModel):
    """One operator: which kind, which model, and its own options as further keys."""

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str
    model: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the operator's constructor, beside `model`."""
        return dict(self.model_extra or {})


class Pool(Strict):
    """What one stage may use; None where the cluster decides.

    Args:
        actors: processes.
        cpus: cores per actor.
        gpus: GPUs per actor, fractions allowed.
        batch: rows per call.
    """

    actors: int | None = Field(default=None, ge=1)
    cpus: float | None = Field(default=None, gt=0)
    gpus: float | None = Field(default=None, ge=0)
    batch: int | None = Field(default=None, ge=1)


class Machines(Strict):
    """Machines that a cluster's autoscaler may add, of which none need be there yet.

    Args:
        count: at most.
        cpus: of each.
        gpus: of each.
    """

    count: int = Field(ge=1)
    cpus: float = Field(gt=0)
    gpus: float = Field(default=0, ge=0)


class Resources(BaseModel):
    """Pools by the name of their operator, or `fetch`; what a cluster may grow to; its price."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Pool] = Field(init=False)

    cost_per_hour: float | None = Field(default=None, ge=0)
    machines: Machines | None = None

    @property
    def pools(self) -> dict[str, Pool]:
        """The pools that were given."""
        return dict(self.__pydantic_extra__ or {})

    def pool(self, name: str) -> Pool:
        """Looks up the pool of a stage; one without wishes when none was given."""
        return self.pools.get(name, Pool())


class Limits(Strict):
    """How much may go wrong, and how large an image may be.

    Args:
        error_fraction: of the rows tried in a run, from 200 on; one that had an error before and
            has one again is not counted.
        image_bytes: encoded; a number or `50 MB`.
        image_pixels: width x height; Pillow's own bound for a decompression bomb.
        attempts: tries of a transient error.
        batch_timeout: for one call of an operator; a row that alone takes longer is a `timeout`.
    """

    error_fraction: float = Field(default=0.05, ge=0, le=1)
    image_bytes: ByteSize = Field(default=ByteSize(50_000_000), gt=0)
    image_pixels: int = Field(default=178_956_970, ge=1, le=178_956_970)
    attempts: int = Field(default=3, ge=1)
    batch_timeout: Duration = Field(default=timedelta(minutes=10), gt=timedelta(0))


class Allow(Strict):
    """Where images may come from beside the manifest's own folder.

    Args:
        buckets: only these; None for every bucket that the credentials reach.
        roots: local folders.
        hosts: of http and https.
    """

    buckets: tuple[str, ...] | None = None
    roots: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    @field_validator("buckets", "hosts")
    @classmethod
    def _names_alone(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """A URL or a port among them would never fit what a uri names, and allow nothing."""
        for name in given or ():
            alone = name.rpartition("://")[2].partition("/")[0].rpartition("@")[2]
            alone = alone.partition(":")[0] if alone.count(":") == 1 else alone
            if not name or name != alone or any(letter.isspace() for letter in name):
                such = (alone.split() or ["example.com"])[0]
                raise ValueError(f"{name!r} must be a name alone, such as {such!r}")
        return given


class CommitConfig(Strict):
    """When finished shards are committed: at the end, or also every so often (`1h`)."""

    every: Duration | None = None


class ChainConfig(Strict):
    """Operators and what they may use: what a job and a server have in common."""

    operators: dict[str, OperatorConfig] = Field(min_length=1)
    resources: Resources = Resources()
    limits: Limits = Limits()
    allow: Allow = Allow()
    serve: ServeConfig = ServeConfig()
    models_lock: str | None = None  # see operators.models.pins


class ServedConfig(ChainConfig):
    """A server; a job's manifest, table and commits may stand in the same file and are not read."""

    manifest: Any = None
    table: Any = None
    commit: Any = None


class JobConfig(ChainConfig):
    """A whole job; see ARCHITECTURE.md for an example."""

    manifest: ManifestConfig
    table: str = Field(min_length=1)
    commit: CommitConfig = CommitConfig()

    @model_validator(mode="before")
    @classmethod
    def _short_manifest(cls, document: Any) -> Any:
        if isinstance(document, dict) and isinstance(document.get("manifest"), str):
            return {**document, "manifest": {"path": document["manifest"]}}
        return document


def read_config(
    path: str | Path, overrides: Sequence[str] = (), *, check: CheckOperator | None = None
) -> JobConfig:
    """Reads a job config from a YAML file.

    Args:
        path: the file; paths inside it are relative to the current folder.
        overrides: `key=value` with dotted keys, values in YAML: `limits.attempts=5`.
        check: names the faults of an operator's entry, given its name and the entry.

    Raises:
        ConfigError: with every fault found, one a line.
    """
    return parse_config(read_document(path), overrides, where=str(path), check=check)


def parse_config(
    document: Any,
    overrides: Sequence[str] = (),
    *,
    where: str = "config",
    check: CheckOperator | None = None,
) -> JobConfig:
    """Checks a config that is already a mapping; arguments and errors as of `read_config`."""
    return parse_as(JobConfig, document, overrides, where=where, check=check)


def parse_as(
    kind: type[Parsed],
    document: Any,
    overrides: Sequence[str] = (),
    *,
    where: str = "config",
    check: CheckOperator | None = None,
) -> Parsed:
    """Checks a mapping as a config of some kind; the rest as of `parse_config`."""
    if not isinstance(document, dict):
        needed = [name for name, field in kind.model_fields.items() if field.is_required()]
        raise ConfigError(f"{where}: a job config is a mapping with {', '.join(needed)}")
    document = overridden(document, overrides)
    faults = _name_faults(document)
    if check:
        faults += _operator_faults(document, check)
    try:
        config = kind.model_validate(document)
    except ValidationError as error:
        faults = [_described(fault, document) for fault in error.errors()] + faults
    if faults:
        raise ConfigError("\n".join(f"{where}: {fault}" for fault in dict.fromkeys(faults)))
    return config


def nearest(word: str, known: Iterable[str]) -> str:
    """Says which known name was probably meant, and which there are."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known are {', '.join(known)}" if known else "none are known"


def overridden(document: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a config with some values replaced.

    Args:
        document: as YAML gives it.
        overrides: `key=value` with dotted keys, values in YAML.

    Raises:
        ConfigError: one is of another form.
    """
    for override in overrides:
        key, found, text = override.partition("=")
        if not found or not key.strip():
            raise ConfigError(f"{override!r} is not key=value, such as limits.attempts=5")
        try:
            value = yaml.load(text, Loader=StrictLoader)
        except yaml.YAMLError as error:
            raise ConfigError(f"{override!r}: the value is not YAML: {error}") from error
        document = _with(document, key.strip().split("."), value)
    return document


def _with(document: Any, keys: list[str], value: Any) -> Any:
    """A copy of `document` with one value replaced; mappings on the way are made."""
    if not keys:
        return value
    if isinstance(document, str) and keys[0] in ManifestConfig.model_fields:
        document = {"path": document}
    inner = document if isinstance(document, dict) else {}
    return {**inner, keys[0]: _with(inner.get(keys[0]), keys[1:], value)}


def _name_faults(document: dict[str, Any]) -> list[str]:
    operators = document.get("operators")
    resources = document.get("resources")
    names = [str(name) for name in operators] if isinstance(operators, dict) else []
    faults = []
    for name in names:
        if not OPERATOR_NAME.fullmatch(name):
            faults.append(f"operators: {name!r} names columns; use letters, digits and _")
        if name.lower() in RESERVED_NAMES or name.lower().startswith("image_"):
            faults.append(
                f"operators: the name {name!r} is taken by tagline itself; choose another"
            )
    known = [*names, FETCH, *NOT_POOLS]
    for pool in resources if isinstance(resources, dict) and names else ():
        if pool not in known:
            faults.append(f"resources: no operator is called {pool!r}; {nearest(str(pool), known)}")
    return faults


def _operator_faults(document: dict[str, Any], check: CheckOperator) -> list[str]:
    operators = document.get("operators")
    if not isinstance(operators, dict):
        return []
    return [
        f"operators.{name}: {fault}"
        for name, entry in operators.items()
        if isinstance(entry, dict) and isinstance(entry.get("use"), str)
        for fault in check(str(name), entry)
    ]


def _described(fault: Any, document: dict[str, Any]) -> str:
    """One line for a fault that pydantic found: where, what was found, what is allowed."""
    location = [str(part) for part in fault["loc"]]
    at = ".".join(location)
    if fault["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        inside = f" in {'.'.join(location[:-1])}" if location[:-1] else ""
        return f"unknown key {location[-1]!r}{inside}; {nearest(location[-1], known)}"
    if fault["type"] == "missing":
        return f"{at} is missing; it must be given"
    if fault["type"] in PLAIN_FAULTS:
        either = "a path or " if at == "manifest" else ""
        return f"{at} is {fault['input']!r}: {PLAIN_FAULTS[fault['type']].format(either)}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{at} is {fault['input']!r}: {message[:1].lower()}{message[1:]}"


def _fields_at(location: list[str]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "manifest": ManifestConfig,
        "limits": Limits,
        "allow": Allow,
        "commit": CommitConfig,
        "resources": Pool,
        "serve": ServeConfig,
    }
    section = sections.get(location[0], JobConfig) if location else JobConfig
    return list(section.model_fields)
