"""Says how far the models agree about an image: a number to sort a queue of people's work by.

The agreement is the geometric mean of what there is of

- E, the probability that the caption is entailed (`entailment`);
- M, the probability that the caption matches the image (`match`);
- T, of the labels of a taxonomy that the caption names, the share that the tagger found (`tags`);
  captions that name none do not count;
- C, how alike two captions are (`other`): the F1 of their words.

    agreement = (E M T C) ^ (1 / how many of them there are), each of them at least 0.001

so that one model that disagrees is enough to bring a row to the front.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from operators.base import fingerprint
from schemas.enriched import agreement_schema
from schemas.errors import ConfigError
from schemas.taxonomy import Taxonomy, read_taxonomy

CODE_VERSION = 1  # raise when outputs change
BATCH_ROWS = 512
LEAST = 0.001  # of each part, so that none hides what the others say
WORD = re.compile(r"[a-z0-9']+|[\u3400-\u9fff]")  # an English word, or a Chinese character

Floats = npt.NDArray[np.float64]


class Agreement:
    """Compares what operators before it said of an image.

    Args:
        name: the column to write.
        caption: the column of the caption.
        entailment: the name of an entailment checker that judged the caption.
        match: the name of a matcher that matched it.
        tags: the name of a tagger; needs
        taxonomy: its file.
        other: the column of another caption.
        upstream_keys: for columns it reads, the key of the operator that wrote them.

    Raises:
        ConfigError: there is nothing to compare the caption with, or the taxonomy is wrong.
    """

    has_net = False  # see `operators.base.Operator`

    def __init__(
        self,
        *,
        name: str = "agreement",
        caption: str = "caption",
        entailment: str | None = None,
        match: str | None = None,
        tags: str | None = None,
        taxonomy: str | None = None,
        other: str | None = None,
        upstream_keys: Mapping[str, str] | None = None,
    ) -> None:
        _check_options(name, (entailment, match, tags, other), tags, taxonomy)
        self.name = name
        self.caption, self.entailment, self.match, self.other = caption, entailment, match, other
        self.tags = tags
        self.named = _names(read_taxonomy(taxonomy)) if taxonomy else {}
        columns = (f"{entailment}_yes" if entailment else None, match, tags, other)
        needs_caption = (caption,) if tags or other else ()
        self.reads = (*needs_caption, *(column for column in columns if column))
        self.writes = agreement_schema(name)
        self.batch_rows = BATCH_ROWS
        self.description: Mapping[str, Any] = {
            "operator": "agreement",
            "code": CODE_VERSION,
            "options": {
                "caption": caption,
                "entailment": entailment,
                "match": match,
                "tags": tags,
                "names": [list(pair) for pair in sorted(self.named.items())],
                "other": other,
            },
            "upstream": dict(upstream_keys or {}),
        }
        self.key = fingerprint(self.description)

    def load(self) -> None:
        """Has nothing to read."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Compares row by row; null where nothing can be compared."""
        parts: list[Floats] = []
        if self.entailment:
            parts.append(_numbers(table[f"{self.entailment}_yes"]))
        if self.match:
            parts.append(_numbers(table[self.match]))
        if self.tags or self.other:
            captions = [words(text) for text in table[self.caption].to_pylist()]
        if self.tags:
            found = table[self.tags].to_pylist()
            pairs = zip(captions, found, strict=True)
            parts.append(np.array([self._consistency(text, tags) for text, tags in pairs]))
        if self.other:
            others = [words(text) for text in table[self.other].to_pylist()]
            pairs = zip(captions, others, strict=True)
            parts.append(np.array([likeness(one, two) for one, two in pairs]))
        return pa.table([_mean(np.array(parts))], schema=self.writes)

    def _consistency(
        self, caption: Sequence[str], tags: Sequence[Mapping[str, Any]] | None
    ) -> float:
        """The share of the labels that a caption names which the tagger found."""
        named = labels_named(caption, self.named)
        found = {tag["label"] for tag in tags or ()}
        return len(named & found) / len(named) if named and tags is not None else np.nan


def words(text: str | None) -> list[str]:
    """The words of an English text, the characters of a Chinese one."""
    return WORD.findall((text or "").lower())


def likeness(one: Sequence[str], two: Sequence[str]) -> float:
    """The F1 of the words of two texts, each word as often as it occurs; nan where both are empty.

    Source: SQuAD, arXiv:1606.05250, section 6.1.
    """
    if not one and not two:
        return float("nan")
    common = (Counter(one) & Counter(two)).total()
    return 2 * common / (len(one) + len(two))


def labels_named(text: Sequence[str], names: Mapping[tuple[str, ...], str]) -> set[str]:
    """The labels whose name stands in a text, in the singular or the plural."""
    longest = max(map(len, names), default=0)
    found = set()
    for size in range(1, longest + 1):
        for start in range(len(text) - size + 1):
            part = tuple(text[start : start + size])
            for last in _singulars(part[-1]):
                if (*part[:-1], last) in names:
                    found.add(names[(*part[:-1], last)])
    return found


def _names(taxonomy: Taxonomy) -> dict[tuple[str, ...], str]:
    """Every name of every label as words; of labels with the same name the first."""
    found: dict[tuple[str, ...], str] = {}
    for label in taxonomy.labels:
        for name in label.names:
            found.setdefault(tuple(words(name)), label.id)
    return {name: label for name, label in found.items() if name}


def _singulars(word: str) -> list[str]:
    """A word, and what it may be the plural of."""
    found = [word]
    if word.endswith("ies"):
        found.append(f"{word[:-3]}y")
    if word.endswith("es"):
        found.append(word[:-2])
    if word.endswith("s"):
        found.append(word[:-1])
    return found


def _mean(parts: Floats) -> pa.Array:
    """The geometric mean of the parts (k, n) that are known; null where none is."""
    known = ~np.isnan(parts)
    logs = np.where(known, np.log(np.clip(np.nan_to_num(parts), LEAST, 1)), 0).sum(axis=0)
    count = known.sum(axis=0)
    means = np.exp(logs / np.maximum(count, 1)).astype(np.float32)
    return pa.array(means, mask=count == 0)


def _numbers(column: pa.ChunkedArray) -> Floats:
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _check_options(
    name: str, given: Sequence[str | None], tags: str | None, taxonomy: str | None
) -> None:
    where = f"operator {name!r}"
    if not any(given):
        raise ConfigError(
            f"{where}: nothing to compare the caption with; name entailment, match, tags or other"
        )
    if (tags is None) != (taxonomy is None):
        raise ConfigError(f"{where}: tags and taxonomy belong together; give both or neither")
