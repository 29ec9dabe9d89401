"""What every operator relies on: the rows `apply` computes, and what becomes of those that fail."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from operators.base import apply, fingerprint, stale_rows
from schemas.enriched import ERROR_TYPE
from schemas.errors import ModelError, OperatorError, RowFault, RowFaults

Compute = Callable[[pa.Table], pa.Table]


class Shout:
    """Writes the text in capitals and its length; `compute` may be replaced to misbehave."""

    reads: tuple[str, ...] = ("text",)

    def __init__(
        self, name: str = "shout", compute: Compute | None = None, *, version: int = 1
    ) -> None:
        self.name = name
        self.description: Mapping[str, Any] = {"operator": "shout", "version": version}
        self.key = fingerprint(self.description)
        self.writes = pa.schema([(name, pa.string()), (f"{name}_length", pa.float32())])
        self.batch_rows = 4
        self.compute = compute
        self.calls: list[list[str]] = []
        self.loads = 0

    def load(self) -> None:
        self.loads += 1

    def __call__(self, table: pa.Table) -> pa.Table:
        texts = table["text"].to_pylist()
        self.calls.append(texts)
        if self.compute:
            return self.compute(table)
        return self.shouted(texts)

    def shouted(self, texts: list[str]) -> pa.Table:
        columns = [[text.upper() for text in texts], [float(len(text)) for text in texts]]
        return pa.table(columns, names=self.writes.names)


def failing_on(bad: set[str], error: Callable[[str], Exception]) -> Shout:
    def compute(table: pa.Table) -> pa.Table:
        texts = table["text"].to_pylist()
        found = [text for text in texts if text in bad]
        if found:
            raise error(found[0])
        return operator.shouted(texts)

    operator = Shout(compute=compute)
    return operator


def texts(count: int) -> pa.Table:
    return pa.table(
        {"image_id": [f"{i:03}" for i in range(count)], "text": [f"t{i}" for i in range(count)]}
    )


def without_time(table: pa.Table) -> pa.Table:
    return table.drop_columns(["enriched_at"])


def errors(table: pa.Table) -> dict[str, str]:
    rows = table.select(["text", "error"]).to_pylist()
    return {row["text"]: row["error"]["code"] for row in rows if row["error"]}


def test_results_stand_beside_their_rows_in_the_tables_order():
    result = apply(Shout(), texts(10))
    assert result["text"].to_pylist() == [f"t{i}" for i in range(10)]
    assert result["shout"].to_pylist() == [f"T{i}" for i in range(10)]
    assert result["shout_key"].unique().to_pylist() == [Shout().key]
    assert result["error"].null_count == 10
    assert result["enriched_at"].null_count == 0


def test_results_have_the_declared_types():
    result = apply(Shout(), texts(3))
    assert result.schema.field("shout_length").type == pa.float32()
    assert result.schema.field("error").type == ERROR_TYPE
    assert str(result.schema.field("enriched_at").type) == "timestamp[us, tz=UTC]"


def test_twice_is_once():
    operator = failing_on({"t2"}, ValueError)
    once = apply(operator, texts(6))
    calls = len(operator.calls)
    assert apply(operator, once).equals(once)
    assert len(operator.calls) == calls


@pytest.mark.parametrize("batch_rows", [1, 3, 7, 100])
def test_the_batch_size_changes_neither_results_nor_errors(batch_rows):
    bad = {"t3", "t4", "t9", "t19"}
    expected = without_time(apply(failing_on(bad, ValueError), texts(20), batch_rows=20))
    result = apply(failing_on(bad, ValueError), texts(20), batch_rows=batch_rows)
    assert without_time(result).equals(expected)


@pytest.mark.parametrize("batch_rows", [0, -1])
def test_a_batch_needs_a_row(batch_rows):
    with pytest.raises(ValueError, match="at least 1 row"):
        apply(Shout(), texts(2), batch_rows=batch_rows)


@pytest.mark.parametrize("seed", range(8))
def test_halving_finds_exactly_the_bad_rows(seed):
    chosen = np.random.default_rng(seed).random(33) < 0.2
    bad = {f"t{i}" for i in np.flatnonzero(chosen)}
    result = apply(failing_on(bad, ValueError), texts(33), batch_rows=16)
    assert errors(result) == dict.fromkeys(bad, "model")
    for row in result.to_pylist():
        assert row["shout"] == (None if row["text"] in bad else row["text"].upper())


def test_one_bad_row_costs_a_logarithmic_number_of_calls():
    operator = failing_on({"t5"}, ValueError)
    apply(operator, texts(64), batch_rows=64)
    assert len(operator.calls) == 13  # the batch, then two halves at each of 6 levels


def test_rows_named_by_row_faults_are_taken_out_at_once():
    def compute(table: pa.Table) -> pa.Table:
        texts = table["text"].to_pylist()
        faults = {
            position: RowFault("truncated", f"cut short: {text}", transient=text == "t7")
            for position, text in enumerate(texts)
            if text in {"t1", "t7"}
        }
        if faults:
            raise RowFaults(faults)
        return operator.shouted(texts)

    operator = Shout(compute=compute)
    result = apply(operator, texts(9), batch_rows=9)
    assert [len(call) for call in operator.calls] == [9, 7]
    assert result["shout"].null_count == 2
    assert result["error"][7].as_py() == {
        "stage": "shout",
        "code": "truncated",
        "message": "cut short: t7",
        "transient": True,
        "attempts": 1,
    }
    assert result["error"][1]["transient"].as_py() is False


def test_an_error_names_what_was_raised():
    result = apply(failing_on({"t1"}, lambda _: ValueError("no such token")), texts(2))
    assert result["error"][1].as_py() == {
        "stage": "shout",
        "code": "model",
        "message": "ValueError: no such token",
        "transient": False,
        "attempts": 1,
    }


def test_a_row_fault_of_a_single_row_keeps_its_code():
    bad = {"t1", "t4"}
    operator = failing_on(bad, lambda text: RowFault("bomb", f"{text} is huge"))
    assert errors(apply(operator, texts(6))) == dict.fromkeys(bad, "bomb")


class OutOfMemoryError(RuntimeError):
    """Stands for torch.OutOfMemoryError, told by its name."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error):
    def compute(table: pa.Table) -> pa.Table:
        if table.num_rows > 2:
            raise error
        return operator.shouted(table["text"].to_pylist())

    operator = Shout(compute=compute)
    result = apply(operator, texts(9), batch_rows=8)
    assert result["shout"].to_pylist() == [f"T{i}" for i in range(9)]


