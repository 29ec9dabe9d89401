"""The section `serve` of a config: how `tagline serve` listens, and how long it waits."""

from datetime import timedelta

from pydantic import Field

from schemas.sections import Duration, Strict


class ServeConfig(Strict):
    """How `tagline serve` listens and how long it waits; tokens come from the environment alone.

    Args:
        host: a name or address of this machine; none but the loopback without a token.
        port: 0 for any that is free.
        timeout: from a question's last byte to its answer, and for fetching an image.
        upload_timeout: for all bytes of a question.
        max_queued_requests: questions in the house at once; the next is told to come again.
        batch_wait: how long a question waits for others to share a batch with.
        index: what `tagline index` wrote, for searches.
    """

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8000, ge=0, le=65535)
    timeout: Duration = Field(default=timedelta(seconds=30), gt=timedelta(0))
    upload_timeout: Duration = Field(default=timedelta(seconds=30), gt=timedelta(0))
    max_queued_requests: int = Field(default=100, ge=1)
    batch_wait: Duration = Field(default=timedelta(seconds=0.01), ge=timedelta(0))
    index: str | None = None
