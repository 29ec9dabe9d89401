"""`tagline models`: the known models, what a directory holds, whether it is whole; fetches one.

tagline models list
tagline models pull damo/ofa_image-caption_coco_distilled_en@v1.0.1
tagline models inspect DIR
tagline models verify DIR
tagline models lock CONFIG
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from operators.models import checkpoint, hub, pins
from operators.models.directory import Content, identify
from operators.models.hub_clients import parse_id
from operators.models.published import PUBLISHED
from schemas.documents import read_document
from schemas.errors import ConfigError, ModelError, TaglineError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="DIR",
        help="A model directory; also `embedded:NAME`, `s3://…`, or an id that is in the cache.",
    ),
]

TABLE_WIDTH = 220  # characters

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The known models; fetch, inspect and verify one.",
)


def list_models() -> list[dict[str, Any]]:
    """Describes the five published models, each with where the cache holds it, if it does."""
    return [
        asdict(model)
        | {
            "cached": [str(path) for path in _cached(model.id) if _is_complete(path)],
        }
        for model in PUBLISHED
    ]


def inspect(model: str | Path) -> dict[str, Any]:
    """Tells what a model directory holds, from its small files and the sizes of the others.

    Raises:
        ModelError: there is no such directory, or no operator takes what it holds.
    """
    directory = find_local(model)
    content = identify(directory)
    sizes, parameters = _measure(directory, content)
    return {
        "directory": str(directory),
        "task": content.task,
        "operator": content.operator,
        "architecture": content.architecture,
        "layout": content.layout,
        "sizes": sizes,
        "parameters": parameters,
        "files": {
            path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.is_file()
        },
        "digest": checkpoint.digest(directory),
        "record": hub.read_record(directory),
    }


def verify(model: str | Path) -> dict[str, Any]:
    """Checks the recorded digests of a directory, then loads it as its operator would.

    Returns:
        `directory`, `operator`, `checked` (some of `digests` and `tensors`), `is_whole`, and
        `faults`: one line each, empty when whole.

    Raises:
        ModelError: there is no such directory, or it holds no model of a known kind.
    """
    directory = find_local(model)
    checked, faults = [], []
    record = hub.read_record(directory)
    if record:
        checked.append("digests")
        faults += hub.check_record(directory, record)
    content = None
    try:
        content = identify(directory)
        checked.append("tensors")
        _load(directory, content)
    except TaglineError as error:
        if not record and content is None:
            raise
        faults.append(str(error))
    return {
        "directory": str(directory),
        "operator": content.operator if content else None,
        "checked": checked,
        "is_whole": not faults,
        "faults": faults,
    }


def lock(config: Path, *, to: Path | None = None) -> dict[str, Any]:
    """Writes the lock of the models that a config names, of a job, a server or a training.

    Args:
        config: a YAML file; models that are not here are fetched.
        to: another place than `models.lock` beside it.

    Returns:
        `path` of the lock, and `models`: their digests by name.

    Raises:
        ConfigError: the config names no model, or the lock cannot be written.
        ModelError: a model cannot be found.
    """
    document = read_document(config)
    names = pins.models_of(document) if isinstance(document, dict) else []
    if not names:
        raise ConfigError(f"{config}: names no model")
    path = to or Path(config).parent / pins.LOCK
    digests = {name: checkpoint.digest(find_local(name, may_fetch=True)) for name in names}
    try:
        checkpoint.write_json(path, digests)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error})") from error
    return {"path": str(path), "models": digests}


def pull(model: str, *, to: Path | None = None) -> dict[str, Any]:
    """Fetches a model from its hub, or brings a fetched one up to date.

    Returns:
        `directory` and its record: `id`, `commit`, `fetched_at`, `digest`, `files`.

    Raises:
        ModelError: see `operators.models.hub.pull`.
    """
    directory = hub.pull(model, to=to, refresh=True)
    return {"directory": str(directory), **(hub.read_record(directory) or {})}


@app.command("list")
def list_command(json_: Json = False) -> None:
    """List the published models: id, task, operator, parameters and size.

    Sizes are of the weights, reckoned in float32.
    """
    models = list_models()
    if json_:
        _print_json(models)
        return
    table = Table("id", "task", "operator", "parameters", "size", "cached", "figures", box=None)
    for model in models:
        table.add_row(
            model["id"] + (f"@{model['revision']}" if model["revision"] else ""),
            model["task"],
            model["operator"],
            f"{model['parameters'] / 1e6:,.1f} M",
            f"~{_bytes(model['size_bytes'])}",
            "yes" if model["cached"] else "no",
            model["source"],
        )
    _console().print(table)


@app.command("inspect")
def inspect_command(model: Model, json_: Json = False) -> None:
    """Tell what a model directory holds: task, operator, sizes, parameters, files, digest."""
    found = inspect(model)
    if json_:
        _print_json(found)
        return
    table = Table(show_header=False, box=None)
    for name in ("directory", "task", "operator", "architecture", "layout"):
        table.add_row(name, str(found[name]))
    table.add_row("parameters", f"{found['parameters']:,}")
    table.add_row("sizes", "\n".join(f"{name} {value}" for name, value in found["sizes"].items()))
    table.add_row("files", "\n".join(f"{n} ({_bytes(s)})" for n, s in found["files"].items()))
    table.add_row("digest", found["digest"])
    record = found["record"]
    table.add_row("fetched", f"{record['id']}" if record else "not by tagline")
    _console().print(table)


@app.command("verify")
def verify_command(model: Model, json_: Json = False) -> None:
    """Check a directory's recorded digests and load it strictly.

    Exit 1 when it is damaged, 2 when it holds no model that tagline knows. JSON: `{"directory",
    "operator","checked","is_whole","faults"}`.
    """
    found = verify(model)
    if json_:
        _print_json(found)
    elif found["is_whole"]:
        typer.echo(f"{found['directory']}: whole; checked its {' and '.join(found['checked'])}")
    else:
        typer.echo(f"{found['directory']}: damaged")
        for fault in found["faults"]:
            typer.echo(f"- {fault}")
    if not found["is_whole"]:
        raise SystemExit(1)  # typer.Exit would be lost where this app is a part of another


@app.command("pull")
def pull_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="ID[@REVISION]",
            help="`owner/name` of ModelScope, or `hf://owner/name` of Hugging Face.",
        ),
    ],
    to: Annotated[
        Path | None, typer.Option(help="Directory to fetch into, instead of the cache.")
    ] = None,
    json_: Json = False,
) -> None:
    """Fetch a model; run again to go on after an interruption, or to bring it up to date.

    It goes to ~/.cache/tagline/models unless --to or TAGLINE_CACHE says otherwise. Its digests are
    recorded in tagline.json beside the weights. HF_ENDPOINT and MODELSCOPE_ENDPOINT name other
    servers.
    """
    found = pull(model, to=to)
    if json_:
        _print_json(found)
    else:
        typer.echo(f"{found['id']}: {len(found['files'])} files in {found['directory']}")


@app.command("lock")
def lock_command(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A job's, a server's or a training's config.")
    ],
    to: Annotated[
        Path | None, typer.Option(help="Where to, instead of models.lock beside the config.")
    ] = None,
    json_: Json = False,
) -> None:
    """Write models.lock: the digest of every model that a config names.

    From then on `plan`, `enrich`, `retry` and `serve` of a config in that folder refuse a model
    whose files are others, and one that is not in the lock. Any command does where
    TAGLINE_MODELS_LOCK names the file. JSON: `{"path","models"}`.
    """
    found = lock(config, to=to)
    if json_:
        _print_json(found)
        return
    for name, digest in found["models"].items():
        typer.echo(f"{name}: {digest[:16]}…")
    typer.echo(f"written to {found['path']}")


def find_local(model: str | Path, *, may_fetch: bool = False) -> Path:
    """Finds a directory, without fetching a model from a hub unless that is asked for."""
    name = str(model)
    if name.startswith(checkpoint.HUBS) and not Path(name).is_dir():
        folder = hub.pull(name) if may_fetch else parse_id(name).cached
        if not folder.is_dir():
            raise ModelError(f"model {name!r}: not in {folder}; run `tagline models pull {name}`")
        return folder
    return checkpoint.find(model)


def _load(directory: Path, content: Content) -> None:
    """Loads as the operator does, so that what it would refuse is found here."""
    from operators.catalog import CATALOG

    needed = {"hypothesis": "caption"} if content.operator == "entailment" else {}
    CATALOG[content.operator]()(directory, **needed).load()


def _measure(directory: Path, content: Content) -> tuple[dict[str, Any], int]:
    """The sizes of the net, and how many parameters it has."""
    if content.architecture == "chinese_clip":
        return _measure_chinese_clip(directory)
    if content.architecture == "ofa":
        return _measure_ofa(directory)
    return _measure_mplug(directory, content)


def _measure_chinese_clip(directory: Path) -> tuple[dict[str, Any], int]:
    import torch
    from transformers import ChineseCLIPModel

    from operators.models.chinese_clip import read_config

    config = read_config(directory)
    with torch.device("meta"):
        net = ChineseCLIPModel(config)
    towers = {"vision": config.vision_config, "text": config.text_config}
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    sizes = {
        f"{tower}_{name}": getattr(part, name) for tower, part in towers.items() for name in names
    }
    for name in ("image_size", "patch_size"):
        sizes[name] = getattr(config.vision_config, name)
    sizes["vocab_size"] = getattr(config.text_config, "vocab_size", None)
    sizes["dimension"] = config.projection_dim
    return sizes, sum(tensor.numel() for tensor in net.parameters())


def _measure_ofa(directory: Path) -> tuple[dict[str, Any], int]:
    import torch

    from operators.models.ofa.config import OFAConfig
    from operators.models.ofa.model import OFAModel

    config = OFAConfig.read(directory)
    with torch.device("meta"):
        net = OFAModel(config)
    return asdict(config), sum(tensor.numel() for tensor in net.parameters())


def _measure_mplug(directory: Path, content: Content) -> tuple[dict[str, Any], int]:
    """Counts what inference uses; the published files hold more."""
    import torch

    from operators.models.mplug.config import MPlugConfig, read_for_matching
    from operators.models.mplug.model import MPlugCaptionNet, MPlugMatchNet

    is_captioner = content.operator == "captioner"
    config = (MPlugConfig.read if is_captioner else read_for_matching)(directory)
    with torch.device("meta"):
        net = MPlugCaptionNet(config) if is_captioner else MPlugMatchNet(config)
    return asdict(config), sum(tensor.numel() for tensor in net.parameters())


def _cached(model: str) -> list[Path]:
    folder = parse_id(model).cached
    return [folder, *sorted(folder.parent.glob(f"{folder.name}@*"))]


def _is_complete(folder: Path) -> bool:
    record = hub.read_record(folder)
    return record is not None and bool(record["complete"])


def _console() -> Console:
    """A console that never cuts an id: what is wider than the terminal runs on."""
    width = Console().width
    return Console(width=max(width, TABLE_WIDTH), highlight=False)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


if __name__ == "__main__":
    from jobs.cli import main

    main(["models"])
