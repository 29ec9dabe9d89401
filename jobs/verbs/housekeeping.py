"""The verbs that keep a table in order: history, vacuum."""

import json
from typing import Annotated

import typer

from jobs.verbs.options import Json, print_json

app = typer.Typer()
Table = Annotated[str, typer.Argument(help="Path of the table.")]


@app.command(no_args_is_help=True)
def history(
    table: Table,
    limit: Annotated[int | None, typer.Option(help="Only the latest so many.", min=1)] = None,
    json_: Json = False,
) -> None:
    """List a table's versions, the latest first: when, and what the run that made each did.

    JSON, a line a version: `{"version","at","operation","restored","note": {"verb","run","rows",
    "computed","errors","seconds","limiting_stage","is_portion","files"}}`; `note` is null for
    commits of other programs and of older releases.
    """
    from rich.console import Console

    from jobs import history as job

    versions = job.run(table, limit=limit)
    if json_:
        for version in versions:
            typer.echo(json.dumps(version.to_json(), ensure_ascii=False))
    else:
        job.show(versions, Console(soft_wrap=True))


@app.command(no_args_is_help=True)
def vacuum(
    table: Table,
    days: Annotated[float, typer.Option(help="Age at which files and plans go.", min=0)] = 7,
    json_: Json = False,
) -> None:
    """Delete files that commits replaced, and plans, older than some days.

    Versions that need such a file can be read and restored no more. JSON: `{"deleted": [path, …]}`.
    """
    from jobs import vacuum as job

    deleted = job.vacuum(table, older_than_days=days)
    if json_:
        print_json({"deleted": deleted})
    else:
        typer.echo(f"{len(deleted)} files and plans deleted from {table}")
