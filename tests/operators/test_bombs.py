"""Small files that ask for much are refused, or decoded within bounds; and no other format is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from operators.images import decode, verify
from schemas.errors import RowFault
from tests.bombs import BOMBS, LARGEST

PROJECT = Path(__file__).parents[2]
PEAK_BYTES = 512_000_000  # above an idle worker
SLOW_SECONDS = 5.0  # of processor time


@pytest.mark.chaos
def test_no_bomb_takes_a_worker_down_or_half_a_gigabyte():
    command = [sys.executable, "-W", "ignore", "-m", "tests.hostile"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(BOMBS) + len(LARGEST) >= 60, done.stderr
    wrong = [
        line
        for line in lines
        if line[2] != "done"
        or line[3].startswith("!")
        or line[4] > PEAK_BYTES
        or line[5] > SLOW_SECONDS
    ]
    assert wrong == []
    assert {line[3] for line in lines if line[0].startswith("largest")} == {"pixels"}


@pytest.mark.parametrize("name", [name for name in BOMBS if "at the pixel limit" in name])
def test_what_unpacks_to_too_much_is_a_bomb(name):
    for function in (decode, verify):
        with pytest.raises(RowFault) as raised:
            function(BOMBS[name]())
        assert raised.value.code == "bomb"


def test_a_bomb_says_what_it_would_take_and_what_may_be_done():
    with pytest.raises(
        RowFault, match=r"take 715776516 bytes to decode; .* scale the picture down"
    ):
        decode(BOMBS["png: rgb at the pixel limit"]())


@pytest.mark.parametrize(
    ("encoded", "code"),
    [
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg xmlns='http://www.w3.org/2000/svg'/>", None),
        (b"\xef\xbb\xbf<svg/>", None),
        (b"\x1f\x8b\x08svgz", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9", None),
        (b"\xc5\xd0\xd3\xc6" + bytes(28), None),
        (b"%PDF-1.7", None),
        (b"\xd7\xcd\xc6\x9a" + bytes(30), None),
        (b"\x01\x00\x00\x00" + bytes(36) + b" EMF" + bytes(60), None),
        (b"\0\0\1\0\1\0" + bytes(30), None),
        (b"\0\0\2\0\1\0" + bytes(30), None),
        (b"icns" + bytes(30), None),
        (b"8BPS\0\1" + bytes(30), None),
        (b"DDS " + bytes(124), None),
        (b"\0\0\0 ftypavif" + bytes(20), None),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", None),
        (b"\xff\x0a" + bytes(20), None),
        (b"P6\n1 1\n255\n\0\0\0", None),
        (b"Pf\n1 1\n-1.0\n" + bytes(4), None),
        (b"\x59\xa6\x6a\x95" + bytes(30), None),
        (b"\x01\xda\x01\x01" + bytes(600), None),
        (b"\x0a\x05\x01\x08" + bytes(130), None),
        (b"SIMPLE  =                    T", None),
        (b"\x89HDF\r\n\x1a\n", None),
        (b"qoif" + bytes(20), None),
        (b"\x76\x2f\x31\x01" + bytes(20), None),
        (b"FLIF" + bytes(20), None),
        (b"BLP2" + bytes(20), None),
        (b"#FIG 3.2", "not_an_image"),
    ],
)
def test_other_formats_are_refused_without_their_decoders(encoded, code, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("Pillow was asked which format this is")

    monkeypatch.setattr(Image, "open", fail)
    monkeypatch.setattr(Image, "preinit", fail)
    monkeypatch.setattr(Image, "init", fail)
    with pytest.raises(RowFault) as raised:
        decode(encoded)
    assert raised.value.code == (code or "unsupported_format")
