"""Requests that do not end, before anything of them reaches the application."""

import asyncio
from types import SimpleNamespace

import pytest
import uvicorn
from uvicorn.server import ServerState

from jobs.serving import connection
from jobs.serving.connection import HEAD_BYTES, Connection


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def answer_to(*parts):
    """What a server answers to bytes, until it closes the connection."""

    async def ask():
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        config.load()
        made = SimpleNamespace(config=config, server_state=ServerState(), app_state={})
        loop = asyncio.get_running_loop()
        async with await loop.create_server(
            lambda: Connection(**vars(made)), "127.0.0.1"
        ) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for part in parts:
                writer.write(part)
                await writer.drain()
            found = await reader.read()
            writer.close()
            return found

    return asyncio.run(ask())


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n"])
def test_a_head_without_end_is_cut(start):
    found = answer_to(start, *[b"a" * (HEAD_BYTES // 4)] * 5)
    assert found.startswith(b"HTTP/1.1 4")


def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    assert answer_to() == answer_to(b"GET / HT") == b""


def test_a_request_within_bounds_is_answered():
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 60_000 + b"\r\n"
    assert answer_to(head, b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 204")
