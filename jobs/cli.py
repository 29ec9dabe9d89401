"""The command line: one thin command a verb, which imports its job only when it is called.

Exit codes: 0 done; 1 a run failed, passed its error limit, or a row of `apply` failed; 2 wrong use.
With `--json` standard output holds one JSON document, or one JSON line a row, and nothing else;
messages go to standard error.
"""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from schemas.errors import TaglineError

if TYPE_CHECKING:
    from schemas.config import JobConfig
    from schemas.results import Result

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")
]
Config = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The job's YAML file; see infra/examples/.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]…", help="Values that replace the file's: `limits.attempts=5`."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of a Ray cluster. Without it RAY_ADDRESS counts, and without that a Ray of "
        "its own is started on this machine."
    ),
]

app = typer.Typer(
    name="tagline",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From a manifest of images to a table of captions, labels and embeddings.\n\n"
    "Exit codes: 0 done; 1 a run failed, passed its error limit, or a row of `apply` failed; "
    "2 wrong use.",
)


def main(verb: Sequence[str] = ()) -> None:
    """Runs the command line of this process; `verb` stands before its arguments."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # names of files
    try:
        app(args=[*verb, *sys.argv[1:]], prog_name="tagline")
    except TaglineError as error:
        typer.echo(f"tagline: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if not _is_of_a_store(error):
            raise
        typer.echo(
            f"tagline: a disk or a store did not do what was asked: {type(error).__name__}: "
            f"{error}; what was computed is kept: run the same command when it answers",
            err=True,
        )
        sys.exit(1)


@app.command(no_args_is_help=True)
def apply(
    operator: Annotated[
        str,
        typer.Argument(
            help="`captioner`, `entailment`, `embedder` or `matcher`.", show_default=False
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE]…", help="Local paths, `s3://…` or public `http(s)://…` addresses."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="A local or `s3://` directory in ModelScope's or Hugging Face's format, a hub's "
            "id (`damo/…@REVISION`, `hf://owner/name`), or `embedded:NAME`.",
        ),
    ] = ...,  # type: ignore[assignment]
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="T",
            help="What entailment judges, the matcher matches or the embedder embeds; may be given "
            "several times.",
        ),
    ] = None,
    text2: Annotated[
        str | None,
        typer.Option(metavar="T", help="For entailment: what is known besides the image."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the operator, as in a job's config."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Run one operator on a few images, here and now.

    Answers come image by image and, for each, text by text, in the order given; an embedder gives
    the images first, then the texts. JSON lines are, by operator:

    - captioner: `{"image","text","score","alternatives":[{"text","score"}]}`
    - entailment: `{"image","text","label","yes","no","maybe"}`
    - matcher: `{"image","text","score","similarity"}`, and `"is_cut": true` where the text is too
      long for the model and its end was not read
    - embedder: `{"image","embedding"}` or `{"text","embedding"}`
    - a failed row, one for each answer that cannot be had, with `"text"` where that would have it:
      `{"image","error":{"stage","code","message","transient","attempts"}}`; the others go on, and
      the exit code is 1.
    """
    from jobs import apply as job
    from schemas.results import FailedRow

    request = job.Request(
        operator=operator,
        model=model,
        images=tuple(images or ()),
        texts=tuple(text or ()),
        premise=text2,
        options=job.read_options(set_ or ()),
    )
    has_failed = False
    for result in job.run(request):
        has_failed |= isinstance(result, FailedRow)
        _show_result(result, as_json=json_)
    if has_failed:
        raise typer.Exit(1)


@app.command(no_args_is_help=True)
def plan(config: Config, overrides: Overrides = None, json_: Json = False) -> None:
    """Tell what `enrich` would do: rows by operator and reason, images to fetch, time and cost.

    Changes nothing. JSON: `{"operators": {NAME: {"new","changed","retry"}}, "images_to_fetch",
    "bytes_to_rewrite","seconds","cost"}`; `cost` needs `resources.cost_per_hour` in the config.
    """
    from rich.console import Console

    from jobs import preview as job

    planned = job.preview(_config(config, overrides))
    if json_:
        _print_json(job.to_json(planned))
    else:
        job.show(planned, Console(soft_wrap=True))


@app.command(no_args_is_help=True)
def enrich(
    config: Config,
    overrides: Overrides = None,
    address: Address = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove rows that the manifest no longer names.")
    ] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask for every image's ETag; take those that changed.")
    ] = False,
    json_: Json = False,
) -> None:
    """Bring a table up to date with its manifest and operators: plan, run, commit, summary.

    Only new and changed rows are computed. It may be killed and started again at any moment, and
    goes on with what was done. JSON: `{"rows": {"manifest","new","changed","errors","absent"},
    "computed": {OPERATOR: rows}, "seconds","version","limiting_stage"}`.
    """
    from jobs import enrich as job
    from jobs.plan import Selection

    checked = _config(config, overrides)
    selection = Selection(prune=prune, refresh=refresh)
    _show_summary(job.run(checked, selection=selection, address=address), json_)


