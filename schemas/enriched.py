"""The columns of an enriched table, each spelled and typed once.

An operator named `caption` writes `caption` and `caption_*`; `key_column` names the column that
says which version of the operator computed a row. Columns in flight travel with a shard and never
reach the table.
"""

from collections.abc import Mapping

import pyarrow as pa

IMAGE_ID = "image_id"
URI = "uri"
ERROR = "error"
ENRICHED_AT = "enriched_at"
DUPLICATE_OF = "duplicate_of"  # written by `tagline duplicates`, carried along by `enrich`
IMAGE_SHA256 = "image_sha256"
IMAGE_WIDTH = "image_width"
IMAGE_HEIGHT = "image_height"
IMAGE_SIZE = "image_size"
IMAGE_ETAG = "image_etag"

IMAGE_ENCODED = "image_encoded"  # in flight: the file's bytes; null where not fetched
IS_DUE = "is_due"  # in flight: False for a row that is only copied
ATTEMPTS = "attempts"  # in flight: how often the row's present error was tried before

ERROR_TYPE = pa.struct(
    [
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("transient", pa.bool_()),
        ("attempts", pa.int32()),
    ]
)
ENRICHED_AT_TYPE = pa.timestamp("us", tz="UTC")
ALTERNATIVES_TYPE = pa.list_(pa.struct([("text", pa.string()), ("score", pa.float32())]))
HYPOTHESES_TYPE = pa.list_(
    pa.struct(
        [
            ("text", pa.string()),
            ("label", pa.string()),
            ("yes", pa.float32()),
            ("no", pa.float32()),
            ("maybe", pa.float32()),
        ]
    )
)
TAGS_TYPE = pa.list_(
    pa.struct(
        [
            ("label", pa.string()),
            ("answer", pa.string()),
            ("yes", pa.float32()),
            ("similarity", pa.float32()),
        ]
    )
)
VERDICTS_TYPE = pa.list_(
    pa.struct(
        [
            ("of", pa.string()),
            ("label", pa.string()),
            ("verdict", pa.string()),
            ("probability", pa.float32()),
        ]
    )
)

FETCHED_SCHEMA = pa.schema(
    [
        (IMAGE_SHA256, pa.string()),
        (IMAGE_WIDTH, pa.int32()),
        (IMAGE_HEIGHT, pa.int32()),
        (IMAGE_SIZE, pa.int64()),
        (IMAGE_ETAG, pa.string()),
    ]
)
IN_FLIGHT_SCHEMA = pa.schema(
    [(IMAGE_ENCODED, pa.large_binary()), (IS_DUE, pa.bool_()), (ATTEMPTS, pa.int32())]
)


def key_column(name: str) -> str:
    """Names the column holding the key of the operator called `name`."""
    return f"{name}_key"


def caption_schema(name: str) -> pa.Schema:
    """What a captioner called `name` writes; alternatives best first, the winner included."""
    return pa.schema(
        [
            (name, pa.string()),
            (f"{name}_score", pa.float32()),
            (f"{name}_alternatives", ALTERNATIVES_TYPE),
        ]
    )


def entailment_schema(name: str) -> pa.Schema:
    """What an entailment checker of one hypothesis a row writes; the probabilities sum to 1."""
    return pa.schema(
        [
            (name, pa.string()),
            (f"{name}_yes", pa.float32()),
            (f"{name}_no", pa.float32()),
            (f"{name}_maybe", pa.float32()),
        ]
    )


def hypotheses_schema(name: str) -> pa.Schema:
    """What an entailment checker of fixed hypotheses writes: one entry a hypothesis, in order."""
    return pa.schema([(name, HYPOTHESES_TYPE)])


def match_schema(name: str) -> pa.Schema:
    """What a matcher writes: the probability of belonging together, and a cosine beside it."""
    return pa.schema([(name, pa.float32()), (f"{name}_similarity", pa.float32())])


def embedding_schema(name: str) -> pa.Schema:
    """What an embedder writes: vectors of unit length, as plain lists."""
    return pa.schema([(name, pa.list_(pa.float32()))])


def tags_schema(name: str) -> pa.Schema:
    """What a tagger writes: the labels of a taxonomy that hold, the surest first."""
    return pa.schema([(name, TAGS_TYPE)])


def agreement_schema(name: str) -> pa.Schema:
    """What an agreement writes: how far the models agree about an image, in [0, 1]."""
    return pa.schema([(name, pa.float32())])


def acceptance_schema(name: str) -> pa.Schema:
    """What an acceptance writes: accepted, rejected or review, why, and of each answer the same."""
    return pa.schema(
        [(name, pa.string()), (f"{name}_reason", pa.string()), (f"{name}_verdicts", VERDICTS_TYPE)]
    )


def chat_schema(name: str, fields: Mapping[str, pa.DataType] | None) -> pa.Schema:
    """What a chat model's answers become: a text, or a column a field; and the tokens it took."""
    answers = (
        [(name, pa.string())]
        if fields is None
        else [(f"{name}_{field}", kind) for field, kind in fields.items()]
    )
    tokens = [(f"{name}_prompt_tokens", pa.int32()), (f"{name}_completion_tokens", pa.int32())]
    return pa.schema([*answers, *tokens])
