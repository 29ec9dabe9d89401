import pytest

from operators.finetuning.recipes import build_trainee, recipe_of
from operators.models.checkpoint import resolve
from schemas.errors import ConfigError
from schemas.finetune import FinetuneConfig
from tests import mplug, tiny


def _recipe(config):
    return recipe_of(config, resolve(config.model))


def config_of(use, model, **changes):
    document = {"use": use, "model": str(model), "output": "out", "train": "rows.csv"}
    return FinetuneConfig.model_validate(document | changes)


@pytest.mark.parametrize(
    ("use", "model", "expected"),
    [
        ("captioner", "ofa_caption_tiny", (1e-5, "polynomial", 0.06, 0.01, 0.1, False)),
        ("entailment", "ofa_entailment_tiny", (2e-5, "polynomial", 0.06, 0.01, 0.0, False)),
        ("embedder", "chinese_clip_mini", (5e-5, "cosine", 0.01, 0.01, 0.0, True)),
    ],
)
def test_what_is_left_out_is_as_published(use, model, expected):
    recipe = _recipe(config_of(use, tiny.checkpoint(model)))
    found = (recipe.learning_rate, recipe.schedule, recipe.warmup, recipe.weight_decay)
    assert (*found, recipe.smoothing, recipe.is_augmented) == expected


def test_what_is_given_wins():
    changes = {"learning_rate": 1.0, "clip": 0.0, "augment": "published", "schedule": "constant"}
    recipe = _recipe(config_of("embedder", "embedded:embedder", **changes))
    assert (recipe.learning_rate, recipe.clip, recipe.schedule) == (1.0, 0.0, "constant")
    assert recipe.is_augmented


def test_the_small_models_learn_faster_and_see_images_as_they_are():
    for use in ("captioner", "entailment", "embedder"):
        recipe = _recipe(config_of(use, f"embedded:{use}"))
        assert recipe.learning_rate >= 2e-4
        assert not recipe.is_augmented


@pytest.mark.parametrize(
    ("task", "use", "kind"),
    [
        (mplug.CAPTIONING, "captioner", "MPlugCaptionerTrainee"),
        (mplug.MATCHING, "matcher", "MatcherTrainee"),
    ],
)
def test_a_directory_tells_its_trainee(tmp_path, task, use, kind):
    config = config_of(use, mplug.write(tmp_path / "model", task))
    assert type(build_trainee(config, _recipe(config))).__name__ == kind


def test_options_of_another_model_are_refused(tmp_path):
    model = mplug.write(tmp_path / "model", mplug.CAPTIONING)
    with pytest.raises(ConfigError, match="teacher is for OFA"):
        _recipe(config_of("captioner", model, teacher="embedded:captioner"))
    with pytest.raises(ConfigError, match="smoothing is for captions and answers"):
        _recipe(config_of("embedder", "embedded:embedder", smoothing=0.1))
