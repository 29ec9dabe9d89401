"""A taxonomy: the labels that may be given to images, with their names and what each says.

A YAML file with a list of labels, each `{id, en, zh, hypothesis, synonyms, parent}`; all but `id`
may be left out as long as there is an English name or a hypothesis.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from schemas.config import Strict, nearest
from schemas.errors import ConfigError

MOST_LABELS = 20_000
SHOWN = 5  # faults in a message
COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLURAL_STARTS = frozenset([*COUNTS, "several", "many"])
STARTS = frozenset(["a", "an", "the", "one", "some", "no"])  # of a name that needs no article


Words = Annotated[str, Field(pattern=r"\S")]


class Label(Strict):
    """One label.

    Args:
        id: what is written to the table.
        en: its English name.
        zh: its Chinese name.
        hypothesis: the English sentence that holds of an image with this label; `there is a NAME`
            when left out.
        synonyms: other names, in either language.
        parent: the id of a label that holds wherever this one does.
    """

    id: Words
    en: Words | None = None
    zh: Words | None = None
    hypothesis: Words | None = None
    synonyms: tuple[Words, ...] = ()
    parent: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All its names, without doubles."""
        given = (self.en, self.zh, *self.synonyms)
        return tuple(dict.fromkeys(name for name in given if name)) or (self.id,)

    @property
    def sentence(self) -> str:
        """What is judged of an image."""
        return self.hypothesis or there_is(self.en or self.id)


@dataclass(frozen=True)
class Taxonomy:
    """Labels in the order of their file, their ids unique, their parents among them."""

    labels: tuple[Label, ...]

    @cached_property
    def positions(self) -> dict[str, int]:
        """Where each id stands."""
        return {label.id: position for position, label in enumerate(self.labels)}

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """What is judged of an image for each label."""
        return tuple(label.sentence for label in self.labels)

    def ancestors(self, label: int) -> Iterator[int]:
        """The positions of a label's parent, its parent's parent, and so on."""
        parent = self.labels[label].parent
        while parent is not None:
            at = self.positions[parent]
            yield at
            parent = self.labels[at].parent

    def describe(self) -> list[dict[str, Any]]:
        """All that decides what is computed; JSON-able."""
        return [label.model_dump(exclude_defaults=True) for label in self.labels]


def there_is(name: str) -> str:
    """Says in English that something is there: `there is a dog`, `there are two dogs`."""
    first = name.split(" ", 1)[0].lower()
    if first in PLURAL_STARTS or (first.isdecimal() and first != "1"):
        return f"there are {name}"
    if first in STARTS:
        return f"there is {name}"
    return f"there is {'an' if first[:1] in 'aeiou' else 'a'} {name}"


def read_taxonomy(path: str | Path) -> Taxonomy:
    """Reads a taxonomy.

    Raises:
        ConfigError: it cannot be read, or labels are not as they must be; with the first faults.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: the taxonomy cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    entries = document.get("labels") if isinstance(document, dict) else document
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: a taxonomy is a list of labels, such as - {{id: dog, en: dog}}")
    if len(entries) > MOST_LABELS:
        raise ConfigError(f"{path}: {len(entries):,} labels; at most {MOST_LABELS:,} can be used")
    faults: list[str] = []
    labels = [label for label in map(_label(faults), range(len(entries)), entries) if label]
    faults += _faults(labels) if not faults else []
    if faults:
        rest = f"\n… and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults[:SHOWN]) + rest)
    return Taxonomy(tuple(labels))


def _label(faults: list[str]) -> Any:
    """Reads one entry; what is wrong with it goes into `faults`."""

    def read(number: int, entry: Any) -> Label | None:
        at = f"label {number + 1}"
        if not isinstance(entry, Mapping):
            faults.append(f"{at} is {entry!r}; it must be a mapping such as {{id: dog, en: dog}}")
            return None
        try:
            label = Label.model_validate(entry)
        except ValidationError as error:
            faults.extend(f"{at}: {_described(fault)}" for fault in error.errors())
            return None
        if label.en is None and label.hypothesis is None:
            faults.append(f"{at} ({label.id!r}) has neither an English name, en, nor a hypothesis")
        return label

    return read


def _described(fault: Any) -> str:
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown key {name!r}; {nearest(name, Label.model_fields)}"
    if fault["type"] == "missing":
        return f"{name} is missing; every label needs one"
    if fault["type"] == "string_pattern_mismatch":
        return f"{name} is empty"
    return f"{name} is {fault['input']!r}: {fault['msg'].lower()}"


def _faults(labels: list[Label]) -> list[str]:
    """What is wrong between labels."""
    counts = Counter(label.id for label in labels)
    faults = [f"id {name!r} is given {count} times" for name, count in counts.items() if count > 1]
    parents = {label.id: label.parent for label in labels}
    for label in labels:
        if label.parent is not None and label.parent not in parents:
            faults.append(
                f"label {label.id!r}: no label {label.parent!r} to be its parent; "
                f"{nearest(label.parent, parents)[:200]}"
            )
    return faults or [
        f"label {name!r} is its own ancestor; parents must end somewhere"
        for name in _circular(parents)
    ]


def _circular(parents: Mapping[str, str | None]) -> list[str]:
    """The labels that are their own ancestors; each label is walked over once."""
    found: list[str] = []
    walked: set[str] = set()
    for start in parents:
        path: dict[str, None] = {}
        at: str | None = start
        while at is not None and at not in walked and at not in path:
            path[at] = None
            at = parents[at]
        if at in path:
            found += [*path][[*path].index(at) :]
        walked.update(path)
    return found
