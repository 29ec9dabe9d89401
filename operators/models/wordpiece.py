"""BERT's uncased tokenizer: text to the ids of a `vocab.txt`.

Words are found here, by Python's own Unicode tables, as Google's BERT (and so ModelScope) finds
them; the tokenizers library's normaliser has older tables and a narrower idea of Chinese, so its
ids differ for private-use characters, recent accents and part of CJK extension E. The greedy
WordPiece itself is that library's. Names of special tokens in a text are ordinary text.

Hugging Face's BertTokenizer, which the published mPLUG uses, has other `Rules`; with them the ids
and the text made of ids are that class's.

Source: google-research/bert, tokenization.py; transformers 4, tokenization_bert.py.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ModelError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MASK = "[MASK]"  # special too, but not every vocabulary has it
_CLEAN_UPS = (  # what Hugging Face's decoding rewrites, in this order
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
_CHINESE = (  # first and last code point of each block whose characters are words of their own
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
_ASCII_PUNCTUATION = frozenset(
    map(chr, (*range(33, 48), *range(58, 65), *range(91, 97), *range(123, 127)))
)


@dataclass(frozen=True)
class Rules:
    """Where published tokenizers differ.

    Args:
        longest_word: characters; a longer word is one [UNK].
        dropped: the Unicode categories whose characters are left out.
    """

    longest_word: int
    dropped: frozenset[str]


GOOGLE = Rules(longest_word=200, dropped=frozenset({"Cc", "Cf"}))
HUGGING_FACE = Rules(longest_word=100, dropped=frozenset({"Cc", "Cf", "Cn", "Co", "Cs"}))


class WordPiece:
    """Cuts texts into the pieces of one vocabulary.

    Args:
        vocabulary: id by piece.
        source: where the vocabulary was read, for messages.
        rules: whose ids are wanted.

    Raises:
        ModelError: one of the four special tokens is not in the vocabulary.
    """

    def __init__(self, vocabulary: dict[str, int], source: Path, rules: Rules = GOOGLE) -> None:
        from tokenizers import Tokenizer, models

        absent = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if absent:
            raise ModelError(
                f"{source}: a BERT vocabulary holds {', '.join(absent)}; this one does not"
            )
        self.vocabulary = vocabulary
        self.rules = rules
        self.pieces = {number: piece for piece, number in vocabulary.items()}
        self.pad, self.unknown, self.start, self.end = (vocabulary[t] for t in SPECIAL_TOKENS)
        self._pieces = Tokenizer(
            models.WordPiece(
                vocabulary, unk_token="[UNK]", max_input_chars_per_word=rules.longest_word
            )
        )

    def encode(self, text: str, *, limit: int) -> list[int]:
        """Returns `[CLS]`, the first pieces of `text` and `[SEP]`: at most `limit` ids."""
        words = split_words(text, self.rules)[: limit - 2]  # each gives one piece or more
        pieces = self._pieces.encode(words, is_pretokenized=True).ids if words else []
        return [self.start, *pieces[: limit - 2], self.end]

    def decode(self, ids: Sequence[int]) -> str:
        """Joins pieces to a text, special tokens left out and blanks tidied as Hugging Face does.

        A number with a point comes apart (`3. 5`), and so does a word with a hyphen.
        """
        special = (*SPECIAL_TOKENS, MASK)
        pieces = [self.pieces.get(number, "[UNK]") for number in ids]
        text = " ".join(piece for piece in pieces if piece not in special)
        text = text.replace(" ##", "").strip()
        for found, better in _CLEAN_UPS:
            text = text.replace(found, better)
        return text


def read_vocabulary(directory: Path, rules: Rules = GOOGLE) -> WordPiece:
    """Reads `vocab.txt` (one piece a line, its id the line) or, where absent, `tokenizer.json`.

    Raises:
        ModelError: neither is there, or it is not a WordPiece vocabulary.
    """
    path = directory / "vocab.txt"
    if path.is_file():
        try:
            with path.open(encoding="utf-8") as lines:
                return WordPiece({line.strip(): i for i, line in enumerate(lines)}, path, rules)
        except UnicodeDecodeError as error:
            raise ModelError(f"{path}: not UTF-8 text ({error}); fetch the file again") from error
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{directory}: no vocabulary; there must be a vocab.txt or a tokenizer.json"
        )
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        kind, vocabulary = model["type"], dict(model["vocab"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: not a tokenizer of the tokenizers library ({error!r})"
        ) from error
    if kind != "WordPiece":
        raise ModelError(f"{path}: a {kind!r} tokenizer; only 'WordPiece' is read")
    return WordPiece(vocabulary, path, rules)


def split_words(text: str, rules: Rules = GOOGLE) -> list[str]:
    """Splits a text into lower-cased words without accents.

    Punctuation marks and Chinese characters stand alone.
    """
    spaced = "".join(_spaced(character) for character in text if not _is_dropped(character, rules))
    return [part for word in spaced.split() for part in _split_punctuation(_plain(word))]


def pad(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Fills rows with zeros to the longest."""
    width = max(map(len, rows), default=0)
    return [[*row, *[0] * (width - len(row))] for row in rows]


def _is_dropped(character: str, rules: Rules) -> bool:
    if character in "\t\n\r":
        return False
    return character == "\ufffd" or unicodedata.category(character) in rules.dropped


def _spaced(character: str) -> str:
    point = ord(character)
    if any(first <= point <= last for first, last in _CHINESE):
        return f" {character} "
    if (
        0xD800 <= point <= 0xDFFF
    ):  # half a surrogate pair cannot be encoded; neither is in a vocabulary
        return "\uffff"
    return character


def _plain(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def _split_punctuation(word: str) -> list[str]:
    spaced = (f" {c} " if _is_punctuation(c) else c for c in word)
    return "".join(spaced).split()


def _is_punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")
