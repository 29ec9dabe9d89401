"""The tokenizer; expected numbers are of transformers' BartTokenizer over the same files."""

import json

import pytest

from operators.models.ofa.tokenizer import OFATokenizer, pad
from schemas.errors import ModelError
from tests import tiny

WORDS = ["a", "dog", "cat", "what", "does", "the", "image", "describe", "?"]


@pytest.fixture(scope="module")
def tokenizer():
    return OFATokenizer(tiny.checkpoint("ofa_caption_mini"), vocab_size=59457)


def word_level(folder, merges=True):
    """A directory whose vocabulary holds whole words only, each merged from its letters."""
    folder.mkdir()
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *(f"Ġ{word}" for word in WORDS)]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    pairs = ["#version: 0.2"]
    for word in tokens[4:]:
        pairs += [f"{word[:i]} {word[i]}" for i in range(1, len(word))]
    (folder / "merges.txt").write_text("\n".join(dict.fromkeys(pairs)) + "\n")
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" what does the image describe?", [99, 473, 5, 2274, 6190, 116]),
        ("what does the image describe?", [12196, 473, 5, 2274, 6190, 116]),
        ("", []),
        ("<code_0><bin_999>", [50265, 59456]),
    ],
)
def test_text_becomes_the_published_tokens(tokenizer, text, expected):
    assert tokenizer.encode(text) == expected


def test_the_published_vocabulary_is_followed_by_codes_and_bins(tokenizer):
    assert tokenizer.size == 59457


@pytest.mark.parametrize(
    "text", [" a dog's life", "naïve 中文 😀", " two  blanks ", "don't 12345 67.8%", "\n\ttabs"]
)
def test_what_is_encoded_can_be_decoded(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_left_out_and_codes_stand_between_blanks(tokenizer):
    tokens = [0, *tokenizer.encode(" a dog"), 50265, *tokenizer.encode(" runs"), 1, 2]
    assert tokenizer.decode(tokens) == " a dog <code_0>  runs"


def test_half_a_character_is_decoded_with_a_replacement(tokenizer):
    assert tokenizer.decode(tokenizer.encode("𐍈")[:1]).endswith("�")


def test_only_the_first_tokens_are_kept(tokenizer):
    whole = tokenizer.encode(" one two three four")
    assert tokenizer.encode(" one two three four", longest=2) == whole[:2]


def test_a_small_vocabulary_may_hold_whole_words(tmp_path):
    tokenizer = OFATokenizer(word_level(tmp_path / "words"), vocab_size=13)
    assert tokenizer.encode(" the dog") == [9, 5]
    assert tokenizer.decode([0, 9, 5, 2]) == " the dog"


def test_what_a_small_vocabulary_lacks_becomes_unknown(tmp_path):
    tokenizer = OFATokenizer(word_level(tmp_path / "words"), vocab_size=20)
    tokens = tokenizer.encode(" the zebra")
    assert tokens[0] == 9
    assert set(tokens[1:]) == {3}


def test_a_small_net_has_no_codes(tmp_path):
    tokenizer = OFATokenizer(word_level(tmp_path / "words"), vocab_size=20)
    assert tokenizer.size == 13
    assert tokenizer.decode([9, 19]) == " the"


def test_rows_are_padded_at_the_end():
    assert pad([[0, 5, 2], [0, 2]]).tolist() == [[0, 5, 2], [0, 2, 1]]


def test_more_tokens_than_the_net_has_rows_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"13 tokens, but 'vocab_size' in config\.json is 12"):
        OFATokenizer(word_level(tmp_path / "words"), vocab_size=12)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.json", "{", "not JSON"),
        ("vocab.json", '{"<s>": 0, "<pad>": 2}', "not numbered"),
        ("vocab.json", '{"a": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}', "first four"),
        ("vocab.json", '{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a b": 4}', "letters"),
        ("merges.txt", "#version: 0.2\na b c\n", "pair"),
        ("merges.txt", None, "cannot be read"),
        ("merges.txt", "#version: 0.2\n", "no merges"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, content, message):
    folder = word_level(tmp_path / "words")
    path = folder / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match=rf"{file}: .*{message}"):
        OFATokenizer(folder, vocab_size=20)
