"""Talks to a server that speaks OpenAI's chat protocol, at a pace it bears.

What may pass (too many requests, a server's fault, silence, a broken connection, a body that is no
completion) is asked again, after what the server wishes (Retry-After) and a random wait that grows.
The secret is read from the environment when the connection is made, and is cut out of whatever a
server says in its errors.
"""

import json
import os
import random
import re
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import urllib3

from schemas.errors import ErrorCode, OperatorError, RowFault

FIRST_WAIT_SECONDS = 0.5  # at most, before the second try; doubled before each further one
LONGEST_WAIT_SECONDS = 30.0  # at most, before any try
LONGEST_HOLD_SECONDS = 300.0  # a Retry-After beyond it leaves the row to a later run
ANSWER_BYTES = 16_000_000  # of one answer; a body that never ends is left there
CHUNK_BYTES = 1 << 16
SHOWN_CHARACTERS = 200  # of what a server says, in a row's error
SECRET = re.compile(r"[\x21-\x7e]+")  # what a header can carry
MAY_PASS = (408, 425, 429)  # and all from 500 on
SLOW = (408, 504)
INT32_BOUND = 2**31


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Args:
        text: as it came.
        prompt_tokens: that the server counted; None where it does not count.
        completion_tokens: likewise.
        is_cut: whether the model was stopped at the most tokens it may write.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    is_cut: bool


