"""ModelScope's own pipelines as what we are held against: a process of a Python that has them.

They need versions of other packages than ours, so they live in an environment of their own, named
by TAGLINE_MODELSCOPE_PYTHON. INSTALLATION says how it is made.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

VARIABLE = "TAGLINE_MODELSCOPE_PYTHON"
WORKER = Path(__file__).with_name("modelscope_worker.py")
INSTALLATION = """\
python3.11 -m venv /tmp/modelscope
/tmp/modelscope/bin/pip install torch==2.13.0
/tmp/modelscope/bin/pip install --no-deps torchvision==0.28.0 timm
: > /tmp/modelscope/lib/python3.11/site-packages/torchvision/_meta_registrations.py
/tmp/modelscope/bin/pip install modelscope==1.40.2 transformers==4.57.6 decord addict simplejson \\
    sortedcontainers einops oss2 datasets ftfy unidecode zhconv jieba 'setuptools<81' \\
    scikit-image rapidfuzz unicodedata2 opencv-python-headless ruamel.yaml fire
export TAGLINE_MODELSCOPE_PYTHON=/tmp/modelscope/bin/python
"""

Pipeline = Literal["ofa-caption", "ofa-entailment", "mplug-caption", "mplug-matching", "clip"]


class ModelScope:
    """One pipeline, loaded and ready; use it in a `with`, which ends its process.

    Args:
        pipeline: which.
        model: a directory in ModelScope's format.
        threads: of torch.
    """

    def __init__(self, pipeline: Pipeline, model: Path, *, threads: int = 2) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [python(), "-I", str(WORKER)],  # -I: this folder has a modelscope.py too
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self._ask({"load": pipeline, "model": str(model), "threads": threads})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input ends it
        self._log.close()

    def run(
        self,
        images: Sequence[Path] = (),
        texts: Sequence[str] = (),
        *,
        batch: int | None = None,
    ) -> tuple[float, list[Any]]:
        """Answers once, from the files of the images on.

        Args:
            images: what is looked at.
            texts: what is asked of every image, or embedded.
            batch: images at once, where the pipeline can; None for one after the other.

        Returns:
            Seconds, and the outputs as `modelscope_worker` describes them.
        """
        given = {"images": [str(image) for image in images], "texts": list(texts), "batch": batch}
        answer = self._ask({"run": given})
        return answer["seconds"], answer["outputs"]

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._printed()}
        if "error" in answer:
            raise RuntimeError(f"ModelScope failed on {order}:\n{answer['error']}")
        return answer

    def _printed(self) -> str:
        self._log.seek(0)
        return self._log.read()[-4000:]


def python() -> str:
    """The Python that has ModelScope."""
    named = os.environ.get(VARIABLE)
    if not named:
        raise SystemExit(
            f"{VARIABLE} names no Python that has ModelScope; make one so:\n\n{INSTALLATION}"
        )
    return named
