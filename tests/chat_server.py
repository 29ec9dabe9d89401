"""A server that speaks OpenAI's chat protocol, and misbehaves when a question asks it to."""

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fault:
    """What becomes of the first `times` questions that hold the fault's word.

    Args:
        kind: status, hang, reset, drip, raw (another body) or says (another answer).
    """

    kind: str
    times: int = 1
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    finish: str = "stop"


class ChatServer(ThreadingHTTPServer):
    """Answers `says <question>`, or the JSON put for a word of it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: dict[str, Fault] = {}
        self.asked: list[dict[str, Any]] = []  # bodies of all requests
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.by_text: Counter[str] = Counter()
        self.counts_tokens = True
        self.delay_seconds = 0.0
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is expected here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def log_message(self, format: str, *arguments: Any) -> None:
        return

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = question_of(body)
        with server.lock:
            server.asked.append(body)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.by_text[text] += 1
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            fault = next((f for word, f in server.faults.items() if word in text and f.times), None)
            if fault:
                fault.times -= 1
        try:
            server.closing.wait(server.delay_seconds)
            if self.path != "/v1/chat/completions":
                fault = Fault("status", status=404, text="no such path")
            self.misbehave(fault, text) if fault else self.complete(f"says {text}")
        finally:
            with server.lock:
                server.busy -= 1

    def misbehave(self, fault: Fault, text: str) -> None:
        if fault.kind == "status":
            said = fault.text.replace("AUTHORIZATION", self.headers.get("Authorization", ""))
            self.send(json.dumps({"error": {"message": said}}), fault.status, fault.headers)
        elif fault.kind == "hang":
            self.server.closing.wait(20)
        elif fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for part in (self.rfile, self.wfile, self.connection):  # closed when all three are
                part.close()
        elif fault.kind == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not self.server.closing.wait(0.05):
                self.wfile.write(b" ")
        elif fault.kind == "raw":
            self.send(fault.text, fault.status, fault.headers)
        else:
            self.complete(fault.text, fault.finish)

    def complete(self, text: str | None, finish: str = "stop") -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        document: dict[str, Any] = {"choices": [{**choice, "finish_reason": finish}]}
        if self.server.counts_tokens:
            document["usage"] = {"prompt_tokens": 7, "completion_tokens": 3}
        self.send(json.dumps(document), 200, {"Content-Type": "application/json"})

    def send(self, text: str, status: int, headers: dict[str, str]) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def question_of(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


@contextmanager
def served() -> Iterator[ChatServer]:
    """A server on a free port of this machine, gone at the end."""
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
