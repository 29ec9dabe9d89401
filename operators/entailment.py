"""Checks what is said about an image against the image: yes, no or maybe.

What is said comes from a column, such as a caption written before, or is the same for every image
(`hypotheses`). With a `premise` column the question becomes whether image and premise together
imply the hypothesis. OFA's published visual-entailment pipeline is followed to the letter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa

from operators.base import fingerprint
from operators.images import decode_column
from operators.models import checkpoint
from operators.models.directory import expect
from operators.models.ofa.settings import Settings
from operators.precision import Precision, resolve
from schemas.enriched import IMAGE_ENCODED, entailment_schema, hypotheses_schema
from schemas.errors import ConfigError, ModelError, RowFault, RowFaults

if TYPE_CHECKING:
    from PIL.Image import Image

    from operators.models.ofa.answers import OFAAnswers, Question

Label = Literal["yes", "no", "maybe"]

CODE_VERSION = 1  # raise when outputs change; the goldens of tests/operators guard it
BATCH_ROWS = 16
NO_WORDS = " \t\r\n,.!?*#:;~-/"  # of a text of nothing else the net hears nothing, and says yes


@dataclass(frozen=True)
class Judgement:
    """Whether something holds; the probabilities sum to 1, the label is the most probable."""

    label: Label
    yes: float
    no: float
    maybe: float


class Entailment:
    """Judges hypotheses about images.

    Args:
        model: a directory, `embedded:entailment`, an s3:// directory or a hub's id.
        name: the column to write.
        hypothesis: the column that says something about the image; or
        hypotheses: what is judged for every image. One of the two is needed.
        premise: a column with what is known besides the image (the published `text2`).
        precision: of the arithmetic; `auto` as `operators.precision.resolve` says.
        upstream_keys: for columns it reads, the key of the operator that wrote them.

    Raises:
        ConfigError: an option has no such value.
        ModelError: the directory is missing, damaged, of another task or of other answers.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "entailment",
        hypothesis: str | None = None,
        hypotheses: Sequence[str] | None = None,
        premise: str | None = None,
        precision: Precision = "float32",
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        _check_options(name, hypothesis, hypotheses, precision)
        self.model = model
        self.directory = checkpoint.resolve(model)
        expect(self.directory, "entailment")
        self.answers = _answers(self.directory)
        self.name = name
        self.precision = resolve(precision)
        self.hypothesis = hypothesis
        self.hypotheses = tuple(hypotheses or ())
        self.premise = premise
        self.texts = tuple(column for column in (hypothesis, premise) if column)
        self.reads = (IMAGE_ENCODED, *self.texts)
        self.writes = hypotheses_schema(name) if hypotheses else entailment_schema(name)
        self.batch_rows = BATCH_ROWS
        self.description: Mapping[str, Any] = {
            "operator": "entailment",
            "code": CODE_VERSION,
            "weights": checkpoint.digest(self.directory),
            "options": {
                "hypothesis": hypothesis,
                "hypotheses": list(self.hypotheses),
                "premise": premise,
            },
            "precision": self.precision,
            "upstream": dict(upstream_keys or {}),
        }
        self.key = fingerprint(self.description)
        self._net: OFAAnswers | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickles all but the weights; `load` reads them again where they are needed."""
        return {**self.__dict__, "_net": None}

    def load(self) -> None:
        """Reads the weights, to a CUDA device where there is one.

        Raises:
            ModelError: the weights are damaged, or are not those the configuration describes.
        """
        self._loaded()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Judges the hypothesis, or all hypotheses, of every row.

        Raises:
            RowFaults: names the rows whose image cannot be read, whose hypothesis or premise is
                null, without words or too long, or whose probabilities are not finite.
        """
        images = decode_column(table[IMAGE_ENCODED])
        premises = table[self.premise].to_pylist() if self.premise else [None] * table.num_rows
        if self.hypothesis is None:
            told = [list(self.hypotheses)] * table.num_rows
        else:
            told = [[text] for text in table[self.hypothesis].to_pylist()]
        _check_texts(told, self.hypothesis or "hypotheses")
        if self.premise:
            _check_texts([[text] for text in premises], self.premise)
        return self._as_table(told, self._judge(images, told, premises))

    def judge(
        self,
        images: "Sequence[Image]",
        hypotheses: Sequence[str],
        *,
        premise: str | None = None,
    ) -> list[list[Judgement]]:
        """Judges each of several hypotheses about each of several images.

        Args:
            images: of any size and mode; each is looked at once, whatever the number of hypotheses.
            hypotheses: sentences; case, leading punctuation and hyphens do not matter.
            premise: what is known besides the image.

        Returns:
            for each image one judgement a hypothesis, in the orders given.

        Raises:
            RowFaults: names the positions of images with a probability that is not finite, or all
                where a hypothesis is too long.

        Source: OFA, arXiv:2202.03052; SNLI-VE, arXiv:1901.06706.
        """
        if isinstance(hypotheses, str):
            raise TypeError("hypotheses is one str; it must be a list of them")
        return self.judge_each(images, [hypotheses] * len(images), premise=premise)

    def judge_each(
        self,
        images: "Sequence[Image]",
        hypotheses: Sequence[Sequence[str]],
        *,
        premise: str | None = None,
    ) -> list[list[Judgement]]:
        """Judges hypotheses of its own about each of several images.

        Args:
            images: of any size and mode.
            hypotheses: for each image any number of sentences.
            premise: what is known besides the image.

        Returns:
            for each image one judgement a hypothesis, in the orders given.

        Raises:
            RowFaults: as of `judge`.
        """
        judged: list[list[Judgement]] = []
        for start in range(0, len(images), self.batch_rows):
            some = images[start : start + self.batch_rows]
            told = hypotheses[start : start + len(some)]
            judged += self._judge(some, told, [premise] * len(some))
        return judged

    def _judge(
        self,
        images: "Sequence[Image]",
        told: Sequence[Sequence[str]],
        premises: Sequence[str | None],
    ) -> list[list[Judgement]]:
        from operators.models.ofa.answers import Question

        net = self._loaded()
        questions = [
            Question(image, text, premise)
            for image, (texts, premise) in enumerate(zip(told, premises, strict=True))
            for text in texts
        ]
        judged: list[list[Judgement]] = [[] for _ in told]
        if not questions:
            return judged
        _check_lengths(net, questions)
        for question, row in zip(questions, net.judge(images, questions).tolist(), strict=True):
            judged[question.image].append(_judgement(dict(zip(self.answers, row, strict=True))))
        _check_finite(judged)
        return judged

    def _loaded(self) -> "OFAAnswers":
        if self._net is None:
            from operators.models.ofa.answers import OFAAnswers

            directory = checkpoint.find_again(
                self.model, self.directory, self.description["weights"]
            )
            self._net = OFAAnswers(directory, self.precision)
        return self._net

    def _as_table(
        self, told: Sequence[Sequence[str]], judged: Sequence[Sequence[Judgement]]
    ) -> pa.Table:
        if self.hypothesis is None:
            rows: list[dict[str, Any]] = [
                {self.name: [{"text": t, **asdict(j)} for t, j in zip(texts, row, strict=True)]}
                for texts, row in zip(told, judged, strict=True)
            ]
        else:
            names = self.writes.names
            rows = [
                dict(zip(names, (row[0].label, row[0].yes, row[0].no, row[0].maybe), strict=True))
                for row in judged
            ]
        return pa.Table.from_pylist(rows, schema=self.writes)


