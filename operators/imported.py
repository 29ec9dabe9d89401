"""Finds an operator that is not ours, `use: package.module:Class`, and holds it to the protocol."""

import importlib
import inspect
import json
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from operators.base import fingerprint
from schemas.config import nearest
from schemas.enriched import key_column
from schemas.errors import ConfigError
from schemas.plain_types import plain_type

FORM = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)", re.ASCII)
PROTOCOL = ("name", "key", "description", "reads", "writes", "batch_rows", "load")
REACH = (
    "Python must find it here and on the workers: `export PYTHONPATH=FOLDER`, and on a cluster "
    "`ray job submit --working-dir FOLDER`, or install its package there"
)


def import_operator(use: str) -> Callable[..., Any]:
    """Imports a class by `package.module:Class`.

    Raises:
        ConfigError: it is not of this form, not to be found, or no class.
    """
    form = FORM.fullmatch(use)
    if not form:
        raise ConfigError(f"{use!r} is no operator's class; write package.module:Class")
    try:
        module = importlib.import_module(form["module"])
    except (Exception, SystemExit) as error:  # whatever a module that is not ours does
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"cannot import {form['module']!r} for {use!r}: {what}; {REACH}"
        ) from error
    found = getattr(module, form["name"], None)
    if not inspect.isclass(found):
        classes = [name for name, _ in inspect.getmembers(module, inspect.isclass)]
        what = "no class" if found is None else f"{type(found).__name__}, not a class"
        where = f"{form['module']!r} ({getattr(module, '__file__', 'no file')})"
        raise ConfigError(
            f"{where} has as {form['name']!r} {what}; {nearest(form['name'], classes)}"
        )
    try:
        inspect.signature(found)
    except ValueError as error:
        raise ConfigError(f"{use!r} does not say what it is built with: {error}") from error
    return found


def build_imported(factory: Callable[..., Any], use: str, **given: Any) -> Any:
    """Builds an operator of a class that is not ours.

    Raises:
        ConfigError: its constructor failed, or what it made does not follow the protocol; with
            every fault. A TaglineError of its own comes as it is.
    """
    name = given["name"]
    parameters = inspect.signature(factory).parameters
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    lacking = [key for key in ("name", "upstream_keys") if key in given and key not in parameters]
    if lacking and not takes_any:
        raise ConfigError(f"operator {name!r}: {use} {_ADVICE[lacking[0]]}")
    try:
        operator = factory(**given)
    except ConfigError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(f"operator {name!r}: {use} cannot be built: {what}") from error
    faults = protocol_faults(operator, name)
    if faults:
        raise ConfigError(
            f"operator {name!r}: {use} does not follow operators.base.Operator: {'; '.join(faults)}"
        )
    return operator


_ADVICE = {
    "name": "cannot be named; its constructor must take name, and call its columns after it",
    "upstream_keys": "reads what other operators write; its constructor must take upstream_keys "
    "and put them into its description, so that its rows are computed again when theirs are",
}


def protocol_faults(operator: Any, name: str) -> list[str]:
    """Names all that an operator lacks, or has in another form than `operators.base.Operator`."""
    faults = [f"it has no {part!r}" for part in PROTOCOL if not hasattr(operator, part)]
    faults += [] if callable(operator) else ["it has no '__call__'"]
    if faults:
        return faults
    if operator.name != name:
        faults.append(f"name is {operator.name!r}; it must be the {name!r} it was given")
    faults += _key_faults(operator)
    reads = operator.reads
    if not isinstance(reads, tuple) or not all(isinstance(column, str) for column in reads):
        faults.append(f"reads is {reads!r}; it must be a tuple of columns' names")
    faults += _column_faults(operator.writes, name)
    rows = operator.batch_rows
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        faults.append(f"batch_rows is {rows!r}; it must be an integer of at least 1")
    if not callable(operator.load):
        faults.append("load is no method")
    return faults + _pickle_faults(operator)


def _key_faults(operator: Any) -> list[str]:
    if not isinstance(operator.description, Mapping):
        return [f"description is {operator.description!r}; it must map names to what may be JSON"]
    try:
        expected = fingerprint(operator.description)
        json.dumps(operator.description, allow_nan=False)
    except (TypeError, ValueError) as error:
        return [f"description cannot be written as JSON: {error}"]
    if operator.key != expected:
        return [f"key is {operator.key!r}; it must be operators.base.fingerprint(description)"]
    return []


def _column_faults(writes: object, name: str) -> list[str]:
    if not isinstance(writes, pa.Schema) or not len(writes):
        return [f"writes is {writes!r}; it must be a pyarrow.Schema of at least one column"]
    faults = []
    names = [column.lower() for column in writes.names]
    for column, kind in zip(writes.names, writes.types, strict=True):
        if column != name and not column.startswith(f"{name}_"):
            faults.append(f"writes {column!r}; a column must be called {name!r} or {name!r}_…")
        if column.lower() == key_column(name).lower():
            faults.append(f"writes {column!r}, which is written for it")
        if plain_type(kind) != kind:
            faults.append(f"writes {column!r} as {kind}, which not every Delta reader knows")
    if len(set(names)) < len(names):
        faults.append("writes two columns whose names differ in case at most")
    return faults


def _pickle_faults(operator: Any) -> list[str]:
    try:
        pickle.dumps(operator)
    except Exception as error:  # whatever an attribute that is not ours does
        what = f"{type(error).__name__}: {error}"
        return [f"it cannot be pickled ({what}); make in load what cannot travel to the workers"]
    return []
