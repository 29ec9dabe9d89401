"""GETs of S3 objects that are signed here and sent over connections that stay open.

For every object a client of botocore checks parameters, chooses an endpoint, runs hooks and parses,
which costs more than signing and sending do: 1.03 against 0.36 ms of a core, and a fetcher of small
images is bound by it. So the client is asked once for the address of a bucket. Whatever is not the
object, such as a redirect to another region or a refusal, is left to the client too.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

if TYPE_CHECKING:
    from botocore.httpsession import URLLib3Session
    from urllib3 import HTTPResponse

CHUNK_BYTES = 1 << 20
KEY_CHARACTERS = "/~"  # not quoted in a key, as botocore has it
NAME = "key"  # of an object that need not exist

Presign = Callable[[str, str], str]  # bucket and key to a URL that is signed by AWS4-HMAC-SHA256


@dataclass(frozen=True)
class _Bucket:
    """Where a bucket's objects lie, and for which region requests are signed."""

    address: str
    region: str


class SignedObjects:
    """Reads objects with the credentials of the environment.

    Args:
        connections: kept open at once.
        timeout_seconds: for connecting and until the first byte.
    """

    def __init__(self, *, connections: int, timeout_seconds: float) -> None:
        self.connections = connections
        self.timeout_seconds = timeout_seconds
        self._session: URLLib3Session | None = None
        self._credentials: Any = None
        self._buckets: dict[str, _Bucket | None] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles no connections."""
        return partial(
            SignedObjects, connections=self.connections, timeout_seconds=self.timeout_seconds
        ), ()

    @contextmanager
    def asked(self, bucket: str, key: str, presign: Presign) -> "Iterator[HTTPResponse | None]":
        """Sends a GET and gives the answer with its body unread; None where it is not the object.

        Args:
            bucket: its name.
            key: of the object.
            presign: of the client whose address is used, if it has the same credentials.

        Raises:
            BotoCoreError: the store cannot be reached, or does not answer in time.
        """
        found = self._bucket(bucket, presign)
        if found is None:
            yield None
            return
        response = self._send(found, key)
        try:
            yield response if response.status == 200 else None
        finally:
            if not response.closed:
                response.close()  # what is left is not read, so the connection is of no more use
            response.release_conn()

    def _send(self, bucket: _Bucket, key: str) -> "HTTPResponse":
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest("GET", bucket.address + quote(key, safe=KEY_CHARACTERS))
        request.stream_output = True
        keys = self._credentials.get_frozen_credentials()
        S3SigV4Auth(keys, "s3", bucket.region).add_auth(request)
        assert self._session is not None
        response: HTTPResponse = self._session.send(request.prepare()).raw
        return response

    def _bucket(self, name: str, presign: Presign) -> _Bucket | None:
        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = self._connected(name, presign)
            return self._buckets[name]

    def _connected(self, name: str, presign: Presign) -> _Bucket | None:
        """None where the client signs in another way, or with other credentials."""
        from botocore.httpsession import URLLib3Session
        from botocore.session import get_session
        from botocore.utils import get_environ_proxies

        session = get_session()
        self._credentials = self._credentials or session.get_credentials()
        if self._credentials is None:
            return None
        url = urlsplit(presign(name, NAME))
        scope = parse_qs(url.query).get("X-Amz-Credential", [""])[0].split("/")
        if len(scope) != 5 or scope[0] != self._credentials.get_frozen_credentials().access_key:
            return None
        found = _Bucket(f"{url.scheme}://{url.netloc}{url.path.removesuffix(NAME)}", scope[2])
        self._session = self._session or URLLib3Session(
            verify=session.get_config_variable("ca_bundle") or True,
            proxies=get_environ_proxies(found.address),
            timeout=self.timeout_seconds,
            max_pool_connections=self.connections,
        )
        return found


def read_body(response: Any, limit: int, timeout_seconds: float) -> bytes:
    """Reads a body to its end, or `limit` + 1 bytes of more.

    Raises:
        TimeoutError: that took longer than `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    parts: list[bytes] = []
    left = limit + 1
    while left and (part := response.read1(min(left, CHUNK_BYTES))):
        parts.append(part)
        left -= len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)
