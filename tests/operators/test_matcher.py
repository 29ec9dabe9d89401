"""Matches; goldens are of ModelScope's image-text-retrieval pipeline on the same checkpoints."""

import json
import logging
import pickle
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from operators.base import apply
from operators.catalog import build_operators, check_document
from operators.matcher import Match, Matcher
from schemas.errors import ConfigError, ModelError, RowFaults
from tests import mplug, tiny

GOLDEN = tiny.DATA / "golden"
RECIPES = ["mplug_retrieval_tiny", pytest.param("mplug_retrieval_mini", marks=pytest.mark.slow)]
TEXTS = ["a cup", "", "cat.", "a cat a cup a cat?", "Ünknown 猫"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return mplug.write(tmp_path_factory.mktemp("models") / "matching", mplug.MATCHING)


@pytest.fixture(scope="module")
def matcher(directory):
    return Matcher(directory)


@pytest.fixture(scope="module")
def photographs():
    return [Image.open(path).convert("RGB") for path in tiny.photographs()]


@pytest.fixture(scope="module")
def matches(matcher, photographs):
    return matcher.match(photographs, TEXTS)


def table(paths, texts):
    files = [path.read_bytes() for path in paths]
    return pa.table({"image_encoded": pa.array(files, pa.large_binary()), "caption": texts})


def numbers(matches):
    return np.array([[(match.score, match.similarity) for match in row] for row in matches])


def assert_same(found, expected):
    np.testing.assert_allclose(numbers(found), numbers(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_scores_are_those_of_the_published_pipeline(recipe):
    golden = json.loads((GOLDEN / f"{recipe}.json").read_text())
    with np.load(GOLDEN / f"{recipe}.npz") as arrays:
        cosines = arrays["itc_similarity"]
    files = [row["file"] for row in golden["images"]]
    images = [Image.open(tiny.DATA / "images" / file).convert("RGB") for file in files]
    matcher = Matcher(tiny.checkpoint(recipe))
    texts, edges = golden["texts"], golden["edge_texts"]
    found = numbers(matcher.match(images, texts + edges))
    scores = np.array([row["scores"] for row in golden["images"]])[:, :, 1]  # 1 is the match
    np.testing.assert_allclose(found[:, : len(texts), 0], scores, atol=1e-4, rtol=0)
    np.testing.assert_allclose(found[:, :, 1], cosines, atol=1e-4, rtol=0)
    edge = found[files.index(golden["behaviour_image"]), len(texts) :, 0]
    np.testing.assert_allclose(edge, np.array(golden["edge_scores"])[:, 1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_matches_do_not_depend_on_what_they_are_batched_with(matcher, matches, photographs, batch):
    found = []
    for start in range(0, len(photographs), batch):
        found += matcher.match(photographs[start : start + batch], TEXTS)
    assert_same(found, matches)
    for at, text in enumerate(TEXTS):  # alone, so that no other makes it longer
        assert_same(matcher.match(photographs, [text]), [row[at : at + 1] for row in matches])


def test_each_image_may_have_texts_of_its_own(matcher, matches, photographs):
    asked = [TEXTS[: at % 4] for at in range(len(photographs))]
    found = matcher.match_each(photographs, asked)
    assert [len(row) for row in found] == [len(texts) for texts in asked]
    for row, all_of_them in zip(found, matches, strict=True):
        if row:
            assert_same([row], [all_of_them[: len(row)]])


def test_a_table_gets_a_score_and_a_similarity_a_row(matcher, matches):
    done = matcher(table(tiny.photographs()[:3], TEXTS[:3]))
    assert done.schema == matcher.writes
    expected = [matches[at][at] for at in range(3)]
    assert done["match"].to_pylist() == pytest.approx([m.score for m in expected], abs=1e-4)
    assert done["match_similarity"].to_pylist() == pytest.approx(
        [m.similarity for m in expected], abs=1e-4
    )


def test_rows_of_one_image_share_the_look_at_it(matcher, matches, monkeypatch):
    seen = []
    reader = matcher._loaded().reader
    see = type(reader).see
    monkeypatch.setattr(
        type(reader), "see", lambda self, images: seen.append(len(images)) or see(self, images)
    )
    one, other = tiny.photographs()[:2]
    done = matcher(table([one, other, one, one], TEXTS[:4]))
    assert sum(seen) == 2
    expected = [matches[image][at].score for at, image in enumerate([0, 1, 0, 0])]
    assert done["match"].to_pylist() == pytest.approx(expected, abs=1e-4)


def test_a_row_that_cannot_be_matched_keeps_its_place_and_names_the_fault(matcher, matches):
    good = table(tiny.photographs()[:1] * 2, [TEXTS[0], None])
    broken = pa.table(
        {
            "image_encoded": pa.array([b"no image", b"no image"], pa.large_binary()),
            "caption": ["a", "b"],
        }
    )
    done = apply(matcher, pa.concat_tables([good, broken, good.slice(0, 1)]))
    codes = [error and error["code"] for error in done["error"].to_pylist()]
    assert codes == [None, "model", "not_an_image", "not_an_image", None]
    assert "a text is needed" in done["error"][1]["message"].as_py()
    assert done["match"][4].as_py() == pytest.approx(matches[0][0].score, abs=1e-4)


def test_a_text_too_long_is_cut_as_published_and_flagged(matcher, photographs, caplog):
    words = ["cat"] * 23  # and [CLS] and [SEP]
    longest, longer = " ".join(words), " ".join([*words, "cup"])
    fits, cut = matcher.match(photographs[:1], [longest, longer])[0]
    assert (fits.is_cut, cut.is_cut) == (False, True)
    assert_same([[cut]], [[fits]])
    with caplog.at_level(logging.WARNING):
        matcher(table(tiny.photographs()[:2], [longest, longer]))
    assert "event=texts_cut operator=match column=caption rows=1" in caplog.text


def test_case_and_accents_do_not_matter(matcher, photographs):
    one, other = matcher.match(photographs[:1], ["a cat.", "Á CAT."])[0]
    assert_same([[one]], [[other]])


def test_nothing_asked_gives_nothing(matcher, photographs):
    assert matcher.match([], ["a"]) == []
    assert matcher.match(photographs[:2], []) == [[], []]
    assert matcher(table([], pa.array([], pa.string()))).num_rows == 0


def test_one_string_is_not_a_list_of_texts(matcher, photographs):
    with pytest.raises(TypeError, match="must be a list of str"):
        matcher.match(photographs[:1], "cat")


def test_scores_that_are_not_finite_are_a_fault_of_the_row(tmp_path, photographs):
    folder = mplug.write(tmp_path / "model", mplug.MATCHING, initializer_range=1e30)
    with pytest.raises(RowFaults) as error:
        Matcher(folder).match(photographs[:2], ["a"])
    assert sorted(error.value.faults) == [0, 1]


def test_the_key_covers_weights_column_precision_and_what_is_read(directory, tmp_path):
    other = mplug.write(tmp_path / "other", mplug.MATCHING, seed=1)
    keys = [
        Matcher(directory).key,
        Matcher(other).key,
        Matcher(directory, text="title").key,
        Matcher(directory, precision="bfloat16").key,
        Matcher(directory, upstream_keys={"caption": "0"}).key,
    ]
    assert len(set(keys)) == len(keys)
    assert Matcher(directory, name="other").key == keys[0]


def test_in_a_job_it_reads_the_column_of_an_operator_before_it(directory, tmp_path):
    captioning = mplug.write(tmp_path / "captioning", mplug.CAPTIONING)
    caption = {"use": "captioner", "model": str(captioning)}
    match = {"use": "matcher", "model": str(directory), "text": "caption"}
    chain = {"operators": {"caption": caption, "match": match}}
    config = check_document({"manifest": "m", "table": "t", **chain})
    captioner, matcher = build_operators(config, ["image_id", "uri"])
    assert matcher.reads == ("image_encoded", "caption")
    assert matcher.description["upstream"] == {"caption": captioner.key}
    rows = table(tiny.photographs()[:2], pa.nulls(2, pa.string())).drop_columns("caption")
    done = apply(matcher, apply(captioner, rows))
    assert done["error"].null_count == 2
    assert all(0 <= score <= 1 for score in done["match"].to_pylist())


def test_a_matcher_travels_without_its_weights(matcher, matches, photographs):
    copy = pickle.loads(pickle.dumps(matcher))
    assert copy._net is None
    assert_same(copy.match(photographs[:1], TEXTS), matches[:1])


def test_options_without_such_a_value_are_refused_together(directory):
    found = r"operator 'match': text is '';.*precision is 'int8'; it may be 'float32'"
    with pytest.raises(ConfigError, match=found):
        Matcher(directory, text="", precision="int8")


def test_a_captioner_is_no_matcher(tmp_path):
    folder = mplug.write(tmp_path / "model", mplug.CAPTIONING)
    with pytest.raises(ModelError, match=r"'matcher' takes image-text-retrieval \(mplug\)"):
        Matcher(folder)


@pytest.mark.slow
def test_sixteen_texts_on_one_image_cost_at_most_three_times_one():
    matcher = Matcher(tiny.checkpoint("mplug_retrieval_tiny"))
    image = [Image.open(tiny.photographs()[0]).convert("RGB")]
    texts = [f"a cup of coffee number {number}" for number in range(16)]

    def seconds(some):
        took = []
        for _ in range(5):
            begin = time.process_time()
            matcher.match(image, some)
            took.append(time.process_time() - begin)
        return min(took)

    matcher.match(image, texts)
    assert seconds(texts) <= 3 * seconds(texts[:1])


def test_a_match_says_whether_its_text_was_cut():
    assert Match(0.5, 0.1, is_cut=True) != Match(0.5, 0.1, is_cut=False)