def test_a_single_row_that_does_not_fit_is_out_of_memory():
    result = apply(failing_on({"t2"}, lambda _: MemoryError()), texts(4))
    assert errors(result) == {"t2": "out_of_memory"}


class AcceleratorError(RuntimeError):
    """Stands for torch.AcceleratorError, told by its name."""


@pytest.mark.parametrize(
    "error",
    [
        AcceleratorError("an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("Assertion failed; device-side assert triggered"),
    ],
)
def test_a_fault_that_poisons_the_process_is_raised(error):
    operator = failing_on({"t2"}, lambda _: error)
    with pytest.raises(RuntimeError) as raised:
        apply(operator, texts(4))
    assert raised.value is error


def test_a_fault_of_the_set_up_is_raised():
    with pytest.raises(ModelError, match="no such directory"):
        apply(failing_on({"t2"}, lambda _: ModelError("no such directory")), texts(4))


def test_rows_with_the_operators_key_are_not_computed_again():
    first = apply(Shout(), texts(5))
    operator = Shout()
    again = apply(operator, first)
    assert operator.calls == []
    assert operator.loads == 0
    assert again.equals(first)


def test_rows_of_another_key_are_computed_again_and_the_others_kept():
    old = apply(Shout(version=1), texts(5))
    new = Shout(version=2)
    mixed = pa.concat_tables([old.slice(0, 2), apply(new, old).slice(2, 3)])
    new.calls.clear()
    result = apply(new, mixed)
    assert new.calls == [["t0", "t1"]]
    assert result["shout_key"].unique().to_pylist() == [new.key]
    assert result["enriched_at"].slice(2).equals(mixed["enriched_at"].slice(2))


def test_rows_that_are_not_due_are_only_copied():
    table = texts(4).append_column("is_due", pa.array([True, False, None, True]))
    operator = Shout()
    result = apply(operator, table)
    assert operator.calls == [["t0", "t3"]]
    assert result["shout"].to_pylist() == ["T0", None, None, "T3"]
    assert result["enriched_at"].is_null().to_pylist() == [False, True, True, False]


def test_attempts_count_those_made_before():
    table = texts(3).append_column("attempts", pa.array([0, 2, None], pa.int32()))
    result = apply(failing_on({"t0", "t1", "t2"}, ValueError), table)
    assert [row["attempts"] for row in result["error"].to_pylist()] == [1, 3, 1]


def test_a_failed_row_keeps_what_was_computed_before_and_loses_the_rest():
    first, failing, last = Shout("first"), failing_on({"t1"}, ValueError), Shout("last")
    table = apply(last, apply(Shout(version=0), apply(first, texts(3))))  # an older run
    result = apply(last, apply(failing, apply(first, table)))
    row = result.slice(1, 1).to_pylist()[0]
    assert (row["first"], row["first_key"]) == ("T1", first.key)
    assert (row["shout"], row["shout_length"], row["shout_key"]) == (None, None, None)
    assert (row["last"], row["last_length"], row["last_key"]) == (None, None, None)
    assert row["error"]["stage"] == "shout"
    assert result["last"].to_pylist() == ["T0", None, "T2"]


def test_a_settled_error_that_is_not_due_is_only_copied():
    failed = apply(failing_on({"t1"}, ValueError), apply(Shout("first"), texts(2)))
    at = failed.schema.get_field_index("is_due")
    settled = failed.set_column(at, "is_due", pa.array([True, False]))
    assert apply(Shout("first", version=2), settled).slice(1).equals(settled.slice(1))


def test_a_row_that_failed_newly_says_when():
    result = apply(failing_on({"t1"}, ValueError), texts(2))
    assert result["enriched_at"].null_count == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda table: table.to_pylist(), "returned list; it must return a pyarrow.Table"),
        (lambda table: Shout().shouted(["a"]), "returned 1 rows for 3"),
        (lambda table: Shout("other").shouted(["a", "b", "c"]), r"\['other', 'other_length'\]"),
        (
            lambda table: pa.table({"shout": ["a", "b", "c"], "shout_length": ["long", "x", "y"]}),
            "types that do not fit",
        ),
    ],
)
def test_an_operator_that_breaks_its_contract_is_named(wrong, message):
    with pytest.raises(OperatorError, match=message) as raised:
        apply(Shout(compute=wrong), texts(3))
    assert "'shout'" in str(raised.value)


