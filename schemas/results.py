"""What one image or text is answered with: a line of `tagline apply`, later a response of Serve."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.errors import ErrorCode


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowError(_Answer):
    """Why a row could not be computed; the table's `error` column."""

    stage: str
    code: ErrorCode
    message: str
    transient: bool
    attempts: int


class FailedRow(_Answer):
    """An answer that could not be had, of the image and text that it would have been about."""

    image: str | None = None
    text: str | None = None
    error: RowError


class ScoredText(_Answer):
    """A sentence and its published score."""

    text: str
    score: float


class CaptionedImage(_Answer):
    """What a captioner says of an image; the alternatives best first, the winner included."""

    image: str
    text: str
    score: float
    alternatives: tuple[ScoredText, ...]


class JudgedText(_Answer):
    """Whether a text holds for an image; the three probabilities sum to 1."""

    image: str
    text: str
    label: Literal["yes", "no", "maybe"]
    yes: float
    no: float
    maybe: float


class MatchedText(_Answer):
    """Whether an image and a text belong together: a probability, and a cosine beside it.

    `is_cut` is given, as true, where the text was too long, so that its end was not read.
    """

    image: str
    text: str
    score: float
    similarity: float
    is_cut: bool | None = None


class EmbeddedImage(_Answer):
    """Where an image lies in the space shared with text; of unit length."""

    image: str
    embedding: list[float]


class EmbeddedText(_Answer):
    """Where a text lies in the space shared with images; of unit length."""

    text: str
    embedding: list[float]


Result = CaptionedImage | JudgedText | MatchedText | EmbeddedImage | EmbeddedText | FailedRow
