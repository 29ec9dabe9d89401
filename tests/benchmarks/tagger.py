"""Measures tags and the agreement of the embedded models on drawn scenes never trained on.

    python -m tests.benchmarks.tagger [--count 500] [--seed 777] [--labels 1000]

The taxonomy has all things, coloured things, counted things and places that scenes can show, things
in states that no picture shows, and other English words, which are never true, up to the number of
labels. Whether a label is true is known of each scene. The agreement is measured on captions of
which one in five is swapped with another scene's. Exit code 1 when a figure is missed.
"""

import argparse
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from operators.agreement import Agreement
from operators.base import apply
from operators.embedded.embedder_recipe import vocabulary
from operators.embedded.kinds import ANIMAL_STATES, BACKGROUNDS, KINDS, THING_STATES
from operators.embedded.label_texts import common_labels, labels_of
from operators.embedded.scenes import Scene, describe, draw, draw_scenes
from operators.embedder import Embedder
from operators.entailment import Entailment
from operators.matcher import Matcher
from operators.tagger import Tagger
from tests import tiny

LEAST = {"precision": 0.95, "recall": 0.95, "agreement_auc": 0.9}
WORDS = tiny.DATA / "recipes" / "common" / "bert_base_uncased_vocab.txt"
SWAPPED = 5  # one caption in so many
STATEMENTS = {where.english: where.statement for where in BACKGROUNDS}


def taxonomy_of(count: int, seed: int) -> list[dict[str, str]]:
    """The labels, the id of each its English name."""
    entries = [
        {"id": label.english, "en": label.english, "zh": label.chinese}
        | ({"hypothesis": STATEMENTS[label.english]} if label.english in STATEMENTS else {})
        for label in common_labels()
    ]
    for kind in KINDS:
        for state in ANIMAL_STATES if kind.is_animal else THING_STATES:
            name = f"{state} {kind.name}"
            entries.append({"id": name, "en": name, "hypothesis": f"the {kind.name} is {state}"})
    others = Random(seed).sample(other_words(), max(0, count - len(entries)))
    return [*entries, *({"id": word, "en": word} for word in others)][:count]


def other_words() -> list[str]:
    """English words that no caption of a scene has."""
    known = set(" ".join(vocabulary()).split())
    words = WORDS.read_text(encoding="utf-8").split()
    return [word for word in words if re.fullmatch("[a-z]{4,12}", word) and word not in known]


def table_of(scenes: list[Scene]) -> pa.Table:
    """Pictures and captions of scenes, one caption in five another scene's."""
    captions = [describe(scene) for scene in scenes]
    swapped = captions.copy()
    for at in range(0, len(scenes), SWAPPED):
        swapped[at] = captions[(at + SWAPPED) % len(scenes)]
    pictures = []
    for scene in scenes:
        file = io.BytesIO()
        draw(scene).save(file, "PNG")
        pictures.append(file.getvalue())
    return pa.table({"image_encoded": pa.array(pictures, pa.large_binary()), "caption": swapped})


def tag_figures(table: pa.Table, scenes: list[Scene]) -> dict[str, float]:
    """Precision and recall over all labels of all scenes."""
    known = set(common_labels())
    hits = tagged = true = 0
    for tags, scene in zip(table["tags"].to_pylist(), scenes, strict=True):
        holds = {label.english for label in labels_of(scene) if label in known}
        found = {tag["label"] for tag in tags}
        hits += len(found & holds)
        tagged += len(found)
        true += len(holds)
    return {
        "precision": hits / tagged,
        "recall": hits / true,
        "tags_per_image": tagged / len(scenes),
    }


def agreement_auc(table: pa.Table) -> float:
    """The chance that a right caption's agreement is above a swapped one's."""
    values = table["agreement"].to_numpy()
    is_swapped = np.arange(len(values)) % SWAPPED == 0
    right, wrong = values[~is_swapped][:, None], values[is_swapped][None]
    return float(((right > wrong) + 0.5 * (right == wrong)).mean())


def run(count: int, seed: int, size: int, embedder: str) -> dict[str, Any]:
    """Tags scenes and measures."""
    scenes, entries = list(draw_scenes(count, seed)), taxonomy_of(size, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "taxonomy.yaml")
        path.write_text(yaml.safe_dump(entries, allow_unicode=True), encoding="utf-8")
        table = table_of(scenes)
        chain = [
            Embedder(embedder),
            Entailment("embedded:entailment", hypothesis="caption"),
            Matcher("embedded:matcher", text="caption", name="match"),
            Tagger("embedded:entailment", embedder=embedder, taxonomy=str(path)),
            Agreement(entailment="entailment", match="match", tags="tags", taxonomy=str(path)),
        ]
        for operator in chain:
            table = apply(operator, table)
    figures = tag_figures(table, scenes)
    return {**figures, "agreement_auc": agreement_auc(table), "labels": len(entries)}


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=777)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--embedder", default="embedded:embedder")
    given = parser.parse_args()
    figures = run(given.count, given.seed, given.labels, given.embedder)
    print(json.dumps(figures))
    return int(any(figures[name] < least for name, least in LEAST.items()))


if __name__ == "__main__":
    sys.exit(main())
