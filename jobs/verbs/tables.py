"""The verbs that make a table: apply, plan, enrich, retry."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.interruption import ending_on_ctrl_c
from jobs.verbs.options import Address, Config, Json, Overrides, print_json

if TYPE_CHECKING:
    from schemas.config import JobConfig
    from schemas.results import Result

app = typer.Typer()


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
        print_json(job.to_json(planned))
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
    with ending_on_ctrl_c():
        summary = job.run(checked, selection=selection, address=address)
    _show_summary(summary, json_)


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
    with ending_on_ctrl_c():
        summary = job.run(_config(config, overrides), selection=selection, address=address)
    _show_summary(summary, json_)


def _config(path: Path, overrides: Sequence[str] | None) -> "JobConfig":
    from operators.catalog import read_config

    return read_config(path, overrides or ())


def _show_summary(summary: Any, as_json: bool) -> None:
    if as_json:
        print_json(summary.to_json())
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