@app.command(no_args_is_help=True)
def retry(
    config: Config,
    overrides: Overrides = None,
    only: Annotated[
        Literal["transient"] | None, typer.Option(help="Only errors that may pass by themselves.")
    ] = None,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Compute the rows with an error again, however often they were tried.

    JSON as of `enrich`.
    """
    from jobs import enrich as job
    from jobs.plan import Selection

    selection = Selection(retry=only or "errors")
    _show_summary(job.run(_config(config, overrides), selection=selection, address=address), json_)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def models(context: typer.Context) -> None:
    """List, pull, inspect and verify models; `tagline models --help` tells more."""
    from jobs.models import app as verbs

    code = verbs(context.args, prog_name="tagline models", standalone_mode=False)
    if code:
        raise typer.Exit(code)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def evaluate(context: typer.Context) -> None:
    """Score captions, labels and rankings; `tagline evaluate --help` tells more."""
    from jobs.evaluate import app as verbs

    verbs(context.args, prog_name="tagline evaluate", standalone_mode=False)


@app.command(no_args_is_help=True)
def finetune(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="A YAML file; see infra/examples/finetune-*.yaml."),
    ],
    overrides: Overrides = None,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Train a model further on rows of your own, and write the directory that operators read.

    Killed, the same command goes on where the saved state is, and ends with the same weights.
    JSON: `{"use","output","steps","metric","best","best_step","images": {"train","validation",
    "skipped"},"images_per_second","seconds"}`.
    """
    from jobs import finetune as job
    from schemas.finetune import read_finetune_config

    summary = job.run(read_finetune_config(config, overrides or ()), address=address)
    if json_:
        _print_json(summary.to_json())
    else:
        typer.echo(job.told(summary))


@app.command(no_args_is_help=True)
def scenes(
    out: Annotated[Path, typer.Argument(help="Folder to write; made when absent.")],
    count: Annotated[int, typer.Option(help="Pictures to draw.")] = 500,
    seed: Annotated[int, typer.Option(help="The same seed draws the same pictures.")] = 0,
    json_: Json = False,
) -> None:
    """Draw scenes whose captions are known: pictures, `manifest.parquet`, `hypotheses.jsonl`.

    JSON: `{"folder","manifest","hypotheses","scenes","seed","seconds"}`.
    """
    from dataclasses import asdict

    from jobs import scenes as job

    summary = job.run(out, count=count, seed=seed)
    if json_:
        _print_json(asdict(summary))
    else:
        typer.echo(f"{summary.scenes} scenes in {summary.folder}, manifest {summary.manifest}")


@app.command()
def demo(
    to: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("demo"),
    json_: Json = False,
) -> None:
    """Enrich 64 drawn scenes with the models that ship with tagline, and show what came out.

    Prints captions and labels beside the truth, and searches in English and Chinese.
    """
    from jobs import demo as job

    found = job.run(to)
    if json_:
        typer.echo(job.to_json(found))
    else:
        job.show(found)


@app.command(no_args_is_help=True)
def vacuum(
    table: Annotated[str, typer.Argument(help="Path of the table.")],
    days: Annotated[float, typer.Option(help="Age at which files and plans go.", min=0)] = 7,
    json_: Json = False,
) -> None:
    """Delete files that commits replaced, and plans, older than some days.

    JSON: `{"deleted": [path, …]}`.
    """
    from jobs import vacuum as job

    deleted = job.vacuum(table, older_than_days=days)
    if json_:
        _print_json({"deleted": deleted})
    else:
        typer.echo(f"{len(deleted)} files and plans deleted from {table}")


def _is_of_a_store(error: Exception) -> bool:
    """Whether a store or a disk failed, which no traceback explains any better."""
    from schemas.manifest_files import STORE_ERRORS

    return isinstance(error, STORE_ERRORS)


def _config(path: Path, overrides: Sequence[str] | None) -> "JobConfig":
    from operators.catalog import read_config

    return read_config(path, overrides or ())


def _show_summary(summary: Any, as_json: bool) -> None:
    if as_json:
        _print_json(summary.to_json())
        return
    from rich.console import Console

    from jobs.summary import show

    show(summary, Console())


def _show_result(result: "Result", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result.model_dump(exclude_none=True), ensure_ascii=False))
        return
    from rich.console import Console

    from jobs.apply import lines

    for line in lines(result):
        Console(highlight=False, soft_wrap=True).print(line)


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False))


if __name__ == "__main__":
    main()
