"""Why a question gets no answer, as an HTTP status and `{"error": {"code", "message"}}`."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from schemas.errors import RowFault

STATUSES = {  # of the codes in `schemas.errors.ErrorCode`
    "policy": 403,
    "missing": 422,
    "forbidden": 422,
    "unavailable": 502,
    "too_large": 413,
    "empty": 422,
    "not_an_image": 415,
    "truncated": 422,
    "bomb": 422,
    "unsupported_format": 415,
    "model": 422,
    "out_of_memory": 503,
    "timeout": 504,
    "crashed": 503,
}
RETRY_SECONDS = 1  # until a refused client should come again: a batch or two later


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault of the program
    """An answer that is an error.

    Args:
        status: of HTTP.
        code: for programs; one of `schemas.errors.ErrorCode`, or one of the server's own.
        message: for people: what was found, what is allowed, what to do.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code = status, code
        # what a client sent may hold half a character, which no answer can
        self.message = message.encode("utf-8", "backslashreplace").decode()

    @classmethod
    def of(cls, fault: RowFault) -> "Refusal":
        """What a fault of an image, or of an operator on a row, means to the one who asked."""
        return cls(STATUSES[fault.code], fault.code, fault.message)

    @classmethod
    def of_error(cls, error: Mapping[str, Any]) -> "Refusal":
        """What a row's `error` means to the one who asked."""
        return cls(STATUSES[error["code"]], error["code"], error["message"])

    def response(self, more: Mapping[str, str] | None = None) -> JSONResponse:
        """The refusal as it is sent, with more headers."""
        headers = {503: {"Retry-After": str(RETRY_SECONDS)}, 401: {"WWW-Authenticate": "Bearer"}}
        return JSONResponse(
            {"error": {"code": self.code, "message": self.message}},
            status_code=self.status,
            headers={**headers.get(self.status, {}), **(more or {})},
        )


def overloaded(limit: int) -> Refusal:
    """There is no room for another question."""
    return Refusal(
        503,
        "overloaded",
        f"{limit} questions are being answered, as many as serve.max_queued_requests allows; "
        f"ask again in {RETRY_SECONDS} second",
    )
