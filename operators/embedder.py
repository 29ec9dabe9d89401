"""Places photographs and sentences in one space, with Chinese CLIP.

The table gets one vector of unit length an image; `embed_texts` places search queries in the same
space. Takes ModelScope's directories and Hugging Face's (told by their files).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL.Image import Image

from operators import images as pictures
from operators.base import fingerprint
from operators.models import checkpoint
from operators.models.directory import expect
from operators.precision import Precision, resolve
from schemas.enriched import IMAGE_ENCODED, embedding_schema
from schemas.errors import ConfigError, RowFault, RowFaults

if TYPE_CHECKING:
    from operators.models.chinese_clip import ChineseClip

Rounding = Literal["fp16", "none"]
Vectors = npt.NDArray[np.float32]
Item = TypeVar("Item")

CODE_VERSION = (
    1  # raise when outputs change; the goldens in tests/operators/test_embedder.py guard it
)
BATCH_ROWS = 16


class Embedder:
    """Maps images, and texts, to vectors whose inner product says how well they go together.

    Args:
        model: a directory, `embedded:embedder`, an s3:// directory or a hub's id.
        name: the column to write.
        rounding: `fp16` computes with weights rounded as ModelScope's pipeline rounds them, `none`
            with the weights as they are; None takes what the directory's publisher does: `fp16`
            for ModelScope's, `none` for Hugging Face's.
        precision: of the arithmetic; `auto` as `operators.precision.resolve` says.
        upstream_keys: none are needed, as only the image is read; taken so that all operators are
            built alike.

    Raises:
        ConfigError: an option has no such value.
        ModelError: the directory is missing or of another task.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "embedding",
        rounding: Rounding | None = None,
        precision: Precision = "float32",
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        _check_option(name, "rounding", rounding, (None, *get_args(Rounding)))
        _check_option(name, "precision", precision, get_args(Precision))
        self.model = model
        self.directory = checkpoint.resolve(model)
        layout = expect(self.directory, "embedder").layout
        self.rounding: Rounding = rounding or ("fp16" if layout == "modelscope" else "none")
        self.precision = resolve(precision)
        self.name = name
        self.reads = (IMAGE_ENCODED,)
        self.writes = embedding_schema(name)
        self.batch_rows = BATCH_ROWS
        self.description: Mapping[str, Any] = {
            "operator": "embedder",
            "code": CODE_VERSION,
            "weights": checkpoint.digest(self.directory),
            "options": {"rounding": self.rounding},
            "precision": self.precision,
            "upstream": dict(upstream_keys or {}),
        }
        self.key = fingerprint(self.description)
        self._net: ChineseClip | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickles all but the weights; `load` reads them again where they are needed."""
        return {**self.__dict__, "_net": None}

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        return self._loaded().dimension

    def load(self) -> None:
        """Reads the weights, to a CUDA device where there is one.

        Raises:
            ModelError: the weights are damaged, or are not those the configuration describes.
        """
        self._loaded()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Embeds the image of every row.

        Raises:
            RowFaults: names the rows whose image cannot be read or whose vector is not finite.
        """
        decoded = pictures.decode_column(table[IMAGE_ENCODED])
        vectors = _finite(
            self._stacked(iter([self._loaded().embed_images(decoded)] if decoded else []))
        )
        ends = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
        column = pa.ListArray.from_arrays(pa.array(ends), pa.array(vectors.reshape(-1)))
        return pa.table([column], schema=self.writes)

    def embed(self, images: Sequence[Image] | Image) -> Vectors:
        """Places photographs in the space shared with text.

        Args:
            images: one or more, of any size and mode; each is resized to the model's square (336 x
                336 pixels for large-patch14_336) without cropping.

        Returns:
            float32 (n, dimension), rows of unit length, in the order given.

        Raises:
            TypeError: what was given is not an image of Pillow.
            RowFaults: a vector is not finite; names the position of the image.

        Source: Chinese CLIP, arXiv:2211.01335.
        """
        given = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
        for position, image in enumerate(given):
            if not isinstance(image, Image):
                raise TypeError(
                    f"image {position} is a {type(image).__name__}; open it with PIL.Image.open"
                )
        net = self._loaded()
        return _finite(self._stacked(net.embed_images(batch) for batch in self._batches(given)))

    def embed_texts(self, texts: Sequence[str] | str) -> Vectors:
        """Places texts in the space shared with photographs.

        Args:
            texts: one or more; of each the first 50 word pieces count.

        Returns:
            float32 (n, dimension), rows of unit length, in the order given.

        Raises:
            TypeError: a text is not a string.
            RowFaults: a vector is not finite; names the position of the text.
        """
        given = [texts] if isinstance(texts, str) else texts
        for position, text in enumerate(given):
            if not isinstance(text, str):
                raise TypeError(f"text {position} is {text!r}; a text must be a str")
        net = self._loaded()
        return _finite(net.embed_texts(given))

    def probabilities(self, images: Sequence[Image] | Image, texts: Sequence[str] | str) -> Vectors:
        """Says which of the texts each image goes with, at the model's own temperature.

        Returns:
            float32 (images, texts); each row sums to 1.
        """
        scores = self._loaded().logit_scale * self.embed(images) @ self.embed_texts(texts).T
        odds = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
        probabilities: Vectors = odds / odds.sum(axis=1, keepdims=True)
        return probabilities

    def _loaded(self) -> "ChineseClip":
        if self._net is None:
            import torch

            from operators.models import chinese_clip
            from operators.models.chinese_clip_inference import specialise

            net = chinese_clip.load(
                checkpoint.find_again(self.model, self.directory, self.description["weights"]),
                rounding=self.rounding,
                precision=self.precision,
                device="cuda" if torch.cuda.is_available() else "cpu",
            )
            specialise(net.model, getattr(torch, self.precision))
            self._net = net
        return self._net

    def _batches(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        for start in range(0, len(items), self.batch_rows):
            yield items[start : start + self.batch_rows]

    def _stacked(self, parts: Iterator[Vectors]) -> Vectors:
        return np.concatenate([np.empty((0, self.dimension), np.float32), *parts])


def _check_option(name: str, option: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed if choice is not None)
        raise ConfigError(f"operator {name!r}: {option} is {value!r}; it may be {choices}")


def _finite(vectors: Vectors) -> Vectors:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        message = (
            "the embedding is not a finite vector; check the model with `tagline models verify`"
        )
        raise RowFaults({int(row): RowFault("model", message) for row in bad})
    return vectors
