"""The verb that answers over HTTP: serve."""

from typing import Annotated

import typer

from jobs.verbs.options import Address, Config, Json, Overrides, print_json

app = typer.Typer()


@app.command(no_args_is_help=True)
def serve(
    config: Config,
    overrides: Overrides = None,
    host: Annotated[
        str | None, typer.Option(help="Where to listen, in place of `serve.host`.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="In place of `serve.port`; 0 takes one that is free.")
    ] = None,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Answer over HTTP what the operators of a config say of images, with a page for people at `/`.

    CONFIG is a job's; its `manifest` and `table` are not needed, and `serve:` says how to listen.
    Routes: `/v1/caption`, `/v1/entailment`, `/v1/match`, `/v1/embed`, `/v1/tags`, `/v1/search`,
    `/v1/operators/NAME`, `/healthz`, `/metrics`, `/openapi.json`.

    Tokens come from the environment variable `TAGLINE_TOKENS`, several parted by commas; without
    one only this machine is served. The address is printed when all models are loaded. SIGTERM
    or Ctrl-C: no more connections, what was asked is answered, then it ends.

    JSON, once it is ready: `{"address","operators": {NAME: USE}}`.
    """
    from jobs import serve as job
    from operators.catalog import read_served_config

    given = [*(overrides or ())]
    given += [] if host is None else [f"serve.host={host!r}"]
    given += [] if port is None else [f"serve.port={port}"]

    def told(ready: job.Ready) -> None:
        if json_:
            operators = {link.name: link.use for link in ready.links}
            print_json({"address": ready.address, "operators": operators})
        else:
            typer.echo(f"tagline answers at {ready.address} (Ctrl-C ends it)")

    job.run(read_served_config(config, given), told, address=address)
