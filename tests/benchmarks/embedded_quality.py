"""Measures the embedded models on drawn scenes, through the operators a user runs.

`python -m tests.benchmarks.embedded_quality [--count 500] [--seed 7] [--models DIR]`: draws scenes
with `jobs.scenes`, as `tagline scenes` does, and compares with their true captions and labels. Of a
DIR, such as that of infra/examples/finetune-embedded-*.yaml, the models that it has are measured.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
from PIL import Image

from jobs import scenes
from operators.captioner import Captioner
from operators.embedded.scenes import Scene, describe, draw_scenes
from operators.embedded.sentences import hard_negatives
from operators.embedder import Embedder
from operators.entailment import Entailment
from operators.matcher import Matcher

NAMES = ("captioner", "entailment", "embedder", "mplug-captioner", "matcher")
CANDIDATES = 10  # captions of which the matcher is to find the right one


def measure(folder: Path, *, count: int, seed: int, models: Path | None = None) -> dict[str, float]:
    """Draws scenes into `folder` and returns every figure; `models` instead of those that ship."""
    summary = scenes.run(folder, count=count, seed=seed)
    rows = pq.read_table(summary.manifest).to_pylist()
    images = [Image.open(folder / row["uri"]).convert("RGB") for row in rows]
    lines = [json.loads(line) for line in Path(summary.hypotheses).read_text().splitlines()]
    named = {name: str(models / name) if models else f"embedded:{name}" for name in NAMES}
    parts: dict[str, Callable[[str], dict[str, float]]] = {
        "captioner": lambda model: {"captions_exact": captions(model, images, rows)},
        "entailment": lambda model: labels(model, images, lines),
        "embedder": lambda model: recall(model, images, rows),
        "mplug-captioner": lambda model: {"mplug_captions_exact": captions(model, images, rows)},
        "matcher": lambda model: choices(model, images, seed),
    }
    figures: dict[str, float] = {}
    for name, model in named.items():
        if models is None or (models / name).is_dir():
            began = time.process_time()
            figures |= parts[name](model)
            figures[f"{name.replace('-', '_')}_seconds"] = time.process_time() - began
    return figures


def captions(model: str, images: list[Image.Image], rows: list[dict[str, str]]) -> float:
    """The share of captions that are right word for word."""
    said = [caption.text for caption in Captioner(model).caption(images)]
    right = sum(text == row["caption"] for text, row in zip(said, rows, strict=True))
    return right / len(rows)


def labels(model: str, images: list[Image.Image], lines: list[dict[str, str]]) -> dict[str, float]:
    """The share of right labels, of all hypotheses and of those with each true label."""
    checker = Entailment(model, hypothesis="text")
    texts = [[line["text"] for line in lines[i : i + 3]] for i in range(0, len(lines), 3)]
    judged = [
        judgement.label
        for image, three in zip(images, texts, strict=True)
        for judgement in checker.judge([image], three)[0]
    ]
    right = [said == line["label"] for said, line in zip(judged, lines, strict=True)]
    totals = Counter(line["label"] for line in lines)
    hits = Counter(line["label"] for line, is_right in zip(lines, right, strict=True) if is_right)
    shares = {f"entailment_{label}": hits[label] / totals[label] for label in sorted(totals)}
    return {"entailment": sum(right) / len(right), **shares}


def recall(model: str, images: list[Image.Image], rows: list[dict[str, str]]) -> dict[str, float]:
    """How often the picture that is nearest to a caption is its own."""
    embedder = Embedder(model)
    vectors = embedder.embed(images)
    figures = {}
    for column, language in (("caption_zh", "zh"), ("caption", "en")):
        nearest = (embedder.embed_texts([row[column] for row in rows]) @ vectors.T).argmax(axis=1)
        figures[f"recall_{language}"] = float((nearest == range(len(rows))).mean())
    return figures


def choices(model: str, images: list[Image.Image], seed: int) -> dict[str, float]:
    """How often the right caption is the best of ten, nine of which have one thing changed."""
    texts = [candidates(scene, seed, n) for n, scene in enumerate(draw_scenes(len(images), seed))]
    found = Matcher(model).match_each(images, texts)
    by_score = [best(match.score for match in some) for some in found]
    by_similarity = [best(match.similarity for match in some) for some in found]
    judged = [(match.score >= 0.5) == (n == 0) for some in found for n, match in enumerate(some)]
    return {
        "match_of_ten": by_score.count(0) / len(images),
        "similarity_of_ten": by_similarity.count(0) / len(images),
        "match_judged": sum(judged) / len(judged),
    }


def best(values: Iterable[float]) -> int:
    """The place of the largest value; the last of equal ones, so that a tie is no success."""
    ranked = list(values)
    return max(range(len(ranked)), key=lambda n: (ranked[n], n))


def candidates(scene: Scene, seed: int, number: int) -> list[str]:
    """The caption of a scene, then others that differ in one thing."""
    random = Random(f"tagline candidates {seed} {number}")
    return [describe(scene), *hard_negatives(random, scene, CANDIDATES - 1)]


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--models", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(
            Path(folder), count=arguments.count, seed=arguments.seed, models=arguments.models
        )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
