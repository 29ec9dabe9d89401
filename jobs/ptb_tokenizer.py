r"""Cuts captions into tokens as the Penn Treebank does, the way all caption metrics are published.

pycocoevalcap runs Stanford CoreNLP 3.4.1's tokenizer (in Java) over all captions at once, one a
line, lower-cases the tokens and drops the punctuation. This does the same, without Java. A rule may
look beyond the end of its line, so a caption's tokens can depend on the caption after it, here as
there: `plan B.` ends in `b` before a caption that begins with `A man`, and otherwise in `b.`.

Measured against the jar on random awkward lines (see tests/jobs/test_ptb_tokenizer.py). What
differs on purpose: there a carriage return or another line break inside a caption shifts all
captions after it; here it is a space, as a newline is in both.
"""

from collections.abc import Sequence
from functools import cache

from jobs.lexer import Lexer
from jobs.ptb_rules import NEWLINE, RULES, definitions

# pycocoevalcap's list. Its brackets, -LRB- and so on, are in lower case when it is asked, and stay.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

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
    spoken = "\n".join(_as_text(line).lower() for line in lines)
    return [_without_punctuation(line) for line in spoken.split("\n")]


@cache
def _lexer() -> Lexer:
    return Lexer(RULES, definitions())


def _without_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)


def _as_units(text: str) -> str:
    """The text as Java sees it: a character beyond the basic plane is two surrogates."""
    if text.isascii() or max(text) <= "\uffff":
        return text
    units = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(low | high << 8) for low, high in zip(units[::2], units[1::2], strict=True))


def _as_text(units: str) -> str:
    """Puts surrogates together again."""
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
