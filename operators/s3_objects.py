"""Reading image files from S3, or from any store that speaks its language.

Where the bucket lies, and with whose credentials it is read, is for botocore to say: the
environment, profiles, the machine's role. The bytes come by obstore, which takes a tenth of the
processor's time that s3fs takes; a job over millions of small files is bound by it. s3fs reads what
obstore cannot name (an empty part in a key, as in `a//b`), and everything where fsspec's own
configuration (`FSSPEC_S3_…`) says how S3 is reached.
"""

import asyncio
import datetime
import math
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from operators.policy import Place
from operators.sources import CONNECT_SECONDS, SILENT_SECONDS, Opened
from schemas.errors import RowFault

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Credential

CREDENTIAL_SECONDS = 60.0  # for which obstore keeps them; botocore renews its own in time
MISSED_SECONDS = 5.0  # after which credentials, or a region, that were not had are sought again
SEEKING_PAUSES = (0.5, 2.0)  # seconds between tries of finding them
BUSY_SECONDS = 1.0  # that a store which asks for patience is left alone, at least
WAITING_TIMES = 10  # the timeout, for a request whose body waits until there is memory for it
REGION_SECONDS = 5.0  # to be told where a bucket is
DEFAULT_REGION = "us-east-1"
KEY_BYTES = 1024  # that a key may have
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}")
_ODD_PARTS = frozenset({"", ".", ".."})  # of a key; a path has none, and obstore takes paths
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BUSY = re.compile(r"status code: (?:429|503)\b|SlowDown")
_AMAZON = ("amazonaws.com", "amazonaws.com.cn")


