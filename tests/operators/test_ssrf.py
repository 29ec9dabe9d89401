"""Hostile uris lead nowhere: every connection is watched, and none is made."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from operators.fetcher import Fetcher
from operators.masking import shown, without_secrets
from operators.policy import Policy
from operators.web import WebPages
from schemas.errors import RowFault
from tests.fetching import Sees, codes, shard
from tests.web import Server, answering

SECRET = "canary-5d1f"
OUTER = "127.9.9.9"
OUTER_ONLY = [ipaddress.ip_network(f"{OUTER}/32")]
INSIDE = [  # this machine, its network and its cloud, as the world spells them
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7F.1",
    "017700000001",
    "0177.0.0.1",
    "0177.0x0.0.1",
    "127.255.255.254",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST",
    "127。0。0。1",
    "127．0．0．1",
    "①②⑦.⓪.⓪.①",
    "１２７.0.0.1",
    "10.0.0.1",
    "012.1",
    "172.16.0.1",
    "192.168.0.1",
    "192.168.257",
    "169.254.169.254",
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    "169.254.170.2",
    "169.254.0.23",
    "100.100.100.200",
    "100.64.0.1",
    "192.0.0.192",
    "168.63.129.16",
    "198.18.0.1",
    "203.0.113.7",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::]",
    "[2001:db8::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fe80::1]",
    "[fe80::a9fe:a9fe%lo]",
    "[fec0::1]",
    "[ff02::1]",
    "[100::1]",
    "[4000::1]",
]
ELSEWHERE = [  # what a job may not ask, whose config allows images.example.com
    "http://example.com/a.jpg",
    "http://images.example.com@127.0.0.1/",
    "http://images.example.com:80@127.0.0.1/",
    "http://127.0.0.1#@images.example.com/",
    "http://127.0.0.1?@images.example.com/",
    "http://127.0.0.1\\@images.example.com/",
    "http://images.example.com\\@127.0.0.1/",
    "http://images.example.com.evil.example/",
    "http://evil-images.example.com/",
    "http://images.example.com./",
    "http://images。example。com/",
    "http://user@images.example.com/a.jpg",
    "http://images.example.com:22/",
    "http://images.example.com:25/\r\nHELO",
    "http://images.example.com:0x50/",
    "http://images.example.com:99999/",
    "http:///127.0.0.1/",
    "http:127.0.0.1/",
    "//127.0.0.1/a.jpg",
    "http://[::1",
    "http://[v1.x]/",
    "http://",
    "https://①②⑦.0.0.1/",
    "ftp://127.0.0.1/a.jpg",
    "gopher://127.0.0.1:6379/_INFO",
    "dict://127.0.0.1:11211/stats",
    "ldap://127.0.0.1/",
    "jar:http://127.0.0.1!/a.jpg",
    "data:image/png;base64,AAAA",
    "javascript://127.0.0.1/%0aalert(1)",
    "unix:///var/run/docker.sock",
    "gs://photos/a.jpg",
    "s3://other/a.jpg",
    "s3://Photos/a.jpg",
    "s3://photos@other/a.jpg",
    "s3://photos/../other/a.jpg",
    "s3://photos/a/../../other/a.jpg",
    "s3://photos/./a.jpg",
    "s3://../a.jpg",
    "s3://127.0.0.1:9000/a.jpg",
    "s3://photos%2f..%2fother/a.jpg",
    "s3://photos",
    "s3:///photos/a.jpg",
    "S3://other/a.jpg",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "FILE:///etc/passwd",
    "file:////etc/passwd",
    "file:///%2e%2e/etc/passwd",
    "../../../../../../etc/passwd",
    "/proc/self/environ",
    "/dev/zero",
    "//etc/passwd",
    "~/.ssh/id_rsa",
    "link.jpg",
    "folder/passwd",
    "hard/../../outside",
]


@pytest.fixture
def connections(monkeypatch: Any) -> list[Any]:
    """All connections that this process tries to make."""
    made: list[Any] = []
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)

        def watched(self: socket.socket, address: Any, real: Any = real) -> Any:
            made.append(address)
            is_outer = address[0] == OUTER  # stands for a public address
            return real(self, ("127.0.0.1", address[1]) if is_outer else address)

        monkeypatch.setattr(socket.socket, name, watched)
    return made


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_no_spelling_of_an_inner_address_is_connected_to(connections):
    uris = [f"http://{host}:8080/latest/meta-data/" for host in INSIDE]
    uris += [f"https://{host}/" for host in INSIDE]
    fetcher = Fetcher([Sees()], Policy(is_typed=True), patience_seconds=0, timeout_seconds=2)
    found = dict(zip(uris, codes(fetcher(shard(*uris))), strict=True))
    assert {uri: code for uri, code in found.items() if code != "policy"} == {}
    assert connections == []


def test_what_a_job_does_not_allow_is_neither_connected_to_nor_opened(
    connections, tmp_path, monkeypatch
):
    (tmp_path / "link.jpg").symlink_to("/etc/passwd")
    (tmp_path / "folder").symlink_to("/etc")
    looked_up: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: looked_up.append(host) or [])
    policy = Policy(str(tmp_path), buckets=("photos",), hosts=("images.example.com",))
    fetcher = Fetcher([Sees()], policy, patience_seconds=0, timeout_seconds=2)
    found = dict(zip(ELSEWHERE, codes(fetcher(shard(*ELSEWHERE))), strict=True))
    wrong = {uri: code for uri, code in found.items() if code not in ("policy", "missing")}
    assert wrong == {}
    nowhere = {"http:127.0.0.1/", "jar:http://127.0.0.1!/a.jpg", "data:image/png;base64,AAAA"}
    assert {uri for uri, code in found.items() if code == "missing"} <= nowhere | {"~/.ssh/id_rsa"}
    assert (connections, looked_up) == ([], [])


def test_no_redirect_leads_inside_at_any_hop(server, connections):
    def resolve(name: str, port: int) -> list[str]:
        if name == "pictures.test":
            return [OUTER]
        return [str(entry[4][0]) for entry in socket.getaddrinfo(name, port)]

    pages = WebPages(Policy(is_typed=True), timeout_seconds=5, resolve=resolve, exempt=OUTER_ONLY)
    for host in filter(str.isascii, INSIDE):
        server.pages["/1"] = answering(302, Location="/2")
        server.pages["/2"] = answering(307, Location=f"//{host}:{server.port}/3")
        server.pages["/3"] = answering(body=b"inner")
        with pytest.raises(RowFault) as raised, pages.opened(server.place("/1")) as opened:
            opened.read(10)
        assert raised.value.code == "policy", host
    assert {address[0] for address in connections} == {OUTER}
    assert set(server.asked) == {"/1", "/2"}


def test_a_name_that_moves_inside_between_two_hops_is_not_followed(server, connections):
    server.pages["/1"] = answering(302, Location=server.place("/2").path)
    server.pages["/2"] = answering(body=b"inner")
    answers = iter([[OUTER], ["127.0.0.1"]])
    pages = WebPages(
        Policy(hosts=("pictures.test",)),
        timeout_seconds=5,
        resolve=lambda name, port: next(answers),
        exempt=OUTER_ONLY,
    )
    with pytest.raises(RowFault, match="not a public address"), pages.opened(server.place("/1")):
        pass
    assert server.asked == ["/1"]


def test_a_proxy_of_the_environment_leads_round_nothing(server, monkeypatch, connections):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.port}")
    fetcher = Fetcher([Sees()], Policy(is_typed=True), patience_seconds=0, timeout_seconds=2)
    assert codes(fetcher(shard("http://10.0.0.1/a.jpg", "http://169.254.169.254/"))) == [
        "policy",
        "policy",
    ]
    assert (connections, server.asked) == ([], [])


@pytest.mark.parametrize(
    "uri",
    [
        f"http://user:{SECRET}@images.example.com/a.jpg",
        f"http://user:x/{SECRET}@images.example.com/a.jpg",
        f"http://user:x?{SECRET}@images.example.com/a.jpg",
        f"http://u:{SECRET}@①②⑦.0.0.1/a.jpg",
        f"http://u:{SECRET}@[::1/a.jpg",
        f"http://elsewhere.test/a.jpg?X-Amz-Signature={SECRET}",
        f"http://images.example.com:22/a.jpg?email=a@b&X-Amz-Signature={SECRET}",
        f"http://images.example.com:x/a.jpg?X-Amz-Signature={SECRET}",
        f"http://elsewhere.test/a.jpg#{SECRET}",
        f"ftp://user:{SECRET}@images.example.com/a.jpg",
        f"http://?{SECRET}",
    ],
)
def test_no_message_shows_a_password_or_a_signature(uri):
    with pytest.raises(RowFault) as raised:
        Policy(hosts=("images.example.com",)).place(uri)
    assert SECRET not in str(raised.value)


def test_no_answer_of_a_server_brings_a_signature_into_a_message(server):
    signed = f"?X-Amz-Signature={SECRET}"
    server.pages[f"/403{signed}"] = answering(403)
    server.pages[f"/500{signed}"] = answering(500)
    server.pages[f"/far{signed}"] = answering(302, Location=f"http://far.test/{signed}")
    server.pages[f"/user{signed}"] = answering(302, Location=f"http://u:{SECRET}@far.test/")
    server.pages[f"/s3{signed}"] = answering(302, Location=f"ftp://far.test/{signed}")
    server.pages[f"/key{signed}"] = answering(302, Location=f"s3://bucket/key{signed}")
    server.pages[f"/again{signed}"] = answering(302, Location=f"/again{signed}")
    server.pages[f"/slow{signed}"] = lambda handler: server.release.wait(20) and None
    pages = WebPages(
        Policy(hosts=("pictures.test",)),
        timeout_seconds=0.5,
        resolve=lambda name, port: ["127.0.0.1"],
        exempt=[ipaddress.ip_network("127.0.0.0/8")],
    )
    for path in list(server.pages):
        with pytest.raises(RowFault) as raised, pages.opened(server.place(path)) as opened:
            opened.read(10)
        assert SECRET not in str(raised.value), path


def test_a_uri_is_shown_without_its_secrets():
    assert shown("https://u:p@h:8443/a/b.jpg?x=1#y") == "https://h:8443/a/b.jpg?…"
    assert shown("http://[::1]:80/a") == "http://[::1]:80/a"
    assert shown("s3://bucket/a?b@c") == "s3://bucket/a?b@c"
    assert shown("s3://key:secret@bucket/a:b@c") == "s3://bucket/a:b@c"
    assert shown(f"{Path(os.sep)}a@b?c") == "/a@b?c"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://localhost:9000: refused", "http://localhost:9000: refused"),
        ("https://h:8443; parts", "https://h:8443; parts"),
        ("(https://host:8443), [https://host:8443].", "(https://host:8443), [https://host:8443]."),
        ("http://[::1]: refused, http://[::1]:80.", "http://[::1]: refused, http://[::1]:80."),
        ("(https://u:p@h:8443/a?sig=b).", "(https://h:8443/a?…)."),
        ("https://user:se/cret; b", "https://…; b"),
    ],
)
def test_an_address_in_a_sentence_keeps_its_port(text, told):
    assert without_secrets(text) == told
