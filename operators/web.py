"""Reading image files over http and https, without being led to where no image should come from.

A host's addresses are looked up once, all are checked, and the connection is made to a checked one,
so a name that resolves differently a moment later changes nothing. A redirect is followed only to a
place the policy allows.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote, urljoin, urlsplit

from operators.masking import shown
from operators.patience import wished_seconds
from operators.policy import Network, Place, Policy, check_addresses
from operators.sources import SILENT_SECONDS, Opened
from schemas.errors import RowFault

MAX_REDIRECTS = 5
CHUNK_BYTES = 1 << 20
PORTS = {"http": 80, "https": 443}
URL_CHARACTERS = "/%:=&?~+!$,;'@()*[]"  # kept as they are in a path and its query
HEADERS = {"User-Agent": "tagline", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """Looks up all addresses of a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class WebPages:
    """Files behind http and https.

    Args:
        policy: judges where a redirect leads.
        timeout_seconds: for one file as a whole, redirects and all bytes included; silence ends it
            earlier.
        resolve: looks up addresses.
        exempt: networks that count as public; for tests, no config can set it.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        timeout_seconds: float,
        resolve: Resolve = resolve,
        exempt: Sequence[Network] = (),
    ) -> None:
        self.policy = policy
        self.timeout_seconds = timeout_seconds
        self.resolve = resolve
        self.exempt = tuple(exempt)

    @contextmanager
    def opened(self, place: Place) -> Iterator[Opened]:
        """Finds a file with one GET, whose body is read only when asked for."""
        deadline = time.monotonic() + self.timeout_seconds
        with self._answered("GET", place, deadline) as response:
            yield Opened(
                response.length, _etag(response), lambda limit: _read(response, limit, deadline)
            )

    def etag(self, place: Place) -> str | None:
        """The ETag or the time of the last change, by a HEAD."""
        deadline = time.monotonic() + self.timeout_seconds
        with self._answered("HEAD", place, deadline) as response:
            return _etag(response)

    @contextmanager
    def _answered(
        self, method: str, place: Place, deadline: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Follows redirects to an answer that holds the file."""
        for _ in range(MAX_REDIRECTS + 1):
            with self._asked(method, place, deadline) as response:
                location = response.headers.get("Location")
                if response.status not in (301, 302, 303, 307, 308) or not location:
                    _check_status(response, shown(place.path))
                    yield response
                    return
                target = urljoin(place.path, location)
            place = self.policy.place(target)
            if place.kind != "http":
                told = shown(target).partition("?")[0]
                raise RowFault("policy", f"a redirect leads to {told!r}, which is not http(s)")
        raise RowFault("missing", f"{shown(place.path)}: more than {MAX_REDIRECTS} redirects")

    @contextmanager
    def _asked(
        self, method: str, place: Place, deadline: float
    ) -> Iterator[http.client.HTTPResponse]:
        """Sends one request; the connection is cut when the deadline passes, whatever it is at."""
        parts = urlsplit(place.path)
        with _faults(shown(place.path), deadline, self.timeout_seconds):
            connected = self._connect(parts.scheme, place.host, parts.port, deadline)
            cut = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [connected])
            cut.daemon = True
            cut.start()
            try:
                kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
                connection = kind[parts.scheme](place.host, parts.port)
                connection.sock = connected
                target = quote(parts.path or "/", safe=URL_CHARACTERS)
                query = f"?{quote(parts.query, safe=URL_CHARACTERS)}" if parts.query else ""
                connection.request(method, target + query, headers=HEADERS)
                with connection.getresponse() as response:
                    yield response
            finally:
                cut.cancel()
                connected.close()

    def _connect(self, scheme: str, host: str, port: int | None, deadline: float) -> socket.socket:
        """Connects to an address that was checked."""
        port = port or PORTS[scheme]
        addresses = self.resolve(host, port)
        check_addresses(host, addresses, self.exempt)
        error: OSError = OSError(f"{host} has no address")
        for address in addresses:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                plain = socket.create_connection((address, port), min(left, SILENT_SECONDS))
            except OSError as failed:
                error = failed
                continue
            return _secured(plain, host) if scheme == "https" else plain
        raise error


def _secured(plain: socket.socket, host: str) -> socket.socket:
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _cut(connected: socket.socket) -> None:
    """Ends whatever another thread waits for on this connection."""
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it was over


def _read(response: http.client.HTTPResponse, limit: int, deadline: float) -> bytes:
    expected = response.length
    parts: list[bytes] = []
    left = limit + 1
    while left and (part := response.read1(min(left, CHUNK_BYTES))):
        parts.append(part)
        left -= len(part)
    data = b"".join(parts)
    if time.monotonic() >= deadline:
        raise TimeoutError  # the connection was cut, which looks like the end of the file
    if expected is not None and len(data) < min(expected, limit + 1):
        raise ConnectionError(f"the connection ended after {len(data)} of {expected} bytes")
    return data


def _etag(response: http.client.HTTPResponse) -> str | None:
    return response.headers.get("ETag") or response.headers.get("Last-Modified")


def _check_status(response: http.client.HTTPResponse, url: str) -> None:
    status = response.status
    said = f"{url} answered {status} {response.reason}"
    if status in (401, 403, 451):
        raise RowFault("forbidden", said)
    wished = wished_seconds(response.headers.get("Retry-After"))
    if status in (408, 504):
        raise RowFault("timeout", said, transient=True, wait_seconds=wished)
    if status in (425, 429) or status >= 500:
        raise RowFault("unavailable", said, transient=True, wait_seconds=wished)
    if status != 200:
        raise RowFault("missing", said)


@contextmanager
def _faults(url: str, deadline: float, timeout_seconds: float) -> Iterator[None]:
    try:
        yield
    except RowFault:
        raise
    except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
        if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
            is_over = timeout_seconds <= SILENT_SECONDS or time.monotonic() >= deadline
            silent = f"silent for {SILENT_SECONDS:g} seconds"
            told = f"not received within {timeout_seconds:g} seconds" if is_over else silent
            message = f"{url}: {told}"
            raise RowFault("timeout", message, transient=True) from error
        if isinstance(error, UnicodeError | http.client.InvalidURL):
            raise RowFault("policy", f"{url!r} is not a URL: {error}") from error
        message = f"{url}: {type(error).__name__}: {error}"
        raise RowFault("unavailable", message, transient=True) from error
