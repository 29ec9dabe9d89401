"""The rows that a fine-tuning learns from: read, checked, and their images looked at once.

Every image is fetched and checked before the first step, so that bad ones are left out, counted and
listed, the batches of a run are fixed by its seed, and a picture that is in both splits is found
even under two names.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from jobs import storage
from jobs.training_formats import read_format
from operators.fetcher import Fetcher
from operators.policy import Policy
from schemas.config import nearest
from schemas.enriched import IMAGE_ID, IMAGE_SHA256, URI
from schemas.errors import ManifestError, RowFault
from schemas.finetune import LABELS, LABELS_OF_SNLI, DataConfig, FinetuneConfig
from schemas.manifest_files import stored_tables

PLACE = "place"  # where an image lies, spelled in one way
THREADS = 16
SHOWN = 3  # examples in a message
LOOKED_AT = pa.schema(
    [(name, pa.string()) for name in (PLACE, URI, IMAGE_SHA256, "code", "message")]
)


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Args:
        name: `train` or `validation`.
        table: `uri`, `place`, `image_id` (null where the files have none) and the targets; None
            where only the policy matters.
        policy: where its images may come from.
    """

    name: str
    table: pa.Table
    policy: Policy


def read_splits(config: FinetuneConfig) -> dict[str, Split]:
    """Reads the rows of both splits; no image is asked for.

    Raises:
        ManifestError: a split cannot be read, lacks a column, is empty, or has a row without target
            or with a label that there is not; or the splits share an image by id or place.
    """
    splits = {"train": _read_split("train", config.train, config)}
    if config.validation:
        splits["validation"] = _read_split("validation", config.validation, config)
        if not config.allow_overlap:
            for column in (IMAGE_ID, PLACE):
                _refuse_overlap(splits["train"].table, splits["validation"].table, column)
    return splits


def fetcher_of(config: FinetuneConfig, split: Split) -> Fetcher:
    """What fetches a split's images, within the config's limits."""
    return Fetcher(
        [],
        split.policy,
        image_bytes=int(config.limits.image_bytes),
        pixel_limit=config.limits.image_pixels,
    )


def images_of(split: Split) -> pa.Table:
    """The distinct images of a split: `place` and `uri`, in order of their first row."""
    firsts = split.table.select([PLACE, URI]).group_by([PLACE], use_threads=False)
    found = firsts.aggregate([(URI, "first")])
    return pa.table({PLACE: found[PLACE], URI: found[f"{URI}_first"]})


def look_at(images: pa.Table, fetcher: Fetcher) -> pa.Table:
    """Fetches and checks images.

    Args:
        images: as `images_of` gives them.
        fetcher: of their split.

    Returns:
        `LOOKED_AT`: the digest of each image, or the code and message of its fault.
    """

    def look(uri: str) -> tuple[str | None, str | None, str | None]:
        try:
            return fetcher.image(uri).sha256, None, None
        except RowFault as fault:
            return None, fault.code, fault.message

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(look, images[URI].to_pylist()))
    columns = [list(column) for column in zip(*found, strict=True)] or [[], [], []]
    return pa.table([images[PLACE], images[URI], *columns], schema=LOOKED_AT)


def refuse_same_pictures(seen: Mapping[str, pa.Table]) -> None:
    """Checks that no picture is in both splits under two names.

    Raises:
        ManifestError: names the first ones.
    """
    if "validation" in seen:
        _refuse_overlap(seen["train"], seen["validation"], IMAGE_SHA256, shown=URI)


def healthy_rows(split: Split, seen: pa.Table) -> pa.Table:
    """The rows of a split whose image was found good, with its `image_sha256`.

    Raises:
        ManifestError: there is none.
    """
    good = seen.filter(pc.is_valid(seen[IMAGE_SHA256]))
    digests = dict(zip(good[PLACE].to_pylist(), good[IMAGE_SHA256].to_pylist(), strict=True))
    places = split.table[PLACE].to_pylist()
    column = pa.array([digests.get(place) for place in places], pa.string())
    table = split.table.append_column(IMAGE_SHA256, column).filter(pc.is_valid(column))
    if not table.num_rows:
        raise ManifestError(f"{split.name}: none of its images can be used; see the list of them")
    return table


def digest_of(tables: Iterable[pa.Table]) -> str:
    """A sha256 over what is learned from: each row's picture and targets, in order."""
    whole = hashlib.sha256()
    for table in tables:
        kept = [name for name in table.column_names if name not in (URI, PLACE, IMAGE_ID)]
        for batch in table.select(sorted(kept)).to_batches():
            for row in batch.to_pylist():
                whole.update(json.dumps(row, sort_keys=True).encode())
        whole.update(b"\n")
    return whole.hexdigest()


