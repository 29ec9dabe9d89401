"""The rules that keep the tree in one piece; each failure prints the rule it guards."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "operators", "jobs")
FILES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)
ROOT_FILES = {
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "pyproject.toml",
}
FILE_LINES = 400
FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


@cache
def imported(path: Path) -> frozenset[str]:
    """Top-level names of all packages imported anywhere in a file."""
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition(".")[0])
    return frozenset(names)


def lengths(path: Path) -> dict[str, int]:
    """Lines of every function of a file, from its `def` to its end."""
    return {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_command(node)
    }


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A verb's function is mostly its options and their help."""
    return any(ast.unparse(one).startswith("app.command") for one in function.decorator_list)


def importing(package: str, *names: str) -> list[str]:
    """Files of a package that import one of `names`."""
    files = [path for path in FILES if path.parts[0] == package]
    return [str(path) for path in files if imported(path) & set(names)]


def test_there_is_something_to_check():
    assert len(FILES) > 20
    assert {path.parts[0] for path in FILES} == set(PACKAGES)


def test_packages_only_look_downwards():
    rule = "rule: schemas <- operators <- jobs"
    assert importing("schemas", "operators", "jobs") == [], rule
    assert importing("operators", "jobs") == [], rule


def test_only_jobs_know_ray():
    rule = "rule: ray only in jobs/; operators run and are tested without a cluster"
    assert importing("schemas", "ray") + importing("operators", "ray") == [], rule


def test_schemas_know_no_torch():
    rule = "rule: torch never in schemas/; a schema is read where no model is"
    assert importing("schemas", "torch", "transformers") == [], rule


def test_planning_imports_nothing_heavy():
    names = "jobs.cli, jobs.preview, jobs.enrich, operators.fetcher"
    operators = "operators.captioner, operators.entailment, operators.embedder"
    heavy = ("torch", "transformers", "ray", "pandas")
    code = f"import sys, {names}, {operators}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rule = "rule: `tagline plan` and building operators import no torch, transformers or ray"
    assert done.stdout.strip() == "[]", rule


def test_every_file_says_what_it_is_for():
    silent = [
        str(path) for path in FILES if parsed(path).body and not ast.get_docstring(parsed(path))
    ]
    assert silent == [], "rule: a module docstring in every file"


def test_a_file_fits_in_the_head():
    lines = {
        str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in FILES
    }
    long = {path: count for path, count in lines.items() if count > FILE_LINES}
    assert long == {}, f"rule: a file has at most {FILE_LINES} lines"


def test_a_function_fits_on_a_screen():
    found = {name: lines for path in FILES for name, lines in lengths(path).items()}
    long = {name: lines for name, lines in found.items() if lines > FUNCTION_LINES}
    assert long == {}, f"rule: a function has at most {FUNCTION_LINES} lines"


def test_most_functions_are_short():
    found = sorted(lines for path in FILES for lines in lengths(path).values())
    rule = "rule: half of the functions have at most 15 lines, 9 in 10 at most 35"
    assert found[len(found) // 2] <= 15, rule
    assert found[len(found) * 9 // 10] <= 35, rule


def test_a_file_is_named_after_what_it_holds():
    vague = [str(path) for path in FILES if VAGUE_NAMES & {*path.parts[:-1], path.stem}]
    assert vague == [], "rule: no utils, common, helpers, misc; name the thing"


def test_only_what_belongs_there_stands_at_the_root():
    rule = f"rule: beside dot-files and folders the root holds {', '.join(sorted(ROOT_FILES))}"
    found = {path.name for path in ROOT.iterdir() if path.is_file() and path.name[0] != "."}
    assert found <= ROOT_FILES, rule
