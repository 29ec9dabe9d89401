"""What a table remembers beside its rows, in small files under `_tagline/`.

    operators/<key>.json   what a key is made of; written once, before the first part
    tried/<name>.json      the keys of the plan that wrote or last judged a data file's rows
    rates/<key>.json       how fast an operator was when last measured

An operator's key is in each row it computed. In a row where it failed there is none, so `tried`
says with which key it failed, and an error is computed again when that operator has changed.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs import storage
from operators.base import Operator

DEFAULT_ROWS_PER_SECOND = 10.0  # one actor of an operator that was never measured
ANOTHER = ""  # a tried key that is no operator's: errors are to be computed once more
READ_THREADS = 16


def record_operators(table: str, operators: Sequence[Operator]) -> None:
    """Writes what each operator's key is made of, where that is not there yet."""
    new = unrecorded(table, operators)
    for operator in operators:
        made = {"key": operator.key, "description": dict(operator.description)}
        model = getattr(operator, "model", None)  # where the weights were; no part of the key
        if model is not None:
            made["model"] = os.path.abspath(model) if os.path.isdir(model) else str(model)
        data = json.dumps(made, sort_keys=True, ensure_ascii=False, indent=1).encode()
        if operator.name in new:
            storage.put_if_absent(_operator_path(table, operator), data)


def unrecorded(table: str, operators: Iterable[Operator]) -> list[str]:
    """Names the operators that no plan for this table had yet, as they are now."""
    return [op.name for op in operators if storage.stat(_operator_path(table, op)) is None]


def _operator_path(table: str, operator: Operator) -> str:
    return storage.join(table, "_tagline", "operators", f"{operator.key}.json")


def read_description(table: str, key: str) -> Mapping[str, Any]:
    """What a key is made of; empty where the table does not say."""
    description: Mapping[str, Any] = _read_operator(table, key).get("description", {})
    return description


def read_model(table: str, key: str) -> str | None:
    """Where the model of an operator was when its key was written; None where nobody said."""
    model: str | None = _read_operator(table, key).get("model")
    return model


def _read_operator(table: str, key: str) -> dict[str, Any]:
    data = storage.read_bytes(storage.join(table, "_tagline", "operators", f"{key}.json"))
    found: dict[str, Any] = json.loads(data) if data else {}
    return found


def record_tried(table: str, name: str, operators: Mapping[str, str]) -> None:
    """Keeps the keys by which the rows of data files were judged.

    Args:
        table: its path.
        name: a plan's id, or the stem of a data file that compaction wrote.
        operators: names to keys.
    """
    path = storage.join(table, "_tagline", "tried", f"{name}.json")
    storage.put_if_absent(path, json.dumps(dict(operators)).encode())


def read_tried(table: str, files: Sequence[str]) -> dict[str, dict[str, str]]:
    """Looks up the keys by which the rows of data files were judged; without those not known."""
    names = sorted({_tried_name(file) for file in files})
    paths = [storage.join(table, "_tagline", "tried", f"{name}.json") for name in names]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = dict(zip(names, pool.map(storage.read_bytes, paths), strict=True))
    known = {name: json.loads(data) for name, data in found.items() if data}
    return {file: known[_tried_name(file)] for file in files if _tried_name(file) in known}


def _tried_name(file: str) -> str:
    """The plan's id for a part, else the stem of the file."""
    parts = file.split("/")
    return parts[1] if parts[0] == "data" and len(parts) == 3 else parts[-1].split(".")[0]


def read_rates(table: str, operators: Mapping[str, str]) -> dict[str, float]:
    """Looks up the rows per second of one actor, by the operators' names.

    Args:
        table: its path.
        operators: names to keys.
    """
    return {
        name: measured_rate(table, key) or DEFAULT_ROWS_PER_SECOND
        for name, key in operators.items()
    }


def measured_rate(table: str, key: str) -> float | None:
    """Rows per second of one actor of an operator; None where none was measured."""
    data = storage.read_bytes(_rate_path(table, key))
    measured = float(json.loads(data)["rows_per_second"]) if data else 0.0
    return measured if measured > 0 else None


def record_rate(table: str, key: str, rows_per_second: float) -> None:
    """Keeps what a run measured for one actor of an operator."""
    data = json.dumps({"rows_per_second": rows_per_second}).encode()
    storage.write_bytes(_rate_path(table, key), data)


def _rate_path(table: str, key: str) -> str:
    return storage.join(table, "_tagline", "rates", f"{key}.json")
