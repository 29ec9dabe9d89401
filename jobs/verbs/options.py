"""Options that several verbs have, and how they print JSON."""

import json
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")
]
Config = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The job's YAML file; see infra/examples/.")
]
TableArgument = Annotated[
    str, typer.Argument(metavar="TABLE", help="Path of a table that `enrich` wrote.")
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
GROUP = {  # of a verb that has verbs of its own, which read its arguments themselves
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


def print_json(document: object) -> None:
    """Prints one JSON document on a line."""
    typer.echo(json.dumps(document, ensure_ascii=False))