@pytest.mark.parametrize("faults", [{}, {3: RowFault("model", "no such row")}])
def test_faults_that_name_no_row_are_refused(faults):
    def compute(table: pa.Table) -> pa.Table:
        raise RowFaults(faults)

    with pytest.raises(OperatorError, match="position from 0 to 2"):
        apply(Shout(compute=compute), texts(3))


def test_a_column_nobody_wrote_is_named():
    with pytest.raises(
        OperatorError, match="'shout' reads 'text', which no stage before it writes"
    ):
        apply(Shout(), pa.table({"image_id": ["a"]}))


def test_an_empty_table_gets_the_columns():
    operator = Shout()
    result = apply(operator, texts(0))
    assert set(operator.writes.names) | {"shout_key", "error", "enriched_at"} <= set(
        result.column_names
    )
    assert operator.loads == 0


def test_stale_rows_are_those_that_would_be_computed():
    half = apply(Shout(), texts(4).append_column("is_due", pa.array([True, True, False, False])))
    due = half.set_column(half.schema.get_field_index("is_due"), "is_due", pa.array([True] * 4))
    assert stale_rows(Shout(), due).tolist() == [2, 3]


class Weigh(Shout):
    """Writes the encoded image as text."""

    reads = ("image_encoded",)

    def __call__(self, table: pa.Table) -> pa.Table:
        return self.shouted([bytes(value).decode() for value in table["image_encoded"].to_pylist()])


def images(encoded: list[bytes | None]) -> pa.Table:
    uris = [f"file-{i}" for i in range(len(encoded))]
    return pa.table(
        {"uri": uris, "text": uris, "image_encoded": pa.array(encoded, pa.large_binary())}
    )


def test_images_that_did_not_travel_are_fetched_again():
    def fetch(table: pa.Table) -> pa.Table:
        old = table["image_encoded"].to_pylist()
        new = [
            kept or uri.encode() for kept, uri in zip(old, table["uri"].to_pylist(), strict=True)
        ]
        at = table.schema.get_field_index("image_encoded")
        return table.set_column(at, table.schema.field(at), pa.array(new, pa.large_binary()))

    result = apply(Weigh(), images([b"a", None, b"c", None, None]), batch_rows=2, fetch=fetch)
    assert result["shout"].to_pylist() == ["A", "FILE-1", "C", "FILE-3", "FILE-4"]
    assert result["image_encoded"].to_pylist() == [b"a", None, b"c", None, None]


def test_an_image_that_cannot_be_fetched_again_fails_at_fetch():
    def fetch(table: pa.Table) -> pa.Table:
        if "file-1" in table["uri"].to_pylist():
            at = table["uri"].to_pylist().index("file-1")
            raise RowFaults({at: RowFault("missing", "gone")})
        at = table.schema.get_field_index("image_encoded")
        return table.set_column(
            at, table.schema.field(at), pa.array([b"x"] * len(table), pa.large_binary())
        )

    result = apply(Weigh(), images([None, None, None]), fetch=fetch)
    assert result["shout"].to_pylist() == ["X", None, "X"]
    assert result["error"][1]["stage"].as_py() == "fetch"
    assert errors(result) == {"file-1": "missing"}


def test_the_fingerprint_follows_the_description_and_not_its_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) == "43258cff783fe703"
    assert fingerprint({"a": 1, "b": 3}) != fingerprint({"a": 1, "b": 2})


def test_operators_base_does_not_import_torch():
    check = "import sys, operators.base; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
