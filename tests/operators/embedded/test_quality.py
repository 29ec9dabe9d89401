"""The figures of the embedded models, on a seed that no training and no tuning looked at."""

import pytest

from operators.models import checkpoint
from tests.benchmarks.embedded_quality import NAMES, measure

SEED = 777
LEAST = {
    "captions_exact": 0.97,
    "entailment": 0.97,
    "entailment_yes": 0.94,
    "entailment_no": 0.94,
    "entailment_maybe": 0.94,
    "recall_zh": 0.92,
    "recall_en": 0.92,
    "mplug_captions_exact": 0.95,
    "match_of_ten": 0.90,
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    return measure(tmp_path_factory.mktemp("scenes"), count=500, seed=SEED)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_the_embedded_models_are_as_good_as_the_readme_says(figures, name):
    assert figures[name] >= LEAST[name]


def test_the_embedded_models_are_small():
    sizes = {
        name: sum(path.stat().st_size for path in (checkpoint.EMBEDDED / name).iterdir())
        for name in NAMES
    }
    assert max(sizes.values()) <= 12_000_000
    assert sum(sizes.values()) <= 40_000_000


def test_each_model_tells_how_it_was_made():
    for name in NAMES:
        folder = checkpoint.EMBEDDED / name
        record = checkpoint.read_json(folder / "training.json")
        assert record["command"].startswith("python -m jobs.embedded_training")
        assert "event=published" in (folder / "training.log").read_text()
