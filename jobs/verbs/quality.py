"""The verbs about models and their quality: models, finetune, evaluate, calibrate."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.verbs.options import GROUP, Address, Json, Overrides, TableArgument, print_json

app = typer.Typer()


@app.command(context_settings=GROUP)
def models(context: typer.Context) -> None:
    """List, pull, inspect and verify models; `tagline models --help` tells more."""
    from jobs.models import app as verbs

    code = verbs(context.args, prog_name="tagline models", standalone_mode=False)
    if code:
        raise typer.Exit(code)


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

    checked = read_finetune_config(config, overrides or ())
    summary = job.run(checked, address=address)
    if json_:
        print_json(summary.to_json())
    else:
        typer.echo(job.told(summary, checked))


@app.command(context_settings=GROUP)
def evaluate(context: typer.Context) -> None:
    """Score captions, labels and rankings; `tagline evaluate --help` tells more."""
    from jobs.evaluate import app as verbs

    verbs(context.args, prog_name="tagline evaluate", standalone_mode=False)


@app.command(no_args_is_help=True)
def calibrate(
    table: TableArgument,
    gold: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="People's answers about rows drawn at random: Parquet, CSV or JSONL with "
            "`image_id`, `label` and `truth`.",
        ),
    ],
    precision: Annotated[
        float, typer.Option(help="Share of the accepted that is right, and of the rejected wrong.")
    ] = 0.95,
    confidence: Annotated[float, typer.Option(help="With which each promise holds.")] = 0.95,
    per_label: Annotated[
        bool,
        typer.Option(
            "--per-label",
            help="Thresholds for each label of a column, whose promises hold together.",
        ),
    ] = False,
    to: Annotated[
        str, typer.Option(metavar="FILE", help="Where the thresholds go, as JSON.")
    ] = "thresholds.json",
    diagram: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw the reliability diagrams.")
    ] = None,
    json_: Json = False,
) -> None:
    """Find which answers of a table need no person, with a guaranteed precision.

    `label` says what was judged: an operator's column (`caption`), one of an operator's
    hypotheses, or the answer a person saw (`yes`); `truth` what is true: yes, no or maybe, or
    whether the answer is right (true, false). A column `text` with the caption or hypothesis a
    person saw leaves out what is said differently by now. Rows with an error do not count.
    Of several answers about one image one is tested, for they may err together. A true tag that
    the table gives to other images only is missed: it counts for the recall, not for a threshold.

    The thresholds are for an operator `acceptance` in a job, which writes accepted, review or
    rejected for each row, with the reason. Exit code 1: the answers are too few for any promise,
    and all is left for review; says how many more are needed.

    JSON: `{"thresholds","precision","confidence","columns": {NAME: {"answers","right",
    "recall","temperature","shift","thresholds": [{"label","accept","reject","tested","answers",
    "more"}],
    "verdicts": {"accepted","review","rejected"},"seems_random","reliability":
    [{"count","probability","right"}]}},"left_out"}`.
    """
    from rich.console import Console

    from jobs import calibrate as job
    from jobs import calibration_report as report

    found = job.run(
        table, gold, precision=precision, confidence=confidence, per_label=per_label, to=to
    )
    if diagram is not None:
        report.write_diagram(found, diagram)
    if json_:
        print_json(found.to_json())
    else:
        report.show(found, Console(highlight=False, soft_wrap=True))
    if not found.is_of_use:
        raise typer.Exit(1)
