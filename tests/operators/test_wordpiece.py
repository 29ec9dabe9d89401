import json
from pathlib import Path

import numpy as np
import pytest

from operators.models.wordpiece import HUGGING_FACE, WordPiece, pad, read_vocabulary, split_words
from schemas.errors import ModelError
from tests import tiny

GOLDEN = tiny.DATA / "golden"


@pytest.fixture(scope="module")
def tokenizer() -> WordPiece:
    return read_vocabulary(tiny.checkpoint("chinese_clip_mini"))


@pytest.mark.parametrize("recipe", ["chinese_clip_mini", "chinese_clip_tiny"])
def test_ids_equal_the_published_pipeline(tokenizer, recipe):
    texts = json.loads((GOLDEN / f"{recipe}.json").read_text())["texts"]
    with np.load(GOLDEN / f"{recipe}.npz") as arrays:
        expected = arrays["token_ids"]
    rows = [tokenizer.encode(text["text"], limit=52) for text in texts]
    found = np.zeros_like(expected)
    for position, row in enumerate(rows):
        found[position, : len(row)] = row
    assert np.array_equal(found, expected)


def test_ids_of_awkward_texts_equal_the_published_tokenizer(tokenizer):
    # private use, halves of surrogate pairs, recent accents, special tokens, words of 200
    # characters, noise; the ids are of ModelScope 1.40.2's FullTokenizer
    golden = json.loads((GOLDEN / "chinese_clip_tokens.json").read_text())
    wrong = [
        ascii(case["text"])
        for case in golden
        if tokenizer.encode(case["text"], limit=52) != case["ids"]
    ]
    assert len(golden) > 60
    assert wrong == []


def test_special_tokens_in_a_text_are_ordinary_text(tokenizer):
    assert split_words("[CLS] ok") == ["[", "cls", "]", "ok"]
    inner = tokenizer.encode("[SEP]", limit=52)[1:-1]
    assert not {tokenizer.start, tokenizer.end, tokenizer.pad} & set(inner)


def test_a_word_of_201_characters_is_unknown_and_one_of_200_is_not(tokenizer):
    assert tokenizer.encode("a" * 201, limit=52)[1:-1] == [tokenizer.unknown]
    assert len(tokenizer.encode("a" * 200, limit=52)) == 52


def test_padding_is_zeros_to_the_longest():
    assert pad([[1, 2, 3], [4]]) == [[1, 2, 3], [4, 0, 0]]
    assert pad([]) == []


def test_a_tokenizer_json_serves_as_well_as_a_vocab_txt(tokenizer, tmp_path):
    from transformers import BertTokenizer

    source = tiny.checkpoint("chinese_clip_mini") / "vocab.txt"
    BertTokenizer(str(source)).save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    assert read_vocabulary(tmp_path).vocabulary == tokenizer.vocabulary


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    with pytest.raises(ModelError, match=r"vocab.txt: .*\[CLS\], \[SEP\]"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("tokenizer.json", b"{", "not a tokenizer"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {}}}', "'BPE' tokenizer"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_named(tmp_path: Path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}: .*{message}"):
        read_vocabulary(tmp_path)


def test_a_directory_without_a_vocabulary_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"vocab.txt or a tokenizer.json"):
        read_vocabulary(tmp_path)


@pytest.fixture(scope="module")
def english() -> WordPiece:
    path = tiny.RECIPES / "common" / "bert_base_uncased_vocab.txt"
    pieces = path.read_text(encoding="utf-8").split()
    return WordPiece({piece: at for at, piece in enumerate(pieces)}, path, HUGGING_FACE)


def test_ids_by_hugging_face_rules_equal_the_published_mplug_preprocessor(english):
    golden = json.loads((GOLDEN / "mplug_retrieval_tiny.json").read_text())
    with np.load(GOLDEN / "mplug_retrieval_tiny.npz") as arrays:
        lengths, expected = arrays["text_mask"].sum(axis=1), arrays["text_ids"]
    texts = golden["texts"] + golden["edge_texts"]
    found = [english.encode(text.lower(), limit=25) for text in texts]
    assert found == [row[:length].tolist() for row, length in zip(expected, lengths, strict=True)]


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("private \ue000use", "private use"),  # Google's rules keep it, and the word is [UNK]
        ("no \u0378such", "no such"),
        ("half \ud83da", "half a"),
        ("x" * 101, "[UNK]"),
    ],
)
def test_hugging_face_drops_more_characters_and_gives_up_sooner(english, text, like):
    expected = [101, 100, 102] if like == "[UNK]" else english.encode(like, limit=25)
    assert english.encode(text, limit=25) == expected
