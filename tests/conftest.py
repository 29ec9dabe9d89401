"""Fixtures shared by all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import s3


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what the tests fetch and digest out of the user's own cache."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TAGLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """One S3 server for the whole session."""
    with s3.served() as endpoint:
        yield endpoint


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket as `s3://…`, with the environment set to reach it."""
    import s3fs

    bucket = s3.use(monkeypatch, s3_endpoint)
    s3fs.S3FileSystem.clear_instance_cache()
    yield bucket
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["local", "s3"])
def any_folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on this disk, and then one on S3."""
    found: str = request.getfixturevalue("s3_bucket") if request.param == "s3" else str(tmp_path)
    return found
