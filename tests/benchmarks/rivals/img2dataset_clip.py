"""The same tower behind img2dataset and clip-retrieval: download to tar files, then embed those.

    python img2dataset_clip.py MANIFEST OUTPUT

As `clip_retrieval.clip_end2end` joins the two, with its options. clip-retrieval's reader, runner
and writer are its own; only the model is ours, for its loader knows other towers. Its package is
not imported as a whole, because that needs a web server and an index.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image

from operators.models import checkpoint, chinese_clip

WORKERS = os.cpu_count() or 1


def parts(*names: str) -> list[ModuleType]:
    """Modules of clip_retrieval.clip_inference, without what its packages import."""
    for package in ("clip_retrieval", "clip_retrieval.clip_inference"):
        sys.modules[package] = ModuleType(package)
        folders = [Path(folder, *package.split(".")) for folder in sys.path]
        sys.modules[package].__path__ = [str(folder) for folder in folders if folder.is_dir()]
    return [importlib.import_module(f"clip_retrieval.clip_inference.{name}") for name in names]


def save_images(manifest: str, folder: str) -> None:
    """Downloads by http, as the server lets everyone read."""
    from img2dataset import download

    base = os.environ["AWS_ENDPOINT_URL"]
    rows = pq.read_table(manifest, columns=["uri"])
    urls = [f"{base}/{uri.removeprefix('s3://')}" for uri in rows["uri"].to_pylist()]
    Path(folder).mkdir(parents=True)
    listed = Path(folder, "urls.txt")
    listed.write_text("\n".join(urls))
    download(
        url_list=str(listed),
        output_folder=f"{folder}/images",
        output_format="webdataset",
        input_format="txt",
        image_size=256,
        resize_only_if_bigger=True,
        resize_mode="keep_ratio",
        skip_reencode=True,
        number_sample_per_shard=min(1000, rows.num_rows // WORKERS),
        processes_count=WORKERS,
        thread_count=32,
    )


class Mapper:
    """clip-retrieval's ClipMapper for our tower."""

    def __init__(self, net: chinese_clip.ChineseClip) -> None:
        self.net = net

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Embeds a batch of pixels."""
        with torch.no_grad():
            features = self.net.model.get_image_features(item["image_tensor"]).pooler_output
            features /= features.norm(dim=-1, keepdim=True)
        embeddings = features.cpu().to(torch.float16).numpy()
        return {"image_embs": embeddings, "image_filename": item["image_filename"]}


class Quiet:
    """Takes the place of clip-retrieval's logger, which is a process of its own."""

    def start(self) -> None:
        """Is told of the beginning."""

    def end(self) -> None:
        """Is told of the end."""

    def __call__(self, batch: dict[str, Any]) -> None:
        """Is told of a batch."""


def embed_images(folder: str) -> None:
    """Embeds what was downloaded."""
    archives = sorted(str(path) for path in Path(folder, "images").glob("*.tar"))
    reader, runner, writer = parts("reader", "runner", "writer")
    directory = checkpoint.resolve("embedded:embedder")
    net = chinese_clip.load(directory, rounding="fp16")

    def prepare(image: Image.Image) -> torch.Tensor:
        return chinese_clip.prepare_images([image], net.image_size)[0]

    enabled = {"enable_text": False, "enable_image": True, "enable_metadata": False}
    run = runner.Runner(
        lambda sampler: reader.WebdatasetReader(
            sampler, prepare, None, archives, 256, WORKERS, **enabled
        ),
        lambda: Mapper(net),
        lambda number: writer.NumpyWriter(
            number, f"{folder}/embeddings", **enabled, output_partition_count=1
        ),
        lambda number: Quiet(),
        output_partition_count=1,
    )
    run(0)


if __name__ == "__main__":
    if sys.argv[1] == "--embed":
        embed_images(sys.argv[2])
    else:
        save_images(sys.argv[1], sys.argv[2])
        subprocess.run([sys.executable, __file__, "--embed", sys.argv[2]], check=True)
