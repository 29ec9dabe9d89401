"""Rows that an operator cannot tell apart are computed once, and nobody could tell."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from operators.base import apply, fingerprint
from schemas.errors import RowFault, RowFaults


class Shown:
    """Writes `<image> <text>`; keeps what it was asked.

    Args:
        fails_on: an image for which there is no answer.
    """

    batch_rows = 4
    writes = pa.schema([("shown", pa.string())])
    key = fingerprint({"operator": "shown"})
    name = "shown"

    def __init__(self, reads=("image_encoded", "text"), fails_on=None) -> None:
        self.reads = reads
        self.fails_on = fails_on
        self.asked = []

    def load(self) -> None:
        return

    def __call__(self, table):
        rows = table.to_pylist()
        self.asked += rows
        if any(row["image_encoded"] == self.fails_on for row in rows):
            raise ArithmeticError(f"no answer for {self.fails_on!r} and no other")
        return pa.table([[repr(sorted(row.items())) for row in rows]], self.writes)


def pictures(count, distinct, **columns):
    """Rows of few images and two texts."""
    images = [str(n % distinct).encode() for n in range(count)]
    return pa.table(
        {
            "uri": [f"{n}.png" for n in range(count)],
            "image_encoded": pa.array(images, pa.large_binary()),
            "image_sha256": [f"sha of {image!r}" for image in images],
            "text": [f"text {n // distinct % 2}" for n in range(count)],
            **columns,
        }
    )


def answers(table):
    return table.drop_columns(["enriched_at"]).to_pylist()


def each_by_itself(operator, table):
    """What comes of a table where no two images are known to be the same."""
    shas = table["image_sha256"]
    alone = table.set_column(2, "image_sha256", pa.nulls(table.num_rows, pa.string()))
    return apply(operator, alone).set_column(2, "image_sha256", shas)


def test_512_rows_of_8_pictures_are_8_computations():
    operator = Shown(reads=("image_encoded",))
    done = apply(operator, pictures(512, 8))
    assert len(operator.asked) == 8
    assert done["shown_key"].to_pylist() == [operator.key] * 512
    assert answers(done) == answers(each_by_itself(operator, pictures(512, 8)))


def test_rows_that_differ_in_another_column_are_computed_apart():
    operator = Shown()
    done = apply(operator, pictures(40, 4))
    assert len(operator.asked) == 8
    assert answers(done) == answers(each_by_itself(operator, pictures(40, 4)))


@pytest.mark.parametrize("value", [[1.0, 2.0], {"a": None}, None])
def test_any_kind_of_column_can_tell_rows_apart(value):
    other = [[3.0]] if isinstance(value, list) else [{"a": 1}]
    table = pictures(4, 1, seen=pa.array([value, value, *other, value]))
    operator = Shown(reads=("image_encoded", "seen"))
    apply(operator, table)
    assert len(operator.asked) == 2


def test_images_of_unknown_sha256_are_computed_apart():
    operator = Shown()
    table = pictures(6, 1)
    each_by_itself(operator, table)
    apply(operator, table.drop_columns(["image_sha256"]))
    assert len(operator.asked) == 12


def test_an_operator_that_sees_no_image_is_asked_for_every_row():
    class Lengths(Shown):
        def __call__(self, table):
            self.asked += table.to_pylist()
            return pa.table([table["text"]], self.writes)

    operator = Lengths(reads=("text",))
    apply(operator, pictures(6, 1))
    assert len(operator.asked) == 6


def test_each_copy_of_a_picture_that_fails_has_its_own_error():
    table = pictures(12, 3, attempts=pa.array(range(12), pa.int32()))
    done = apply(Shown(fails_on=b"1"), table)
    assert answers(done) == answers(each_by_itself(Shown(fails_on=b"1"), table))
    errors = {at: row["error"] for at, row in enumerate(done.to_pylist()) if row["error"]}
    assert {at: error["attempts"] for at, error in errors.items()} == {1: 2, 4: 5, 7: 8, 10: 11}


def test_a_copy_whose_first_cannot_be_fetched_is_fetched_itself():
    table = pictures(6, 2).drop_columns(["image_encoded"])

    def fetch(rows):
        if rows["uri"][0].as_py() == "0.png":
            raise RowFaults({0: RowFault("missing", "0.png is not there")})
        images = [sha.encode() for sha in rows["image_sha256"].to_pylist()]
        at = rows.schema.get_field_index("image_encoded")
        return rows.set_column(at, "image_encoded", pa.array(images, pa.large_binary()))

    operator = Shown(reads=("image_encoded",))
    done = apply(operator, table, fetch=fetch)
    failed = [row["error"]["code"] if row["error"] else None for row in done.to_pylist()]
    assert failed == ["missing", None, None, None, None, None]
    assert done["shown"].null_count == 1


def test_only_rows_that_are_to_be_computed_count():
    operator = Shown(reads=("image_encoded",))
    table = pictures(6, 1, shown=["kept"] * 6, shown_key=[operator.key, *[None] * 5])
    done = apply(operator, table)
    assert len(operator.asked) == 1
    assert Counter(done["shown"].to_pylist())["kept"] == 1
    assert np.unique(done["shown"].to_pylist()[1:]).size == 1
