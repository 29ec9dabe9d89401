"""Fetches the images that something stale needs, and says what is wrong with the others.

The first stage of a job. It asks no store for an image that no operator has to see, holds a bounded
number of bytes, checks every image to its last byte, and has the operators compute anew what they
computed from other bytes. Threads do the work: it is waiting and decoding, both of which let other
threads run.
"""

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.base import FETCH_STAGE, OnBatch, Operator
from operators.columns import (
    BOOKKEEPING,
    Failure,
    Positions,
    is_due,
    is_stale,
    nulled,
    stamped,
    update,
    with_columns,
    with_errors,
)
from operators.image_limits import PIXEL_LIMIT
from operators.images import verified_bytes, verify
from operators.patience import PATIENCE_SECONDS, Patience
from operators.policy import Policy
from operators.s3_objects import S3Objects
from operators.sources import LocalFiles, Opened, Source
from operators.web import WebPages
from schemas.enriched import (
    DUPLICATE_OF,
    ERROR,
    FETCHED_SCHEMA,
    IMAGE_ENCODED,
    IMAGE_ETAG,
    IMAGE_HEIGHT,
    IMAGE_SHA256,
    IMAGE_SIZE,
    IMAGE_WIDTH,
    IN_FLIGHT_SCHEMA,
    URI,
    key_column,
)
from schemas.errors import RowFault, RowFaults

THREADS = 16
TIMEOUT_SECONDS = 60.0  # for one try of one file
READING_BYTES = 128_000_000  # of files being read and checked, all threads together
TRAVELLING_BYTES = 256_000_000  # of encoded images that leave with a shard
DECODING_BYTES = 64_000_000  # of pixels while images are checked, all threads together
KEY_PATTERN = "^[0-9a-f]{16}$"  # of `operators.base.fingerprint`: no other text is voided


@dataclass(frozen=True)
class Fetched:
    """One image file, checked.

    Args:
        encoded: its bytes; None where the shard has no room for them.
        sha256: of the bytes, hexadecimal.
        width: pixels, after its EXIF orientation.
        height: pixels.
        size: bytes.
        etag: as the store gave it.
    """

    encoded: bytes | None
    sha256: str
    width: int
    height: int
    size: int
    etag: str | None


