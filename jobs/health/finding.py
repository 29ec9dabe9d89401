"""What one check of `tagline doctor` found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Args:
        check: what was looked at.
        state: `failed` where a job would not run.
        found: what is there.
        advice: what to do; empty where nothing is to be done.
    """

    check: str
    state: State
    found: str
    advice: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing is to be done."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, advice: str) -> Finding:
    """A job runs, but perhaps not as it is meant to."""
    return Finding(check, "warning", found, advice)


def failed(check: str, found: str, advice: str) -> Finding:
    """A job would not run."""
    return Finding(check, "failed", found, advice)
