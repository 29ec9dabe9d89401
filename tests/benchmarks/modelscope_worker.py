"""Runs ModelScope's own pipelines for benchmarks, under a Python that has ModelScope installed.

Started by `tests.benchmarks.modelscope`; imports nothing of this project. Reads one JSON object a
line and answers each with one:

    {"load": "ofa-caption", "model": DIR, "threads": 2}       -> {"seconds": 3.1}
    {"run": {"images": [PATH, …], "texts": [], "batch": 4}}   -> {"seconds": 4.4, "outputs": […]}

`load` is a key of PIPELINES. A run goes from the files of the images to answers: captions;
`[label, probability]` of every text about every image; the probability that they belong together;
or the vectors of the images and then those of the texts. What fails answers {"error": …}.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
import traceback
import types
from unittest.mock import MagicMock

UNUSED = ("fairseq", "torchaudio", "librosa", "soundfile", "open_clip")  # imported, never called


class UnusedPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets ModelScope import packages for sound, which its image models do not call."""

    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] in UNUSED or fullname.startswith("torchvision.io"):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        module = AnyModule(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module):
        pass


class AnyModule(types.ModuleType):
    """Has a class or a function of every name."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (object,), {}) if name[0].isupper() else MagicMock()


def captions(pipeline, images, texts, batch):
    """ModelScope's mPLUG cannot batch: give it none."""
    given = pipeline(images, batch_size=batch) if batch else [pipeline(image) for image in images]
    found = [one["caption"] for one in given]
    return [caption if isinstance(caption, str) else caption[0] for caption in found]  # OFA's: [0]


def entailments(pipeline, images, texts, batch):
    """The pipeline takes one pair at a time; it fails on batches (KeyError: decoder_prompts)."""
    pairs = [{"image": image, "text": text} for image in images for text in texts]
    answers = [pipeline(pair) for pair in pairs]
    return [[one["labels"], float(one["scores"])] for one in answers]


def matches(pipeline, images, texts, batch):
    """The pipeline takes one pair at a time: ModelScope's mPLUG cannot batch."""
    pairs = [{"image": image, "text": text} for image in images for text in texts]
    return [float(pipeline(pair)["scores"][1]) for pair in pairs]


def embeddings(pipeline, images, texts, batch):
    """The pipeline is called by `forward`, as its card shows, and wants images that are open."""
    from modelscope.preprocessors import load_image

    found = []
    for name, key, items, read in (
        ("img", "img_embedding", images, load_image),
        ("text", "text_embedding", texts, str),
    ):
        size = batch or len(items) or 1
        for start in range(0, len(items), size):
            some = [read(item) for item in items[start : start + size]]
            found += pipeline.forward({name: some})[key].tolist()
    return found


PIPELINES = {
    "ofa-caption": ("image-captioning", captions),
    "ofa-entailment": ("visual-entailment", entailments),
    "mplug-caption": ("image-captioning", captions),
    "mplug-matching": ("image-text-retrieval", matches),
    "clip": ("multi-modal-embedding", embeddings),
}


class Worker:
    def load(self, name, model, threads):
        import torch
        from modelscope.pipelines import pipeline

        torch.set_num_threads(threads)
        task, self.answer = PIPELINES[name]
        self.pipeline = pipeline(task, model=model)

    def run(self, images, texts, batch):
        import torch

        preprocessor = self.pipeline.preprocessor
        if hasattr(preprocessor, "_image_map"):
            preprocessor._image_map.clear()  # mPLUG's keeps every image it saw; these are new ones
        with torch.no_grad():
            return self.answer(self.pipeline, images, texts, batch)

    def obey(self, order):
        begun = time.perf_counter()
        answer = {}
        if "load" in order:
            self.load(order["load"], order["model"], order["threads"])
        else:
            given = order["run"]
            images, texts = given.get("images", []), given.get("texts", [])
            answer["outputs"] = self.run(images, texts, given.get("batch"))
        return {"seconds": time.perf_counter() - begun, **answer}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what ModelScope prints must not be taken for an answer
    sys.meta_path.insert(0, UnusedPackages())
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = worker.obey(json.loads(line))
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
