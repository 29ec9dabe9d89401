"""A proxy before an S3 server that has requests fail, as stores do: a process of its own.

    with before(endpoint) as proxy:
        proxy.arm(Rule("busy", share=0.05, key=r"\\.png$"), Rule("full", methods=("PUT",)))
        ...                     # AWS_ENDPOINT_URL is proxy.endpoint
        proxy.injected()        # how often each kind was, since it was armed

Requests pass unchanged, the Host header too, which AWS's signatures cover. Written on asyncio alone
and without imports of ours, so it starts at once and passes a thousand small GETs a second.
"""

import argparse
import asyncio
import json
import random
import re
import resource
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["missing", "forbidden", "broken", "busy", "full", "cut", "reset", "stall", "trickle"]
ANSWERS = {  # status line and S3's code
    "missing": ("404 Not Found", "NoSuchKey", "The specified key does not exist."),
    "forbidden": ("403 Forbidden", "AccessDenied", "Access Denied"),
    "broken": ("500 Internal Server Error", "InternalError", "We encountered an internal error."),
    "busy": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "full": ("507 Insufficient Storage", "XMinioStorageFull", "The bucket is full."),
}
TRICKLE_SECONDS = 1.0  # between two bytes
HEAD_BYTES = 1 << 16
PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class Rule:
    """Which requests fail, and how. The first rule that takes one decides.

    Args:
        kind: `cut` closes the connection before the store is asked; `reset` does so in the middle
            of its answer's body, or where there is none instead of the answer; `stall` never
            answers; `trickle` gives the body a byte a second.
        share: of the requests it is for, by chance.
        key: a regular expression that is searched in the path, `/bucket/key`.
        methods: none for all.
        after: so many of its requests pass first.
        most: so many fail, and then no more.
    """

    kind: Kind
    share: float = 1.0
    key: str = ""
    methods: tuple[str, ...] = ()
    after: int = 0
    most: int | None = None


class Proxy:
    """A proxy that runs, seen from the test.

    Args:
        endpoint: that clients are given.
        control: where it is told what to do.
    """

    def __init__(self, endpoint: str, control: str) -> None:
        self.endpoint, self.control = endpoint, control

    def arm(self, *rules: Rule, seed: int = 0) -> None:
        """Takes these rules from now on, and counts anew; none of them lets all pass."""
        self._ask({"rules": [asdict(rule) for rule in rules], "seed": seed})

    def injected(self) -> dict[str, int]:
        """Requests that failed since it was armed, by kind."""
        found: dict[str, int] = self._ask(None)["injected"]
        return found

    def told(self) -> dict[str, Any]:
        """`requests` and `cpu_seconds` since it began, and `injected`."""
        return self._ask(None)

    def _ask(self, document: Any) -> dict[str, Any]:
        data = None if document is None else json.dumps(document).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.control, data, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def before(
    endpoint: str, *rules: Rule, seed: int = 0, buckets: Mapping[str, str] | None = None
) -> Iterator[Proxy]:
    """Runs a proxy before a server, for the length of a `with`.

    Args:
        endpoint: of the server.
        rules: as of `Proxy.arm`.
        seed: of what fails by chance.
        buckets: those that lie on other servers, with their endpoints.
    """
    others = [f"{bucket}={address}" for bucket, address in (buckets or {}).items()]
    command = [sys.executable, "-m", "tests.fault_proxy", endpoint, *others]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            proxy = Proxy(*process.stdout.readline().split())
            proxy.arm(*rules, seed=seed)
            yield proxy
        finally:
            process.kill()


class _Judge:
    """Decides which requests fail."""

    def __init__(self) -> None:
        self.requests = 0
        self.set([], 0)

    def set(self, rules: Sequence[Rule], seed: int) -> None:
        self.rules = [(rule, re.compile(rule.key)) for rule in rules]
        self.random = random.Random(seed)
        self.injected: Counter[str] = Counter()
        self.seen: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()

    def kind(self, method: str, path: str) -> str | None:
        """How a request fails; None for one that passes."""
        self.requests += 1
        for number, (rule, key) in enumerate(self.rules):
            if (rule.methods and method not in rule.methods) or not key.search(path):
                continue
            self.seen[number] += 1
            is_due = self.seen[number] > rule.after and self.failed[number] != rule.most
            if is_due and self.random.random() < rule.share:
                self.failed[number] += 1
                self.injected[rule.kind] += 1
                return rule.kind
        return None

    def told(self) -> bytes:
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = used.ru_utime + used.ru_stime
        document = {"requests": self.requests, "cpu_seconds": seconds, "injected": self.injected}
        return json.dumps(document).encode()


