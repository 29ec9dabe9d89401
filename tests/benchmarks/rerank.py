"""Measures what choosing among five beams by the matcher is worth to a captioner that needs it.

`python -m tests.benchmarks.rerank --captioner DIR [--count 500] [--seed 7]`. The captioner is one
that was trained too little, such as `python -m jobs.embedded_training mplug --out OUT --images
48000` leaves in OUT/model/mplug-captioner; or any other. Exact captions of drawn scenes are
counted before and after, and how often the true one was among the five.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from PIL.Image import Image

from operators.captioner import Captioner
from operators.embedded.scenes import describe, draw, draw_scenes

MATCHER = {"matcher": {"model": "embedded:matcher"}}


def measure(
    captioner: str, *, count: int, seed: int, rerank: dict[str, Any] = MATCHER
) -> dict[str, float]:
    """Captions scenes of a user's seed; returns the shares of exact ones."""
    scenes = list(draw_scenes(count, seed))
    return compare(
        Captioner(captioner, rerank=rerank),
        [draw(scene) for scene in scenes],
        [describe(scene) for scene in scenes],
    )


def compare(
    captioner: Captioner, images: Sequence[Image], truths: Sequence[str]
) -> dict[str, float]:
    """The shares of images whose first, chosen, or any sentence is the true one."""
    first = chosen = any_of_five = 0
    for caption, truth in zip(captioner.caption(images), truths, strict=True):
        texts = [sentence.text for sentence in caption.alternatives]
        first += texts[0] == truth
        chosen += caption.text == truth
        any_of_five += truth in texts
    return {
        "exact_by_search": first / len(truths),
        "exact_by_matcher": chosen / len(truths),
        "among_the_beams": any_of_five / len(truths),
    }


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captioner", required=True, help="directory of the captioner")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    figures = measure(arguments.captioner, count=arguments.count, seed=arguments.seed)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
