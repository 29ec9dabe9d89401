"""Runs the command line inside the test's process, as a shell would run it."""

import json
import logging
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from jobs import cli


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    output: str
    errors: str

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.output.splitlines()]


class Command:
    """Calls `tagline` with arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capfd = capfd

    def __call__(self, *arguments: object) -> Answer:
        self.monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers])
        self.monkeypatch.setattr(sys, "argv", ["tagline", *map(str, arguments)])
        self.capfd.readouterr()
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        else:
            code = 0
        output, errors = self.capfd.readouterr()
        return Answer(code if isinstance(code, int) else int(code is not None), output, errors)
