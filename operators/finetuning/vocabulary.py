"""Gives a small OFA the words that it cannot spell.

The published vocabulary spells everything, from bytes if need be. A small one may hold whole words
only; a caption with another word could then never be written. Such words get a token each: their
merges, behind all others, and a row of the embedding, which begins near the mean of all rows.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from torch import Tensor

from operators.finetuning.weights import write_directory
from operators.models.checkpoint import load_state_dict, read_json, write_json
from operators.models.ofa.config import OFAConfig
from operators.models.ofa.model import SOURCE_OF_TIED, TIED
from operators.models.ofa.tokenizer import UNK, OFATokenizer

NEARNESS = 0.1  # how far new rows lie from the mean, in deviations of the others


def unknown_words(directory: Path, texts: Iterable[str]) -> list[str]:
    """Names the words that become `<unk>`, in order, spelled in GPT-2's letters for bytes.

    Args:
        directory: an OFA directory.
        texts: as they are to be encoded; a blank in front is part of a word.
    """
    tokenizer = OFATokenizer(directory, OFAConfig.read(directory).vocab_size)
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found: set[str] = set()
    for text in dict.fromkeys(texts):
        if UNK in tokenizer.encode(text):
            words = splitter.pre_tokenize_str(text)
            found |= {w for w, (start, end) in words if UNK in tokenizer.encode(text[start:end])}
    return sorted(found)


def teach_words(directory: Path, words: list[str], target: Path) -> None:
    """Writes a directory like another one, with tokens for more words.

    Args:
        directory: an OFA directory.
        words: from `unknown_words`.
        target: made when absent.
    """
    vocabulary = read_json(directory / "vocab.json")
    first = len(vocabulary)
    vocabulary |= {word: first + number for number, word in enumerate(words)}
    state = load_state_dict(directory)
    rows = state[SOURCE_OF_TIED]
    size = max(len(rows), len(vocabulary))
    grown = _grown(rows.float(), first, len(vocabulary))
    for name in (SOURCE_OF_TIED, *TIED):
        if name in state:
            state[name] = grown
    write_directory(directory, target, state)
    write_json(target / "vocab.json", vocabulary)
    write_json(target / "config.json", read_json(directory / "config.json") | {"vocab_size": size})
    pairs = [f"{word[:end]} {word[end]}" for word in words for end in range(1, len(word))]
    text = (directory / "merges.txt").read_text(encoding="utf-8").rstrip("\n")
    known = set(text.split("\n"))
    added = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    (target / "merges.txt").write_text("\n".join([text, *added]) + "\n", encoding="utf-8")


def _grown(rows: Tensor, first: int, last: int) -> Tensor:
    """Sets the rows of the new tokens; shapes: rows (V, D); returns (max(V, last), D)."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(last - first, rows.shape[1], generator=generator)
    known = rows[:first]
    new = known.mean(dim=0) + NEARNESS * known.std(dim=0) * drawn
    return torch.cat([known, new, rows[last:]])
