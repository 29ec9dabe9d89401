"""The verbs with which people look at a table: report."""

from typing import Annotated

import typer

from jobs.verbs.options import Json, print_json

app = typer.Typer()

TableArgument = Annotated[
    str, typer.Argument(metavar="TABLE", help="Path of a table that `enrich` wrote.")
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the images lie now, if not where the manifest said: a local folder, to which "
        "relative uris are relative.",
    ),
]


@app.command(no_args_is_help=True)
def report(
    table: TableArgument,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="The page to write, local or `s3://`.")
    ] = "report.html",
    images: Images = None,
    cost_per_hour: Annotated[
        float | None,
        typer.Option(metavar="AMOUNT", help="What one actor costs an hour, in any currency."),
    ] = None,
    json_: Json = False,
) -> None:
    """Show a table on one page: totals, errors, speed, cost, distributions, rows with pictures.

    The page is one HTML file that needs no network. It shows the best, worst, disagreeing and
    failed rows: best and worst by the column `agreement` where the table has one, else by the
    confidence of its first captioner; disagreeing are those whose caption another model denies.
    Pictures are fetched again, under the policy of the job that wrote the table.

    JSON: `{"report","version","rows","healthy","errors": {CODE: rows},"labels": {COLUMN: {LABEL:
    rows}},"rows_per_second": {STAGE: rate},"busy_seconds","cost","shown": {KIND: [image_id]},
    "pictures_missing","seconds"}`; `cost` is null where it is not known.
    """
    from jobs import report as job

    made = job.run(table, out, images=images, cost_per_hour=cost_per_hour)
    if json_:
        print_json(made.to_json())
        return
    shown = sum(len(rows) for rows in made.sheet.values())
    typer.echo(
        f"{made.survey.rows:,} rows, {made.survey.errors.total():,} with an error, {shown} shown "
        f"with their pictures: open {out}"
    )