class Endpoint:
    """A server's chat completions; any number of threads may ask at once.

    Args:
        url: up to and with the version: `http://127.0.0.1:8000/v1`.
        key_from: the environment variable that holds the secret; None for none.
        connections: kept open.
        requests_per_minute: that all threads together may start; None for any number.
        timeout_seconds: for one answer as a whole.
        attempts: tries of one question.

    Raises:
        OperatorError: the environment variable is not set, or is no secret.
    """

    def __init__(
        self,
        url: str,
        *,
        key_from: str | None,
        connections: int,
        requests_per_minute: float | None,
        timeout_seconds: float,
        attempts: int,
    ) -> None:
        self.url = f"{url.rstrip('/')}/chat/completions"
        self.host = urlsplit(url).netloc
        self.key_from = key_from
        self.timeout_seconds = timeout_seconds
        self.attempts = attempts
        self._secret = _secret(key_from)
        self._pace = _Pace(requests_per_minute)
        self._pool = urllib3.PoolManager(maxsize=connections, retries=False)

    def ask(self, question: bytes) -> Answer:
        """Sends one request, as often as it may help.

        Args:
            question: the request's body, JSON.

        Raises:
            RowFault: `forbidden` or `model` where asking again would not help; `unavailable` or
                `timeout`, transient, after the last attempt.
        """
        for attempt in range(1, self.attempts + 1):
            self._pace.wait()
            try:
                return self._answer(question)
            except _MayPassError as failure:
                if attempt == self.attempts or failure.hold_seconds > LONGEST_HOLD_SECONDS:
                    message = f"{failure} (tried {attempt} times)"
                    raise RowFault(failure.code, message, transient=True) from failure
                self._pace.hold(failure.hold_seconds)
            most = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
            time.sleep(random.uniform(0, most))
        raise AssertionError("attempts is at least 1")

    def _answer(self, question: bytes) -> Answer:
        headers = {"Content-Type": "application/json", "User-Agent": "tagline"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        try:
            response, content = self._exchange(question, headers)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._silence(error) from error
        if response.status != 200:
            raise self._failure(response, content)
        return self._read(response, content)

    def _exchange(
        self, question: bytes, headers: dict[str, str]
    ) -> tuple[urllib3.BaseHTTPResponse, bytes]:
        """Sends, and reads all of the answer within the time; a slow drip is no answer."""
        deadline = time.monotonic() + self.timeout_seconds
        response = self._pool.request(
            "POST",
            self.url,
            body=question,
            headers=headers,
            timeout=self.timeout_seconds,
            redirect=False,
            preload_content=False,
        )
        content = bytearray()
        try:
            while chunk := response.read1(CHUNK_BYTES):
                content += chunk
                if time.monotonic() > deadline:
                    raise urllib3.exceptions.TimeoutError
                if len(content) > ANSWER_BYTES:
                    raise RowFault("model", f"{self.host} sent more than {ANSWER_BYTES} bytes")
        except BaseException:
            response.close()  # what is left of the body would be taken for the next answer
            raise
        response.release_conn()
        return response, bytes(content)

    def _silence(self, error: Exception) -> "_MayPassError":
        """What it means that no whole answer came; urllib3 takes any failed connect for slow."""
        is_refused = isinstance(error, urllib3.exceptions.NewConnectionError)
        if isinstance(error, urllib3.exceptions.TimeoutError) and not is_refused:
            wait = f"{self.timeout_seconds:g} s"
            return _MayPassError("timeout", f"no answer from {self.host} within {wait}")
        what = self._redacted(f"{type(error).__name__}: {error}")
        return _MayPassError("unavailable", f"no answer from {self.host}: {what}")

    def _failure(self, response: urllib3.BaseHTTPResponse, content: bytes) -> Exception:
        """What an answer other than 200 means."""
        status = response.status
        said = f"{self.host} answered {status}: {self._redacted(_message(content))}"
        if status in MAY_PASS or status >= 500:
            code: ErrorCode = "timeout" if status in SLOW else "unavailable"
            return _MayPassError(code, said, _retry_after(response.headers.get("Retry-After")))
        if status not in (401, 403):
            return RowFault("model", said)
        if self.key_from is None:
            return RowFault("forbidden", f"{said}; name the variable of a secret with key_from")
        advice = f"check the secret in the environment variable {self.key_from}"
        return RowFault("forbidden", f"{said}; {advice}, then `tagline retry`")

    def _read(self, response: urllib3.BaseHTTPResponse, content: bytes) -> Answer:
        try:
            document = json.loads(content)
            choice = document["choices"][0]
            message, reason = choice["message"], choice.get("finish_reason")
            text, refusal = message.get("content"), message.get("refusal")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            kind = response.headers.get("Content-Type")
            shown = self._redacted(_message(content))
            what = f"{self.host} answered with {kind!r} that is no chat completion: {shown}"
            raise _MayPassError("unavailable", what) from error
        if reason == "content_filter" or not isinstance(text, str):
            why = f"finish_reason {reason!r}" + (f", refusal {refusal!r}" if refusal else "")
            raise RowFault("model", f"the model gave no answer: {why}"[:SHOWN_CHARACTERS])
        usage = document.get("usage")
        counts = [_count(usage, f"{part}_tokens") for part in ("prompt", "completion")]
        return Answer(text, counts[0], counts[1], is_cut=reason == "length")

    def _redacted(self, text: str) -> str:
        """At most `SHOWN_CHARACTERS` of what a server says, without the secret."""
        text = text.replace(self._secret, "***") if self._secret else text
        return text[:SHOWN_CHARACTERS]


def secret_fault(key_from: str) -> str | None:
    """Says what is wrong with a secret in the environment, without showing it."""
    found = os.environ.get(key_from, "").strip()
    if not found:
        return (
            f"the environment has no {key_from!r}, which key_from names; "
            "export the secret there, on the workers too"
        )
    if not SECRET.fullmatch(found):
        return f"{key_from!r} holds what no header can carry: a space, a break or no ASCII"
    return None


class _MayPassError(Exception):
    """A failure that may not come again; says how long the server wishes to be left alone."""

    def __init__(self, code: ErrorCode, message: str, hold_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.hold_seconds = hold_seconds


class _Pace:
    """Lets requests of all threads begin no faster than so many a minute."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self._interval = 60 / requests_per_minute if requests_per_minute else 0.0  # seconds
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Returns when it is this thread's turn."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._interval
        time.sleep(begin - now)

    def hold(self, seconds: float) -> None:
        """Lets no request begin for a while."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _secret(key_from: str | None) -> str | None:
    if key_from is None:
        return None
    fault = secret_fault(key_from)
    if fault:
        raise OperatorError(fault)
    return os.environ[key_from].strip()


def _retry_after(header: str | None) -> float:
    """Seconds from now, of either form that HTTP allows; 0 where there is none.

    Source: RFC 9110, section 10.2.3.
    """
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _message(content: bytes) -> str:
    """What a server says in an error's body: the message of the protocol, or the beginning."""
    text = content.decode(errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    while isinstance(found, dict):
        found = found.get("error") or found.get("message") or found.get("detail")
    return found if isinstance(found, str) else text


def _count(usage: Any, what: str) -> int | None:
    found = usage.get(what) if isinstance(usage, dict) else None
    is_count = isinstance(found, int) and not isinstance(found, bool) and 0 <= found < INT32_BOUND
    return found if is_count else None
