"""Where the files of a manifest are: a file, a folder or a glob, in any store."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from botocore.exceptions import BotoCoreError

from schemas.errors import ManifestError

Format = Literal["parquet", "csv", "jsonl"]
FORMATS: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
COMPRESSIONS = (".gz", ".zst", ".bz2")  # of CSV and JSONL
GLOB_SIGNS = frozenset("*?[")
STORE_ERRORS = (OSError, BotoCoreError)  # what a store answers, or that it does not


def find_files(path: str, filesystem: Any) -> dict[str, Any]:
    """The files meant by a path, by their inner name, sorted; hidden ones and `_…` left out."""
    inner = path.partition("://")[2] if "://" in path else path
    try:
        if filesystem.isfile(inner):
            return {inner: filesystem.info(inner)}
        if GLOB_SIGNS & set(inner):
            found = filesystem.glob(inner, detail=True)
            found = {name: info for name, info in found.items() if info["type"] == "file"}
        else:
            found = _visible(inner, filesystem.find(inner, detail=True))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ManifestError(f"{path}: no such manifest; give a file, a folder or a glob") from error
    except ValueError as error:
        raise ManifestError(
            f"{path}: cannot be listed: {error}; give a file, a folder or a glob"
        ) from error
    except STORE_ERRORS as error:
        raise ManifestError(f"{path}: the manifest cannot be listed: {error}") from error
    known = {name: info for name, info in sorted(found.items()) if format_of(name)}
    if not known:
        there = f"it holds {', '.join(sorted(found)[:3])}" if found else "nothing is there"
        raise ManifestError(f"{path}: no manifest file, {there}; files end in {', '.join(FORMATS)}")
    return known


def _visible(folder: str, found: dict[str, Any]) -> dict[str, Any]:
    def is_visible(name: str) -> bool:
        below = name.removeprefix(folder).strip("/").split("/")
        return not any(part.startswith(("_", ".")) for part in below)

    return {name: info for name, info in found.items() if is_visible(name)}


def format_of(name: str) -> Format | None:
    """Which format a file's name tells; None when it tells none."""
    base = name.rpartition("/")[2].lower()
    for compression in COMPRESSIONS:
        if base.endswith(compression):
            base = base.removesuffix(compression)
            break
    for ending, kind in FORMATS.items():
        if base.endswith(ending):
            return kind
    return None


def check_one_format(path: str, formats: Sequence[Format | None]) -> None:
    """Raises ManifestError when files are of no known format or of several."""
    if None in formats:
        raise ManifestError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    if len(set(formats)) > 1:
        kinds = ", ".join(sorted({str(kind) for kind in formats}))
        raise ManifestError(f"{path}: mixes {kinds}; give a glob that matches one of them")