class _Head:
    """The first line and the headers of a request or an answer, as they came."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        first, *lines = data.decode("latin-1").split("\r\n")
        self.words = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}

    def without(self, name: str) -> bytes:
        lines = self.data.split(b"\r\n")
        return b"\r\n".join(x for x in lines if not x.lower().startswith(name.encode() + b":"))

    @property
    def ends_connection(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class _Connection:
    """One connection of a client, and the one to the server that goes with it."""

    def __init__(
        self,
        judge: _Judge,
        servers: Mapping[str, tuple[str, int]],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.judge, self.servers, self.reader, self.writer = judge, servers, reader, writer
        self.there: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def run(self) -> None:
        """Passes requests on until either side has enough."""
        try:
            while await self._one():
                pass
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self._abort()
        finally:
            for writer in (self.writer, *(writer for _, writer in self.there.values())):
                writer.close()

    async def _one(self) -> bool:
        """Passes a request and its answer; whether the connection may go on."""
        head = await _read_head(self.reader)
        if head is None:
            return False
        if head.headers.get("expect", "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        method, path = head.words[0], unquote(urlsplit(head.words[1]).path)
        kind = self.judge.kind(method, path)
        if kind in ANSWERS or kind in ("cut", "stall"):
            async for _ in _body(self.reader, head):
                pass
            return await self._refuse(method, kind)
        bucket = path.split("/")[1]
        name = bucket if bucket in self.servers else ""
        if name not in self.there:
            address = self.servers[name]
            self.there[name] = await asyncio.open_connection(*address, limit=HEAD_BYTES)
        reader, writer = self.there[name]
        writer.write(head.without("expect"))
        async for piece in _body(self.reader, head):
            writer.write(piece)
            await writer.drain()
        answer = await _read_head(reader)
        if answer is None:
            raise ConnectionResetError("the server closed the connection")
        return await self._answer(method, answer, reader, kind)

    async def _refuse(self, method: str, kind: str | None) -> bool:
        if kind == "stall":
            await self.reader.read()  # until the client has enough
            return False
        if kind == "cut":
            self._abort()
            return False
        status, code, message = ANSWERS[str(kind)]
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
            f"<Message>{message}</Message><RequestId>1</RequestId></Error>"
        ).encode()
        lines = [
            f"HTTP/1.1 {status}",
            "Content-Type: application/xml",
            f"Content-Length: {len(body)}",
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        if method != "HEAD":
            self.writer.write(body)
        await self.writer.drain()
        return True

    async def _answer(
        self, method: str, head: _Head, reader: asyncio.StreamReader, kind: str | None
    ) -> bool:
        size = int(head.headers.get("content-length", "0"))
        has_body = method != "HEAD" and head.words[1] not in ("204", "304")
        if kind == "reset" and not (has_body and size):
            self._abort()
            return False
        self.writer.write(head.data)
        sent = 0
        async for piece in _body(reader, head, is_answer=True) if has_body else _nothing():
            if kind == "reset" and sent + len(piece) > size // 2:
                self.writer.write(piece[: size // 2 - sent])
                await self.writer.drain()
                self._abort()
                return False
            if kind == "trickle":
                await self._trickle(piece)
                continue
            self.writer.write(piece)
            sent += len(piece)
            if self.writer.transport.get_write_buffer_size() > PIECE_BYTES:
                await self.writer.drain()
        await self.writer.drain()
        return not head.ends_connection

    async def _trickle(self, piece: bytes) -> None:
        for at in range(len(piece)):
            self.writer.write(piece[at : at + 1])
            await self.writer.drain()
            await asyncio.sleep(TRICKLE_SECONDS)

    def _abort(self) -> None:
        """Resets the connection, as a machine that goes down does."""
        opened = self.writer.get_extra_info("socket")
        if opened is not None:
            with suppress(OSError):
                linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


async def _read_head(reader: asyncio.StreamReader) -> _Head | None:
    try:
        return _Head(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None


async def _body(reader: asyncio.StreamReader, head: _Head, *, is_answer: bool = False) -> Any:
    """The body's bytes as they came, chunks with their sizes."""
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        size = 1
        while size:
            line = await reader.readline()
            size = int(line.partition(b";")[0], 16)
            yield line + (await reader.readexactly(size) if size else b"")
            yield await reader.readline()
    elif "content-length" in head.headers:
        left = int(head.headers["content-length"])
        while left:
            piece = await reader.read(min(left, PIECE_BYTES))
            if not piece:
                raise ConnectionResetError("the body ended early")
            left -= len(piece)
            yield piece
    elif is_answer and head.ends_connection:
        while piece := await reader.read(PIECE_BYTES):
            yield piece


async def _nothing() -> Any:
    for piece in ():
        yield piece


async def _serve(servers: Mapping[str, tuple[str, int]]) -> None:
    """Runs until it is killed; prints both addresses once it listens."""
    judge = _Judge()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(PIECE_BYTES)
        await _Connection(judge, servers, reader, writer).run()

    async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await _read_head(reader)
        if head is not None and head.words[0] == "POST":
            document = json.loads(await reader.readexactly(int(head.headers["content-length"])))
            judge.set([Rule(**rule) for rule in document["rules"]], document["seed"])
        body = judge.told()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body))
        writer.write(b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    doors = [
        await asyncio.start_server(handler, "127.0.0.1", 0, limit=HEAD_BYTES)
        for handler in (connected, told)
    ]
    print(*(f"http://127.0.0.1:{d.sockets[0].getsockname()[1]}" for d in doors), flush=True)
    await asyncio.gather(*(door.serve_forever() for door in doors))


def _servers(endpoint: str, others: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Host and port by bucket; that of all other buckets has no name."""
    pairs = [("", endpoint), *(tuple(other.split("=", 1)) for other in others)]
    parts = {bucket: urlsplit(address) for bucket, address in pairs}
    return {bucket: (part.hostname or "", part.port or 80) for bucket, part in parts.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint", help="of the server")
    parser.add_argument("others", nargs="*", help="BUCKET=ENDPOINT")
    given = parser.parse_args()
    asyncio.run(_serve(_servers(given.endpoint, given.others)))
