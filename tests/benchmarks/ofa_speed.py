"""Measures OFA at its published 33M size on a CPU against ModelScope's own pipelines.

    python -m tests.benchmarks.ofa_speed [captions | entailment | resnet | bfloat16] …

Weights are random, as drawn by `tests.tiny`, and the same on both sides. Both get the files of the
same photographs and give sentences or labels, on as many threads as there are cores; what they say
is compared. `tests.benchmarks.modelscope` tells how ModelScope is installed.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from operators.captioner import Captioner
from operators.embedded.scenes import draw, draw_scenes
from operators.entailment import Entailment
from operators.images import decode
from operators.models.cpu import linear
from operators.models.ofa.model import load
from operators.models.ofa.reader import Reader
from operators.precision import Precision
from tests import tiny
from tests.benchmarks.measuring import Row, Section, alternate, machine, write
from tests.benchmarks.modelscope import ModelScope

THREADS = len(os.sched_getaffinity(0))
CAPTIONED, JUDGED, SCENES = 4, 2, 500
BATCHES = (None, 2, 4)  # of ModelScope's; None is one image after the other
HYPOTHESES = (
    "there are two birds.",
    "a man in a spacesuit, smiling at the camera!",
    "the cup is empty",
    "an astronaut's suit is orange; it has a flag - and badges.",
    "nobody is there",
    "a well-lit street/market at night?",
    "a horse stands in the snow",
    "someone has left a motorcycle in front of the house",
)
AMX = "amx_bf16"
PIPELINE = "ModelScope's pipeline"
TEXT = (
    "The published size of 33M parameters, 480 pixels, random weights, float32 unless a row says "
    "otherwise; from image files to answers, both sides on all cores."
)


def captions() -> Iterator[Row]:
    """Seconds an image, against ModelScope at its best batch size."""
    row = "OFA 33M captions, {}, seconds an image"
    yield _captions(row.format("float32"), "float32", least=5)
    what = row.format("bfloat16 by AMX")
    if AMX in machine()["flags"]:
        yield _captions(what, "bfloat16", least=12)
    else:
        yield Row(what, "s", [], against=PIPELINE, least=12, note="no AMX here")


def _captions(what: str, precision: Precision, *, least: float) -> Row:
    photographs, directory = tiny.photographs()[:CAPTIONED], tiny.checkpoint("ofa_caption_tiny")
    captioner = Captioner(directory, precision=precision)
    captioner.load()
    said: dict[str, list[str]] = {}

    def ours() -> float:
        begun = time.perf_counter()
        said["ours"] = [caption.text for caption in captioner.caption(_opened(photographs))]
        return (time.perf_counter() - begun) / len(photographs)

    with ModelScope("ofa-caption", directory, threads=THREADS) as modelscope:
        took = {batch: modelscope.run(photographs, batch=batch)[0] for batch in BATCHES}
        best = min(BATCHES, key=lambda batch: took[batch])

        def theirs() -> float:
            seconds, said["theirs"] = modelscope.run(photographs, batch=best)
            return seconds / len(photographs)

        found = alternate({"ours": ours, "theirs": theirs})
    equal = sum(a == b for a, b in zip(said["ours"], said["theirs"], strict=True))
    _check(equal == CAPTIONED or precision != "float32", f"captions differ: {said}")
    way = f"batches of {best}" if best else "one image after the other"
    note = f"{equal} of {CAPTIONED} sentences equal, beam 5; ModelScope is fastest with {way}"
    return Row(what, "s", **found, against=PIPELINE, least=least, note=note)


def entailment() -> Iterator[Row]:
    """Seconds a hypothesis, with one and with eight of them an image."""
    photographs, directory = tiny.photographs()[:JUDGED], tiny.checkpoint("ofa_entailment_tiny")
    judge = Entailment(directory, hypotheses=HYPOTHESES)
    judge.load()
    with ModelScope("ofa-entailment", directory, threads=THREADS) as modelscope:
        yield _entailment(judge, modelscope, photographs, HYPOTHESES[1:2], least=2)
        yield _entailment(judge, modelscope, photographs, HYPOTHESES, least=5)


def _entailment(
    judge: Entailment,
    modelscope: ModelScope,
    photographs: Sequence[Path],
    hypotheses: Sequence[str],
    *,
    least: float,
) -> Row:
    said: dict[str, list[str]] = {}
    pairs = len(photographs) * len(hypotheses)

    def ours() -> float:
        begun = time.perf_counter()
        judged = judge.judge(_opened(photographs), hypotheses)
        said["ours"] = [judgement.label for row in judged for judgement in row]
        return (time.perf_counter() - begun) / pairs

    def theirs() -> float:
        seconds, answers = modelscope.run(photographs, hypotheses)
        said["theirs"] = [label for label, _ in answers]
        return seconds / pairs

    found = alternate({"ours": ours, "theirs": theirs})
    _check(said["ours"] == said["theirs"], f"labels differ: {said}")
    what = f"OFA 33M entailment, {len(hypotheses)} an image, seconds a hypothesis"
    note = f"{len(photographs)} photographs, equal labels; ModelScope's cannot batch"
    return Row(what, "s", **found, against=PIPELINE, least=least, note=note)


def resnet() -> Iterator[Row]:
    """The ResNet's share of the speed of the fastest matrix product there is here."""
    directory = tiny.checkpoint("ofa_caption_tiny")
    reader = Reader.load(directory, precision="float32")
    pixels, square = torch.rand(2, 3, 480, 480), torch.rand(2048, 2048)
    with reader.arithmetic():
        with FlopCounterMode(display=False) as counter:  # which knows none of oneDNN's operations
            load(directory).encode_image_features(pixels)
        found = alternate(
            {
                "resnet": lambda: _seconds(lambda: reader.net.encode_image_features(pixels)),
                "product": lambda: min(
                    _seconds(lambda: square @ square), _seconds(lambda: linear(square, square))
                ),
            },
            rounds=9,
        )
    speeds = [counter.get_total_flops() / seconds for seconds in found["resnet"]]
    most = [2 * 2048**3 / seconds for seconds in found["product"]]
    shares = [speed / limit for speed, limit in zip(speeds, most, strict=True)]
    note = (
        f"{max(speeds) / 1e9:.0f} of {max(most) / 1e9:.0f} GFLOP/s; the product is of 2048 x 2048"
    )
    what = "OFA's ResNet, share of a float32 matrix product's FLOP/s"
    yield Row(what, "", shares, least=0.75, more_is_better=True, note=note)


