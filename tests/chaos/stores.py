"""Faults of the S3 that images and table lie in: a proxy before a real server injects them.

Each has a life of its own, as workers of a shared cluster would not know its server; its commands
are counted with those of the life it is given.
"""

import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import fault_proxy, s3
from tests.chaos.fault import Fault, Inject
from tests.chaos.life import Life
from tests.chaos.processes import GOES_ON
from tests.fault_proxy import Kind, Proxy, Rule

PICTURES = r"\.png$"
PARTS = r"/table/data/"
COMMITS = r"/_delta_log/.*json$"
FEW = 2  # of the 60 rows of a run: below limits.error_fraction
HANGING = ("stall", "trickle")
OUTAGE_SECONDS = 45.0
REFUSED_SECONDS = 60.0  # to the end of a run that a store refuses, on a quiet machine
Body = Callable[[random.Random, Life, Proxy], None]


def _on_s3(body: Body) -> Inject:
    """Injects into a new life whose pictures and table lie on S3; its law must be kept."""

    def inject(point: random.Random, life: Life) -> None:
        with _stored(life) as (inner, proxy):
            try:
                body(point, inner, proxy)
            finally:
                life.ended += inner.ended
                proxy.arm()
            law = inner.law()
            assert law.is_kept, str(law)

    return inject


@contextmanager
def _stored(life: Life) -> Iterator[tuple[Life, Proxy]]:
    bucket = f"chaos-{uuid.uuid4().hex[:12]}"
    with (
        s3.served() as endpoint,
        fault_proxy.before(endpoint) as proxy,
        pytest.MonkeyPatch.context() as ours,
        tempfile.TemporaryDirectory(dir=life.folder) as folder,
    ):
        for name, value in s3.environment(endpoint).items():
            ours.setenv(name, value)
        client = s3.client(endpoint)
        client.create_bucket(Bucket=bucket)
        inner = Life(Path(folder), environment=s3.environment(proxy.endpoint))
        inner.config["table"] = f"s3://{bucket}/table"
        inner.uri = lambda number: f"s3://{bucket}/{number}.png"  # type: ignore[method-assign]
        for number in inner.grow():
            path = Path(folder, "photos", f"{number}.png")
            client.put_object(Bucket=bucket, Key=path.name, Body=path.read_bytes())
        yield inner, proxy


def _passing(kind: Kind, key: str, methods: tuple[str, ...] = ()) -> Inject:
    """Requests that fail by chance from a random moment on: nobody has to do anything."""

    def body(point: random.Random, life: Life, proxy: Proxy) -> None:
        most = FEW if kind in HANGING else None
        after = point.randint(0, 60) if key == PICTURES else point.randint(0, 2)
        share = point.uniform(0.05, 0.3) if key == PICTURES else 0.5
        proxy.arm(Rule(kind, share, key, methods, after, most), seed=point.randrange(1000))
        life.run(code=0)

    return _on_s3(body)


def _lasting(kind: Kind) -> Inject:
    """A few pictures that the store has not, or does not give, at first; then `retry`."""

    def body(point: random.Random, life: Life, proxy: Proxy) -> None:
        proxy.arm(Rule(kind, key=PICTURES, after=point.randint(0, 40), most=FEW))
        life.run(code=0)
        rows = life.opened().read(["error"])["error"].drop_null().to_pylist()
        assert len(rows) <= FEW, rows  # a shard that was refused whole is tried again at once
        assert {row["code"] for row in rows} <= {kind}, rows
        proxy.arm()
        life.run(verb="retry", code=0)

    return _on_s3(body)


def _refusing(kind: Kind, advice: str) -> Inject:
    """All pictures: one clear error soon, and the same command goes on once it is mended."""

    def body(point: random.Random, life: Life, proxy: Proxy) -> None:
        proxy.arm(Rule(kind, key=PICTURES))
        ended = life.run(code=1)
        for word in (kind, "s3://chaos-", advice, GOES_ON):
            assert word in ended.message, f"no {word!r} in: {ended.message}"
        assert ended.seconds < 3 * REFUSED_SECONDS, f"told after {ended.seconds:.0f} s"
        proxy.arm()
        life.until_done()

    return _on_s3(body)


