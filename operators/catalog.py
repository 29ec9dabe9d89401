"""The operators a job config may `use`, and how a config becomes a chain of them.

Each entry of `CATALOG` imports its class only when asked, so that a command that needs one operator
does not pay for the others.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from operators.base import Operator
from operators.imported import build_imported, import_operator
from operators.models import pins
from operators.models.pins import LOCK
from schemas.config import (
    ChainConfig,
    JobConfig,
    OperatorConfig,
    ServedConfig,
    nearest,
    parse_as,
    parse_config,
)
from schemas.config import read_config as read_checked_config
from schemas.documents import read_document
from schemas.enriched import (
    ATTEMPTS,
    DUPLICATE_OF,
    ENRICHED_AT,
    ERROR,
    FETCHED_SCHEMA,
    IMAGE_ENCODED,
    IMAGE_ID,
    IS_DUE,
    URI,
    key_column,
)
from schemas.errors import ConfigError, TaglineError

Factory = Callable[..., Any]
Config = TypeVar("Config", bound=ChainConfig)
GIVEN = ("self", "model", "name", "upstream_keys")  # constructor arguments that are no options
RESERVED_COLUMNS = frozenset({ERROR, ENRICHED_AT, DUPLICATE_OF, IS_DUE, ATTEMPTS})


def _captioner() -> Factory:
    from operators.captioner import Captioner

    return Captioner


def _entailment() -> Factory:
    from operators.entailment import Entailment

    return Entailment


def _embedder() -> Factory:
    from operators.embedder import Embedder

    return Embedder


def _matcher() -> Factory:
    from operators.matcher import Matcher

    return Matcher


def _tagger() -> Factory:
    from operators.tagger import Tagger

    return Tagger


def _agreement() -> Factory:
    from operators.agreement import Agreement

    return Agreement


def _acceptance() -> Factory:
    from operators.acceptance import Acceptance

    return Acceptance


def _chat() -> Factory:
    from operators.chat import Chat

    return Chat


CATALOG: Mapping[str, Callable[[], Factory]] = {
    "captioner": _captioner,
    "entailment": _entailment,
    "embedder": _embedder,
    "matcher": _matcher,
    "tagger": _tagger,
    "agreement": _agreement,
    "acceptance": _acceptance,
    "chat": _chat,
}


def read_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    catalog: Mapping[str, Callable[[], Factory]] = CATALOG,
) -> JobConfig:
    """Reads a job config and checks each operator's options too; see `schemas.config`."""
    return _with_lock(read_checked_config(path, overrides, check=_checker(catalog)), path)


def read_served_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    catalog: Mapping[str, Callable[[], Factory]] = CATALOG,
) -> ServedConfig:
    """Reads the config of a server as `read_config` reads a job's; no manifest is needed."""
    document = read_document(path)
    found = parse_as(ServedConfig, document, overrides, where=str(path), check=_checker(catalog))
    return _with_lock(found, path)


def _with_lock(config: Config, path: str | Path) -> Config:
    """The config with the `models.lock` that lies beside it, unless it names another."""
    beside = Path(path).parent / LOCK
    if config.models_lock is not None or not beside.is_file():
        return config
    return config.model_copy(update={"models_lock": str(beside)})


def check_document(
    document: Any, *, catalog: Mapping[str, Callable[[], Factory]] = CATALOG
) -> JobConfig:
    """Checks a config that is already a mapping, operators' options included."""
    return parse_config(document, check=_checker(catalog))


def entry_faults(
    entry: Mapping[str, Any], *, catalog: Mapping[str, Callable[[], Factory]] = CATALOG
) -> list[str]:
    """Names what is wrong with an operator's entry: its `use`, its options; one fault a line."""
    return _checker(catalog)("", entry)