class Fetcher:
    """Reads `uri`, writes `schemas.enriched.FETCHED_SCHEMA` and, in flight, `image_encoded`.

    Cheap to build and to pickle. Unlike an operator it has no key: it fetches for those that do.

    Args:
        operators: the chain, in order; those that read the image decide which rows are fetched.
        policy: where images may come from.
        retired: key columns of operators that are no longer in the chain; they are voided with
            those of the chain, lest a value of other bytes is taken for good when one comes back.
        image_bytes: the largest file that is read, `limits.image_bytes`.
        pixel_limit: the largest image that is decoded, `limits.image_pixels`.
        threads: files read at once.
        timeout_seconds: for one try of one file.
        patience_seconds: one file is tried again for, after a fault that may pass.
        exempt: networks that http(s) may reach though they are not public; for tests.
    """

    name = FETCH_STAGE
    reads = (URI,)
    writes = FETCHED_SCHEMA

    def __init__(
        self,
        operators: Sequence[Operator],
        policy: Policy,
        *,
        retired: Sequence[str] = (),
        image_bytes: int = 50_000_000,
        pixel_limit: int = PIXEL_LIMIT,
        threads: int = THREADS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        exempt: Sequence[str] = (),
    ) -> None:
        self.policy = policy
        self.image_bytes = image_bytes
        self.pixel_limit = pixel_limit
        self.threads = threads
        self.timeout_seconds = timeout_seconds
        self.patience = Patience(patience_seconds)
        self.keys = {
            key_column(operator.name): operator.key
            for operator in operators
            if IMAGE_ENCODED in operator.reads
        }
        self.dependent_keys = dependent_keys(operators)
        self.retired = tuple(retired)
        networks = [ipaddress.ip_network(network) for network in exempt]
        self._sources: dict[str, Source] = {
            "file": LocalFiles(),
            "s3": S3Objects(connections=threads, timeout_seconds=timeout_seconds),
            "http": WebPages(policy, timeout_seconds=timeout_seconds, exempt=networks),
        }

    def load(self) -> None:
        """Does nothing; a fetcher has no weights."""

    def __call__(self, table: pa.Table, *, on_batch: OnBatch | None = None) -> pa.Table:
        """Fetches the images of the rows that are due, healthy and stale for an operator.

        Args:
            table: a shard, with `uri`; whatever else is absent is made.
            on_batch: told which rows are waited for, each time that one has come.

        Returns:
            The table, in its order. Bytes beyond `TRAVELLING_BYTES` are null in `image_encoded`:
            the operators get them by `fill`. Where an image's sha256 is not the row's, the keys of
            all that was computed from it are null, and so is what it was a duplicate of. A row
            whose image cannot be had carries the error.
        """
        table = self._with_columns(table)
        positions = self._wanted(table)
        uris = table[URI].take(positions).to_pylist()

        def tell(done: int) -> None:
            if on_batch and done < len(positions):
                on_batch(positions[done : done + self.threads])  # they are fetched in this order

        return self._merged(table, positions, self._fetch(uris, tell))

    def fill(self, table: pa.Table) -> pa.Table:
        """Fetches what is null in `image_encoded`; give it to `operators.base.apply` as `fetch`.

        Raises:
            RowFaults: the images that cannot be had, or are not those that were fetched before.
            MemoryError: together they are more than `TRAVELLING_BYTES`; `apply` halves the batch.
        """
        positions = np.flatnonzero(table[IMAGE_ENCODED].is_null().to_numpy()).astype(np.int64)
        uris = table[URI].take(positions).to_pylist()
        digests = [None] * len(uris)
        if IMAGE_SHA256 in table.column_names:
            digests = table[IMAGE_SHA256].take(positions).to_pylist()
        encoded: list[bytes | None] = []
        faults: dict[int, RowFault] = {}
        found = self._fetch(uris)
        for position, digest, item in zip(positions.tolist(), digests, found, strict=True):
            if isinstance(item, Fetched) and digest in (None, item.sha256):
                if item.encoded is None:
                    raise MemoryError("these images do not fit together; take a smaller batch")
                encoded.append(item.encoded)
            elif isinstance(item, RowFault):
                faults[position] = item
            else:
                faults[position] = RowFault(
                    "unavailable", "the image changed while it was being enriched", transient=True
                )
        if faults:
            raise RowFaults(faults)
        return update(table, IMAGE_ENCODED, positions, pa.array(encoded, pa.large_binary()))

    def image(self, uri: str | None) -> Fetched:
        """Fetches one image.

        Raises:
            RowFault: it cannot be had, or is no image.
        """
        found = self._fetch([uri])[0]
        if isinstance(found, Fetched):
            return found
        raise found

    def has_changed(self, uri: str, etag: str) -> bool:
        """Whether an image is another one than when it was fetched with `etag`; reads no image.

        One that cannot be asked for counts as unchanged: what is known of it stays.
        """
        try:
            place = self.policy.place(uri)
            source = self._sources[place.kind]
            return self.patience.ask(place.host, lambda: source.etag(place)) != etag
        except RowFault:
            return False

    @property
    def longest_seconds(self) -> float:
        """That one image may take: two tries around all patience, each to a first byte and on."""
        return self.patience.seconds + 2 * 2 * self.timeout_seconds

    def retries(self) -> Counter[str]:
        """Tries beyond an image's first since this was last called, by the code that failed."""
        return self.patience.counted()

    def _with_columns(self, table: pa.Table) -> pa.Table:
        keys = [pa.field(name, pa.string()) for name in self.dependent_keys]
        encoded = IN_FLIGHT_SCHEMA.field(IMAGE_ENCODED)
        return with_columns(table, (*FETCHED_SCHEMA, encoded, *keys, *BOOKKEEPING))

    def _wanted(self, table: pa.Table) -> Positions:
        """Rows that an operator which sees the image has to compute."""
        is_needed = np.zeros(table.num_rows, np.bool_)
        for name, key in self.keys.items():
            is_needed |= is_stale(table, name, key).to_numpy()
        is_open = pc.and_(is_due(table), pc.is_null(table[ERROR])).to_numpy()
        return np.flatnonzero(is_needed & is_open).astype(np.int64)

    def _fetch(
        self, uris: Sequence[str | None], tell: Callable[[int], object] = lambda done: None
    ) -> list[Fetched | RowFault]:
        """Fetches many, in order; `tell` is told how many have come."""
        if not uris:
            return []
        budgets = _Budgets()
        found: list[Fetched | RowFault] = []
        with ThreadPoolExecutor(min(self.threads, len(uris)), "fetch") as pool:
            for one in pool.map(lambda uri: self._one(uri, budgets), uris):
                found.append(one)
                tell(len(found))
        return found

    def _one(self, uri: str | None, budgets: "_Budgets") -> Fetched | RowFault:
        try:
            place = self.policy.place(uri)
            source = self._sources[place.kind]

            def read() -> Fetched:
                with source.opened(place) as opened:
                    return self._read(opened, budgets)

            return self.patience.ask(place.host, read)
        except RowFault as fault:
            return fault

    def _read(self, opened: Opened, budgets: "_Budgets") -> Fetched:
        """Reads and checks one file, as soon as there is room for it."""
        size = opened.size
        if size is not None and size > self.image_bytes:
            raise self._too_large(f"{size} bytes")
        with budgets.reading.taken(self.image_bytes if size is None else size):
            encoded = opened.read(self.image_bytes)
            if len(encoded) > self.image_bytes:
                raise self._too_large(f"more than {self.image_bytes} bytes")
            if size is not None and len(encoded) < size:
                message = f"the connection ended after {len(encoded)} of {size} bytes"
                raise RowFault("unavailable", message, transient=True)
            with budgets.decoding.taken(verified_bytes(encoded, pixel_limit=self.pixel_limit)):
                width, height = verify(encoded, pixel_limit=self.pixel_limit)
            digest = hashlib.sha256(encoded).hexdigest()
            travels = encoded if budgets.travelling.kept(len(encoded)) else None
        return Fetched(travels, digest, width, height, len(encoded), opened.etag)

    def _too_large(self, found: str) -> RowFault:
        return RowFault(
            "too_large",
            f"the file has {found}; at most {self.image_bytes} are allowed (limits.image_bytes)",
        )

    def _merged(
        self, table: pa.Table, positions: Positions, found: list[Fetched | RowFault]
    ) -> pa.Table:
        """Writes what was fetched and what failed."""
        images = {
            int(position): item
            for position, item in zip(positions, found, strict=True)
            if isinstance(item, Fetched)
        }
        at = np.array(list(images), np.int64)
        made = _fetched_table(list(images.values()))
        is_other = np.zeros(table.num_rows, np.bool_)
        known = table[IMAGE_SHA256].take(at)
        is_other[at] = pc.fill_null(pc.not_equal(known, made[IMAGE_SHA256]), True).to_numpy()
        for name in made.column_names:
            table = update(table, name, at, made[name])
        failures = {
            int(position): Failure(FETCH_STAGE, item)
            for position, item in zip(positions, found, strict=True)
            if isinstance(item, RowFault)
        }
        has_failed = np.zeros(table.num_rows, np.bool_)
        has_failed[list(failures)] = True
        table = nulled(table, made.column_names, has_failed)
        table = nulled(table, self.dependent_keys, is_other)
        if DUPLICATE_OF in table.column_names:
            table = nulled(table, [DUPLICATE_OF], is_other)
        for name in self.retired:
            is_key = pc.match_substring_regex(table[name], KEY_PATTERN)
            table = nulled(table, [name], is_other & pc.fill_null(is_key, False).to_numpy())
        return stamped(with_errors(table, failures), np.array(sorted(failures), np.int64))


