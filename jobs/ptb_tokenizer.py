r"""Cuts captions into tokens as the Penn Treebank does, the way all caption metrics are published.

pycocoevalcap runs Stanford CoreNLP 3.4.1's tokenizer (in Java) over all captions at once, one a
line, lower-cases the tokens and drops the punctuation. This does the same, without Java. A rule may
look beyond the end of its line, so a caption's tokens can depend on the caption after it, here as
there: `plan B.` ends in `b` before a caption that begins with `A man`, and otherwise in `b.`.

Measured against the jar on random awkward lines (see tests/jobs/test_ptb_tokenizer.py). What
differs on purpose: there a carriage return or another line break inside a caption shifts all
captions after it; here it is a space, as a newline is in both.
"""

import re
from collections.abc import Sequence
from functools import cache

from jobs.lexer import Lexer
from jobs.ptb_rules import NEWLINE, RULES, definitions

# pycocoevalcap's list. Its brackets, -LRB- and so on, are in lower case when it is asked, and stay.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# What Java's BreakIterator takes for one word: letters, single marks between them, numbers.
_UNSEEN = r"\u0300-\u036f\u200b-\u200f\ufeff"
_LETTER = rf"(?:[^\W\d_\u3041-\u30ff\u4e00-\u9fa5\uf900-\ufa2d]|[{_UNSEEN}])"
_INNER = (
    rf"[-_\"'.\u00ad\u058a\u05be\u2010-\u2015\u2027\u203f\u2040\u2054\ufe58\ufe63\uff0d\uff3f]"
    rf"[{_UNSEEN}]*"
)
_LETTERS = f"{_LETTER}+(?:{_INNER}{_LETTER}+)*"
_NUMBER = r"\d+(?:[\"',.\u066b]\d+)*"
_WORD = re.compile(f"(?:{_LETTERS})?(?:{_NUMBER}{_LETTERS})*(?:{_NUMBER})?")
_SIGMA = "\u03a3"

_BREAKS = str.maketrans(dict.fromkeys("\n\r\v\f\u2028\u2029", " "))


def tokenize(captions: Sequence[str]) -> list[str]:
    """Cuts captions into lower-case tokens without punctuation.

    Args:
        captions: in the order in which they are to be read; see above.

    Returns:
        for each caption its tokens with one space between; a token may hold no-break spaces.
    """
    if not captions:
        return []
    text = NEWLINE.join(caption.translate(_BREAKS) for caption in captions)
    lines = [""]
    for token in _lexer().tokens(_as_units(text)):
        if token == NEWLINE:
            lines.append("")
        else:
            lines[-1] += f" {token}" if lines[-1] else token
    return [_without_punctuation(_small(_as_text(line))) for line in lines]


@cache
def _lexer() -> Lexer:
    return Lexer(RULES, definitions())


def _without_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)


def _small(line: str) -> str:
    """Lower case as Java has it, which differs in where a capital sigma ends a word."""
    if _SIGMA in line:
        line = _WORD.sub(lambda word: _with_small_sigmas(word[0]), line)
    return line.lower()


def _with_small_sigmas(word: str) -> str:
    cased = [at for at, letter in enumerate(word) if letter.lower() != letter.upper()]
    final = cased[-1] if len(cased) > 1 else -1
    small = ("\u03c2" if at == final else "\u03c3" for at in range(len(word)))
    pairs = zip(word, small, strict=True)
    return "".join(sigma if letter == _SIGMA else letter for letter, sigma in pairs)


def _as_units(text: str) -> str:
    """The text as Java sees it: a character beyond the basic plane is two surrogates."""
    if text.isascii() or max(text) <= "\uffff":
        return text
    units = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(low | high << 8) for low, high in zip(units[::2], units[1::2], strict=True))


def _as_text(units: str) -> str:
    """Puts surrogates together again."""
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
