"""Text to tokens and back, by the `vocab.json` and `merges.txt` of an OFA directory.

Byte-level BPE as in GPT-2. The published vocabulary is followed by 8192 image codes and 1000
coordinate bins, which text may name, too. A small one may hold whole words, merged from their
letters, without the letters themselves.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor

from operators.models.checkpoint import read_json
from schemas.errors import ModelError

BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
EXTRAS = tuple(f"<code_{i}>" for i in range(8192)) + tuple(f"<bin_{i}>" for i in range(1000))


class OFATokenizer:
    """Encodes and decodes as the published pipeline does.

    Args:
        directory: holds `vocab.json` and `merges.txt`.
        vocab_size: rows of the net's embedding; codes and bins are known where they fit.

    Raises:
        ModelError: a file is missing or damaged, or has more tokens than the net.
    """

    def __init__(self, directory: Path, vocab_size: int) -> None:
        vocabulary = _read_vocabulary(directory / "vocab.json", vocab_size)
        merges = _read_merges(directory / "merges.txt")
        if not merges and any(len(t) > 1 for t in vocabulary if t not in SPECIAL):
            raise ModelError(
                f"{directory / 'merges.txt'}: has no merges, so no text could be spelled in the "
                "tokens of vocab.json; fetch the model again"
            )
        extras = EXTRAS if len(vocabulary) + len(EXTRAS) <= vocab_size else ()
        self.size = len(vocabulary) + len(extras)
        self._tokens = {number: token for token, number in vocabulary.items()}
        self._extras = {len(vocabulary) + i: token for i, token in enumerate(extras)}
        self._special = {vocabulary[token] for token in SPECIAL if token in vocabulary}
        self._tokenizer = _build(vocabulary, merges, extras)

    def encode(self, text: str, *, longest: int | None = None) -> list[int]:
        """Splits a text into tokens, without `<s>` and `</s>`; the first `longest` ones are kept.

        What the vocabulary does not know becomes `<unk>`.
        """
        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids[:longest]
        return [token if token < self.size else UNK for token in tokens]

    def decode(self, tokens: Sequence[int]) -> str:
        """Joins tokens to a text, without special ones; codes and bins stand between blanks."""
        parts: list[str] = []
        letters = ""
        for token in tokens:
            if token in self._extras:
                parts += [_text(letters), self._extras[token]]
                letters = ""
            elif token not in self._special:
                letters += self._tokens.get(token, "")
        return " ".join(part for part in [*parts, _text(letters)] if part)


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Makes rows of tokens equally long, int64 (B, T)."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows], dtype=torch.int64)


def _read_vocabulary(path: Path, vocab_size: int) -> dict[str, int]:
    vocabulary = read_json(path)
    numbers = sorted(vocabulary.values())
    if numbers != list(range(len(numbers))):
        raise ModelError(f"{path}: tokens are not numbered 0, 1, 2, …; fetch the model again")
    if len(numbers) > vocab_size:
        raise ModelError(
            f"{path}: {len(numbers)} tokens, but 'vocab_size' in config.json is {vocab_size}; "
            "the two files belong to different models"
        )
    wrong = [t for number, t in enumerate(SPECIAL[:4]) if vocabulary.get(t) != number]
    if wrong:
        raise ModelError(
            f"{path}: {', '.join(wrong)} should be among the first four tokens, in place"
        )
    letters = set().union(*(token for token in vocabulary if token not in SPECIAL))
    if not letters <= _bytes_by_letter().keys():
        raise ModelError(
            f"{path}: tokens are not spelled in GPT-2's letters for bytes, 'Ġ' a blank"
        )
    return vocabulary


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); fetch the model again") from error
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    wrong = [pair for pair in pairs if len(pair) != 2]
    if wrong:
        raise ModelError(f"{path}: {' '.join(wrong[0])!r} is not a pair of pieces to merge")
    return [(left, right) for left, right in pairs]


def _build(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], extras: Sequence[str]
) -> Tokenizer:
    """Numbers pieces that occur only on the way to a token behind all tokens; they mean `<unk>`."""
    pieces = {piece for pair in merges for piece in (*pair, "".join(pair))}
    on_the_way = sorted((pieces | set(_bytes_by_letter())) - vocabulary.keys())
    size = len(vocabulary) + len(extras)
    numbered = vocabulary | {token: len(vocabulary) + i for i, token in enumerate(extras)}
    numbered |= {piece: size + i for i, piece in enumerate(on_the_way)}
    tokenizer = Tokenizer(models.BPE(vocab=numbered, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.add_special_tokens(
        [AddedToken(t, lstrip=t == "<mask>", normalized=False) for t in SPECIAL if t in vocabulary]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in extras])
    return tokenizer


@cache
def _bytes_by_letter() -> dict[str, int]:
    """The printable letter that stands for each byte in GPT-2's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + i): byte for i, byte in enumerate(others)}


def _text(letters: str) -> str:
    table = _bytes_by_letter()
    return bytes(table[letter] for letter in letters).decode("utf-8", errors="replace")
