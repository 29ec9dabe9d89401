"""The same embedder in a plain Ray Data script.

    python ray_data.py MANIFEST OUTPUT

As Ray's guides to images and to batch inference do it: `read_images` of a folder, `map_batches`
with a class in a pool of actors (https://docs.ray.io/en/latest/data/working-with-images.html). One
actor, as with two on two cores no task that reads would ever start. Their other way, `download` of
a column, takes a core for an actor of its own, and on two cores it never began.
"""

import sys
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq
import ray
from PIL import Image

from operators.embedder import Embedder


class Embed:
    """Holds the model of one actor."""

    def __init__(self) -> None:
        self.embedder = Embedder("embedded:embedder")
        self.embedder.load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embeds a batch of pixels."""
        images = [Image.fromarray(pixels) for pixels in batch["image"]]
        return {"path": batch["path"], "embedding": self.embedder.embed(images)}


if __name__ == "__main__":
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False)
    first = pq.read_table(sys.argv[1], columns=["uri"])["uri"][0].as_py()
    folder = f"s3://{PurePosixPath(first.removeprefix('s3://')).parent}"
    dataset = ray.data.read_images(folder, mode="RGB", include_paths=True)
    pool = ray.data.ActorPoolStrategy(size=1)
    dataset.map_batches(Embed, batch_size=16, compute=pool).write_parquet(sys.argv[2])
