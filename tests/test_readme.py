"""Every command and snippet of the README is run, in order, in one folder, on a few scenes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deltalake import DeltaTable

from operators.catalog import check_document

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]
SNIPPETS = [text for kind, text in BLOCKS if kind == "python" and not text.startswith("# spark")]
STEPS = [  # commands and snippets, in order, without the two that set up
    step
    for kind, text in BLOCKS
    for step in (text.splitlines() if kind == "bash" else [text])
    if step in [*COMMANDS[2:], *SNIPPETS]
]
SCENES = "4"  # in place of 64: the commands are what is tested
SUBMIT = "ray job submit --address http://127.0.0.1:8265 -- "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are run: a folder with the examples, and nothing else of the project."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "infra").symlink_to(ROOT / "infra")
    return folder


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    tools = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def as_run(command: str) -> list[str]:
    """The command as it is run here: fewer scenes, and a submitted job without its cluster.

    That `ray job submit` itself works is tested on a real cluster in tests/jobs.
    """
    words = shlex.split(command.removeprefix(SUBMIT))
    if words[1:2] == ["scenes"]:
        words[words.index("--count") + 1] = SCENES
    if words[1:2] == ["calibrate"]:
        words += ["--precision", "0.5", "--confidence", "0.5"]  # what so few answers can promise
    return words


def test_there_are_exactly_two_set_up_commands():
    made = [command for command in COMMANDS if command.startswith("make ")]
    assert made == COMMANDS[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("command", COMMANDS[:2])
def test_a_set_up_command_installs_only_where_nothing_is_installed(command, tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    words = [*command.split(), "--dry-run"]
    first = run(words, tmp_path)
    assert "pip install --quiet --editable '.[test]'" in first.stdout, first.stderr
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.installed").touch()
    again = run(words, tmp_path)
    assert "pip" not in again.stdout
    assert "tagline demo" in again.stdout or "pytest" in again.stdout


def test_an_old_python_is_told_what_to_do(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = run(["make", f"PYTHON={old}", "demo"], tmp_path)
    assert done.returncode == 2
    assert "needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.9.2" in done.stderr


@pytest.mark.slow
def test_every_command_and_snippet_works(folder):
    for told in STEPS:
        command = as_run(told) if told in COMMANDS else [sys.executable, "-c", told]
        done = run(command, folder)
        assert done.returncode == 0, f"{told}\n{done.stdout}\n{done.stderr}"
        assert done.stdout, told
    table = DeltaTable(folder / "table")
    assert table.protocol().min_reader_version == 1  # what Spark's reader of any age can read
    columns = {field.name for field in table.schema().fields}
    named = set(
        re.findall(r"`(\w+)`", README.partition("| columns | of |")[2].partition("\n\n")[0])
    )
    assert named - {"image", "stage"} <= columns | {"of"}


def test_the_job_shown_is_a_job():
    (job,) = [text for kind, text in BLOCKS if kind == "yaml"]
    assert list(check_document(yaml.safe_load(job)).operators) == [
        "caption",
        "entailment",
        "embedding",
        "match",
    ]


def test_the_spark_snippet_is_python():
    (snippet,) = [text for _, text in BLOCKS if text.startswith("# spark")]
    compile(snippet, "README.md", "exec")


def test_every_verb_is_told_of():
    from jobs.cli import app

    for command in app.registered_commands:
        verb = command.name or command.callback.__name__
        assert f"| `{verb}" in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
