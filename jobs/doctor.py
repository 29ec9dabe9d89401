"""Looks at a machine and at what a job's config names, and says what to mend.

Nothing is changed: a probe is written beside the table and deleted again. Each check is told as
`ok`, `warning` or `failed`, with what was found and what to do.
"""

from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.health import machine
from jobs.health.finding import Finding, failed, ok
from operators.masking import without_secrets
from schemas.config import JobConfig
from schemas.errors import TaglineError

WRONG_USE = ("config", "manifest")  # checks whose failure is the user's to mend in the job itself
COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def run(
    path: Path | None = None, *, with_ray: bool = False, address: str | None = None
) -> Iterator[Finding]:
    """Checks one thing after the other.

    Args:
        path: of a job's config; without it only the machine is looked at.
        with_ray: starts or joins Ray too, which takes some ten seconds.
        address: of a Ray cluster; else RAY_ADDRESS.
    """
    for found in _checks(path, with_ray=with_ray, address=address):
        yield Finding(
            found.check, found.state, without_secrets(found.found), without_secrets(found.advice)
        )


def exit_code(findings: list[Finding]) -> int:
    """0 where nothing failed, 2 where the job itself is wrong, else 1."""
    names = {finding.check for finding in findings if finding.state == "failed"}
    return 2 if names & set(WRONG_USE) else int(bool(names))


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """The object of `doctor --json`."""
    return {
        "failed": sum(finding.state == "failed" for finding in findings),
        "warnings": sum(finding.state == "warning" for finding in findings),
        "checks": [asdict(finding) for finding in findings],
    }


def show(finding: Finding, console: Console) -> None:
    """Prints a line for people."""
    state = f"[{COLOURS[finding.state]}]{finding.state:<8}[/]"
    console.print(f"{state}{finding.check}: ", end="", highlight=False)
    told = f"{finding.found} -> {finding.advice}" if finding.advice else finding.found
    console.print(told, highlight=False, markup=False)


def _checks(path: Path | None, *, with_ray: bool, address: str | None) -> Iterator[Finding]:
    yield machine.python()
    yield machine.packages()
    yield from machine.devices()
    yield from machine.disk()
    yield machine.cache()
    yield machine.ports()
    yield machine.proxies()
    config = None
    if path is not None:
        config = yield from _config(path)
    yield machine.credentials(needs_s3=config is not None and _uses_s3(config))
    if config is not None:
        yield from _job(config)
    yield machine.ray(starts=with_ray, address=address)


def _config(path: Path) -> Generator[Finding, None, JobConfig | None]:
    """Reads the config, if that can be done."""
    from operators.catalog import read_config

    try:
        config = read_config(path)
    except TaglineError as error:
        yield failed("config", str(error), "mend the config; infra/examples has some")
        return None
    yield ok("config", f"{path}: {', '.join(config.operators)}")
    return config


def _job(config: JobConfig) -> Iterator[Finding]:
    from jobs.health import job
    from jobs.store_patience import hastily

    with hastily():
        yield job.manifest(config)
        yield from job.table(config)
        yield from job.models(config)
    if "serve" in config.model_fields_set:
        yield machine.port(config.serve.host, config.serve.port)


def _uses_s3(config: JobConfig) -> bool:
    return any(path.startswith("s3://") for path in (config.manifest.path, config.table))


if __name__ == "__main__":
    from jobs.cli import main

    main(["doctor"])
