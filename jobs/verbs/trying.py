"""The verbs to try tagline with: scenes, demo."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.verbs.options import Json, print_json

app = typer.Typer()


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
        print_json(asdict(summary))
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
