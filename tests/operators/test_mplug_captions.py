"""The captioner with an mPLUG directory; goldens are of ModelScope's image-captioning pipeline."""

import json
import pickle

import pyarrow as pa
import pytest
from PIL import Image

from operators.captioner import Captioner
from operators.models.wordpiece import HUGGING_FACE, WordPiece
from schemas.errors import ConfigError, RowFaults
from tests import mplug, tiny

GOLDEN = tiny.DATA / "golden"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return mplug.write(tmp_path_factory.mktemp("models") / "captioning", mplug.CAPTIONING)


@pytest.fixture(scope="module")
def captioner(directory):
    return Captioner(directory)


@pytest.fixture(scope="module")
def photographs():
    return [Image.open(path).convert("RGB") for path in tiny.photographs()]


@pytest.fixture(scope="module")
def captions(captioner, photographs):
    return captioner.caption(photographs)


@pytest.mark.parametrize(
    "recipe", ["mplug_caption_tiny", pytest.param("mplug_caption_mini", marks=pytest.mark.slow)]
)
def test_captions_are_those_of_the_published_pipeline(recipe):
    golden = json.loads((GOLDEN / f"{recipe}.json").read_text())["images"]
    captioner = Captioner(tiny.checkpoint(recipe))
    decode = captioner._loaded().words.decode
    images = [Image.open(tiny.DATA / "images" / row["file"]).convert("RGB") for row in golden]
    found = captioner.caption(images)
    assert [caption.text for caption in found] == [row["caption"] for row in golden]
    for caption, row in zip(found, golden, strict=True):
        beams = row["beams"][:5]
        texts = [sentence.text for sentence in caption.alternatives]
        assert texts == [decode(beam["ids"]) for beam in beams]
        scores = [sentence.score for sentence in caption.alternatives]
        assert scores == pytest.approx([beam["score"] for beam in beams], abs=1e-4)
        assert caption.score == pytest.approx(row["score"], abs=1e-4)


def test_tokens_become_the_published_text():
    path = tiny.RECIPES / "common" / "bert_base_uncased_vocab.txt"
    pieces = path.read_text(encoding="utf-8").split()
    words = WordPiece({piece: at for at, piece in enumerate(pieces)}, path, HUGGING_FACE)
    golden = json.loads((GOLDEN / "mplug_caption_tiny.json").read_text())["decode"]
    assert [words.decode(case["ids"]) for case in golden] == [case["text"] for case in golden]


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_captions_do_not_depend_on_batch_size(captioner, captions, photographs, batch):
    found = []
    for start in range(0, len(photographs), batch):
        found += captioner.caption(photographs[start : start + batch])
    for one, other in zip(found, captions, strict=True):
        assert [s.text for s in one.alternatives] == [s.text for s in other.alternatives]
        scores = [s.score for s in other.alternatives]
        assert [s.score for s in one.alternatives] == pytest.approx(scores, abs=1e-4)


def test_a_table_gets_one_caption_a_row_with_all_alternatives(captioner, captions):
    files = [path.read_bytes() for path in tiny.photographs()[:2]]
    table = captioner(pa.table({"image_encoded": pa.array(files, pa.large_binary())}))
    assert table["caption"].to_pylist() == [caption.text for caption in captions[:2]]
    assert len(table["caption_alternatives"][0].as_py()) == 3


def test_settings_come_from_the_directory_unless_given(directory):
    published = {"beam_size": 3, "max_tokens": 6, "min_tokens": 1}
    assert Captioner(directory).options == published
    assert Captioner(directory, beam_size=2).options == published | {"beam_size": 2}
    assert Captioner(directory).key != Captioner(directory, beam_size=2).key


def test_sentences_are_as_long_as_asked(directory, photographs):
    for caption in Captioner(directory, max_tokens=1, min_tokens=1).caption(photographs[:3]):
        assert {sentence.text for sentence in caption.alternatives} <= {*mplug.VOCABULARY, ""}


def test_a_least_length_beyond_the_longest_is_the_longest(tmp_path):
    folder = mplug.write(tmp_path / "model", mplug.CAPTIONING, min_length=9, max_length=4)
    assert Captioner(folder).options["min_tokens"] == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"no_repeat_ngram": 3}, "no_repeat_ngram is not an option of mPLUG's search"),
        ({"beam_size": 0}, "beam_size is 0, but it must be a whole number of at least 1"),
        ({"max_tokens": 33}, "min_tokens <= max_tokens <= 32 must hold"),
        ({"max_tokens": "x"}, "max_tokens is 'x', but it must be a whole number"),
        ({"precision": "int8"}, "precision is 'int8'; it may be 'float32'"),
    ],
)
def test_an_option_without_such_a_value_is_refused(directory, options, told):
    with pytest.raises(ConfigError, match=f"operator 'caption': .*{told}"):
        Captioner(directory, **options)


def test_a_captioner_travels_without_its_weights(captioner, captions, photographs):
    copy = pickle.loads(pickle.dumps(captioner))
    assert copy._net is None
    assert copy.caption(photographs[:1])[0].text == captions[0].text


def test_scores_that_are_not_finite_are_a_fault_of_the_row(tmp_path, photographs):
    folder = mplug.write(tmp_path / "model", mplug.CAPTIONING, initializer_range=1e30)
    with pytest.raises(RowFaults) as error:
        Captioner(folder).caption(photographs[:2])
    assert sorted(error.value.faults) == [0, 1]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_gives_nearly_the_same_scores(directory, captions, photographs, precision):
    found = Captioner(directory, precision=precision).caption(photographs[:2])
    for one, other in zip(found, captions, strict=False):
        assert one.score == pytest.approx(other.score, abs=0.2)