def dependent_keys(operators: Sequence[Operator]) -> tuple[str, ...]:
    """Names the keys of all that is computed from the image, straight or through other columns."""
    from_image = {IMAGE_ENCODED, *FETCHED_SCHEMA.names}
    keys = []
    for operator in operators:
        if from_image.intersection(operator.reads):
            keys.append(key_column(operator.name))
            from_image.update(operator.writes.names)
    return tuple(keys)


class _Budget:
    """So many bytes for all threads together; a larger wish waits until it has them alone."""

    def __init__(self, total: int) -> None:
        self.total = self.left = total
        self.changed = Condition()

    @contextmanager
    def taken(self, wanted: int) -> Iterator[None]:
        wanted = min(wanted, self.total)
        with self.changed:
            self.changed.wait_for(lambda: self.left >= wanted)
            self.left -= wanted
        try:
            yield
        finally:
            with self.changed:
                self.left += wanted
                self.changed.notify_all()

    def kept(self, wanted: int) -> bool:
        """Takes bytes for good; False when there is no room, which the first wish always has."""
        with self.changed:
            if wanted > self.left and self.left < self.total:
                return False
            self.left -= wanted
            return True


class _Budgets:
    """The memory that fetching one shard may take."""

    def __init__(self) -> None:
        self.reading = _Budget(READING_BYTES)
        self.decoding = _Budget(DECODING_BYTES)
        self.travelling = _Budget(TRAVELLING_BYTES)


def _fetched_table(images: Sequence[Fetched]) -> pa.Table:
    schema = pa.schema([*FETCHED_SCHEMA, IN_FLIGHT_SCHEMA.field(IMAGE_ENCODED)])
    columns = {
        IMAGE_SHA256: [image.sha256 for image in images],
        IMAGE_WIDTH: [image.width for image in images],
        IMAGE_HEIGHT: [image.height for image in images],
        IMAGE_SIZE: [image.size for image in images],
        IMAGE_ETAG: [image.etag for image in images],
        IMAGE_ENCODED: [image.encoded for image in images],
    }
    return pa.table(columns, schema=schema)
