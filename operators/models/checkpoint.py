"""Model directories: where one lies, and its weights, read so that nothing in it is executed.

Weights are `model.safetensors` or `pytorch_model.bin`; the latter is unpickled with `weights_only`,
which refuses code. `operators.models.directory` tells what a directory holds.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.models import pins, s3_copies
from operators.models.pickled import read_pickle
from schemas.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDED = Path(__file__).parents[1] / "embedded"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
RECORD = "tagline.json"  # of where a directory came from; see operators.models.hub
TRAINING_RECORD = "training.json"  # of how the weights were made
HUBS = pins.HUBS
CONFIGURATIONS = ("configuration.json", "config.json")
SUFFIXES = (".json", ".txt", ".yaml", ".bin", ".safetensors")  # decide what is computed
WRAPPERS = ("state_dict", "model", "module")  # keys under which training scripts put a state dict
JSON_BYTES = 100_000_000  # of a configuration; published ones are under 1 MB
MOST_BYTES = {".json": JSON_BYTES, ".txt": 20_000_000, ".yaml": 1_000_000}  # of a small file
HEADER_BYTES = 16_000_000  # of safetensors: 100,000 tensors
SHOWN = 8  # names listed of each kind of fault


def resolve(model: str | Path) -> Path:
    """Finds the local directory of a model, fetching it when it lies elsewhere.

    Args:
        model: a directory, `embedded:NAME`, `s3://…`, a ModelScope id `damo/…` or `iic/…`, or
            `hf://owner/name`; ids may end in `@revision`.

    Raises:
        ModelError: there is no such directory, or a lock has it otherwise; see `pins`.
    """
    directory = find(model)
    pins.check(str(model), directory, digest)
    return directory


def find(model: str | Path) -> Path:
    """Finds a directory as `resolve` does, whatever a lock says: to look at, not to use."""
    name = str(model)
    if name.startswith("embedded:"):
        return _embedded(name.removeprefix("embedded:"))
    if name.startswith("s3://"):
        return s3_copies.fetch(name, cache_folder() / "models")
    if name and Path(name).is_dir():
        return Path(name)
    if name.startswith(HUBS):
        from operators.models import hub

        return hub.pull(name)
    raise ModelError(
        f"model {name!r}: no such directory; a model is a local or s3:// directory, a ModelScope "
        "id such as 'damo/ofa_image-caption_coco_distilled_en', 'hf://owner/name' or "
        "'embedded:NAME'"
    )


def find_again(model: str | Path, directory: Path, weights: str) -> Path:
    """Finds, on the machine that computes, the directory an operator was built with on another.

    Args:
        model: as given to `resolve`.
        directory: where it was when the operator was built.
        weights: its digest then.

    Raises:
        ModelError: it is not here, or holds something else than then.
    """
    here = directory if directory.is_dir() else resolve(model)
    if digest(here) != weights:
        raise ModelError(
            f"{here}: not what it was when the run was planned; its files were changed or differ "
            "between machines; run the command again"
        )
    return here


def cache_folder() -> Path:
    """Where fetched models and digests are kept: `TAGLINE_CACHE`, else `~/.cache/tagline`."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tagline"
    return Path(os.environ.get("TAGLINE_CACHE") or default)


def check_sizes(directory: Path) -> None:
    """Checks that what will be read as a whole is small: configurations and vocabularies.

    Raises:
        ModelError: a file is too large.
    """
    for path in sorted(directory.iterdir()):
        most = MOST_BYTES.get(path.suffix)
        if most and path.is_file() and path.stat().st_size > most:
            raise ModelError(f"{path}: more than {most} bytes; fetch the model again")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ModelError: the file is missing, not JSON, or not an object.
    """
    if path.is_file() and path.stat().st_size > JSON_BYTES:
        raise ModelError(f"{path}: more than {JSON_BYTES} bytes; fetch the model again")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path}: no such file; is {str(path.parent)!r} a model directory?"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON ({error}); fetch the model again") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error}); fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelError(
            f"{path}: holds a {type(value).__name__}, not an object; fetch the model again"
        )
    return value


def write_json(path: Path, value: object) -> None:
    """Writes a value for people to read; replaces the file that was there in one move."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def digest(directory: Path) -> str:
    """Names what a model directory holds: a sha256 over the files that decide what it computes.

    The digest of each file is cached by path, size and time of change: asking again reads nothing.
    """
    whole = hashlib.sha256()
    for name, value in file_digests(directory).items():
        whole.update(f"{name} {value}\n".encode())
    return whole.hexdigest()