class S3Objects:
    """Objects of S3 or of what AWS_ENDPOINT_URL names, with the credentials of the environment.

    Args:
        connections: kept open at once.
        timeout_seconds: until the first byte, and again for all bytes. Silence ends a try earlier.
    """

    def __init__(self, *, connections: int, timeout_seconds: float) -> None:
        self.connections, self.timeout_seconds = connections, timeout_seconds
        self._account = _Account()
        self._stores: dict[str, Any] = {}
        self._builders: dict[str, threading.Lock] = {}
        self._failures: dict[str, tuple[float, Exception | None]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Pickles how it reads, not what it holds open."""
        return {"connections": self.connections, "timeout_seconds": self.timeout_seconds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @contextmanager
    def opened(self, place: Place) -> Iterator[Opened]:
        """Finds an object with one GET, whose body is read only when asked for."""
        if not _is_plain(place):
            with self._by_s3fs().opened(place) as opened:
                yield opened
            return
        import obstore

        with self._faults(place):
            found = obstore.get(self._store(place.host), place.path)
            meta = found.meta
        yield Opened(meta["size"], meta["e_tag"], lambda limit: self._read(found, place, limit))

    def etag(self, place: Place) -> str | None:
        """The ETag, by a HEAD."""
        if not _is_plain(place):
            return self._by_s3fs().etag(place)
        import obstore

        with self._faults(place):
            return obstore.head(self._store(place.host), place.path)["e_tag"]

    def _read(self, found: Any, place: Place, limit: int) -> bytes:
        """Reads a body, whose time begins now: the thread may have waited for memory before."""
        deadline = time.monotonic() + self.timeout_seconds
        parts, left = [], limit + 1
        with self._faults(place):
            for part in found.stream(min_chunk_size=1):  # each as it comes
                parts.append(bytes(part)[:left])
                left -= len(parts[-1])
                if not left:
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError
        return b"".join(parts)

    def _store(self, bucket: str) -> Any:
        with self._lock:
            builder = self._builders.setdefault(bucket, threading.Lock())
        with builder:
            if bucket not in self._stores:
                failed, reason = self._failures.get(bucket, (-math.inf, None))
                if reason and time.monotonic() < failed + MISSED_SECONDS:
                    raise reason  # of the thread before, for which this one has waited
                try:
                    self._stores[bucket] = self._opened_store(bucket)
                except Exception as error:
                    self._failures[bucket] = time.monotonic(), error
                    raise
            return self._stores[bucket]

    def _opened_store(self, bucket: str) -> Any:
        from obstore.store import S3Store

        address = self._account.address(bucket)
        connecting, silent = _shorter(self.timeout_seconds)
        client: ClientConfig = {
            "allow_http": True,
            "connect_timeout": datetime.timedelta(seconds=connecting),
            "read_timeout": datetime.timedelta(seconds=silent),
            "timeout": datetime.timedelta(seconds=WAITING_TIMES * self.timeout_seconds),
            "pool_max_idle_per_host": str(self.connections),
        }
        if certificates := self._account.certificates():
            client["root_certificate"] = certificates
        return S3Store(
            bucket,
            endpoint=address.endpoint,
            region=address.region,
            virtual_hosted_style_request=address.is_virtual,
            credential_provider=self._account.credentials,
            client_options=client,
            retry_config={"max_retries": 0},  # the fetcher tries again, for all stores alike
        )

    def _by_s3fs(self) -> "_ByS3fs":
        return _ByS3fs(self.connections, self.timeout_seconds)

    def _faults(self, place: Place) -> AbstractContextManager[None]:
        return _faults(place, self.timeout_seconds)


def _shorter(timeout_seconds: float) -> tuple[float, float]:
    """Seconds for connecting, and without a byte."""
    return min(CONNECT_SECONDS, timeout_seconds), min(SILENT_SECONDS, timeout_seconds)


class _Address(NamedTuple):
    """Where requests for the objects of a bucket go."""

    endpoint: str
    region: str
    is_virtual: bool  # the bucket is a part of the host's name


def _is_plain(place: Place) -> bool:
    """Whether obstore names the object as S3 does, and is to."""
    from fsspec.config import conf

    key = place.path
    return (
        not conf.get("s3")
        and _BUCKET.fullmatch(place.host) is not None
        and _ODD_PARTS.isdisjoint(key.split("/"))
        and _CONTROL.search(key) is None
        and len(key.encode()) <= KEY_BYTES
    )


class _Account:
    """What botocore knows: where buckets are, and credentials that stay fresh."""

    def __init__(self) -> None:
        self._session: Any = None
        self._found: Any = None
        self._sought = -math.inf
        self._lock = threading.Lock()

    def address(self, bucket: str) -> _Address:
        """Where a bucket is.

        Raises:
            NoCredentialsError: there are none.
            BotoCoreError: Amazon does not say in which region it is.
        """
        self.credentials()
        here = self._client(self._session.get_config_variable("region") or DEFAULT_REGION)
        address = _address(here, bucket)
        if urlsplit(address.endpoint).netloc.endswith(_AMAZON):
            region = _region(here, bucket) or address.region
            if region != address.region:
                address = _address(self._client(region), bucket)
        return address

    def credentials(self) -> "S3Credential":
        """Credentials good for a minute; where there are none, they are sought again in a while.

        Raises:
            NoCredentialsError: there are none.
        """
        from botocore.exceptions import NoCredentialsError

        with self._lock:
            if self._found is None and time.monotonic() >= self._sought + MISSED_SECONDS:
                self._found, self._sought = self._seek(), time.monotonic()
        if self._found is None:
            raise NoCredentialsError
        frozen = self._found.get_frozen_credentials()
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=CREDENTIAL_SECONDS)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": until,
        }

    def _seek(self) -> Any:
        """Looks again where a machine's role did not answer at once, as when many ask it."""
        import botocore.session

        for pause in (*SEEKING_PAUSES, None):
            self._session = botocore.session.get_session()
            found = self._session.get_credentials()
            if found is not None or pause is None:
                return found
            if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
                return None
            time.sleep(pause)
        raise AssertionError("the last try returns")

    def certificates(self) -> bytes | None:
        """Of those who sign for the store, where AWS_CA_BUNDLE or a profile names a file."""
        bundle = self._session.get_config_variable("ca_bundle")
        return Path(bundle).read_bytes() if bundle and Path(bundle).is_file() else None

    def _client(self, region: str) -> Any:
        from botocore.config import Config

        config = Config(
            signature_version="s3v4",
            connect_timeout=REGION_SECONDS,
            read_timeout=REGION_SECONDS,
            retries={"max_attempts": 1},
        )
        return self._session.create_client("s3", region_name=region, config=config)


def _address(client: Any, bucket: str) -> _Address:
    """Its host is the region's; whether the bucket is a part of it, a URL for an object tells."""
    parameters = {"Bucket": bucket, "Key": "key"}
    signed = urlsplit(client.generate_presigned_url("get_object", Params=parameters))
    is_virtual = not signed.path.endswith(f"/{bucket}/key")
    url = urlsplit(client.meta.endpoint_url)
    host = f"{bucket}.{url.netloc}" if is_virtual else url.netloc
    endpoint = f"{url.scheme}://{host}{url.path.rstrip('/')}"
    return _Address(endpoint, client.meta.region_name, is_virtual)


def _region(client: Any, bucket: str) -> str | None:
    """The region of a bucket, which those who may not list it are told too."""
    from botocore.exceptions import ClientError

    try:
        answer = client.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region: str | None = headers.get("x-amz-bucket-region")
    return region


class _ByS3fs:
    """Reads by s3fs, which keeps one filesystem per process, endpoint and options."""

    def __init__(self, connections: int, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        connecting, silent = _shorter(timeout_seconds)
        self._options = {
            "max_pool_connections": connections,
            "connect_timeout": connecting,
            "read_timeout": silent,
            "retries": {"total_max_attempts": 1},
        }

    @contextmanager
    def opened(self, place: Place) -> Iterator[Opened]:
        found = self._call("get_object", place)
        body = found["Body"]
        try:
            size = found.get("ContentLength")
            yield Opened(size, found.get("ETag"), lambda limit: self._read(body, place, limit))
        finally:
            self._filesystem().loop.call_soon_threadsafe(body.close)

    def etag(self, place: Place) -> str | None:
        found: str | None = self._call("head_object", place).get("ETag")
        return found

    def _call(self, method: str, place: Place) -> Any:
        filesystem = self._filesystem()
        return self._wait(
            lambda: filesystem._call_s3(method, Bucket=place.host, Key=place.path), place
        )

    def _read(self, body: Any, place: Place, limit: int) -> bytes:
        async def read() -> bytes:
            parts: list[bytes] = []
            left = limit + 1
            while left and (part := await body.read(left)):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)

        data: bytes = self._wait(read, place)
        return data

    def _filesystem(self) -> Any:
        import s3fs

        opened = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=self._options)
        opened.retries = 1  # whoever reads tries again, and counts it
        return opened

    def _wait(self, call: Callable[[], Coroutine[Any, Any, Any]], place: Place) -> Any:
        from fsspec.asyn import sync

        async def bounded() -> Any:
            return await asyncio.wait_for(call(), self.timeout_seconds)

        with _faults(place, self.timeout_seconds):
            return sync(self._filesystem().loop, bounded)