def _unwritable(kind: Kind, key: str) -> Inject:
    """A bucket that takes nothing more from some moment on: exit 1, parts kept, and it goes on."""

    def body(point: random.Random, life: Life, proxy: Proxy) -> None:
        after = point.randint(0, 2) if key == PARTS else 0
        proxy.arm(Rule(kind, key=key, methods=("PUT",), after=after))
        ended = life.run(code=1)
        for word in (life.table, GOES_ON):
            assert word in ended.message, f"no {word!r} in: {ended.message}"
        assert "Traceback" not in ended.text, ended.text
        proxy.arm()
        life.until_done()

    return _on_s3(body)


def _away(point: random.Random, life: Life, proxy: Proxy) -> None:
    """A store that is away for a while costs no row, and is told of."""
    proxy.arm(Rule("cut", key=PICTURES, after=point.randint(0, 60)))
    with life.start() as running:
        while not proxy.injected() and not running.has_ended:
            running.rest(0.5)
        begun = time.monotonic()
        running.rest(OUTAGE_SECONDS)
        proxy.arm()
        ended = life.keep(running.wait())
    assert ended.code == 0, ended.text
    assert time.monotonic() - begun > OUTAGE_SECONDS, "it was not waited for"
    assert "event=store_waiting" in ended.text, ended.text


def _everything(point: random.Random, life: Life, proxy: Proxy) -> None:
    """5 % of all requests, of images, plan, parts and commit."""
    kinds: tuple[Kind, ...] = ("busy", "broken", "reset", "cut")
    proxy.arm(*[Rule(kind, share=0.0125) for kind in kinds], seed=point.randrange(1000))
    life.run(code=0)


WAITED = "waited for, exit 0"
AS_PUT = "exit 0, once"
KEPT = "exit 1 and what is kept"
FAULTS = (
    Fault("S3: image 503 SlowDown", _passing("busy", PICTURES), WAITED, is_short=False),
    Fault("S3: image 500", _passing("broken", PICTURES), WAITED, is_short=False),
    Fault("S3: image reset in mid-body", _passing("reset", PICTURES), WAITED, is_short=False),
    Fault("S3: image stalls", _passing("stall", PICTURES), WAITED, is_short=False),
    Fault("S3: image trickles", _passing("trickle", PICTURES), WAITED, is_short=False),
    Fault("S3: some images 404", _lasting("missing"), "row `missing`; `retry`", is_short=False),
    Fault("S3: some images 403", _lasting("forbidden"), "row `forbidden`; `retry`", is_short=False),
    Fault("S3: all images 403", _refusing("forbidden", "check the credentials"), "exit 1: why"),
    Fault(
        "S3: all images 404",
        _refusing("missing", "check the manifest"),
        "exit 1: why",
        is_short=False,
    ),
    Fault("S3: images away for 45 s", _on_s3(_away), WAITED, is_short=False),
    Fault("S3: 5 % of all requests", _on_s3(_everything), WAITED),
    Fault("S3: part 503", _passing("busy", PARTS, ("PUT",)), AS_PUT, is_short=False),
    Fault("S3: part put, answer lost", _passing("reset", PARTS, ("PUT",)), AS_PUT, is_short=False),
    Fault("S3: commit 500", _passing("broken", COMMITS, ("PUT",)), AS_PUT, is_short=False),
    Fault(
        "S3: commit made, answer lost", _passing("reset", COMMITS, ("PUT",)), AS_PUT, is_short=False
    ),
    Fault("S3: bucket full at a part", _unwritable("full", PARTS), KEPT, is_short=False),
    Fault("S3: bucket full at the commit", _unwritable("full", COMMITS), KEPT, is_short=False),
    Fault("S3: bucket read-only at a part", _unwritable("forbidden", PARTS), KEPT, is_short=False),
    Fault(
        "S3: bucket read-only at the commit",
        _unwritable("forbidden", COMMITS),
        KEPT,
        is_short=False,
    ),
)
