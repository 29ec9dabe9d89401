"""A web server on the loopback whose pages are functions, for tests of fetching over http."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from operators.policy import Place


class Server:
    """A web server on 127.0.0.1 whose pages are functions; counts what it was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        self.release = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()

    def place(self, path: str, host: str = "pictures.test") -> Place:
        return Place("http", host, f"http://{host}:{self.port}{path}")

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                server.pages[self.path](self)

            do_HEAD = do_GET  # noqa: N815  the server looks for this name

            def log_message(self, *_: object) -> None:
                """Stays silent."""

        return Handler


def answering(status: int = 200, body: bytes = b"", **headers: str) -> Callable[..., None]:
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    return page
