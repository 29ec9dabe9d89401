"""A connection whose requests must begin in time and within bounds, unlike uvicorn's own.

uvicorn 0.54 keeps what comes of a request's head however long it is, and waits for its end for
ever: anybody could fill the memory, or hold all connections.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from jobs.serving.refusals import Refusal

HEAD_BYTES = 65_536  # of the first line and all headers together
HEAD_SECONDS = 30.0  # for all of them, from the connection or the first byte on


class Connection(HttpToolsProtocol):
    """One connection."""

    _is_in_head = True
    _head_bytes = 0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Gives the first request its time."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._end_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes what came, and counts it as long as a head is not complete."""
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._is_in_head else 0
        if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            message = f"the headers have more than {HEAD_BYTES} bytes"
            answer = Refusal(431, "too_large", message).response().body
            head = (
                "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
                f"content-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
            )
            self.transport.write(head.encode() + bytes(answer))
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begins a head."""
        self._is_in_head = True
        self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Ends it."""
        self._is_in_head = False
        self._end_waiting()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._end_waiting()
        self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
