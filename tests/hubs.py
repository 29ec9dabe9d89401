"""A stand-in for both hubs' HTTP interfaces: just what their client libraries ask when they fetch.

One server on 127.0.0.1 answers as modelscope.cn and as huggingface.co do, and can be told to hold a
transfer, to cut it, or to send other bytes than it announced.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1_000_000  # bytes; from here on Hugging Face announces a sha256, below git's id


@dataclass
class Hub:
    """What the server holds and how it misbehaves.

    Args:
        url: where it listens.
        models: files by `owner/name`.
        held: names of files whose transfer stops half-way, until `release` is set.
        cut: names of files whose next transfer ends half-way.
        corrupt: names of files that are sent with their last byte changed.
        requests: what was asked: method, path, and the Range header or None.
    """

    url: str
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    corrupt: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    half_sent: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def ranges(self, file: str) -> list[str]:
        """The Range headers with which a file was asked for."""
        return [r for method, path, r in self.requests if r and method == "GET" and file in path]


@contextmanager
def serving() -> Iterator[Hub]:
    """Runs a hub until the block ends."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
        Handler.hub = hub
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.release.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keeps quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = unquote(parts.path)
        self.hub.requests.append((self.command, unquote(self.path), self.headers.get("Range")))
        if path.startswith("/api/v1/models/"):
            self._modelscope(path.removeprefix("/api/v1/models/"), query)
        elif path.startswith("/api/models/"):
            self._huggingface_info(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            self._huggingface_file(path)
        else:
            self._json(404, {})

    def _modelscope(self, path: str, query: dict[str, str]) -> None:
        owner, name, *rest = path.split("/")
        files = self.hub.models.get(f"{owner}/{name}")
        if files is None or query.get("Revision") not in ("master", "v1.0.1"):
            message = {"Code": 10010205001, "Message": "record not found", "Success": False}
            self._json(404, message)
        elif rest == ["repo", "files"]:
            listed = [
                {"Path": n, "Name": n, "Type": "blob", "Size": len(b), "Sha256": _sha256(b)}
                for n, b in files.items()
            ]
            self._json(200, {"Code": 200, "Success": True, "Data": {"Files": listed}})
        else:
            self._file(query["FilePath"], files, {})

    def _huggingface_info(self, path: str) -> None:
        owner, name, *rest = path.split("/")
        files = self.hub.models.get(f"{owner}/{name}")
        if files is None:
            self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            self._json(404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [_sibling(n, b) for n, b in files.items()]
            self._json(200, {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings})

    def _huggingface_file(self, path: str) -> None:
        repository, _, rest = path.strip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        files = self.hub.models[repository]
        content = files[name]
        etag = _sha256(content) if len(content) >= LARGE else _git_sha1(content)
        self._file(name, files, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _file(self, name: str, files: dict[str, bytes], headers: dict[str, str]) -> None:
        content = files[name]
        if name in self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers = {**headers, "Content-Range": span}
        self.send_response(206 if start else 200)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self._body(name, content[start:], is_whole=start == 0)

    def _body(self, name: str, body: bytes, *, is_whole: bool) -> None:
        if is_whole and name in self.hub.held | self.hub.cut:
            self.wfile.write(body[: len(body) * 9 // 10])
            self.hub.half_sent.set()
            if name in self.hub.held:
                self.hub.release.wait()
            self.hub.cut.discard(name)
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for header, text in (headers or {}).items():
            self.send_header(header, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _sibling(name: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {
        "rfilename": name,
        "size": len(content),
        "blobId": _git_sha1(content),
    }
    if len(content) >= LARGE:
        lfs = {"sha256": _sha256(content), "size": len(content), "pointerSize": 134}
        entry["lfs"] = lfs
    return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
