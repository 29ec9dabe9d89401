"""Golden: the tokens that pycocoevalcap 1.2 gets out of Stanford CoreNLP 3.4.1, in Java.

Beyond the lines of the golden, 320,000 random awkward lines gave two differences, and 60,000 lines
of little but Greek sigmas four: a capital sigma beside marks of India, or beside two marks on end.
"""

import json
from pathlib import Path

import pytest

from jobs.ptb_tokenizer import tokenize

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "ptb_tokens.json"


def test_tokens_are_those_of_corenlp():
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = tokenize(golden["captions"])
    different = [
        (caption, tokens, expected)
        for caption, tokens, expected in zip(
            golden["captions"], found, golden["tokens"], strict=True
        )
        if tokens != expected
    ]
    assert different == []
    assert len(found) > 400


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("It's a dog's life; they don't care.", "it 's a dog 's life they do n't care"),
        ("", ""),
        ("...", ""),
        ("two\nlines\r\nof text", "two lines of text"),
        ("a \u2028 b", "a b"),
        ("x" * 5000, "x" * 5000),
        ("\U0001f602 a \U0001f436 \ud83d", "a"),  # beyond the basic plane, also when cut in half
    ],
)
def test_one_caption_gives_one_line_of_tokens(caption, tokens):
    assert tokenize([caption, "a man"]) == [tokens, "a man"]


@pytest.mark.parametrize(
    ("caption", "tokens"),  # as Java answers
    [
        (
            "\u039f\u0394\u039f\u03a3 \u039f\u0394\u039f\u03a3.",
            "\u03bf\u03b4\u03bf\u03c2 \u03bf\u03b4\u03bf\u03c2",
        ),
        ("\u039f\u0394\u039f\u03a31990s", "\u03bf\u03b4\u03bf\u03c31990s"),
        ("\u03a3\u0391-\u03a3 \u00e9\u03a3_\u03a3", "\u03c3\u03b1-\u03c2 \u00e9\u03c3_\u03c2"),
        ("b0\u03a3 5\u03a33 \u03a3", "b0\u03c2 5\u03c33 \u03c3"),
    ],
)
def test_a_capital_sigma_becomes_small_as_in_java(caption, tokens):
    assert tokenize([caption]) == [tokens]


def test_no_captions_give_no_lines():
    assert tokenize([]) == []


def test_a_letter_at_the_end_depends_on_how_the_next_caption_begins():
    assert tokenize(["plan B.", "A man"])[0] == "plan b"
    assert tokenize(["plan B.", "two men"])[0] == "plan b."
