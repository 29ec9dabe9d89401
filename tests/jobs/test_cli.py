"""The command line as a whole: quick, quiet, and clear about wrong use."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import app
from tests.command import Command

VERBS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)
HEAVY = ("torch", "ray", "pandas", "transformers", "deltalake", "duckdb", "pyarrow", "numpy")


@pytest.fixture
def tagline(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capfd)


def test_asking_for_help_imports_nothing_heavy():
    check = (
        "import sys\nfrom jobs.cli import main\nsys.argv = ['tagline', '--help']\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_help_names_every_verb(tagline):
    answer = tagline("--help")
    assert answer.code == 0
    for verb in VERBS:
        assert f" {verb} " in answer.output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(tagline, verb):
    answer = tagline(verb, "--help")
    assert answer.code == 0
    if verb not in ("models", "evaluate"):  # groups, whose verbs have it
        assert "--json" in answer.output


@pytest.mark.parametrize("verb", ["list", "inspect", "verify", "pull"])
def test_every_verb_of_models_has_help_and_json(tagline, verb):
    answer = tagline("models", verb, "--help")
    assert answer.code == 0
    assert "--json" in answer.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["enrich", "nowhere.yaml"], "nowhere.yaml: cannot read the job config"),
        (["retry", "x.yaml", "--only", "lasting"], "transient"),
        (["enrich", "x.yaml", "--nosuch"], "No such option"),
        (["models", "nosuch"], "No such command 'nosuch'"),
        (["models", "inspect", "nowhere"], "nowhere"),
    ],
)
def test_wrong_use_exits_2_without_a_traceback(tagline, arguments, message):
    answer = tagline(*arguments)
    assert answer.code == 2
    assert message in answer.errors
    assert "Traceback" not in answer.errors
    assert answer.output == ""


def test_a_damaged_model_makes_models_verify_exit_1(tagline, tmp_path):
    from tests import tiny

    folder = tiny.checkpoint("ofa_caption_mini", folder=tmp_path / "model")
    assert tagline("models", "verify", folder).code == 0
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert tagline("models", "verify", folder).code == 1


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_module_that_runs_it(verb):
    module = importlib.util.find_spec(f"jobs.{verb.replace('-', '_')}")

    assert module is not None
    assert f'main(["{verb}"])' in Path(module.origin).read_text()


def test_a_verb_is_a_module_too():
    verb = "vacuum"
    command = [sys.executable, "-m", f"jobs.{verb}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"tagline {verb}" in done.stdout
