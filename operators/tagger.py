"""Finds the labels of a taxonomy that hold of an image.

Chinese CLIP's embedding of the image is near to that of its labels, so it makes a shortlist out of
thousands; the entailment checker then looks at the image and confirms each label of the shortlist
or does not. A label that holds makes its ancestors hold.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from operators.base import fingerprint
from operators.embedder import Embedder
from operators.entailment import Entailment, Judgement
from operators.images import decode_column
from operators.models import checkpoint
from operators.precision import Precision
from schemas.calibration import CalibratedColumn, read_calibration
from schemas.enriched import IMAGE_ENCODED, tags_schema
from schemas.errors import ConfigError, RowFault, RowFaults
from schemas.taxonomy import Taxonomy, read_taxonomy

if TYPE_CHECKING:
    from PIL.Image import Image

CODE_VERSION = 1  # raise when outputs change; tests/operators/test_tagger.py guards it
BATCH_ROWS = 16
SHORTLIST = 32  # labels of an image that are confirmed
PROMPTS = ("{}",)  # what is embedded of a name; the vectors of all prompts and names are averaged
YES = "yes"

Vectors = npt.NDArray[np.float32]


class Tagger:
    """Tags images.

    Args:
        model: an entailment checker: a directory, `embedded:entailment`, an s3:// directory or a
            hub's id.
        embedder: the model that wrote the column `embedding`, or a mapping of its options:
            `{model: DIR, rounding: none}`.
        taxonomy: a YAML file, see `schemas.taxonomy`.
        name: the column to write.
        embedding: the column of the image's vector.
        shortlist: how many labels are confirmed at most.
        prompts: what is embedded of each name, with `{}` for the name.
        thresholds: a file of `tagline calibrate`; a label then holds from its threshold on, where
            it has one, and without one it holds where yes is the likeliest answer.
        precision: of the arithmetic of the entailment checker; `auto` as for that operator.
        upstream_keys: for columns it reads, the key of the operator that wrote them.

    Raises:
        ConfigError: an option has no such value, the taxonomy is wrong, or the vectors are of
            another embedder.
        ModelError: a directory is missing, damaged or of another task.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        embedder: str | Mapping[str, Any],
        taxonomy: str,
        name: str = "tags",
        embedding: str = "embedding",
        shortlist: int = SHORTLIST,
        prompts: Sequence[str] = PROMPTS,
        thresholds: str | None = None,
        precision: Precision = "float32",
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        _check_options(name, shortlist, prompts, embedder)
        self.name = name
        self.taxonomy = read_taxonomy(taxonomy)
        self.shortlist = min(shortlist, len(self.taxonomy.labels))
        self.prompts = tuple(prompts)
        self.embedding = embedding
        options = {"model": embedder} if isinstance(embedder, str) else dict(embedder)
        self.embedder = Embedder(**options)
        known = dict(upstream_keys or {})
        _check_embedding(name, embedding, known.get(embedding), self.embedder.key)
        self.checker = Entailment(
            model, name=name, hypotheses=[YES], precision=precision
        )  # judges sentences of its own for each image
        self.calibrated = _tags_of(read_calibration(thresholds), thresholds) if thresholds else None
        known_thresholds = self.calibrated.thresholds if self.calibrated else ()
        self.accept = {one.label: one.accept for one in known_thresholds}
        self.reads = (IMAGE_ENCODED, embedding)
        self.writes = tags_schema(name)
        self.batch_rows = BATCH_ROWS
        self.description: Mapping[str, Any] = {
            "operator": "tagger",
            "code": CODE_VERSION,
            "weights": self.checker.description["weights"],
            "options": {
                "embedder": self.embedder.key,
                "taxonomy": _digest(self.taxonomy.describe()),
                "shortlist": shortlist,
                "prompts": list(self.prompts),
                "thresholds": self.calibrated.model_dump() if self.calibrated else None,
            },
            "precision": self.checker.precision,
            "upstream": known,
        }
        self.key = fingerprint(self.description)
        self._vectors: Vectors | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickles all but what is loaded."""
        return {**self.__dict__, "_vectors": None}

    def load(self) -> None:
        """Reads the weights, and embeds the labels unless that was done before on this machine.

        Raises:
            ModelError: the weights are damaged, or are not those the configuration describes.
        """
        self._labels()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Tags the image of every row.

        Raises:
            RowFaults: names the rows whose image cannot be read, whose vector is missing or of
                another size, or whose probabilities are not finite.
        """
        images = decode_column(table[IMAGE_ENCODED])
        vectors = _stacked(table[self.embedding], self._labels().shape[1], self.embedding)
        tags = self.tag(images, vectors)
        return pa.table([pa.array(tags, self.writes.field(0).type)], schema=self.writes)

    def tag(self, images: "Sequence[Image]", vectors: Vectors) -> list[list[dict[str, Any]]]:
        """Finds the labels that hold of each image.

        Args:
            images: of any size and mode; each is looked at once.
            vectors: (n, dimension), of unit length, of the same images.

        Returns:
            for each image the labels that hold, the surest first: `label`, `answer`, `yes` (its
            probability) and `similarity` (a cosine).

        Raises:
            RowFaults: a probability is not finite; names the position of the image.
        """
        similarity = vectors @ self._labels().T  # (n, labels)
        near = _nearest(similarity, self.shortlist)
        sentences = self.taxonomy.sentences
        told = [list(dict.fromkeys(sentences[at] for at in row)) for row in near.tolist()]
        judged = self.checker.judge_each(images, told)
        found = []
        for row, (positions, texts, answers) in enumerate(
            zip(near.tolist(), told, judged, strict=True)
        ):
            said = dict(zip(texts, answers, strict=True))
            judged_labels = {at: said[sentences[at]] for at in positions}
            holds = {at: one for at, one in judged_labels.items() if self._holds(at, one)}
            found.append(self._tags(holds, similarity[row]))
        return found

    def _holds(self, at: int, judged: Judgement) -> bool:
        accept = self.accept.get(self.taxonomy.labels[at].id, self.accept.get(None))
        return judged.label == YES if accept is None else judged.yes >= accept

    def _tags(self, holds: Mapping[int, Judgement], similarity: Vectors) -> list[dict[str, Any]]:
        """The labels that were confirmed and their ancestors, which are as sure as the surest."""
        answers = {at: (judged.label, judged.yes) for at, judged in holds.items()}
        for at, judged in holds.items():
            for ancestor in self.taxonomy.ancestors(at):
                if judged.yes > answers.get(ancestor, (YES, -1.0))[1]:
                    answers[ancestor] = (judged.label, judged.yes)
        tags = [
            {
                "label": self.taxonomy.labels[at].id,
                "answer": answer,
                "yes": yes,
                "similarity": float(similarity[at]),
            }
            for at, (answer, yes) in answers.items()
        ]
        return sorted(tags, key=lambda tag: (-tag["yes"], -tag["similarity"], tag["label"]))

    def _labels(self) -> Vectors:
        """The vector of each label: (labels, dimension), of unit length."""
        if self._vectors is None:
            self.checker.load()
            self._vectors = label_vectors(self.embedder, self.taxonomy, self.prompts)
        return self._vectors


