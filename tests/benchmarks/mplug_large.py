"""Measures mPLUG at its published size: `python -m tests.benchmarks.mplug_large`.

Every tensor of the published files is written with random values in ModelScope's layout, momentum
copies and queues included (3 and 5 GB in a temporary folder, gone afterwards), loaded strictly and
run on one image. Needs 6 GB of memory and some minutes. Each figure is of a process of its own:

- captioning: peak memory (< 3.5 GB), operations counted for one caption of 25 tokens at beam 5
  (<= 0.5 TFLOP; ModelScope's is 2.9), processor seconds;
- matching: peak memory (< 3.5 GB), processor seconds for 1 and for 16 texts on an image (<= 3 x);
- both again with weights and arithmetic in bfloat16: peak memory (< 1.75 GB).

Prints one JSON object; the exit code is 1 where a figure is missed.
"""

import argparse
import json
import math
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from operators.captioner import Captioner, Precision
from operators.matcher import Matcher
from tests import tiny

LAYOUT = tiny.DATA / "mplug_large_tensors.txt"
VOCABULARY = tiny.RECIPES / "common" / "bert_base_uncased_vocab.txt"
TASKS = {"caption": "image-captioning", "retrieval": "image-text-retrieval"}
COPIED = ("visual_encoder", "text_encoder", "fusion_encoder", "vision_proj", "text_proj")
SETTINGS = {  # of config.yaml; the authors' sizes, and a caption of exactly 25 tokens
    "bert_config": "config_bert.json",
    "image_res": 336,
    "clip_name": "ViT-L-14",
    "vision_width": 1024,
    "bos": "[CLS]",
    "eos": "[SEP]",
    "prompt": "",
    "momentum": 0.995,
    "beam_size": 5,
    "min_length": 25,
    "max_length": 25,
}
BERT = {  # of config_bert.json; what ModelScope needs beside the number of layers
    "text_encoder_layers": 6,
    "fusion_layers": 6,
    "text_decode_layers": 12,
    "stride_layer": 6,
    "model_type": "bert",
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "vocab_size": 30522,
    "pad_token_id": 0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "attention_probs_dropout_prob": 0.1,
    "hidden_dropout_prob": 0.1,
    "encoder_width": 768,
    "add_cross_attention": False,
}
MAX_BYTES = {"float32": 3.5e9, "bfloat16": 1.75e9}
MAX_FLOPS = 0.5e12
MAX_RATIO = 3.0


def tensors(task: str) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of a published file, momentum copies included."""
    is_wanted = False
    for line in LAYOUT.read_text().splitlines():
        if line.startswith("#"):
            is_wanted = f"mplug_{task}_large" in line
        elif is_wanted:
            name, shape, last = re.fullmatch(
                r"(\S+)\s+(\[.*?\])(?: int64)?(?:\s+i=0\.\.(\d+))?", line
            ).groups()  # type: ignore[union-attr]
            for number in range(int(last or 0) + 1):
                whole = name.replace("{i}", str(number))
                yield whole, json.loads(shape)
                head, _, rest = whole.partition(".")
                if task == "retrieval" and (head in COPIED or head.startswith("visn_")):
                    yield f"{head}_m.{rest}", json.loads(shape)


def write(task: str, folder: Path) -> None:
    """Writes a directory of the published size."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, shape in tensors(task):
        is_norm = name.lower().endswith(("norm.weight", "ln_1.weight", "ln_2.weight"))
        state[name] = torch.empty(shape).uniform_(-0.03, 0.03).add_(1.0 if is_norm else 0.0)
    twin = "text_decoder.cls.predictions.decoder"
    if task == "caption":
        state[f"{twin}.weight"] = state["text_decoder.bert.embeddings.word_embeddings.weight"]
        state[f"{twin}.bias"] = state["text_decoder.cls.predictions.bias"]
    torch.save(
        {"model": {"module": state}} if task == "caption" else {"module": state},
        folder / "pytorch_model.bin",
    )
    shutil.copy(VOCABULARY, folder / "vocab.txt")
    (folder / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, "task": TASKS[task]}))
    (folder / "config_bert.json").write_text(json.dumps(BERT))
    configuration = {
        "framework": "pytorch",
        "task": TASKS[task],
        "model": {"type": "mplug"},
        "pipeline": {"type": TASKS[task]},
        "preprocessor": {"type": "mplug-tasks-preprocessor"},
    }
    (folder / "configuration.json").write_text(json.dumps(configuration))


def caption(folder: Path, precision: Precision) -> dict[str, float]:
    """Captions one image."""
    captioner = Captioner(folder, precision=precision)
    captioner.load()
    loaded = peak_bytes()
    begin = time.process_time()
    captioner.caption([photograph()])
    seconds = time.process_time() - begin
    peak = peak_bytes()
    onednn = {torch.ops.mkldnn._linear_pointwise: product_flops}  # the counter does not know it
    with FlopCounterMode(display=False, custom_mapping=onednn) as counter:
        captioner.caption([photograph()])
    return {
        "loaded_bytes": loaded,
        "peak_bytes": peak,
        "seconds": round(seconds, 2),
        "flops": counter.get_total_flops(),
    }


def retrieval(folder: Path, precision: Precision) -> dict[str, float]:
    """Matches one image with one text and with sixteen."""
    matcher = Matcher(folder, precision=precision)
    matcher.load()
    loaded = peak_bytes()
    texts = [f"a cup of coffee on saucer number {number}" for number in range(16)]
    took: dict[int, float] = {}
    for count in (1, 16, 1, 16):
        begin = time.process_time()
        matcher.match([photograph()], texts[:count])
        seconds = time.process_time() - begin
        took[count] = min(seconds, took.get(count, seconds))
    return {
        "loaded_bytes": loaded,
        "peak_bytes": peak_bytes(),
        "seconds_1_text": round(took[1], 2),
        "seconds_16_texts": round(took[16], 2),
        "ratio": round(took[16] / took[1], 2),
    }


def product_flops(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    """Operations of `x @ weight.T`, from their shapes."""
    return 2 * math.prod(x) * weight[0]


def photograph() -> Image.Image:
    """Opens one picture."""
    return Image.open(tiny.photographs()[0])


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


STEPS = {"caption": caption, "retrieval": retrieval}


def in_a_process_of_its_own(step: str, *arguments: str) -> dict[str, float]:
    """Runs a step of this module and reads what it prints."""
    command = [sys.executable, "-m", "tests.benchmarks.mplug_large", step, *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(printed) if printed.strip() else {}
    return found


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", nargs="?", choices=[*STEPS, "write"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("precision", nargs="?", choices=MAX_BYTES)
    given = parser.parse_args()
    if given.step == "write":
        write(given.folder.name, given.folder)
        return 0
    if given.step:
        print(json.dumps(STEPS[given.step](given.folder, given.precision)))
        return 0
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for task in TASKS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / task
            folder.mkdir()
            in_a_process_of_its_own("write", str(folder))
            figures[task] = {
                precision: in_a_process_of_its_own(task, str(folder), precision)
                for precision in MAX_BYTES
            }
    print(json.dumps(figures, indent=2))
    is_met = (
        all(
            figures[task][p]["peak_bytes"] < most for task in TASKS for p, most in MAX_BYTES.items()
        )
        and figures["caption"]["float32"]["flops"] <= MAX_FLOPS
        and figures["retrieval"]["float32"]["ratio"] <= MAX_RATIO
    )
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
