"""Measures Chinese CLIP: `python -m tests.benchmarks.clip_speed [--only PART] [--models DIR]`.

Directories of the published sizes are written with random weights. Ours and ModelScope's pipeline
read the same ones and the same files, by turns, with two threads each:

- images: B/16, from JPEG files to vectors, in float32 and in bfloat16;
- large: the same of L/14 at 336 pixels;
- texts: captions of scenes, and texts as long as any may be;
- arithmetic: the image tower alone against a matrix product, both sizes.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ChineseCLIPModel

from operators.embedded.scenes import describe_in_chinese, draw_scenes
from operators.embedder import Embedder
from operators.images import decode
from operators.models import chinese_clip
from operators.models.chinese_clip_names import to_modelscope
from operators.precision import Precision
from tests import tiny
from tests.benchmarks.measuring import Row, Section, alternate, write
from tests.benchmarks.modelscope import ModelScope

RECIPE = tiny.RECIPES / "chinese_clip_tiny"
VOCABULARY = tiny.RECIPES / "common" / "chinese_bert_vocab.txt"
SIZES = {  # of the published directories
    "B/16": {
        "embed_dim": 512,
        "image_resolution": 224,
        "vision_layers": 12,
        "vision_width": 768,
        "vision_patch_size": 16,
    },
    "L/14@336": {
        "embed_dim": 768,
        "image_resolution": 336,
        "vision_layers": 24,
        "vision_width": 1024,
        "vision_patch_size": 14,
    },
}
TEXT = {
    "text_hidden_size": 768,
    "text_intermediate_size": 3072,
    "text_num_attention_heads": 12,
    "text_num_hidden_layers": 12,
}
PRODUCT = 4096  # rows and columns of the matrices that are multiplied
THREADS = 2
COMMAND = "python -m tests.benchmarks.clip_speed"
THEIRS = "ModelScope's pipeline"


def write_model(size: str, folder: Path) -> Path:
    """Writes a directory of a published size, unless it is there."""
    model = folder / size.replace("/", "")
    if (model / "pytorch_model.bin").exists():
        return model
    shutil.copytree(RECIPE / "files", model, copy_function=shutil.copyfile)
    shutil.copy(VOCABULARY, model / "vocab.txt")
    for name, sizes in (("vision", SIZES[size]), ("text", TEXT)):
        path = model / f"{name}_model_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **sizes}))
    with torch.device("meta"):
        named = to_modelscope(ChineseCLIPModel(chinese_clip.read_config(model)).state_dict())
        width = TEXT["text_hidden_size"]  # of the pooler, which nothing reads
        named |= {f"bert.pooler.dense.{n}": torch.empty(width, *s) for n, s in POOLER.items()}
    torch.manual_seed(0)
    state = {name: _draw(name, tensor.shape) for name, tensor in named.items()}
    torch.save(state, model / "pytorch_model.bin")
    return model


POOLER = {"weight": (TEXT["text_hidden_size"],), "bias": ()}


def _draw(name: str, shape: Sequence[int]) -> torch.Tensor:
    if name == "logit_scale":
        return torch.tensor(4.6)
    is_norm = name.endswith(("LayerNorm.weight", "ln_1.weight", "ln_2.weight", "ln_pre.weight"))
    return torch.empty(shape).uniform_(-0.03, 0.03).add_(1.0 if is_norm else 0.0)


def images(size: str, count: int, folder: Path) -> list[Row]:
    """From files to vectors."""
    model = write_model(size, folder)
    files = [path for path in tiny.photographs() if path.suffix == ".jpg"]
    files = [files[number % len(files)] for number in range(count)]
    ours = {precision: loaded(model, precision) for precision in ("float32", "bfloat16")}

    def embed(precision: Precision) -> np.ndarray:
        return ours[precision].embed([decode(path.read_bytes()) for path in files])

    with ModelScope("clip", model, threads=THREADS) as theirs:
        batch, found = best_batch(theirs, count, images=files)
        vectors = {precision: embed(precision) for precision in ours}
        taken = alternate(
            {
                "float32": lambda: embed("float32"),
                "bfloat16": lambda: embed("bfloat16"),
                "theirs": lambda: theirs.run(files, batch=batch)[0],
            },
            warm_up=0,
        )
    rates = {name: [count / seconds for seconds in some] for name, some in taken.items()}
    agreement = least_cosine(vectors["float32"], np.array(found))
    lower = least_cosine(vectors["bfloat16"], vectors["float32"])
    bfloat16 = f"cosine with float32 at least {lower:.5f}; AVX512-BF16, no AMX on this machine"
    return [
        Row(
            what=f"Chinese CLIP {size}, images, {precision}",
            unit="images/s",
            ours=rates[precision],
            theirs=rates["theirs"],
            against=f"{THEIRS}, batches of {batch}",
            more_is_better=True,
            least=1.15 if (size, precision) == ("B/16", "float32") else None,
            note=note,
        )
        for precision, note in (
            ("float32", f"from JPEG files; cosine with theirs at least {agreement:.6f}"),
            ("bfloat16", bfloat16),
        )
    ]


def texts(folder: Path, count: int = 32) -> list[Row]:
    """From strings to vectors."""
    model = write_model("B/16", folder)
    captions = [describe_in_chinese(scene) for scene in draw_scenes(count, seed=7)]
    embedder = loaded(model)
    limits = {"captions": (captions, 4.0), "texts of 52 tokens": (["，".join(captions)] * 8, None)}
    rows = []
    with ModelScope("clip", model, threads=THREADS) as theirs:
        for name, (given, least) in limits.items():
            rows.append(_text_row(name, given, least, embedder, theirs))
    return rows


def _text_row(
    name: str, given: list[str], least: float | None, embedder: Embedder, theirs: ModelScope
) -> Row:
    batch, found = best_batch(theirs, len(given), texts=given)
    agreement = least_cosine(embedder.embed_texts(given), np.array(found))
    taken = alternate(
        {
            "ours": lambda: embedder.embed_texts(given),
            "theirs": lambda: theirs.run(texts=given, batch=batch)[0],
        },
        warm_up=0,
    )
    net = embedder._loaded()
    tokens = [len(net.tokenizer.encode(text, limit=net.context_length)) for text in given]
    return Row(
        what=f"Chinese CLIP, {name}, float32",
        unit="texts/s",
        ours=[len(given) / seconds for seconds in taken["ours"]],
        theirs=[len(given) / seconds for seconds in taken["theirs"]],
        against=f"{THEIRS}, batches of {batch}",
        more_is_better=True,
        least=least,
        note=f"{min(tokens)} to {max(tokens)} tokens, {median(tokens):g} in the middle; theirs are "
        f"padded to 52; cosine with theirs at least {agreement:.6f}",
    )


def arithmetic(size: str, count: int, folder: Path) -> Row:
    """The image tower, from pixels to vectors, against a matrix product."""
    model = write_model(size, folder)
    net = loaded(model)._loaded()
    pixels = torch.randn(count, 3, net.image_size, net.image_size)
    flops = count_flops(model)
    left, right = torch.randn(2, PRODUCT, PRODUCT)
    with torch.inference_mode():
        taken = alternate(
            {
                "tower": lambda: net.model.get_image_features(pixels),
                "product": lambda: left @ right,
                "oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(
                    left, right, None, "none", [], ""
                ),
            }
        )
    ours = [count * flops / seconds / 1e9 for seconds in taken["tower"]]
    faster = map(min, taken["product"], taken["oneDNN"])
    return Row(
        what=f"Chinese CLIP {size}, image tower's arithmetic, float32",
        unit="GFLOP/s",
        ours=ours,
        theirs=[2 * PRODUCT**3 / seconds / 1e9 for seconds in faster],
        against="the faster of torch.mm and oneDNN's product",
        more_is_better=True,
        least=0.8,
        note=f"{flops / 1e9:.0f} GFLOP an image",
    )


def loaded(model: Path, precision: Precision = "float32") -> Embedder:
    """Our embedder, ready."""
    embedder = Embedder(model, precision=precision)
    embedder.load()
    return embedder


def best_batch(
    theirs: ModelScope, count: int, **given: Sequence[Path] | Sequence[str]
) -> tuple[int, list[list[float]]]:
    """Whether ModelScope is faster with one at a time or with all at once, and its vectors."""
    run: Callable[..., tuple[float, list[list[float]]]] = theirs.run
    run(**{name: some[:1] for name, some in given.items()}, batch=1)
    taken = {batch: run(**given, batch=batch) for batch in (1, count)}
    best = min(taken, key=lambda batch: taken[batch][0])
    return best, taken[best][1]


def count_flops(model: Path) -> int:
    """Operations for one image, of the published net; nothing is computed."""
    config = chinese_clip.read_config(model)
    with torch.device("meta"):
        net = ChineseCLIPModel(config).eval()
        side = config.vision_config.image_size
        pixels = torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.get_image_features(pixels)
    return int(counter.get_total_flops())


def least_cosine(some: np.ndarray, others: np.ndarray) -> float:
    """Of rows of unit length."""
    return float((some * others).sum(axis=1).min())


PARTS: dict[str, Callable[[Path], list[Row]]] = {
    "images": lambda folder: images("B/16", 8, folder),
    "large": lambda folder: images("L/14@336", 2, folder),
    "texts": texts,
    "arithmetic": lambda folder: [arithmetic("B/16", 8, folder), arithmetic("L/14@336", 2, folder)],
}


def main() -> None:
    """Measures what is asked for and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--models", type=Path, help="where written models are kept between calls")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.models or Path(temporary)
        for part in [given.only] if given.only else PARTS:
            begun = time.perf_counter()
            write(
                Section(
                    name="clip_speed",
                    title="Chinese CLIP on a CPU",
                    text="Random weights of the published sizes, two threads each. ModelScope's "
                    "pipeline takes one at a time or all at once, whichever is faster for it.",
                    command=COMMAND,
                    rows=PARTS[part](folder),
                )
            )
            print(f"{part}: {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