def _read_split(name: str, data: DataConfig, config: FinetuneConfig) -> Split:
    allow = config.allow
    unpacked = Path(config.output).absolute() / "_training" / "images" / name
    own = str(unpacked) if data.format == "chinese_clip" else data.images or ""
    policy = Policy(
        manifest=storage.normalise(data.path),
        buckets=allow.buckets,
        roots=tuple(os.path.abspath(root) for root in (*allow.roots, own) if _is_local(root)),
        hosts=allow.hosts,
    )
    tables = [
        _checked(path, table, columns, config)
        for path, table in _files(data, unpacked)
        for columns in data.readings()
    ]
    table = pa.concat_tables(tables) if tables else pa.table({})
    if not table.num_rows:
        raise ManifestError(f"{name}: {data.path} has no rows; there is nothing to learn from")
    places = pa.array([_place(policy, uri) for uri in table[URI].to_pylist()], pa.string())
    return Split(name, table.append_column(PLACE, places), policy)


def _is_local(folder: str) -> bool:
    return bool(folder) and "://" not in folder


def _place(policy: Policy, uri: str | None) -> str:
    """One spelling for one place; what is not allowed keeps its own and fails when looked at."""
    try:
        place = policy.place(uri)
    except RowFault:
        return f"refused {uri}"
    return f"{place.kind} {place.host} {place.path}"


def _files(data: DataConfig, unpacked: Path) -> Iterator[tuple[str, pa.Table]]:
    """The files of a split, as they are."""
    if data.format != "manifest":
        yield data.path, read_format(data, unpacked)
        return
    path = storage.normalise(data.path)
    yield from stored_tables(path, storage.filesystem(path))


def _checked(
    path: str, table: pa.Table, named: Mapping[str, str], config: FinetuneConfig
) -> pa.Table:
    """The columns that are learned from, as text, under our names."""
    columns: dict[str, pa.Array] = {}
    for name in (URI, *config.targets):
        theirs = named.get(name, name)
        if theirs not in table.column_names:
            raise ManifestError(
                f"{path}: no column {theirs!r}; {nearest(theirs, table.column_names)}; map one "
                f"with columns: {{{name}: …}}"
            )
        columns[name] = _texts(path, name, table[theirs])
    if "label" in columns:
        columns["label"] = _labels(path, columns["label"].to_pylist())
    theirs = named.get(IMAGE_ID, IMAGE_ID)
    ids = table[theirs].cast(pa.string()) if theirs in table.column_names else None
    columns[IMAGE_ID] = pa.nulls(table.num_rows, pa.string()) if ids is None else ids
    return pa.table(columns)


def _texts(path: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    if not is_text:
        raise ManifestError(f"{path}: {name!r} is {kind}; it must be text")
    texts = column.cast(pa.string())
    is_bad = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
    if name != URI and pc.any(is_bad).as_py():
        row = pc.index(is_bad, True).as_py()
        raise ManifestError(
            f"{path}: {name!r} is {texts[row].as_py()!r} in row {row + 1}; every row needs one"
        )
    return texts


def _labels(path: str, labels: Sequence[str]) -> pa.Array:
    known = {label: label for label in LABELS} | LABELS_OF_SNLI
    for row, label in enumerate(labels):
        if label not in known:
            raise ManifestError(
                f"{path}: the label is {label!r} in row {row + 1}; it may be "
                f"{', '.join(map(repr, known))}"
            )
    return pa.array([known[label] for label in labels], pa.string())


def _refuse_overlap(
    train: pa.Table, validation: pa.Table, column: str, *, shown: str = URI
) -> None:
    known = set(train[column].to_pylist()) - {None}
    shared = [
        name
        for name, value in zip(validation[shown].to_pylist(), validation[column], strict=True)
        if value.as_py() in known
    ]
    if shared:
        shared = list(dict.fromkeys(shared))
        same = {IMAGE_ID: "by image_id", PLACE: "by uri", IMAGE_SHA256: "by content"}[column]
        raise ManifestError(
            f"validation: {len(shared)} of its images are in train too ({same}), such as "
            f"{', '.join(map(repr, shared[:SHOWN]))}; what is learned cannot be judged by them: "
            "take them out of one split, or say allow_overlap: true"
        )