def _check_options(
    name: str, hypothesis: str | None, hypotheses: Sequence[str] | None, precision: str
) -> None:
    where = f"operator {name!r}"
    if (hypothesis is None) == (hypotheses is None):
        raise ConfigError(
            f"{where}: give either `hypothesis`, a column such as 'caption', or `hypotheses`, a "
            "list of sentences to be judged for every image"
        )
    if hypothesis is not None and (not isinstance(hypothesis, str) or not hypothesis):
        raise ConfigError(f"{where}: hypothesis is {hypothesis!r}; it must name a column")
    if hypotheses is not None and (
        isinstance(hypotheses, str)
        or not hypotheses
        or not all(isinstance(text, str) for text in hypotheses)
    ):
        raise ConfigError(f"{where}: hypotheses is {hypotheses!r}; it must be a list of sentences")
    if precision not in get_args(Precision):
        choices = ", ".join(map(repr, get_args(Precision)))
        raise ConfigError(f"{where}: precision is {precision!r}; it may be {choices}")


def _answers(directory: Path) -> tuple[str, ...]:
    answers = Settings.read(directory).answers
    if sorted(answers) != sorted(get_args(Label)):
        raise ModelError(
            f"{directory}: its answers are {', '.join(map(repr, answers)) or 'none'}, but 'yes', "
            "'no' and 'maybe' are needed; see 'answer2label' in configuration.json"
        )
    return answers


def _check_texts(told: Sequence[Sequence[object]], column: str) -> None:
    faults = {
        position: RowFault("model", f"{column!r} is {text!r} in this row; a text is needed")
        for position, texts in enumerate(told)
        for text in texts
        if not isinstance(text, str) or not text.strip(NO_WORDS)
    }
    if faults:
        raise RowFaults(faults)


def _check_lengths(net: "OFAAnswers", questions: "Sequence[Question]") -> None:
    faults = {
        question.image: RowFault(
            "model", f"the hypothesis is {excess} tokens too long for the model; shorten it"
        )
        for question in questions
        if (excess := net.overflow(question))
    }
    if faults:
        raise RowFaults(faults)


def _judgement(probabilities: Mapping[str, float]) -> Judgement:
    label: Any = max(probabilities, key=lambda answer: probabilities[answer])
    return Judgement(label, probabilities["yes"], probabilities["no"], probabilities["maybe"])


def _check_finite(judged: Sequence[Sequence[Judgement]]) -> None:
    message = "a probability is not finite; check the model with `tagline models verify`"
    faults = {
        position: RowFault("model", message)
        for position, row in enumerate(judged)
        if not all(0 <= judgement.yes <= 1 for judgement in row)
    }
    if faults:
        raise RowFaults(faults)