def bfloat16() -> Iterator[Row]:
    """What bfloat16 changes in the embedded captioner's sentences."""
    scenes = [draw(scene) for scene in draw_scenes(SCENES, seed=7)]
    exact, rounded = (
        [caption.text for caption in Captioner("embedded:captioner", precision=p).caption(scenes)]
        for p in ("float32", "bfloat16")
    )
    share = sum(a == b for a, b in zip(exact, rounded, strict=True)) / SCENES
    what = "captions in bfloat16 equal to float32's, embedded captioner"
    yield Row(what, "", [share], least=0.98, note=f"{SCENES} drawn scenes")


def _opened(paths: Sequence[Path]) -> list[Image]:
    return [decode(path.read_bytes()) for path in paths]


def _seconds(work: Callable[[], Tensor]) -> float:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def _check(is_so: bool, message: str) -> None:
    if not is_so:
        raise SystemExit(message)


PARTS = {
    "captions": captions,
    "entailment": entailment,
    "resnet": resnet,
    "bfloat16": bfloat16,
}


def main() -> None:
    """Measures the parts that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all where none is named")
    named = parser.parse_args().parts or list(PARTS)
    torch.set_num_threads(THREADS)
    command = "python -m tests.benchmarks.ofa_speed"
    for name in named:
        for row in PARTS[name]():
            write(Section("ofa_speed", "OFA on a CPU", TEXT, command, [row]))


if __name__ == "__main__":
    main()
