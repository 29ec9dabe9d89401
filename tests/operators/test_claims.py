"""What a table claims, and how confident it is."""

import numpy as np
import pyarrow as pa
import pytest

from operators.claims import Scale, Source, claims_of, sources_of
from schemas.enriched import (
    HYPOTHESES_TYPE,
    caption_schema,
    embedding_schema,
    entailment_schema,
    hypotheses_schema,
    match_schema,
)


def test_columns_of_answers_are_told_by_their_types():
    schema = pa.unify_schemas(
        [
            caption_schema("caption"),
            entailment_schema("holds"),
            hypotheses_schema("claims"),
            match_schema("match"),
            embedding_schema("embedding"),
            pa.schema([("title", pa.string()), ("width", pa.float32())]),
        ]
    )
    assert sources_of(schema, {"caption": ("holds_yes", "match")}) == [
        Source("caption", "captioner", ("caption_score", "holds_yes", "match")),
        Source("holds", "entailment", ("holds_yes", "holds_no", "holds_maybe")),
        Source("claims", "hypotheses", ("claims",)),
        Source("match", "matcher", ("match",)),
    ]


def test_a_label_is_as_confident_as_its_probability():
    table = pa.table(
        [
            ["yes", "maybe", None, "no"],
            [0.7, 0.1, 0.2, 0.3],
            [0.2, 0.2, 0.2, 0.6],
            [0.1, 0.7, 0, 0],
        ],
        schema=entailment_schema("holds"),
    )
    claims = claims_of(
        table, Source("holds", "entailment", ("holds_yes", "holds_no", "holds_maybe"))
    )
    assert claims.rows.tolist() == [0, 1, 3]
    assert claims.answers.to_pylist() == claims.labels.to_pylist() == ["yes", "maybe", "no"]
    assert claims.confidence == pytest.approx([0.7, 0.7, 0.6])


def test_each_judge_of_a_caption_can_pull_its_confidence_down():
    table = pa.table(
        {
            "caption_score": pa.array([np.log(0.8), np.log(0.8), None], pa.float32()),
            "holds_yes": pa.array([0.8, 0.1, 0.9], pa.float32()),
        }
    )
    claims = claims_of(table, Source("caption", "captioner", ("caption_score", "holds_yes")))
    assert claims.rows.tolist() == [0, 1]
    assert claims.confidence == pytest.approx([0.8, np.sqrt(0.08)])
    assert claims.answers.to_pylist() == ["yes", "yes"]


def test_each_hypothesis_of_a_row_is_a_claim_of_its_own():
    entries = [
        [{"text": "a dog", "label": "yes", "yes": 0.9, "no": 0.1, "maybe": 0.0}],
        None,
        [],
        [
            {"text": "a dog", "label": "no", "yes": 0.2, "no": 0.8, "maybe": 0.0},
            {"text": "a cat", "label": "maybe", "yes": 0.2, "no": 0.2, "maybe": 0.6},
        ],
    ]
    table = pa.table({"claims": pa.array(entries, HYPOTHESES_TYPE)})
    claims = claims_of(table, Source("claims", "hypotheses", ("claims",)))
    assert claims.rows.tolist() == [0, 3, 3]
    assert claims.labels.to_pylist() == ["a dog", "a dog", "a cat"]
    assert claims.answers.to_pylist() == ["yes", "no", "maybe"]
    assert claims.confidence == pytest.approx([0.9, 0.8, 0.6])


def test_a_scale_divides_log_odds_and_shifts_them():
    assert Scale(1, 0)(np.array([0.2, 0.9])) == pytest.approx([0.2, 0.9])
    assert Scale(2, 1)(np.array([0.5])) == pytest.approx([1 / (1 + np.exp(-1))])
    assert np.isfinite(Scale(0.01, 0)(np.array([0.0, 1.0]))).all()
