"""Fetching over http: every answer a server may give, and every place it must not lead to."""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from operators.policy import Place, Policy
from operators.web import WebPages
from schemas.errors import RowFault
from tests.web import Server, answering

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
BODY = bytes(range(256)) * 40


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def web(*hosts: str, resolve=lambda host, port: ["127.0.0.1"], seconds: float = 20) -> WebPages:
    policy = Policy(hosts=hosts or ("pictures.test",))
    return WebPages(policy, timeout_seconds=seconds, resolve=resolve, exempt=LOOPBACK)


def fetched(pages: WebPages, place: Place, limit: int = 10**6) -> bytes:
    with pages.opened(place) as opened:
        return opened.read(limit)


@contextmanager
def failing(code: str, *, transient: bool = False, match: str | None = None) -> Iterator[None]:
    with pytest.raises(RowFault, match=match) as raised:
        yield
    assert (raised.value.code, raised.value.transient) == (code, transient)


def test_a_file_is_read_with_its_size_and_etag(server):
    server.pages["/a%20b.jpg?x=1"] = answering(body=BODY, ETag='"abc"')
    with web().opened(server.place("/a b.jpg?x=1")) as opened:
        assert (opened.size, opened.etag) == (len(BODY), '"abc"')
        assert opened.read(10**6) == BODY
    assert web().etag(server.place("/a b.jpg?x=1")) == '"abc"'


def test_no_more_than_the_limit_is_read(server):
    server.pages["/a"] = answering(body=BODY)
    assert fetched(web(), server.place("/a"), limit=100) == BODY[:101]


def test_a_file_of_unknown_size_is_read_to_its_end(server):
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY)
        handler.close_connection = True

    server.pages["/a"] = page
    with web().opened(server.place("/a")) as opened:
        assert opened.size is None
        assert opened.read(10**6) == BODY


@pytest.mark.parametrize(
    ("status", "code", "transient"),
    [
        (404, "missing", False),
        (410, "missing", False),
        (400, "missing", False),
        (204, "missing", False),
        (401, "forbidden", False),
        (403, "forbidden", False),
        (429, "unavailable", True),
        (500, "unavailable", True),
        (503, "unavailable", True),
        (504, "timeout", True),
    ],
)
def test_every_status_has_its_code(server, status, code, transient):
    server.pages["/a"] = answering(status)
    with failing(code, transient=transient, match=f"answered {status}"):
        fetched(web(), server.place("/a"))


def test_a_server_that_does_not_answer_times_out(server):
    server.pages["/a"] = lambda handler: server.release.wait(20) and None
    with failing("timeout", transient=True, match="not received within 0.2 seconds"):
        fetched(web(seconds=0.2), server.place("/a"))


def test_a_server_that_dribbles_times_out(server):
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not server.release.wait(0.02):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    server.pages["/a"] = page
    with failing("timeout", transient=True):
        fetched(web(seconds=0.3), server.place("/a"))


def test_a_connection_that_breaks_is_unavailable(server):
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 10)
        handler.close_connection = True

    server.pages["/a"] = page
    with failing("unavailable", transient=True, match="ended after 10 of 1000 bytes"):
        fetched(web(), server.place("/a"))


def test_no_server_is_unavailable(server):
    place = server.place("/a")
    server.close()
    with failing("unavailable", transient=True, match="refused"):
        fetched(web(), place)


def test_redirects_are_followed(server):
    server.pages["/a"] = answering(302, Location="/b")
    server.pages["/b"] = answering(301, Location=server.place("/c").path)
    server.pages["/c"] = answering(body=BODY)
    assert fetched(web(), server.place("/a")) == BODY


def test_redirects_in_a_circle_end(server):
    server.pages["/a"] = answering(302, Location="/a")
    with failing("missing", match="more than 5 redirects"):
        fetched(web(), server.place("/a"))
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    "target", ["http://elsewhere.test:{port}/b", "file:///etc/passwd", "s3://bucket/key"]
)
def test_a_redirect_to_what_is_not_allowed_is_refused(server, target):
    server.pages["/a"] = answering(302, Location=target.format(port=server.port))
    server.pages["/b"] = answering(body=BODY)
    with failing("policy"):
        fetched(web(), server.place("/a"))
    assert server.asked == ["/a"]


def test_an_allowed_host_at_a_private_address_is_not_asked(server):
    server.pages["/a"] = answering(body=BODY)
    pages = WebPages(
        Policy(hosts=("pictures.test",)),
        timeout_seconds=5,
        resolve=lambda host, port: ["127.0.0.1"],
    )
    with failing("policy", match="'pictures.test' is at 127.0.0.1"):
        fetched(pages, server.place("/a"))
    assert server.asked == []


def test_one_private_address_among_several_is_enough_to_refuse(server):
    pages = web(resolve=lambda host, port: ["127.0.0.1", "10.0.0.1"])
    with failing("policy", match=r"10\.0\.0\.1"):
        fetched(pages, server.place("/a"))
    assert server.asked == []


def test_a_redirect_to_a_private_address_is_refused(server):
    server.pages["/a"] = answering(302, Location=f"http://inner.test:{server.port}/b")
    server.pages["/b"] = answering(body=BODY)
    addresses = {"pictures.test": ["127.0.0.1"], "inner.test": ["192.168.0.1"]}
    pages = web("pictures.test", "inner.test", resolve=lambda host, port: addresses[host])
    with failing("policy", match="'inner.test' is at 192.168.0.1"):
        fetched(pages, server.place("/a"))
    assert server.asked == ["/a"]


def test_the_address_that_was_checked_is_the_one_connected_to(server):
    server.pages["/a"] = answering(body=BODY)
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])  # the name moves after the look-up
    assert fetched(web(resolve=lambda host, port: next(answers)), server.place("/a")) == BODY
    assert next(answers) == ["10.0.0.1"]


def test_a_numeric_loopback_host_is_refused_without_a_connection(server):
    pages = WebPages(Policy(is_typed=True), timeout_seconds=5)
    for host in ("127.0.0.1", "localhost"):
        with failing("policy", match="not a public address"):
            fetched(pages, server.place("/a", host))
    assert server.asked == []
