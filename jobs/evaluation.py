"""Evaluates what a file, a table or a model answers on a data set of the field.

A model is run over the data set's images by `jobs.predict`, into a table; so there are two kinds of
answers, files and columns, and one way to judge them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs import judging, metrics, predict
from jobs.datasets import chinese_clip, coco, elevater, snli_ve
from jobs.datasets.captions import read_references
from jobs.datasets.chinese_clip import Direction
from jobs.evaluation_report import Report
from schemas.errors import ConfigError, DatasetError

TEMPLATES = ("{}的照片", "质量差的{}的照片", "许多{}的照片", "一张{}的照片", "这是{}")
RUNS = Path("evaluation")  # folder of the tables that evaluation writes


@dataclass(frozen=True)
class Source:
    """Where the answers come from: a file, a table, or a model that looks at the images.

    Args:
        predictions: a file in the task's own format.
        table: one that `enrich` wrote.
        column: of the table: the operator's name.
        model: that answers, or that embeds the texts beside a table of embeddings.
        images: where the pictures are that the model is to look at.
        to: folder for the table that the model fills.
        address: of a Ray cluster.
    """

    predictions: Path | None = None
    table: str | None = None
    column: str = "answer"
    model: str | None = None
    images: Path | None = None
    to: Path = RUNS
    address: str | None = None

    def __str__(self) -> str:
        """The source, for tables and messages."""
        if self.predictions is not None:
            return str(self.predictions)
        if self.table is not None:
            return f"{self.table}, column {self.column}"
        return f"{self.model}"

    def check(self, *, embeds_texts: bool = False, has_images: bool = False) -> None:
        """Refuses a source that is none or several.

        Args:
            embeds_texts: whether a table of embeddings needs a model for the texts.
            has_images: whether the data set itself says where the images are.

        Raises:
            ConfigError: it is; says what may be given.
        """
        choices = [
            {"--predictions"},
            {"--table", "--model"} if embeds_texts else {"--table"},
            {"--model"} if has_images else {"--model", "--images"},
        ]
        options = {
            "--predictions": self.predictions,
            "--table": self.table,
            "--model": self.model,
            "--images": self.images,
        }
        given = {option for option, value in options.items() if value is not None}
        if given not in choices:
            told = "; or ".join(" with ".join(sorted(choice)[::-1]) for choice in choices)
            raise ConfigError(
                f"which answers to judge? {' and '.join(sorted(given)) or 'none'} was given; "
                f"give {told}"
            )


def captions(references: Path, source: Source, *, split: str | None = None) -> Report:
    """Judges captions.

    Args:
        references: COCO's annotations, Karpathy's JSON or Flickr30k's `.token` or `.csv` file.
        source: predictions are COCO's results; images a folder.
        split: of Karpathy's JSON.

    Raises:
        ConfigError: the source is none or several.
        DatasetError: a file is not what its format says, or something was not predicted.
        TaglineError: of the run, where a model predicts; see `jobs.enrich.run`.
    """
    source.check()
    told = read_references(references, split=split)
    if source.predictions is not None:
        said = coco.read_results(source.predictions)
    else:
        identities = told["image_id"].to_pylist()
        table = source.table or _captioned(told, references, source)
        said = predict.read_column(table, source.column, identities)
    evaluation = judging.judge_captions(told, said, where=str(source))
    annotations = f"{references}, split {split}" if split else str(references)
    return Report("captions", evaluation, annotations, str(source))


def entailment(annotations: Path, source: Source, *, premise: bool = False) -> Report:
    """Judges labels of SNLI-VE.

    Args:
        annotations: SNLI-VE's lines.
        source: predictions are lines of `pairID` and `label`; images Flickr30k's folder; the
            `image_id` of a table is the pair's id.
        premise: whether the model is told the image's caption too.

    Raises:
        ConfigError: the source is none or several.
        DatasetError: a file is not what its format says, or something was not predicted.
        TaglineError: of the run, where a model predicts; see `jobs.enrich.run`.
    """
    source.check()
    pairs = snli_ve.read_pairs(annotations)
    if source.predictions is not None:
        answers = snli_ve.read_answers(source.predictions)
    else:
        table = source.table or _judged(pairs, source, premise=premise)
        answers = _labels(predict.read_column(table, source.column, pairs["pair_id"].to_pylist()))
    evaluation = judging.judge_pairs(pairs, answers, where=str(source))
    return Report("entailment", evaluation, str(annotations), str(source))


def retrieval(annotations: Path, source: Source, *, direction: Direction) -> Report:
    """Judges rankings of Chinese-CLIP's sets.

    Args:
        annotations: the file of texts.
        source: predictions are Chinese-CLIP's; images its TSV; the `image_id` of a table is the
            image's number, its column an embedder's.
        direction: text to image, or image to text.

    Raises:
        ConfigError: the source is none or several.
        DatasetError: a file is not what its format says, something was not predicted, or there are
            fewer than ten candidates.
        TaglineError: of the run, where a model predicts; see `jobs.enrich.run`.
    """
    source.check(embeds_texts=True)
    gold = chinese_clip.read_gold(annotations, direction)
    if source.predictions is not None:
        rankings = chinese_clip.read_rankings(source.predictions, direction)
    else:
        rankings = _ranked(chinese_clip.read_texts(annotations), source, direction)
    evaluation = judging.judge_rankings(gold, rankings, where=str(source))
    return Report(direction, evaluation, str(annotations), str(source))


def classification(data: Path, source: Source, *, templates: tuple[str, ...] = TEMPLATES) -> Report:
    """Judges zero-shot classes of ELEVATER's sets.

    Args:
        data: the set's folder.
        source: predictions are lines of `image` and `label`; the `image_id` of a table is the path
            below `test/`, its column an embedder's.
        templates: prompts, with `{}` for the label.

    Raises:
        ConfigError: the source is none or several.
        DatasetError: a file is not what its format says, or something was not predicted.
        TaglineError: of the run, where a model predicts; see `jobs.enrich.run`.
    """
    source.check(embeds_texts=True, has_images=True)
    labels = elevater.read_labels(data)
    pictures = elevater.read_pictures(data)
    if source.predictions is not None:
        answers = elevater.read_answers(source.predictions, labels)
    else:
        answers = _classified(pictures, labels, data, source, templates)
    evaluation = judging.judge_classes(pictures, answers, labels, where=str(source))
    return Report("classification", evaluation, str(data), str(source))


def _captioned(told: pa.Table, references: Path, source: Source) -> str:
    """Captions the images of a data set; returns the table."""
    images = _given(source.images)
    files = told["file"].to_pylist()
    if None in files:
        raise DatasetError(
            f"{references}: an image without 'file_name'; where it lies must be known"
        )
    rows = predict.manifest_of(told["image_id"].to_pylist(), (images / file for file in files))
    operator = {"use": "captioner", "model": source.model}
    return _run(rows, operator, source, "captions", images)


def _judged(pairs: pa.Table, source: Source, *, premise: bool) -> str:
    """Judges the pairs of SNLI-VE, a row each; returns the table."""
    images = _given(source.images)
    files = (images / f"{image}.jpg" for image in pairs["image_id"].to_pylist())
    texts = {"hypothesis": pairs["hypothesis"], "premise": pairs["premise"]}
    rows = predict.manifest_of(pairs["pair_id"].to_pylist(), files, **texts)
    operator = {"use": "entailment", "model": source.model, "hypothesis": "hypothesis"}
    if premise:
        operator["premise"] = "premise"
    return _run(rows, operator, source, "entailment", images)


def _ranked(texts: pa.Table, source: Source, direction: Direction) -> dict[int, list[int]]:
    """Ranks all images for each text, or all texts for each image."""
    if source.table is None:
        folder = source.to / "retrieval" / predict.IMAGES
        files = predict.unpack(chinese_clip.read_images(_given(source.images)), folder)
        rows = predict.manifest_of(map(str, files), files.values())
        table = _run(rows, _embedder(source), source, "retrieval", folder)
        wanted: list[str] | None = rows["image_id"].to_pylist()
    else:
        table, wanted = source.table, None
    found = predict.read_column(table, source.column, wanted)
    names = sorted(found)  # in the order of Chinese-CLIP's LMDB, which decides between ties
    _check_numbers(str(source), names)
    images = [int(name) for name in names]
    described = texts["text_id"].to_pylist()
    candidates = images if direction == "t2i" else described
    if len(candidates) < metrics.CANDIDATES:
        raise DatasetError(
            f"{source}: {len(candidates)} candidates; R@10 needs at least {metrics.CANDIDATES}"
        )
    of_images = np.array([found[name] for name in names], np.float32)
    of_texts = predict.embed_texts(str(source.model), texts["text"].to_pylist())
    if direction == "t2i":
        return _named(described, images, metrics.rank(of_texts, of_images))
    return _named(images, described, metrics.rank(of_images, of_texts))


def _classified(
    pictures: pa.Table,
    labels: list[str],
    data: Path,
    source: Source,
    templates: tuple[str, ...],
) -> dict[str, int]:
    """Finds the class nearest to each picture."""
    names = pictures["image"].to_pylist()
    table = source.table
    if table is None:
        root = data / elevater.IMAGES_FOLDER
        rows = predict.manifest_of(names, (root / name for name in names))
        table = _run(rows, _embedder(source), source, "classification", root)
    found = predict.read_column(table, source.column, names)
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    vectors = predict.embed_texts(str(source.model), prompts)
    classes = metrics.class_vectors(vectors.reshape(len(labels), len(templates), -1))
    images = np.array(list(found.values()), np.float32).reshape(len(found), -1)
    if not len(images):
        return {}
    nearest = metrics.class_probabilities(images, classes).argmax(axis=1)
    return dict(zip(found, nearest.tolist(), strict=True))


def _run(
    rows: pa.Table, operator: Mapping[str, Any], source: Source, task: str, images: Path
) -> str:
    return predict.enrich_images(
        rows,
        operator,
        name=source.column,
        folder=source.to / task,
        roots=[images],
        address=source.address,
    )


def _embedder(source: Source) -> dict[str, Any]:
    return {"use": "embedder", "model": source.model}


def _given(path: Path | None) -> Path:
    assert path is not None, "Source.check saw to it"
    return path


def _labels(answers: Mapping[str, str]) -> dict[str, str]:
    """In SNLI's words."""
    return {pair: snli_ve.ANSWERS.get(answer, answer) for pair, answer in answers.items()}


def _check_numbers(where: str, names: list[str]) -> None:
    odd = [name for name in names if not name.isdecimal()]
    if odd:
        raise DatasetError(
            f"{where}: image_id is {odd[0]!r}; it must be the image's number in the annotations"
        )


def _named(
    queries: list[int], candidates: list[int], ranked: metrics.Integers
) -> dict[int, list[int]]:
    return {
        query: [candidates[at] for at in row]
        for query, row in zip(queries, ranked.tolist(), strict=True)
    }