def file_digests(directory: Path) -> dict[str, str]:
    """The sha256 of each file that decides what is computed, by name; cached as `digest` says."""
    files = sorted(
        path
        for path in directory.iterdir()
        if path.suffix in SUFFIXES and path.name not in (RECORD, TRAINING_RECORD) and path.is_file()
    )
    cache = _DigestCache(cache_folder() / "digests.json")
    found = {path.name: cache.digest(path) for path in files}
    cache.save()
    return found


def weights_file(directory: Path) -> Path:
    """Finds the file of a directory that holds its weights.

    Raises:
        ModelError: there is none.
    """
    for name in WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    raise ModelError(
        f"{directory}: no weights; it should hold {' or '.join(WEIGHT_FILES)}; fetch it again"
    )


def load_state_dict(path: Path, *, is_mapped: bool = False) -> dict[str, "Tensor"]:
    """Reads the tensors of a directory, or of one file of weights.

    Args:
        path: of either.
        is_mapped: leaves the values in the file until they are used, where its format allows it;
            copy them, for they change with the file.

    Returns:
        tensors on the CPU in the file's precision; tied ones share memory.

    Raises:
        ModelError: no weights, a damaged file, or one that holds code; nothing of it was executed.
    """
    file = weights_file(path) if path.is_dir() else path
    is_safe = file.suffix == ".safetensors"
    state = _read_safetensors(file) if is_safe else read_pickle(file, is_mapped=is_mapped)
    for key in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    return _only_tensors(state, file)


def check_strict(
    expected: Mapping[str, "Tensor"],
    found: Mapping[str, "Tensor"],
    *,
    source: Path,
    optional: Collection[str] = (),
) -> None:
    """Checks that a checkpoint has exactly the tensors of a net.

    Args:
        expected: the net's `state_dict()`.
        found: the checkpoint's.
        source: for the message.
        optional: names that may be absent, or present and ignored.

    Raises:
        ModelError: lists what is missing, left over and misshapen.
    """
    missing = [name for name in expected if name not in found and name not in optional]
    left_over = [name for name in found if name not in expected and name not in optional]
    misshapen = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    faults = {"missing": missing, "left over": left_over, "misshapen": misshapen}
    if any(faults.values()):
        lines = [
            f"  {len(names)} {kind}: {_shorten(names)}" for kind, names in faults.items() if names
        ]
        told = "\n".join(lines)
        raise ModelError(
            f"{source}: the weights do not fit the net that its configuration describes\n{told}\n"
            "  the two files belong to different models, or the checkpoint was cut; fetch it again"
        )


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _embedded(name: str) -> Path:
    directory = EMBEDDED / name
    if name and any((directory / file).is_file() for file in CONFIGURATIONS):
        return directory
    there = sorted({path.parent.name for path in EMBEDDED.glob("*/config*.json")})
    raise ModelError(f"model 'embedded:{name}': the project ships {', '.join(there) or 'no model'}")


def _read_safetensors(file: Path) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        if header > HEADER_BYTES:
            raise ModelError(f"{file}: a header of {header} bytes; at most {HEADER_BYTES} are read")
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: damaged or cut short ({error}); fetch it again") from error


def _is_blown_up(tensor: "Tensor") -> bool:
    """Whether few stored values stand for many: a view that a copy would make large."""
    import torch

    if tensor.layout is not torch.strided:
        return True
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _only_tensors(state: object, file: Path) -> dict[str, "Tensor"]:
    import torch

    if not isinstance(state, Mapping):
        raise ModelError(f"{file}: holds a {type(state).__name__}, not a dictionary of tensors")
    others = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ModelError(f"{file}: holds what are no tensors: {_shorten(others)}")
    blown = [str(name) for name, value in state.items() if _is_blown_up(value)]
    if blown:
        raise ModelError(f"{file}: holds tensors larger than their values: {_shorten(blown)}")
    return {str(name): value for name, value in state.items()}


class _DigestCache:
    """sha256 of files, kept on disk under path, size and time of change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.added = False
        try:
            self.known: dict[str, str] = json.loads(path.read_text())
        except (OSError, ValueError):
            self.known = {}

    def digest(self, file: Path) -> str:
        status = file.stat()
        key = f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"
        if key not in self.known:
            with file.open("rb") as stream:
                self.known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
            self.added = True
        return self.known[key]

    def save(self) -> None:
        if not self.added:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
                json.dump(self.known, file)
            Path(file.name).replace(self.path)
        except OSError:
            return  # a cache that cannot be written costs time only