@contextmanager
def _faults(place: Place, timeout_seconds: float) -> Iterator[None]:
    """Translates what obstore, s3fs and botocore raise; what may pass is transient."""
    from botocore.exceptions import (
        ConnectTimeoutError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
        ReadTimeoutError,
    )
    from obstore.exceptions import GenericError, PermissionDeniedError, UnauthenticatedError

    uri = f"s3://{place.host}/{place.path}"
    refusals = (
        PermissionError,
        PermissionDeniedError,
        UnauthenticatedError,
        NoCredentialsError,
        PartialCredentialsError,
    )
    try:
        yield
    except FileNotFoundError as error:
        raise RowFault("missing", f"{uri}: no such object or bucket") from error
    except refusals as error:
        raise RowFault("forbidden", f"{uri}: {_first_line(error)}") from error
    except (ParamValidationError, ValueError) as error:
        raise RowFault("missing", f"{uri} cannot be the name of an object: {error}") from error
    except (TimeoutError, ConnectTimeoutError, ReadTimeoutError) as error:
        raise _timeout(uri, timeout_seconds) from error
    except RowFault:
        raise
    except Exception as error:
        if isinstance(error, GenericError) and "kind: Timeout" in str(error):
            raise _timeout(uri, timeout_seconds) from error
        message = f"{uri}: {type(error).__name__}: {_first_line(error)}"
        wished = BUSY_SECONDS if _BUSY.search(message) else 0.0
        raise RowFault("unavailable", message, transient=True, wait_seconds=wished) from error


def _timeout(uri: str, seconds: float) -> RowFault:
    message = f"{uri}: no answer within {seconds:g} seconds, or silent for {SILENT_SECONDS:g}"
    return RowFault("timeout", message, transient=True)


def _first_line(error: BaseException) -> str:
    """What obstore says first; it goes on with the request's inner life."""
    return next(iter(str(error).splitlines()), "")
