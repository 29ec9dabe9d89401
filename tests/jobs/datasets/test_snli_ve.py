"""SNLI-VE's lines, of both versions, and predictions for them."""

import json
import re

import pytest

from jobs.datasets import snli_ve
from schemas.errors import DatasetError

LINE = {
    "annotator_labels": ["neutral", "entailment", "neutral", "neutral", "neutral"],
    "captionID": "4705552913.jpg#2",
    "gold_label": "neutral",
    "pairID": "4705552913.jpg#2r1n",
    "sentence1": "Two women are embracing while holding to go packages.",
    "sentence1_binary_parse": "( ( Two women ) x )",
    "sentence2": "The sisters are hugging goodbye.",
}


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "snli_ve_dev.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return path

    return write


@pytest.mark.parametrize(
    "image", [{"Flickr30K_ID": "4705552913"}, {"Flikr30kID": "4705552913.jpg"}]
)
def test_both_spellings_of_the_image_give_the_same_row(write, image):
    assert snli_ve.read_pairs(write({**LINE, **image})).to_pylist() == [
        {
            "pair_id": "4705552913.jpg#2r1n",
            "image_id": "4705552913",
            "premise": "Two women are embracing while holding to go packages.",
            "hypothesis": "The sisters are hugging goodbye.",
            "label": "neutral",
        }
    ]


def test_a_pair_that_annotators_left_open_has_no_label(write):
    line = {**LINE, "Flickr30K_ID": "1", "gold_label": "-"}
    assert snli_ve.read_pairs(write(line))["label"].to_pylist() == [None]


def test_answers_come_in_snlis_words_or_in_ofas(write):
    words = ["entailment", "neutral", "contradiction", "yes", "maybe", "no"]
    path = write(*({"pairID": str(at), "label": word} for at, word in enumerate(words)))
    assert list(snli_ve.read_answers(path).values()) == words[:3] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "line 1: no 'Flickr30K_ID' or 'Flikr30kID'"),
        ({"Flickr30K_ID": "1", "gold_label": "yes"}, "gold_label is 'yes'; it may be 'entailment'"),
        ({"Flickr30K_ID": "1", "sentence2": 3}, "sentence2 is 3; it must be a string"),
    ],
)
def test_a_line_of_another_form_is_refused(write, change, message):
    with pytest.raises(DatasetError, match=re.escape(message)):
        snli_ve.read_pairs(write({**LINE, **change}))


def test_a_pair_that_comes_twice_is_refused(write):
    line = {**LINE, "Flickr30K_ID": "1"}
    with pytest.raises(DatasetError, match=r"line 2: pair '4705552913\.jpg#2r1n' was there"):
        snli_ve.read_pairs(write(line, line))
    answer = {"pairID": "a", "label": "yes"}
    with pytest.raises(DatasetError, match="line 2: pair 'a' was there before"):
        snli_ve.read_answers(write(answer, answer))


def test_a_line_that_is_not_json_is_refused_by_number(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"pairID": "a", "label": "yes"}\n\n{"pairID": \n', "utf-8")
    with pytest.raises(DatasetError, match=r"answers\.jsonl, line 3: not JSON"):
        snli_ve.read_answers(path)
