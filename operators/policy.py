"""Where images may come from: the one place that decides, before any connection is made.

A manifest is data from outside, so a job reads only what its config allows: S3 buckets, local files
under the manifest's own folder or given roots, and http(s) hosts that were named. What a user types
to `tagline apply` is allowed wherever it lies. No http(s) request ever goes to a private, loopback
or link-local address.
"""

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from operators.masking import shown
from schemas.errors import RowFault

SCHEMES = "s3://, http://, https://, file:// or a local path"
_GLOB = re.compile(r"[*?\[]")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all that IPv6 has given out
_CLOUDS_OWN = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's, to its machines
    ipaddress.ip_network("192.0.0.0/24"),  # Oracle's metadata; global for older Pythons
)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}|arn:[A-Za-z0-9:._-]+")
_OPEN_PORTS = (80, 443)  # of those below 1024: no picture is served by what listens on others
_FIRST_FREE_PORT = 1024

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Place:
    """Where one allowed image lies.

    Args:
        kind: which store reads it.
        host: the bucket or host name; empty for a local file. An outage is remembered by it.
        path: the resolved path of a local file, the key of an object, or the whole URL.
    """

    kind: Literal["file", "s3", "http"]
    host: str
    path: str


@dataclass(frozen=True)
class Policy:
    """What a job's config allows.

    Args:
        manifest: the manifest's path as the config gives it; relative names are resolved against
            its folder when it is local. None: there is none, and relative names are resolved
            against the current folder.
        buckets: the S3 buckets that may be read; None for all that the credentials reach.
        roots: local folders that may be read beside the manifest's own.
        hosts: names of the http(s) hosts that may be asked.
        is_typed: whether the uris were typed by the user: every local file and public host is
            allowed.
    """

    manifest: str | None = None
    buckets: tuple[str, ...] | None = None
    roots: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    is_typed: bool = False

    def place(self, uri: str | None) -> Place:
        """Resolves a uri to a place that may be read.

        Raises:
            RowFault: `policy`; says what is allowed.
        """
        if not uri:
            raise RowFault("policy", f"the uri is {uri!r}; give {SCHEMES}")
        scheme, found, rest = uri.partition("://")
        scheme = scheme.lower() if found else ""
        if scheme in ("", "file"):
            rest = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
            return self._local(uri if not found else unquote(rest), has_scheme=bool(found))
        if scheme == "s3":
            return self._s3(uri, rest)
        if scheme in ("http", "https"):
            return self._http(uri)
        raise RowFault(
            "policy", f"{shown(uri)!r}: the scheme {scheme!r} is not supported; give {SCHEMES}"
        )

    def _local(self, path: str, *, has_scheme: bool) -> Place:
        if "\0" in path:
            raise RowFault("policy", f"{path!r} holds a null character; no file is called so")
        folder = os.getcwd() if self.is_typed else self._folder()
        if not os.path.isabs(path):
            if folder is None or has_scheme:
                raise RowFault(
                    "policy",
                    f"{path!r} is relative, and only a local manifest has a folder to look in; "
                    f"give {SCHEMES}",
                )
            path = os.path.join(folder, path)
        resolved = os.path.realpath(path)
        roots = [root for root in (folder, *self.roots) if root is not None]
        if not self.is_typed and not any(_is_under(resolved, root) for root in roots):
            raise RowFault(
                "policy",
                f"{path!r} lies at {resolved!r}; local images may lie under "
                f"{', '.join(map(repr, roots)) or 'no folder'} (allow.roots)",
            )
        return Place("file", "", resolved)

    def _folder(self) -> str | None:
        """The manifest's own folder, where it is local; a glob's is what its wildcards share."""
        if self.manifest is None:
            return None
        scheme, found, rest = self.manifest.partition("://")
        if found and scheme.lower() != "file":
            return None
        path = os.path.abspath(os.path.expanduser(rest if found else self.manifest))
        wildcard = _GLOB.search(path)
        if wildcard and not os.path.exists(path):
            return os.path.dirname(path[: wildcard.start()])
        return path if os.path.isdir(path) else os.path.dirname(path)

    def _s3(self, uri: str, rest: str) -> Place:
        bucket, _, key = rest.partition("/")
        url = shown(uri)
        if not bucket or not key:
            raise RowFault("policy", f"{url!r} names no object; give s3://BUCKET/KEY")
        if not _BUCKET.fullmatch(bucket):
            raise RowFault("policy", f"{url!r}: no bucket can be called so")
        if {".", ".."}.intersection(key.split("/")):
            raise RowFault(
                "policy",
                f"{url!r}: a key with a part '.' or '..' is not read; on its way to the store it "
                "could be taken for another",
            )
        if self.buckets is not None and bucket not in self.buckets:
            raise RowFault(
                "policy",
                f"{url!r}: bucket {bucket!r} is not allowed; "
                f"allow.buckets has {_listed(self.buckets)}",
            )
        return Place("s3", bucket, key)

    def _http(self, uri: str) -> Place:
        url = shown(uri)
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise RowFault("policy", f"{url!r} is not a URL") from error
        if "@" in parts.netloc:
            raise RowFault("policy", f"{url!r} holds a user or password; none is ever sent")
        if not host:
            raise RowFault("policy", f"{url!r} names no host")
        if not self.is_typed and host not in {allowed.lower() for allowed in self.hosts}:
            raise RowFault(
                "policy",
                f"{url!r}: host {host!r} is not allowed; allow.hosts has {_listed(self.hosts)}",
            )
        if port is not None and port < _FIRST_FREE_PORT and port not in _OPEN_PORTS:
            raise RowFault(
                "policy", f"{url!r}: port {port} is not asked; allowed are 80, 443 and 1024 or more"
            )
        return Place("http", host, uri)


def check_addresses(host: str, addresses: Sequence[str], exempt: Sequence[Network] = ()) -> None:
    """Refuses a host that resolves to anything but public addresses.

    Args:
        host: for the message.
        addresses: all that the host resolves to; the connection must be made to one of these.
        exempt: networks that count as public; no config can set it.

    Raises:
        RowFault: `policy`.
    """
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if any(address in network for network in exempt):
            continue
        if not _is_public(address):
            raise RowFault(
                "policy",
                f"host {host!r} is at {text}, which is not a public address; "
                "images are not fetched from private, loopback or link-local addresses",
            )


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None:
            return address in _GLOBAL_UNICAST and address.is_global
        address = inner
    is_plain = address.is_global and not address.is_multicast and not address.is_reserved
    return is_plain and not any(address in network for network in _CLOUDS_OWN)


def _is_under(path: str, root: str) -> bool:
    root = os.path.realpath(os.path.expanduser(root))
    return path == root or path.startswith(root.rstrip("/") + "/")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
