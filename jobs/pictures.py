"""The pictures of an enriched table, fetched again: by the fetcher's code, under the job's policy.

`enrich` notes in `_tagline/images.json` where the images of a table may come from, since a table
has no config of its own.
"""

import base64
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jobs import storage
from operators.fetcher import Fetched, Fetcher
from operators.images import decode
from operators.policy import Policy
from schemas.errors import ConfigError, RowFault

THREADS = 8
TIMEOUT_SECONDS = 20.0
PATIENCE_SECONDS = 1.0
THUMBNAIL_PIXELS = 220  # of the longer side
THUMBNAIL_QUALITY = 78  # of JPEG


def record_policy(table: str, policy: Policy) -> None:
    """Notes where the images of a table may come from, with absolute paths."""
    made = asdict(policy)
    if policy.manifest is not None:
        made["manifest"] = storage.normalise(policy.manifest)
    made["roots"] = [storage.normalise(root) for root in policy.roots]
    storage.write_bytes(_path(table), json.dumps(made, indent=1).encode())


def read_policy(table: str, images: str | None) -> Policy:
    """Where the images of a table may come from.

    Args:
        table: its path.
        images: a local folder that takes the place of the manifest's own.

    Raises:
        ConfigError: the folder is not there.
    """
    data = storage.read_bytes(_path(table))
    noted: dict[str, Any] = json.loads(data) if data else {}
    policy = Policy(
        manifest=noted.get("manifest"),
        buckets=None if noted.get("buckets") is None else tuple(noted["buckets"]),
        roots=tuple(noted.get("roots", ())),
        hosts=tuple(noted.get("hosts", ())),
    )
    if images is None:
        return policy
    if not Path(images).is_dir():
        raise ConfigError(f"--images {images!r}: no such folder; give the one the images lie under")
    return replace(policy, manifest=storage.normalise(images))


def fetcher_of(policy: Policy) -> Fetcher:
    """What fetches pictures to be looked at or copied; it waits for no store for long."""
    return Fetcher([], policy, timeout_seconds=TIMEOUT_SECONDS, patience_seconds=PATIENCE_SECONDS)


def fetch_all(fetcher: Fetcher, uris: Sequence[str | None]) -> list[Fetched | RowFault]:
    """Fetches many at once, in order."""

    def fetch(uri: str | None) -> Fetched | RowFault:
        try:
            return fetcher.image(uri)
        except RowFault as fault:
            return fault

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(fetch, uris))


def thumbnails(fetcher: Fetcher, uris: Sequence[str | None]) -> list[str | RowFault]:
    """Fetches small pictures as data URLs, in order."""

    def fetch(uri: str | None) -> str | RowFault:
        try:
            return thumbnail(fetcher.image(uri).encoded or b"")
        except RowFault as fault:
            return fault

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(fetch, uris))


def thumbnail(encoded: bytes) -> str:
    """Makes a small JPEG of an image file, as a data URL.

    Raises:
        RowFault: as `decode` does.
    """
    image = decode(encoded)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    small = io.BytesIO()
    image.save(small, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(small.getvalue()).decode()


def _path(table: str) -> str:
    return storage.join(table, "_tagline", "images.json")
