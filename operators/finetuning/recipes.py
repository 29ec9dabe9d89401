"""The published settings of each model's fine-tuning, and the trainee they are for.

Sources: ModelScope 1.40's Chinese CLIP examples; OFA's run_scripts for captions and SNLI-VE;
AliceMind's mPLUG configs for captions and retrieval.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from operators.finetuning.trainee import Trainee
from operators.models import checkpoint
from operators.models.directory import expect
from schemas.errors import ConfigError
from schemas.finetune import FinetuneConfig, Schedule


@dataclass(frozen=True)
class Recipe:
    """How a model learns where the config leaves it open.

    Args:
        learning_rate: at its peak.
        schedule: how it falls.
        warmup: steps from 1 on, else a share of all steps.
        weight_decay: of what the published scripts decay.
        betas: AdamW's.
        epsilon: AdamW's.
        clip: the largest norm of the gradients; 0 for any.
        smoothing: of labels.
        epochs: over all rows.
        is_augmented: whether images are changed.
    """

    learning_rate: float
    schedule: Schedule
    warmup: float
    weight_decay: float
    betas: tuple[float, float]
    epsilon: float
    clip: float
    smoothing: float
    epochs: float
    is_augmented: bool = False


OFA = Recipe(1e-5, "polynomial", 0.06, 0.01, (0.9, 0.999), 1e-8, 1.0, 0.1, 5)
MPLUG = Recipe(1e-5, "cosine", 0, 0.02, (0.9, 0.999), 1e-8, 0, 0.0, 5)
RECIPES = {  # architecture and use
    ("ofa", "captioner"): OFA,
    ("ofa", "entailment"): replace(OFA, learning_rate=2e-5, smoothing=0.0),
    ("chinese_clip", "embedder"): Recipe(
        5e-5, "cosine", 0.01, 0.01, (0.9, 0.98), 1e-6, 0, 0.0, 3, is_augmented=True
    ),
    ("mplug", "captioner"): MPLUG,
    ("mplug", "matcher"): MPLUG,
}
EMBEDDED = Recipe(6e-4, "cosine", 0.05, 0.02, (0.9, 0.98), 1e-8, 1.0, 0.02, 5)
SMALL = {  # the models that ship with tagline are small: they need, and bear, higher rates
    "captioner": EMBEDDED,
    "entailment": replace(EMBEDDED, learning_rate=3e-4),
    "embedder": replace(EMBEDDED, learning_rate=3e-4, smoothing=0.0),
    "matcher": replace(EMBEDDED, learning_rate=2e-4, smoothing=0.0),
}


def recipe_of(config: FinetuneConfig, directory: Path) -> Recipe:
    """The published recipe of the config's model, with what the config says instead.

    Args:
        config: of the run.
        directory: what its model resolves to.

    Raises:
        ConfigError: the model is of an architecture that has no teacher or smoothing.
        ModelError: the model is one for another operator.
    """
    architecture = expect(directory, config.use).architecture
    if config.teacher is not None and architecture != "ofa":
        raise ConfigError(f"teacher is for OFA; {config.model!r} is of {architecture}")
    recipe = RECIPES[architecture, config.use]
    if config.model.startswith("embedded:"):
        recipe = SMALL[config.use]
    if config.smoothing and config.use in ("embedder", "matcher"):
        raise ConfigError(f"smoothing is for captions and answers; {config.use!r} has neither")
    given = {
        name: value
        for name in ("learning_rate", "schedule", "warmup", "weight_decay", "clip", "smoothing")
        if (value := getattr(config, name)) is not None
    }
    if config.augment is not None:
        given["is_augmented"] = config.augment == "published"
    return replace(recipe, **given)


def build_trainee(config: FinetuneConfig, recipe: Recipe) -> Trainee:
    """Reads the config's model for training.

    Raises:
        ModelError: it is damaged, or its teacher is of another vocabulary.
    """
    directory = checkpoint.resolve(config.model)
    architecture = expect(directory, config.use).architecture
    builders: dict[tuple[str, str], Callable[[FinetuneConfig, Recipe, Path], Trainee]] = {
        ("ofa", "captioner"): _captioner,
        ("ofa", "entailment"): _entailment,
        ("chinese_clip", "embedder"): _embedder,
        ("mplug", "captioner"): _mplug_captioner,
        ("mplug", "matcher"): _matcher,
    }
    return builders[architecture, config.use](config, recipe, directory)


def words_to_learn(
    config: FinetuneConfig, directory: Path, rows: Iterable[Mapping[str, str]]
) -> list[str]:
    """Names the words of the rows that the model in `directory` cannot spell; only OFA has such."""
    if expect(directory, config.use).architecture != "ofa":
        return []
    from operators.finetuning.vocabulary import unknown_words

    if config.use == "captioner":
        from operators.finetuning.captioner import LONGEST_TARGET, target_text
        from operators.finetuning.ofa import longest_target

        longest = longest_target(directory, LONGEST_TARGET)
        return unknown_words(directory, (target_text(row["caption"], longest) for row in rows))
    from operators.models.ofa.answers import clean
    from operators.models.ofa.settings import Settings

    longest = Settings.read(directory).longest_source
    names = [name for name in config.targets if name != "label"]
    return unknown_words(directory, (f" {clean(row[n], longest)}" for row in rows for n in names))


def _captioner(config: FinetuneConfig, recipe: Recipe, directory: Path) -> Trainee:
    from operators.finetuning.captioner import CaptionerTrainee

    return CaptionerTrainee(
        directory,
        smoothing=recipe.smoothing,
        teacher=checkpoint.resolve(config.teacher) if config.teacher else None,
        teaching=config.teaching,
        has_checkpoints=config.recompute,
    )


def _entailment(config: FinetuneConfig, recipe: Recipe, directory: Path) -> Trainee:
    from operators.finetuning.entailment import EntailmentTrainee

    return EntailmentTrainee(
        directory,
        has_premise=config.premise,
        smoothing=recipe.smoothing,
        teacher=checkpoint.resolve(config.teacher) if config.teacher else None,
        teaching=config.teaching,
        has_checkpoints=config.recompute,
    )


def _embedder(config: FinetuneConfig, recipe: Recipe, directory: Path) -> Trainee:
    from operators.finetuning.embedder import EmbedderTrainee

    return EmbedderTrainee(
        directory, is_augmented=recipe.is_augmented, has_checkpoints=config.recompute
    )


def _mplug_captioner(config: FinetuneConfig, recipe: Recipe, directory: Path) -> Trainee:
    from operators.finetuning.mplug_captioner import MPlugCaptionerTrainee

    return MPlugCaptionerTrainee(
        directory, smoothing=recipe.smoothing, has_checkpoints=config.recompute
    )


def _matcher(config: FinetuneConfig, recipe: Recipe, directory: Path) -> Trainee:
    from operators.finetuning.matcher import MatcherTrainee

    return MatcherTrainee(directory, has_checkpoints=config.recompute)
