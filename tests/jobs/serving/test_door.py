"""Who is let in to a server, how many at once, and how bodies that misbehave are cut."""

import asyncio
import json
from datetime import timedelta

import pytest
from starlette.requests import Request

from jobs.serve import read_tokens
from jobs.serving import door
from jobs.serving.questions import Reader
from jobs.serving.refusals import Refusal
from schemas.config import ServedConfig, parse_as
from schemas.errors import ConfigError
from tests import serving
from tests.fetching import picture

CHAIN = {"caption": {"use": "captioner", "model": "embedded:captioner"}}
TOKEN = "correct horse battery"


def config(**serve):
    limits = {"image_bytes": 1000}
    return parse_as(ServedConfig, {"operators": CHAIN, "serve": serve, "limits": limits})


class Socket:
    """An ASGI client whose body arrives as the test says: parts, then for ever more of the last."""

    def __init__(self, app, *parts, is_endless=False, headers=()):
        self.app, self.parts, self.is_endless = app, list(parts), is_endless
        self.headers = [
            (b"host", b"127.0.0.1:8000"),
            (b"content-type", b"application/json"),
            (b"transfer-encoding", b"chunked"),
            *headers,
        ]
        self.received = 0
        self.sent = []

    async def ask(self, path="/v1/caption"):
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": self.headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        await self.app(scope, self._receive, self._send)
        body = b"".join(message.get("body", b"") for message in self.sent)
        return self.sent[0]["status"], dict(self.sent[0]["headers"]), json.loads(body)

    async def _receive(self):
        if not self.parts:
            await asyncio.Event().wait()
        part = self.parts[0] if self.is_endless else self.parts.pop(0)
        self.received += len(part)
        await asyncio.sleep(0)
        return {"type": "http.request", "body": part, "more_body": True}

    async def _send(self, message):
        self.sent.append(message)


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch):
    monkeypatch.setattr(door, "LINGER_SECONDS", 0.01)


def app_of(config, backend=None):
    return serving.served(config, backend or serving.Stuck())


def test_a_body_that_never_ends_is_cut_at_the_limit():
    endless = Socket(app_of(config()), b"x" * 65536, is_endless=True)
    status, headers, answer = asyncio.run(endless.ask())
    assert (status, answer["error"]["code"]) == (413, "too_large")
    assert headers[b"connection"] == b"close"


def test_a_declared_length_beyond_the_limit_is_refused_unread():
    length = (b"content-length", b"99999999999")
    large = Socket(app_of(config()), headers=[length, (b"expect", b"100-continue")])
    status, _, answer = asyncio.run(large.ask())
    assert (status, answer["error"]["code"]) == (413, "too_large")
    assert large.received == 0


def test_a_body_that_does_not_arrive_in_time_is_given_up():
    slow = Socket(app_of(config(upload_timeout="0.05s")), b'{"image"')
    status, _, answer = asyncio.run(slow.ask())
    assert (status, answer["error"]["code"]) == (408, "timeout")


def test_more_questions_than_allowed_are_told_to_come_again():
    stuck = serving.Stuck()
    app = app_of(config(max_queued_requests=2), stuck)

    async def flood():
        inside = [asyncio.ensure_future(Socket(app, b"{").ask()) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await Socket(app, b"{").ask()
        for one in inside:
            one.cancel()
        await asyncio.gather(*inside, return_exceptions=True)
        return refused, app.inside

    (status, headers, answer), left = asyncio.run(flood())
    assert (status, answer["error"]["code"]) == (503, "overloaded")
    assert int(headers[b"retry-after"]) >= 1
    assert left == 0


def test_questions_that_together_are_too_large_are_told_to_come_again():
    async def never(_):
        raise AssertionError("no URL was given")

    limits = {"image_bytes": 1000, "pixel_limit": 100, "upload_timeout": timedelta(seconds=9)}
    reader = Reader(**limits, fetch=never, held_limit=1500)
    arrived, part = (
        asyncio.Event(),
        {"type": "http.request", "body": b"x" * 1000, "more_body": True},
    )

    def request(receive):
        scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
        return Request(scope, receive)

    async def both():
        parts = [part]

        async def holding():
            if not parts:
                arrived.set()
                await asyncio.Event().wait()
            return parts.pop()

        async def arriving():
            return part

        async def hold():
            async with reader.read(request(holding)):
                pass

        holder = asyncio.ensure_future(hold())
        await arrived.wait()
        with pytest.raises(Refusal, match="503 overloaded"):
            async with reader.read(request(arriving)):
                pass
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)

    asyncio.run(both())
    assert reader.held == 0


