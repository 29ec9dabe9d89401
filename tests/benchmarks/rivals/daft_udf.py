"""The same embedder in Daft, as its guide to class UDFs does it.

python daft_udf.py MANIFEST OUTPUT
"""

import io
import os
import sys
from typing import Any

import daft
import numpy as np
from daft.functions import download
from PIL import Image

from operators.embedder import Embedder


@daft.cls(max_concurrency=os.cpu_count(), use_process=True)
class Embed:
    """Holds the model of one process."""

    def __init__(self) -> None:
        self.embedder = Embedder("embedded:embedder")
        self.embedder.load()

    @daft.method.batch(return_dtype=daft.DataType.list(daft.DataType.float32()), batch_size=16)
    def __call__(self, encoded: daft.Series) -> Any:
        """Decodes and embeds a batch."""
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded.to_pylist()]
        return list(np.asarray(self.embedder.embed(images)))


if __name__ == "__main__":
    s3 = daft.io.S3Config(
        endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        region_name=os.environ["AWS_REGION"],
        key_id=os.environ["AWS_ACCESS_KEY_ID"],
        access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    )
    frame = daft.read_parquet(sys.argv[1]).select("image_id", "uri")
    encoded = download(frame["uri"], io_config=daft.io.IOConfig(s3=s3))
    frame = frame.with_column("embedding", Embed()(encoded)).exclude("uri")
    frame.write_parquet(sys.argv[2])
