"""A real S3 server for tests: moto on 127.0.0.1, with conditional writes as AWS has them."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest

KEY = "testing"
REGION = "us-east-1"


@contextmanager
def served() -> Iterator[str]:
    """Runs the server on a free port and gives its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def environment(endpoint: str) -> dict[str, str]:
    """The variables by which every library finds the server; child processes need them too."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def client(endpoint: str):
    """A boto3 client of the server."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=KEY,
        region_name=REGION,
    )


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> str:
    """Points this process at the server and makes a bucket of its own for a test.

    Returns:
        `s3://<bucket>`.
    """
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    client(endpoint).create_bucket(Bucket=bucket)
    return f"s3://{bucket}"
