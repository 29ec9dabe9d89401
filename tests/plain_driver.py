"""`python -m tests.plain_driver CONFIG.json [errors]`: enrich with the operators of tests.

Tells its summary as JSON; with `errors` it takes the rows with an error, as `retry` does.
"""

import json
import logging
import sys
from pathlib import Path

from jobs import enrich
from jobs.plan import Selection
from operators.catalog import check_document
from schemas.errors import TaglineError
from tests.plain_jobs import CATALOG


def main(path: str, *words: str) -> int:
    """Runs the job and gives the exit code of the command."""
    logging.basicConfig(level=logging.INFO)
    config = check_document(json.loads(Path(path).read_text()), catalog=CATALOG)
    selection = Selection(retry="errors" if "errors" in words else "due")
    try:
        summary = enrich.run(config, selection=selection, catalog=CATALOG)
        print(json.dumps(summary.to_json()), flush=True)
    except TaglineError as error:
        print(f"tagline: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
