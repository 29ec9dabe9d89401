"""The verbs that keep things in order: doctor, and for tables history, restore, compact, vacuum."""

import json
from pathlib import Path
from typing import Annotated

import typer

from jobs.verbs.options import Address, Json, print_json

app = typer.Typer()
Table = Annotated[str, typer.Argument(help="Path of the table.")]


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="A job's YAML file, to check it too.")
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Start or join Ray too; takes some ten seconds.")
    ] = False,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Look at this machine, and at what a job's config names, and say what to mend.

    Python, packages, cores, memory, GPUs, disk, ports, proxies, names of credentials; with a config
    its manifest, its table (a probe is written beside it and deleted again), the store's clock and
    the models. Exit codes: 0 nothing failed; 1 something did; 2 the config or manifest is wrong.
    JSON: `{"failed","warnings","checks": [{"check","state","found","advice"}]}`, state being ok,
    warning or failed.
    """
    from rich.console import Console

    from jobs import doctor as job

    console = Console(soft_wrap=True)
    findings = []
    for finding in job.run(config, with_ray=ray, address=address):
        findings.append(finding)
        if not json_:
            job.show(finding, console)
    if json_:
        print_json(job.to_json(findings))
    if code := job.exit_code(findings):
        raise typer.Exit(code)


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
def restore(
    table: Table,
    to: Annotated[
        str,
        typer.Option(
            metavar="VERSION|TIME",
            help="A version, or a time such as `2026-11-25T17:00` (UTC unless it says otherwise): "
            "the version that was the table's then.",
        ),
    ],
    json_: Json = False,
) -> None:
    """Put a table back to an earlier version, as a new one: nothing is deleted.

    A run that was planned before commits nothing afterwards, and says to be run again. The next
    `enrich` computes what the older version lacks; `index` brings an index along. JSON:
    `{"restored","version","rows"}`.
    """
    from jobs import restore as job

    restored = job.run(table, to)
    if json_:
        print_json(job.to_json(restored))
    else:
        typer.echo(
            f"{restored.table} is as in version {restored.restored}: {restored.rows:,} rows, now "
            f"version {restored.version}"
        )


@app.command(no_args_is_help=True)
def compact(table: Table, json_: Json = False) -> None:
    """Join a table's small data files into large ones, as `enrich` does by itself beyond 1,000.

    JSON: `{"before","after","version"}`, data files before and after.
    """
    from dataclasses import asdict

    from jobs import compaction as job

    compacted = job.run(table)
    if json_:
        print_json(asdict(compacted))
    else:
        typer.echo(
            f"{table}: {compacted.before} data files became {compacted.after}, "
            f"version {compacted.version}"
        )


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
