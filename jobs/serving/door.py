"""The door of a server: who may come in, and how many at once.

Stands around the application, so that a question turned away costs neither a read of its body nor a
thread. What is left of a body when its answer is ready is read for a moment more: closing a
connection on unread bytes would reset it, and the client would never see why it was refused.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Sequence
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serving.figures import Figures
from jobs.serving.refusals import Refusal, overloaded

LINGER_SECONDS = 3.0
OPEN_PATHS = frozenset({"/", "/healthz"})  # to be seen without a token
QUESTIONS = "/v1/"


class Door:
    """Lets requests in to an application.

    Args:
        app: the application.
        tokens: any of them lets in; with none only the loopback's own names are answered, lest a
            web page read this server under a name of its own.
        max_queued_requests: questions inside at once.
        figures: what is counted.
    """

    def __init__(
        self, app: ASGIApp, *, tokens: Sequence[str], max_queued_requests: int, figures: Figures
    ) -> None:
        self.app = app
        self.digests = [hashlib.sha256(token.encode()).digest() for token in tokens]
        self.limit = max_queued_requests
        self.figures = figures
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = _Visit(scope, receive, send)
        try:
            self._check(scope)
            await self._admit(visit)
        except Refusal as refusal:
            await refusal.response()(scope, visit.receive, visit.send)
        finally:
            self._count(scope, visit)

    async def _admit(self, visit: "_Visit") -> None:
        if not visit.scope["path"].startswith(QUESTIONS) or visit.scope["method"] != "POST":
            await self.app(visit.scope, visit.receive, visit.send)
            return
        if self.inside >= self.limit:
            raise overloaded(self.limit)
        self.inside += 1
        self.figures.questions.set(self.inside)
        try:
            await self.app(visit.scope, visit.receive, visit.send)
        finally:
            self.inside -= 1
            self.figures.questions.set(self.inside)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if not self.digests:
            _check_host(headers.get(b"host", b"").decode("latin-1"))
        elif scope["path"] not in OPEN_PATHS and not self._knows(
            headers.get(b"authorization", b"")
        ):
            message = "a token is needed: send the header `Authorization: Bearer TOKEN`"
            raise Refusal(401, "unauthorized", message)

    def _knows(self, authorization: bytes) -> bool:
        """Compares with every token, in the same time whatever was sent."""
        scheme, _, token = authorization.partition(b" ")
        given = hashlib.sha256(token.strip()).digest()
        found = [hmac.compare_digest(given, digest) for digest in self.digests]
        return scheme.lower() == b"bearer" and any(found)

    def _count(self, scope: Scope, visit: "_Visit") -> None:
        found = scope.get("route")  # left there by the router
        route = getattr(found, "path", None) or "other"
        self.figures.requests.labels(route, str(visit.status)).inc()
        self.figures.seconds.labels(route).observe(time.monotonic() - visit.began)


class _Visit:
    """One request, of which we know whether its body was read and what was answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.began = time.monotonic()
        self.status = 499  # nginx's number for a client that went away
        self._receive, self._send = receive, send
        headers = dict(scope["headers"])
        self._is_waiting = b"expect" in headers  # sends no body until it is asked for
        length = headers.get(b"content-length", b"0")
        self._is_read = length == b"0" and b"transfer-encoding" not in headers

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            self._is_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if not self._is_read:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        is_end = message["type"] == "http.response.body" and not message.get("more_body")
        if not is_end or self._is_read or self._is_waiting:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._is_read:
                    await self.receive()
        await self._send({"type": "http.response.body", "body": b""})


def is_loopback(host: str) -> bool:
    """Whether a name or address can be none but this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check_host(given: str) -> None:
    host = given if given.endswith("]") else given.rpartition(":")[0] or given
    if not is_loopback(host):
        message = f"without a token only localhost is answered, not {given!r}; set TAGLINE_TOKENS"
        raise Refusal(403, "policy", message)
