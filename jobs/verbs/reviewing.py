"""The verbs with which people look at a table and correct it: report, export, import-labels."""

from typing import Annotated, Literal

import typer

from jobs.verbs.options import Json, TableArgument, print_json

app = typer.Typer()

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


@app.command(no_args_is_help=True)
def export(
    table: TableArgument,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="`labelstudio`, `coco`, `fiftyone`, `webdataset`, `hf`, `parquet` or "
            "`clip-retrieval`.",
        ),
    ],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="To write; new, or empty.")],
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Which rows: a condition over the columns, in DuckDB's SQL, such as "
            "\"accept = 'review'\" or \"caption ILIKE '%dog%'\".",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many rows, the first.")
    ] = None,
    with_errors: Annotated[
        bool, typer.Option("--with-errors", help="Rows with an error too.")
    ] = False,
    images: Images = None,
    json_: Json = False,
) -> None:
    """Hand rows of a table to other tools: for labelling, training, browsing.

    - `labelstudio`: `tasks.json`, whose predictions are the table's answers, least sure first, and
      the labelling interface `config.xml`
    - `coco`: `annotations/captions.json` and `images/`, for pycocotools
    - `fiftyone`: `labels.json` and `data/`, a FiftyOneImageClassificationDataset
    - `webdataset`: tar shards of picture, `.txt` and `.json`
    - `hf`: an image folder with `metadata.parquet`, for `datasets.load_dataset`
    - `parquet`: the columns as they are, without pictures
    - `clip-retrieval`: vectors as npy and metadata as Parquet, for FAISS and autofaiss

    Pictures are fetched again, under the policy of the job that wrote the table, and copied as they
    are. A row whose picture cannot be had is left out and listed in `FOLDER.failed.jsonl`. The
    folder appears when it is complete.

    JSON: `{"format","folder","rows","failed","failed_file","seconds"}`.
    """
    from jobs import export as job

    wanted = job.Wanted(where=where, limit=limit, with_errors=with_errors)
    made = job.run(table, to, out, wanted=wanted, images=images)
    if json_:
        print_json(made.to_json())
        return
    typer.echo(f"{made.rows:,} rows in {out}, as {to}")
    if made.failed_file:
        typer.echo(f"{len(made.failed):,} left out, listed in {made.failed_file}")


@app.command("import-labels", no_args_is_help=True)
def import_labels(
    export: Annotated[
        str,
        typer.Argument(metavar="EXPORT.json", help="What Label Studio exported as JSON."),
    ],
    to: Annotated[str, typer.Option(metavar="FILE.parquet", help="To write.")],
    for_: Annotated[
        Literal["calibrate", "captioner", "entailment"],
        typer.Option(
            "--for",
            help="`calibrate` for gold, or what is to be fine-tuned: `captioner`, `entailment`.",
        ),
    ] = "calibrate",
    json_: Json = False,
) -> None:
    """Bring people's answers back from Label Studio, for `calibrate` or `finetune`.

    The tasks are those of `tagline export --to labelstudio`. Skipped tasks are no answers; of one
    person's answers the last counts; people who agree count once, and what they disagree on is left
    out and listed.

    - `calibrate`: `image_id`, `label`, `truth`, `text`: whether a caption is right, what a label is
    - `captioner`: `image_id`, `uri`, `caption`: corrected captions, and those called right
    - `entailment`: `image_id`, `uri`, `hypothesis`, `label`

    JSON: `{"file","for","rows","tasks","unanswered","skipped","disagreements": [{"image_id",
    "label","answers": {ANSWER: people}}]}`.
    """
    from jobs import import_labels as job

    made = job.run(export, to, purpose=for_)
    if json_:
        print_json(made.to_json())
        return
    typer.echo(
        f"{made.rows:,} rows for {for_} in {to}; {made.tasks:,} tasks, {made.unanswered:,} without "
        f"an answer, {made.skipped:,} skipped"
    )
    for one in made.disagreements:
        said = ", ".join(f"{answer!r} {count}" for answer, count in one.answers.items())
        typer.echo(f"left out, people disagree: image {one.image_id!r}, {one.label}: {said}")