def test_a_client_that_goes_away_leaves_its_place():
    class Leaving(Socket):
        async def _receive(self):
            if self.parts:
                part = self.parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": False}
            return {"type": "http.disconnect"}

    image = serving.data_url(picture(1, (8, 8)))
    app = app_of(config())
    body = json.dumps({"image": image}).encode()
    status, _, answer = asyncio.run(Leaving(app, body).ask())
    assert (status, answer["error"]["code"]) == (400, "disconnected")
    assert app.inside == 0


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \u00e9"],
)
def test_without_a_known_token_nobody_is_answered(header):
    client = serving.client(config(), serving.Stuck(), tokens=["another long token", TOKEN])
    headers = {} if header is None else {"authorization": header.encode("utf-8")}
    for path in ("/v1/operators", "/metrics", "/openapi.json", "/nowhere"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_any_of_the_tokens_lets_in_under_any_host_name():
    client = serving.client(config(), serving.Stuck(), tokens=["another long token", TOKEN])
    headers = {"authorization": f"Bearer {TOKEN}", "host": "pictures.example.com"}
    assert client.get("/v1/operators", headers=headers).status_code == 200


def test_the_page_and_the_health_need_no_token():
    client = serving.client(config(), serving.Stuck(), tokens=[TOKEN])
    assert client.get("/").status_code == 200
    assert client.get("/healthz").json() == {"status": "ok"}


def test_the_health_tells_which_operators_have_no_process():
    backend = serving.Stuck()
    client = serving.client(config(), backend)
    backend.ended = ["caption", "match"]
    answer = client.get("/healthz")
    assert answer.status_code == client.head("/healthz").status_code == 503
    assert "caption, match" in answer.json()["error"]["message"]
    backend.ended = []
    assert client.head("/healthz").status_code == 200


def test_a_wrong_method_is_told_the_right_one():
    answer = serving.client(config(), serving.Stuck()).get("/v1/caption")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:8000", "10.0.0.1", ""])
def test_without_tokens_no_other_name_than_the_loopbacks_is_answered(host):
    client = serving.client(config(), serving.Stuck())
    answer = client.get("/v1/operators", headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "policy")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.3.2.1:8", "[::1]:8"]
)
def test_the_loopbacks_own_names_are_answered(host):
    client = serving.client(config(), serving.Stuck())
    assert client.get("/healthz", headers={"host": host}).status_code == 200


def test_no_open_host_is_served_without_a_token(monkeypatch):
    monkeypatch.delenv("TAGLINE_TOKENS", raising=False)
    assert read_tokens("127.0.0.1") == read_tokens("::1") == read_tokens("localhost") == []
    for host in ("0.0.0.0", "::", "192.168.1.2", "pictures.example.com"):
        with pytest.raises(ConfigError, match="set a token in TAGLINE_TOKENS"):
            read_tokens(host)


def test_tokens_come_from_the_environment_and_are_long(monkeypatch):
    monkeypatch.setenv("TAGLINE_TOKENS", f" {TOKEN},another long token ,")
    assert read_tokens("0.0.0.0") == [TOKEN, "another long token"]
    monkeypatch.setenv("TAGLINE_TOKENS", "short")
    with pytest.raises(ConfigError, match="fewer than 16 characters"):
        read_tokens("127.0.0.1")
