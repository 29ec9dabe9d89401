"""The command line: `tagline VERB`, with the verbs of `jobs.verbs`.

Exit codes: 0 done; 1 a run failed, passed its error limit, or a row of `apply` failed; 2 wrong use.
With `--json` standard output holds one JSON document, or one JSON line a row, and nothing else;
messages go to standard error.
"""

import sys
from collections.abc import Sequence

import typer

from jobs import event_log
from jobs.verbs import housekeeping, quality, reviewing, searching, serving, tables, trying
from schemas.errors import TaglineError

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
for verbs in (tables, quality, searching, reviewing, serving, trying, housekeeping):
    app.registered_commands += verbs.app.registered_commands


def main(verb: Sequence[str] = ()) -> None:
    """Runs the command line of this process; `verb` stands before its arguments."""
    event_log.set_up()
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


def _is_of_a_store(error: Exception) -> bool:
    """Whether a store or a disk failed, which no traceback explains any better."""
    from schemas.manifest_files import STORE_ERRORS

    return isinstance(error, STORE_ERRORS)


if __name__ == "__main__":
    main()
