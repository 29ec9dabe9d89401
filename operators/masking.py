"""What of addresses and secrets may be shown: one rule for rows, logs, messages and reports."""

import os
import re

HIDDEN = "***"
SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|KEY")
NO_SECRET_NAME = re.compile(r"_(ID|FILE|PATH|URI|URL|MODE)$")  # says where a secret is, or whose
SECRET_LEAST = 8  # characters; a shorter value may be any word
_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>\\]+")
_AUTHORITY = re.compile(r"([^/?#\\]*)(.*)", re.DOTALL)
_SIGNED = re.compile(
    r"(?i)\b((?:X-Amz-)?(?:Signature|Credential|Security-Token)|sig|token)=[^&\s'\"\\]+"
)


def shown(uri: str) -> str:
    """A uri without its user and password, and without the query of a URL.

    A query may be a signature that lets in whoever reads it.
    """
    scheme, found, rest = uri.partition("://")
    if not found:
        return uri
    authority, path = _AUTHORITY.match(rest).groups()  # type: ignore[union-attr]  # matches anything
    host = authority.rpartition("@")[2]
    if scheme.lower() in ("s3", "file"):  # whose names may hold any sign
        return f"{scheme}://{host if ':' in authority else authority}{path}"
    port = host.rpartition("]")[2].partition(":")[2]
    if port and not port.isdecimal():
        return f"{scheme}://…"  # a password with a slash in it
    path, has_query, _ = path.partition("?")
    path, has_fragment, _ = path.partition("#")
    return f"{scheme}://{host}{path}{'?…' if has_query else '#…' if has_fragment else ''}"


def without_secrets(text: str) -> str:
    """A text with its addresses as `shown`, without signatures and the environment's secrets."""
    for name, values in os.environ.items():
        if SECRET_NAME.search(name) and not NO_SECRET_NAME.search(name):
            for value in values.split(","):
                text = text.replace(value, HIDDEN) if len(value) >= SECRET_LEAST else text
    return _SIGNED.sub(rf"\1={HIDDEN}", _URL.sub(lambda found: _shown_in_text(found[0]), text))


def _shown_in_text(found: str) -> str:
    """An address as `shown`, with the marks of the sentence that it stands in after it."""
    marks = ".,;:)" if "[" in found else ".,;:)]"  # an IPv6 host ends in a bracket of its own
    address = found.rstrip(marks)
    return shown(address) + found[len(address) :]