def label_vectors(embedder: Embedder, taxonomy: Taxonomy, prompts: Sequence[str]) -> Vectors:
    """Embeds the labels of a taxonomy: of each the mean over its names and prompts.

    The vectors are kept in the cache folder by what they are made of: they are computed once.

    Returns:
        (labels, dimension), of unit length.

    Source: prompt ensembling, CLIP, arXiv:2103.00020, section 3.1.4.
    """
    names = [label.names for label in taxonomy.labels]
    made_of = {"embedder": embedder.key, "prompts": list(prompts), "names": names}
    file = checkpoint.cache_folder() / "labels" / f"{_digest(made_of)}.npy"
    if file.is_file():
        kept: Vectors = np.load(file, allow_pickle=False)
        return kept
    texts = [prompt.replace("{}", name) for some in names for name in some for prompt in prompts]
    vectors = embedder.embed_texts(texts)
    ends = np.cumsum([0, *(len(some) * len(prompts) for some in names)])[:-1]
    means = np.add.reduceat(vectors, ends, axis=0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    _keep(file, means)
    return means


def _keep(file: Path, vectors: Vectors) -> None:
    """Writes a file of the cache in one move; a cache that cannot be written costs time only."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as fresh:
            np.save(fresh, vectors)
        os.replace(fresh.name, file)
    except OSError:
        return


def _nearest(similarity: Vectors, count: int) -> npt.NDArray[np.int64]:
    """The positions of the most similar labels of each row, the first of equal ones: (n, count)."""
    order = np.argsort(-similarity, axis=1, kind="stable")
    return np.asarray(order[:, :count], np.int64)


def _stacked(column: pa.ChunkedArray, dimension: int, name: str) -> Vectors:
    """The vectors of a column: (n, dimension).

    Raises:
        RowFaults: a vector is missing or of another size.
    """
    vectors = column.to_pylist()
    faults = {
        at: RowFault(
            "model",
            f"{name!r} is {'null' if vector is None else f'of {len(vector)} numbers'} in this row; "
            f"a vector of {dimension} is needed",
        )
        for at, vector in enumerate(vectors)
        if vector is None or len(vector) != dimension
    }
    if faults:
        raise RowFaults(faults)
    return np.array(vectors, np.float32).reshape(len(vectors), dimension)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _tags_of(calibration: Any, path: str) -> CalibratedColumn:
    """The thresholds of tags in a calibration."""
    found = [column for column in calibration.columns.values() if column.kind == "tags"]
    if len(found) != 1:
        raise ConfigError(
            f"{path}: has thresholds for {', '.join(calibration.columns)}, of which {len(found)} "
            "are tags; calibrate the tags of one tagger"
        )
    column: CalibratedColumn = found[0]
    return column


def _check_options(name: str, shortlist: object, prompts: object, embedder: object) -> None:
    faults = []
    if type(shortlist) is not int or shortlist < 1:
        faults.append(f"shortlist is {shortlist!r}; it must be a whole number of at least 1")
    if (
        isinstance(prompts, str)
        or not isinstance(prompts, Sequence)
        or not prompts
        or not all(isinstance(prompt, str) and "{}" in prompt for prompt in prompts)
    ):
        faults.append(f"prompts is {prompts!r}; it must be a list of texts with {{}} for the name")
    if not isinstance(embedder, str) and not (
        isinstance(embedder, Mapping)
        and "model" in embedder
        and set(embedder) <= {"model", "rounding", "precision"}
    ):
        faults.append(
            f"embedder is {embedder!r}; it must be a model, or {{model: DIR, rounding: none}}"
        )
    if faults:
        raise ConfigError("\n".join(f"operator {name!r}: {fault}" for fault in faults))


def _check_embedding(name: str, column: str, written: str | None, expected: str) -> None:
    if written is not None and written != expected:
        raise ConfigError(
            f"operator {name!r}: the column {column!r} is of another embedder than `embedder` "
            "names; give the same model and options to both"
        )