def build_operators(
    config: ChainConfig,
    manifest_columns: Iterable[str],
    *,
    catalog: Mapping[str, Callable[[], Factory]] = CATALOG,
) -> list[Operator]:
    """Builds the chain of a config; no weights are read.

    Args:
        config: checked by `read_config`.
        manifest_columns: of the manifest, after renaming.
        catalog: which kinds there are.

    Returns:
        The operators in order, each with the keys of the columns it reads in its own key.

    Raises:
        ConfigError: an operator reads what nothing before it writes, columns clash, or an option
            is refused; with every fault found, one a line.
        ModelError: nothing but a model directory is wrong, or the models' lock.
    """
    columns = list(manifest_columns)
    faults = _reserved_faults(columns)
    written: dict[str, str] = {}  # column -> key of the operator that writes it
    owners = {column.lower(): "the manifest" for column in columns}
    operators, errors = [], list[TaglineError]()
    for name, entry in config.operators.items():
        try:
            with pins.held(config.models_lock):
                operator = _build(name, entry, written, catalog)
        except TaglineError as error:
            errors.append(error)
            continue
        faults += _reading_faults(operator, columns, written, later=config.operators)
        made = [*operator.writes.names, key_column(name)]
        faults += _clash_faults(operator, made, owners)
        owners.update({column.lower(): f"operator {name!r}" for column in made})
        written.update(dict.fromkeys(made, operator.key))
        operators.append(operator)
    if errors:  # a column read of an operator that could not be built is no fault of its reader
        raise _together(errors)
    if faults:
        raise ConfigError("\n".join(faults))
    return operators


def _build(
    name: str,
    entry: OperatorConfig,
    written: Mapping[str, str],
    catalog: Mapping[str, Callable[[], Factory]],
) -> Operator:
    """Builds an operator, then once more with the keys of what it turned out to read."""
    factory = _factory(entry.use, catalog)
    build = factory if entry.use in catalog else partial(build_imported, factory, entry.use)
    given = entry.options if entry.model is None else {"model": entry.model, **entry.options}
    operator: Operator = build(**given, name=name)
    upstream = {column: written[column] for column in operator.reads if column in written}
    if upstream:
        operator = build(**given, name=name, upstream_keys=upstream)
    return operator


def _factory(use: str, catalog: Mapping[str, Callable[[], Factory]]) -> Factory:
    """The class of an operator: of the catalog, or imported by `package.module:Class`."""
    return catalog[use]() if use in catalog else import_operator(use)


def _checker(
    catalog: Mapping[str, Callable[[], Factory]],
) -> Callable[[str, Mapping[str, Any]], list[str]]:
    def check(name: str, entry: Mapping[str, Any]) -> list[str]:
        use = entry["use"]
        if use not in catalog and ":" not in use:
            known = f"{nearest(use, catalog)}, or a class of your own: package.module:Class"
            return [f"no operator {use!r} to use; {known}"]
        try:
            factory = _factory(use, catalog)
        except ConfigError as error:
            return [str(error)]
        return _option_faults(use, factory, entry)

    return check


def _option_faults(use: str, factory: Factory, entry: Mapping[str, Any]) -> list[str]:
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    options = [name for name in parameters if name not in GIVEN]
    faults = [
        f"{use} has no option {key!r}; {nearest(str(key), options)}"
        for key in entry
        if key != "use" and key not in options and not (key == "model" and key in parameters)
    ]
    for name, parameter in parameters.items():
        is_needed = parameter.default is inspect.Parameter.empty and name not in GIVEN[2:]
        if is_needed and entry.get(name) is None:
            faults.append(f"{use} needs {name!r}")
    return faults


def _reserved_faults(columns: Iterable[str]) -> list[str]:
    return [
        f"manifest: the column {name!r} is one that tagline writes; "
        f"rename it with manifest.columns: {{other_name: {name}}}"
        for name in columns
        if name.lower() in RESERVED_COLUMNS  # Delta does not tell names apart by case
        or (name.lower().startswith("image_") and name != IMAGE_ID)
    ]


def _clash_faults(operator: Operator, made: list[str], owners: Mapping[str, str]) -> list[str]:
    return [
        f"operators.{operator.name}: writes the column {column!r}, which {owners[column.lower()]} "
        "has too; rename the operator, or the manifest's column with "
        f"manifest.columns: {{other_name: {column}}}"
        for column in made
        if column.lower() in owners
    ]


def _reading_faults(
    operator: Operator,
    columns: Sequence[str],
    written: Mapping[str, str],
    *,
    later: Iterable[str],
) -> list[str]:
    there = [*columns, *written, IMAGE_ENCODED, URI, *FETCHED_SCHEMA.names]
    faults = []
    for column in operator.reads:
        if column in there:
            continue
        is_later = column in later and column != operator.name
        advice = (
            f"move operator {column!r} before it"
            if is_later
            else nearest(column, [*columns, *written])
        )
        faults.append(
            f"operators.{operator.name}: reads the column {column!r}, which neither the manifest "
            f"nor an operator before it has; {advice}"
        )
    return faults


def _together(errors: list[TaglineError]) -> TaglineError:
    if len(errors) == 1:
        return errors[0]
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else ConfigError
    return kind("\n".join(str(error) for error in errors))
