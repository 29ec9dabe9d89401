"""Where objects are asked for, and with whose credentials; what comes of it is in test_fetcher."""

import time
from typing import Any

import pytest

from operators import s3_objects
from operators.policy import Place
from operators.s3_objects import S3Objects
from schemas.errors import RowFault
from tests import s3, web


def read(bucket: str, key: str) -> bytes:
    with S3Objects(connections=1, timeout_seconds=5).opened(Place("s3", bucket, key)) as opened:
        return opened.read(100)


@pytest.mark.parametrize("key", ["/a", "a/", "b//a", "b/./a", "../a", "a\x01", "b/a"])
def test_no_key_is_taken_for_another(s3_bucket, s3_endpoint, key):
    bucket = s3_bucket.removeprefix("s3://")
    for name in ("a", "b/a", key):
        s3.client(s3_endpoint).put_object(Bucket=bucket, Key=name, Body=name.encode())
    assert read(bucket, key) == key.encode()


def test_no_more_than_the_limit_is_read(s3_bucket, s3_endpoint):
    bucket = s3_bucket.removeprefix("s3://")
    s3.client(s3_endpoint).put_object(Bucket=bucket, Key="large", Body=b"x" * 1_000_000)
    assert read(bucket, "large") == b"x" * 101


@pytest.mark.parametrize("changes", [{}, {"FSSPEC_S3_KEY": "fsspec"}])
def test_credentials_are_those_of_the_environment_and_of_fsspec(monkeypatch, changes):
    from fsspec.config import conf, set_conf_env

    store = web.Server()
    asked: list[str] = []

    def answer(request: Any) -> Any:
        asked.append(request.headers["Authorization"])
        return web.answering(200, b"bytes")(request)

    store.pages["/bucket/x"] = answer
    for name, value in {**s3.environment(f"http://127.0.0.1:{store.port}"), **changes}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(conf, "s3", {})
    set_conf_env(conf)
    if changes:
        conf["s3"]["secret"] = "secret"
    try:
        assert read("bucket", "x") == b"bytes"
    finally:
        store.close()
    assert f"Credential={changes.get('FSSPEC_S3_KEY', s3.KEY)}/" in asked[0]


def test_without_credentials_nothing_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RowFault, match="credentials") as caught:
        read("bucket", "x")
    assert caught.value.code == "forbidden"


@pytest.mark.parametrize(
    ("environment", "bucket", "address"),
    [
        ({}, "photos", ("https://photos.s3.eu-west-1.amazonaws.com", "eu-west-1", True)),
        ({}, "my.photos", ("https://s3.eu-west-1.amazonaws.com", "eu-west-1", False)),
        (
            {"AWS_ENDPOINT_URL": "https://store.example.com:9000/s3"},
            "photos",
            ("https://store.example.com:9000/s3", "eu-west-1", False),
        ),
    ],
)
def test_a_bucket_is_where_botocore_says(monkeypatch, environment, bucket, address):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(s3_objects, "_region", lambda *_: "eu-west-1")
    keys = {"AWS_ACCESS_KEY_ID": s3.KEY, "AWS_SECRET_ACCESS_KEY": s3.KEY}
    for name, value in {"AWS_DEFAULT_REGION": "eu-west-1", **keys, **environment}.items():
        monkeypatch.setenv(name, value)
    assert s3_objects._Account().address(bucket) == address


def test_a_bucket_of_another_region_is_asked_for_there(monkeypatch, s3_endpoint):
    client = s3.client(s3_endpoint)
    place = {"LocationConstraint": "eu-central-1"}
    client.create_bucket(Bucket="far-away", CreateBucketConfiguration=place)
    asked = s3_objects._region
    monkeypatch.setattr(s3_objects, "_region", lambda _, bucket: asked(client, bucket))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, s3.KEY)
    address = s3_objects._Account().address("far-away")
    assert address.endpoint == "https://far-away.s3.eu-central-1.amazonaws.com"
    assert address.region == "eu-central-1"


def test_those_who_sign_for_the_store_are_who_the_environment_says(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, s3.KEY)
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(RowFault, match=r"(?i)certificate|pem"):
        read("bucket", "x")


def test_a_body_has_its_time_from_when_it_is_read_on(monkeypatch):
    store = web.Server()
    store.pages["/bucket/x"] = web.answering(200, b"bytes")
    for name, value in s3.environment(f"http://127.0.0.1:{store.port}").items():
        monkeypatch.setenv(name, value)
    objects = S3Objects(connections=1, timeout_seconds=0.5)
    try:
        with objects.opened(Place("s3", "bucket", "x")) as opened:
            time.sleep(0.8)  # as a thread that waits for memory does
            assert opened.read(100) == b"bytes"
    finally:
        store.close()


def test_a_store_that_trickles_is_given_up(monkeypatch):
    def trickle(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        for _ in range(50):
            request.wfile.write(b"x")
            request.wfile.flush()
            time.sleep(0.05)

    store = web.Server()
    store.pages["/bucket/x"] = trickle
    for name, value in s3.environment(f"http://127.0.0.1:{store.port}").items():
        monkeypatch.setenv(name, value)
    objects = S3Objects(connections=1, timeout_seconds=0.5)
    begun = time.monotonic()
    try:
        with (
            objects.opened(Place("s3", "bucket", "x")) as opened,
            pytest.raises(RowFault) as caught,
        ):
            opened.read(10_000)
    finally:
        store.close()
    assert caught.value.code == "timeout"
    assert time.monotonic() - begun < 2
