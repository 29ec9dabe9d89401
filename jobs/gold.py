"""People's answers about the answers of a table: what was judged of which image, and what is true.

A file has the columns `image_id`, `label` and `truth`, and may have `text`. The label says what was
judged, in any of these ways: an operator's column (`caption`); one of its hypotheses or tags; the
answer a person saw (`yes`); the caption a person saw. An answer about something that the table says
differently by now is left out, and counted. A true label that the table gives other images and not
this one is a tag that was missed: it tells the recall.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs import storage
from operators.claims import LABELS, YES, Claims, Source
from schemas.config import nearest
from schemas.enriched import IMAGE_ID
from schemas.errors import DatasetError, ManifestError
from schemas.finetune import LABELS_OF_SNLI
from schemas.manifest_files import stored_tables

LABEL, TRUTH, TEXT = "label", "truth", "text"
TRUE, FALSE = "true", "false"
TRUTHS = {
    **{label: label for label in LABELS},
    **LABELS_OF_SNLI,
    **dict.fromkeys(("true", "right", "correct", "1"), TRUE),
    **dict.fromkeys(("false", "wrong", "incorrect", "0"), FALSE),
}
LISTS = ("hypotheses", "tags")  # kinds of columns with several answers a row
SHOWN = 3  # examples in a message

ABSENT = "about images that the table has no answer for"
UNKNOWN = "whose label names nothing that the table says of the image"
CHANGED = "about a text that the table no longer has"
DOUBLED = "given twice, and counted once"
MISSED = "true tags that the table does not give"
UNTAGGED = "wrong tags, which the table does not give either"


@dataclass(frozen=True)
class Answered:
    """The claims of one column that people judged.

    Args:
        claims: (n,) positions among the column's claims.
        is_right: (n,).
        missed: tags that people call true and the table does not give.
    """

    claims: npt.NDArray[np.int64]
    is_right: npt.NDArray[np.bool_]
    missed: int = 0


@dataclass(frozen=True)
class Judged:
    """A column as it was judged.

    Args:
        source: the column.
        claims: all of its claims.
        ids: (n,) strings: the image of each claim.
        texts: by image, the text that each claim of it is about; empty where that is not known.
        tagged: of a column of tags, the images that a tagger looked at; else empty.
    """

    source: Source
    claims: Claims
    ids: pa.Array
    texts: Mapping[str, str]
    tagged: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fitting:
    """Which claim a person's answer is about.

    Args:
        column: of the claim.
        claim: its position among the column's claims.
        answer: yes, no or maybe.
        is_of_answer: whether the label named the answer, so that a truth of `true` is about it.
    """

    column: str
    claim: int
    answer: str
    is_of_answer: bool


def read_gold(path: str) -> pa.Table:
    """Reads people's answers.

    Args:
        path: a file, a folder or a glob of Parquet, CSV or JSONL, local or `s3://`.

    Returns:
        `image_id`, `label`, `truth` (of `TRUTHS`' values) and `text` (null where not given).

    Raises:
        DatasetError: it cannot be read, lacks a column, is empty, or a value is missing or unknown.
    """
    path = storage.normalise(path)
    try:
        tables = [_checked(*found) for found in stored_tables(path, storage.filesystem(path))]
    except ManifestError as error:
        raise DatasetError(str(error).replace("manifest", "gold")) from error
    gold = pa.concat_tables(tables) if tables else pa.table({})
    if not gold.num_rows:
        raise DatasetError(f"{path}: has no rows; people's answers are needed")
    return gold


def match(
    gold: pa.Table, judged: Sequence[Judged], *, where: str
) -> tuple[dict[str, Answered], Counter[str]]:
    """Finds the claim that each of people's answers is about.

    Args:
        gold: as `read_gold` gives it.
        judged: the columns of the table.
        where: the answers come from, for messages.

    Returns:
        What was answered, by column; and how many answers were left out, by reason.

    Raises:
        DatasetError: nothing fits, or one claim was judged in two ways.
    """
    wanted = gold[IMAGE_ID].combine_chunks()
    there = _claims_by_image(judged, wanted)
    texts = {one.source.column: one.texts for one in judged}
    tags = [_Tags(one) for one in judged if one.source.kind == "tags"]
    left: Counter[str] = Counter()
    odd: list[str] = []
    found: dict[str, dict[int, bool]] = defaultdict(dict)
    for row in gold.to_pylist():
        fitting = _fitting(row[LABEL], there.get(row[IMAGE_ID], []), texts, row[IMAGE_ID])
        if isinstance(fitting, str):
            fitting = next((_missed(row, some) for some in tags if some.knows(row)), fitting)
            left[fitting] += 1
            odd += [row[LABEL]] * (fitting == UNKNOWN)
            continue
        if row[TEXT] not in (None, texts[fitting.column].get(row[IMAGE_ID], row[TEXT])):
            left[CHANGED] += 1
            continue
        is_right = _is_right(fitting, row[TRUTH])
        if found[fitting.column].setdefault(fitting.claim, is_right) != is_right:
            raise DatasetError(
                f"{where}: image {row[IMAGE_ID]!r}, label {row[LABEL]!r} is judged in two ways; "
                "keep one of the answers"
            )
    left[DOUBLED] = gold.num_rows - left.total() - sum(map(len, found.values()))
    if not any(found.values()):
        raise DatasetError(_nothing_fits(where, left, odd, judged))
    missed = {some.column: len(some.missed) for some in tags}
    answered = {
        column: Answered(
            np.array(list(of), np.int64),
            np.array(list(of.values()), np.bool_),
            missed.get(column, 0),
        )
        for column, of in found.items()
    }
    return answered, +left


class _Tags:
    """A column of tags: what people may say of it beside what it gives."""

    def __init__(self, judged: Judged) -> None:
        self.column = judged.source.column
        self.images = judged.tagged
        self.labels = frozenset(pc.unique(judged.claims.labels).to_pylist())
        self.missed: set[tuple[str, str]] = set()

    def knows(self, row: Mapping[str, str]) -> bool:
        """Whether an answer is about a label that is given somewhere, of an image it looked at."""
        return row[IMAGE_ID] in self.images and row[LABEL] in self.labels


def _missed(row: Mapping[str, str], tags: _Tags) -> str:
    """Notes an answer about a tag that the table does not give; the reason to leave it out."""
    if row[TRUTH] not in (TRUE, YES):
        return UNTAGGED
    tags.missed.add((row[IMAGE_ID], row[LABEL]))
    return MISSED


def _checked(path: str, table: pa.Table) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for name in (IMAGE_ID, LABEL, TRUTH):
        if name not in table.column_names:
            raise DatasetError(f"{path}: no column {name!r}; {nearest(name, table.column_names)}")
        columns[name] = _texts(path, name, table[name])
    truths = pc.utf8_lower(pc.utf8_trim_whitespace(columns[TRUTH]))
    at = pc.index_in(truths, value_set=pa.array(list(TRUTHS)))
    if at.null_count:
        row = pc.index(pc.is_null(at), True).as_py()
        known = "yes, no, maybe, true, false, right, wrong, or SNLI's words"
        raise DatasetError(
            f"{path}: truth is {columns[TRUTH][row].as_py()!r} in row {row + 1}; it may be {known}"
        )
    columns[TRUTH] = pa.array(list(TRUTHS.values())).take(at.combine_chunks())
    has_text = TEXT in table.column_names
    columns[TEXT] = (
        table[TEXT].cast(pa.string()) if has_text else pa.nulls(table.num_rows, pa.string())
    )
    return pa.table(columns)


def _texts(path: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        texts = column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DatasetError(f"{path}: {name!r} is {column.type}; it must be text") from error
    is_bad = pc.fill_null(pc.equal(texts, ""), True)
    if pc.any(is_bad).as_py():
        row = pc.index(is_bad, True).as_py()
        raise DatasetError(
            f"{path}: {name!r} is {texts[row].as_py()!r} in row {row + 1}; every row needs one"
        )
    return texts


def _claims_by_image(
    judged: Sequence[Judged], wanted: pa.Array
) -> dict[str, list[tuple[Source, int, str, str]]]:
    """The claims of the images that people looked at: source, position, label and answer."""
    found: dict[str, list[tuple[Source, int, str, str]]] = defaultdict(list)
    for one in judged:
        at = pc.indices_nonzero(pc.is_in(one.ids, value_set=wanted))
        columns = (one.ids, one.claims.labels, one.claims.answers)
        values = zip(*(column.take(at).to_pylist() for column in columns), strict=True)
        for position, (image, label, answer) in zip(at.to_pylist(), values, strict=True):
            found[image].append((one.source, position, label, answer))
    return found


def _fitting(
    label: str,
    claims: Sequence[tuple[Source, int, str, str]],
    texts: Mapping[str, Mapping[str, str]],
    image: str,
) -> Fitting | str:
    """The claim that a label means, by the first way in which it means one; else why there is none.

    See the head of this file for the ways.
    """
    if not claims:
        return ABSENT
    for source, position, name, answer in claims:
        if label == (name if source.kind in LISTS else source.column):
            return Fitting(source.column, position, answer, False)
    return next(_by_content(label, claims, texts, image), UNKNOWN)


def _by_content(
    label: str,
    claims: Sequence[tuple[Source, int, str, str]],
    texts: Mapping[str, Mapping[str, str]],
    image: str,
) -> Iterator[Fitting | str]:
    """The claims that say what the label says."""
    said = [claim for claim in claims if claim[0].kind == "entailment"]
    if label in LABELS and len(said) == 1:
        source, position, _, answer = said[0]
        yield Fitting(source.column, position, answer, True) if answer == label else CHANGED
    for source, position, _, answer in claims:
        if source.kind == "captioner" and texts[source.column].get(image) == label:
            yield Fitting(source.column, position, answer, False)


def _is_right(fitting: Fitting, truth: str) -> bool:
    """Whether a claim's answer is what a person says is true."""
    if truth in LABELS:
        return fitting.answer == truth
    if fitting.is_of_answer:
        return truth == TRUE
    return (fitting.answer == YES) == (truth == TRUE) and fitting.answer in (YES, "no")


def _nothing_fits(
    where: str, left: Mapping[str, int], odd: Sequence[str], judged: Sequence[Judged]
) -> str:
    told = "; ".join(f"{count} {reason}" for reason, count in left.items() if count)
    names = ", ".join(one.source.column for one in judged) or "none"
    shown = ", ".join(map(repr, list(dict.fromkeys(odd))[:SHOWN]))
    labels = f" (such as {shown})" if shown else ""
    return (
        f"{where}: no answer fits the table: {told}{labels}; the columns that can be judged are "
        f"{names}; a label names one of them, a hypothesis, or the answer that was seen"
    )
