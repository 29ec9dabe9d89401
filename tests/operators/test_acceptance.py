"""Rows are accepted, rejected or left for review by what was calibrated."""

import logging

import pyarrow as pa
import pytest

from operators.acceptance import Acceptance
from operators.base import apply
from operators.catalog import build_operators, check_document
from schemas.calibration import CalibratedColumn, Calibration, Thresholds
from schemas.enriched import acceptance_schema, entailment_schema, match_schema
from schemas.errors import ConfigError

HOLDS = ("holds_yes", "holds_no", "holds_maybe")


def column(kind, signals, *thresholds, keys=None):
    return CalibratedColumn(
        kind=kind, signals=signals, keys=keys or {}, temperature=1, shift=0, thresholds=thresholds
    )


@pytest.fixture
def write(tmp_path):
    """Writes thresholds and gives the path."""

    def write(**columns):
        calibration = Calibration(
            precision=0.9, confidence=0.9, table="table", version=0, columns=columns
        )
        path = tmp_path / "thresholds.json"
        path.write_text(calibration.model_dump_json())
        return str(path)

    return write


def rows(holds, match):
    labels = ["yes"] * len(holds)
    nothing = [0.0] * len(holds)
    holds = pa.table([labels, holds, nothing, nothing], schema=entailment_schema("holds"))
    match = pa.table([match, nothing], schema=match_schema("match"))
    return pa.table({name: part[name] for part in (holds, match) for name in part.column_names})


def test_the_most_doubtful_answer_decides_and_says_why(write):
    operator = Acceptance(
        write(
            holds=column("entailment", HOLDS, Thresholds(accept=0.8, reject=0.2)),
            match=column("matcher", ("match",), Thresholds(accept=0.75)),
        )
    )
    answered = operator(rows([0.875, 0.875, 0.125, 0.5], [0.75, 0.625, 0.9375, 0.75]))
    assert answered.schema == acceptance_schema("accept")
    assert answered["accept"].to_pylist() == ["accepted", "review", "rejected", "review"]
    assert answered["accept_reason"].to_pylist() == [
        "match: confidence 0.75, at least 0.75",
        "match: confidence 0.625, below 0.75",
        "holds yes: confidence 0.125, at most 0.2",
        "holds yes: confidence 0.5, below 0.8 and above 0.2",
    ]
    assert answered["accept_verdicts"][1].as_py() == [
        {"of": "holds", "label": "yes", "verdict": "accepted", "probability": 0.875},
        {"of": "match", "label": "match", "verdict": "review", "probability": 0.625},
    ]


def test_a_label_may_have_thresholds_of_its_own(write):
    thresholds = (Thresholds(accept=0.9), Thresholds(label="yes", accept=0.6))
    operator = Acceptance(write(holds=column("entailment", HOLDS, *thresholds)))
    table = rows([0.7, 0.7], [None, None])
    table = table.set_column(0, "holds", pa.array(["yes", "no"]))
    table = table.set_column(2, "holds_no", pa.array([0.0, 0.7], pa.float32()))
    assert operator(table)["accept"].to_pylist() == ["accepted", "review"]


def test_where_nothing_was_answered_or_promised_a_person_looks(write):
    operator = Acceptance(write(match=column("matcher", ("match",), Thresholds())))
    answered = operator(rows([0.5, 0.5], [None, 0.99]))
    assert answered["accept"].to_pylist() == ["review", "review"]
    assert answered["accept_reason"].to_pylist() == [
        "nothing was answered that could be accepted",
        "match: confidence 0.99, and none is certain enough",
    ]
    assert answered["accept_verdicts"].to_pylist()[0] == []


def test_answers_of_another_version_than_the_calibrated_are_for_review(write, caplog):
    given = column("matcher", ("match",), Thresholds(accept=0.5), keys={"match": "a" * 16})
    path = write(match=given)
    same = Acceptance(path, upstream_keys={"match": "a" * 16})
    assert same(rows([0.5], [0.9]))["accept"].to_pylist() == ["accepted"]
    with caplog.at_level(logging.WARNING):
        other = Acceptance(path, upstream_keys={"match": "b" * 16})
    assert "event=calibration_outdated" in caplog.text
    answered = other(rows([0.5], [0.9]))
    assert answered["accept"].to_pylist() == ["review"]
    assert "not calibrated for this version" in answered["accept_reason"][0].as_py()
    assert other.key != same.key


def test_apply_leaves_rows_with_an_error_alone(write):
    operator = Acceptance(write(match=column("matcher", ("match",), Thresholds(accept=0.5))))
    error = {"stage": "fetch", "code": "missing", "message": "", "transient": False, "attempts": 1}
    table = rows([0.5, 0.5], [0.9, 0.9]).append_column("error", pa.array([None, error]))
    assert apply(operator, table)["accept"].to_pylist() == ["accepted", None]


def test_other_thresholds_make_another_key(write):
    first = Acceptance(write(match=column("matcher", ("match",), Thresholds(accept=0.5)))).key
    again = Acceptance(write(match=column("matcher", ("match",), Thresholds(accept=0.5)))).key
    other = Acceptance(write(match=column("matcher", ("match",), Thresholds(accept=0.6)))).key
    assert first == again != other


def test_a_job_takes_it_after_the_operators_it_reads(write):
    path = write(match=column("matcher", ("match",), Thresholds(accept=0.5)))
    document = {
        "manifest": "m.csv",
        "table": "t",
        "operators": {"accept": {"use": "acceptance", "thresholds": path}},
    }
    with pytest.raises(ConfigError, match="reads the column 'match', which neither the manifest"):
        build_operators(check_document(document), ["image_id", "uri"])
    (operator,) = build_operators(check_document(document), ["image_id", "uri", "match"])
    assert operator.reads == ("match",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the thresholds cannot be read: No such file"),
        ("{", "not thresholds as `tagline calibrate` writes them: the file: Invalid JSON"),
        ('{"precision": 2}', "writes them: precision: Input should be less than 1"),
    ],
)
def test_a_file_that_holds_no_thresholds_is_refused(tmp_path, text, message):
    path = tmp_path / "thresholds.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Acceptance(str(path))
