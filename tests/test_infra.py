"""What stands in infra/ can be used as it is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import jobs.scenes
from jobs.training_rows import read_splits
from operators.catalog import read_config, read_served_config
from operators.finetuning.recipes import recipe_of
from operators.models.checkpoint import resolve
from schemas.finetune import read_finetune_config
from tests.benchmarks.embedded_quality import NAMES

ROOT = Path(__file__).parents[1]
EVERY = sorted((ROOT / "infra" / "examples").glob("*.yaml"))
TRAININGS = [path for path in EVERY if path.name.startswith("finetune-")]
RETRAININGS = [path for path in TRAININGS if path.name.startswith("finetune-embedded-")]
SERVERS = [path for path in EVERY if path.name.startswith("serve")]
EXAMPLES = [path for path in EVERY if path not in [*TRAININGS, *SERVERS]]


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """A folder where scenes were drawn as the examples have it."""
    monkeypatch.chdir(tmp_path)
    jobs.scenes.run(Path("scenes"), count=4, seed=101)
    jobs.scenes.run(Path("validation"), count=2, seed=102)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_begins_with_the_command_that_runs_it(path):
    name = path.relative_to(ROOT)
    assert path.read_text().splitlines()[0] == f"# tagline enrich {name}"


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.name)
def test_a_training_begins_with_its_command_and_is_a_config(path):
    name = path.relative_to(ROOT)
    assert path.read_text().splitlines()[0] == f"# tagline finetune {name}"
    assert read_finetune_config(path).train.path


@pytest.mark.parametrize("path", RETRAININGS, ids=lambda path: path.name)
def test_an_embedded_model_is_retrained_on_what_scenes_writes(path, scenes):
    config = read_finetune_config(path)
    name = config.model.removeprefix("embedded:")
    assert path.name == f"finetune-embedded-{name}.yaml"
    assert config.output == f"retrained/{name}"
    assert recipe_of(config, resolve(config.model))
    rows = read_splits(config)
    assert rows["train"].table.num_rows >= rows["validation"].table.num_rows > 0


def test_each_embedded_model_has_a_config_that_retrains_it():
    assert len(RETRAININGS) == len(NAMES)


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.name)
def test_a_server_begins_with_its_command_and_is_a_config(path):
    name = path.relative_to(ROOT)
    assert path.read_text().splitlines()[0] == f"# tagline serve {name}"
    assert read_served_config(path).operators


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_job_config(path):
    assert read_config(path).operators


COMMANDED = [  # each begins with the command that uses it
    *("Dockerfile", "compose.yaml", "locks/make.sh", "locks/licenses.sh"),
    *("monitoring/alerts.yaml", "monitoring/prometheus.yaml"),
    *(f"kubernetes/{name}/kustomization.yaml" for name in ("base", "enrich", "nightly", "serve")),
]


@pytest.mark.parametrize("name", COMMANDED)
def test_every_file_begins_with_the_command_that_uses_it(name):
    lines = (ROOT / "infra" / name).read_text().splitlines()
    first = lines[1] if lines[0].startswith("#!") else lines[0]
    assert first.split()[1] in {"docker", "kubectl", "make", "promtool", "prometheus"}


def test_the_dockerfile_copies_what_there_is_and_runs_as_nobody_in_particular():
    text = (ROOT / "infra/Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text()
    for line in text.splitlines():
        if line.startswith("COPY") and "--from" not in line:
            for name in line.split()[1:-1]:
                for variant in ("cpu", "cuda"):
                    path = name.replace("${VARIANT}", variant)
                    assert (ROOT / path).exists(), line
                    assert f"!{path.partition('/')[0]}\n" in ignored, line
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["1000:1000"]
    assert "--require-hashes" in text


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not on this machine")
def test_the_dockerfile_keeps_hadolints_rules():
    command = ["hadolint", "infra/Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_compose_listens_on_this_machine_only_and_wants_a_token():
    document = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())
    services = document["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        if service["image"] == "tagline":
            assert service["environment"]["RAY_AUTH_MODE"] == "token", name
        else:
            assert re.search(r":v?[A-Z]*\.?\d", service["image"]), f"{name}: name a version"
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert source in document["volumes"] or (ROOT / "infra" / source).exists(), mount
