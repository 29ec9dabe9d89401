"""Forms as browsers and curl send them, and as they should not be."""

import os

import pytest

from jobs.serving.multipart import Part, read_parts
from jobs.serving.refusals import Refusal

KIND = 'multipart/form-data; boundary="b0"'


def form(*parts):
    return b"".join(b"--b0\r\n" + part + b"\r\n" for part in parts) + b"--b0--\r\n"


def field(name, content, extra=b""):
    return b'Content-Disposition: form-data; name="' + name + b'"' + extra + b"\r\n\r\n" + content


def test_fields_come_in_order_with_their_bytes_unchanged():
    noise = os.urandom(5000) + b"\r\n\r\n--b\r\n\r--b1"
    named = '; filename="红 苹果.png"\r\nContent-Type: image/png'.encode()
    image = field(b"image", noise, named)
    found = read_parts(form(field(b"text", "红苹果".encode()), image), KIND)
    assert found == [Part("text", None, "红苹果".encode()), Part("image", "红 苹果.png", noise)]


def test_what_stands_before_the_first_boundary_does_not_count():
    assert read_parts(b"preamble\r\n" + form(field(b"a", b"")), KIND) == [Part("a", None, b"")]
    assert read_parts(b"--b0--\r\n", KIND) == []


def test_a_form_that_httpx_writes_is_read():
    import httpx2

    request = httpx2.Request(
        "POST", "http://a", files={"image": ("ä.png", b"\x89PNG\r\n")}, data={"text": ["a", "b"]}
    )
    found = read_parts(request.read(), request.headers["content-type"])
    assert [(part.name, part.content) for part in found] == [
        ("text", b"a"),
        ("text", b"b"),
        ("image", b"\x89PNG\r\n"),
    ]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (form(field(b"a", b"")), "multipart/form-data", "no boundary"),
        (form(field(b"a", b"")), "multipart/form-data; boundary=" + "b" * 71, "no boundary"),
        (form(field(b"a", b""))[:-6], KIND, "ends before its last boundary"),
        (b"", KIND, "ends before its last boundary"),
        (form(b"a"), KIND, "no Content-Disposition"),
        (form(b"Content-Type: image/png\r\n\r\nx"), KIND, "no Content-Disposition"),
        (form(*[field(b"a", b"")] * 101), KIND, "more than 100 parts"),
    ],
)
def test_what_is_no_form_is_refused(body, kind, message):
    with pytest.raises(Refusal, match=message):
        read_parts(body, kind)
