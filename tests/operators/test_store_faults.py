"""Images behind a proxy that has requests fail as S3 does."""

from collections.abc import Iterator
from typing import Any

import pytest
import s3fs

from operators.fetcher import Fetcher
from operators.policy import Policy
from tests import fault_proxy, s3, web
from tests.fault_proxy import Proxy, Rule
from tests.fetching import Sees, codes, picture, shard

IMAGES = 60


@pytest.fixture
def proxy(s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    client = s3.client(s3_endpoint)
    for number in range(IMAGES):
        bucket = s3_bucket.removeprefix("s3://")
        client.put_object(Bucket=bucket, Key=f"{number}.png", Body=picture(number))
    with fault_proxy.before(s3_endpoint) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        yield found


@pytest.fixture
def uris(s3_bucket: str) -> list[str]:
    return [f"{s3_bucket}/{number}.png" for number in range(IMAGES)]


def fetched(uris: list[str], **options: Any) -> tuple[Fetcher, Any]:
    fetcher = Fetcher([Sees()], Policy(), **{"patience_seconds": 60, **options})
    return fetcher, fetcher(shard(*uris))


def test_what_fails_by_chance_costs_no_image_and_is_counted(proxy, uris, monkeypatch):
    monkeypatch.setattr("operators.patience.FIRST_SECONDS", 0.05)
    proxy.arm(*[Rule(kind, share=0.08) for kind in ("busy", "broken", "reset", "cut")], seed=1)

    fetcher, table = fetched(uris)

    assert codes(table) == [None] * IMAGES
    assert table["image_encoded"].to_pylist() == [picture(number) for number in range(IMAGES)]
    injected = proxy.injected()
    assert set(injected) == {"busy", "broken", "reset", "cut"}
    hidden = injected["cut"]  # at most: aiohttp asks anew by itself on a connection used before
    assert 0 <= sum(injected.values()) - fetcher.retries()["unavailable"] <= hidden


@pytest.mark.parametrize("kind", ["stall", "trickle"])
def test_a_try_that_leads_nowhere_ends_in_time_for_the_next(proxy, uris, kind):
    proxy.arm(Rule(kind, most=3, after=2))

    fetcher, table = fetched(uris[:8], timeout_seconds=0.5)

    assert codes(table) == [None] * 8
    assert fetcher.retries() == {"timeout": 3}


@pytest.mark.parametrize(("kind", "code"), [("missing", "missing"), ("forbidden", "forbidden")])
def test_what_the_store_refuses_is_not_asked_for_again(proxy, uris, kind, code):
    proxy.arm(Rule(kind, key=r"/\d*7\.png$"))

    fetcher, table = fetched(uris[:10])

    assert codes(table) == [None] * 7 + [code, None, None]
    assert proxy.injected() == {kind: 1}
    assert not fetcher.retries()


def test_a_web_server_that_is_overloaded_is_asked_again():
    store = web.Server()
    answers = iter(
        [web.answering(503, b"", **{"Retry-After": "1"}), web.answering(200, picture(0))]
    )
    store.pages["/0.png"] = lambda handler: next(answers)(handler)
    policy = Policy(hosts=("127.0.0.1",))
    fetcher = Fetcher([Sees()], policy, exempt=["127.0.0.0/8"])
    try:
        assert codes(fetcher(shard(f"http://127.0.0.1:{store.port}/0.png"))) == [None]
    finally:
        store.close()
    assert fetcher.retries() == {"unavailable": 1}
