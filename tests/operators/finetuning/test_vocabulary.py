import numpy as np
import pytest

from operators.captioner import Captioner
from operators.embedded.scenes import draw, draw_scenes
from operators.finetuning.captioner import CaptionerTrainee
from operators.finetuning.vocabulary import teach_words, unknown_words
from operators.models import checkpoint
from operators.models.ofa.config import OFAConfig
from operators.models.ofa.tokenizer import UNK, OFATokenizer
from tests import tiny

SMALL = checkpoint.resolve("embedded:captioner")
TEXTS = [" two umbrellas and a dog", " an umbrella on the grass", " a cat"]
WORDS = ["Ġumbrella", "Ġumbrellas"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    target = tmp_path_factory.mktemp("taught") / "model"
    teach_words(SMALL, WORDS, target)
    return target


def test_words_that_cannot_be_spelled_are_found():
    assert unknown_words(SMALL, TEXTS) == WORDS


def test_the_published_vocabulary_spells_everything():
    directory = tiny.checkpoint("ofa_caption_tiny")
    assert unknown_words(directory, [" an ümbrella 漢字 zxqj"]) == []


def test_taught_words_are_tokens_and_all_others_keep_theirs(taught):
    old = OFATokenizer(SMALL, OFAConfig.read(SMALL).vocab_size)
    new = OFATokenizer(taught, OFAConfig.read(taught).vocab_size)
    known = checkpoint.read_json(SMALL / "vocab.json")
    for word in known:
        text = old.decode([known[word]])
        assert new.encode(text) == old.encode(text)
    tokens = new.encode(TEXTS[0])
    assert UNK not in tokens
    assert new.decode(tokens) == TEXTS[0]
    assert unknown_words(taught, TEXTS) == []


def test_a_taught_model_says_what_it_said_before(taught):
    pictures = [draw(scene) for scene in draw_scenes(4, seed=3)]
    before, after = (Captioner(model).caption(pictures) for model in (SMALL, taught))
    assert [caption.text for caption in after] == [caption.text for caption in before]
    scores = [[caption.score for caption in some] for some in (before, after)]
    np.testing.assert_allclose(*scores, atol=0.05)  # a little of the probability is for the new


def test_a_taught_model_can_be_trained_to_say_them(taught):
    trainee = CaptionerTrainee(taught)
    target = trainee.target("three umbrellas")
    assert trainee.reader.tokenizer.decode(target) == " three umbrellas"
