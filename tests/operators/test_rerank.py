"""Choosing among sentences, and among images, by models that look again."""

import pickle

import pytest
from PIL import Image

from operators.captioner import Captioner
from operators.catalog import build_operators, check_document
from operators.embedder import Embedder
from operators.matcher import Matcher
from operators.rerank import Reranker, rerank_images
from schemas.errors import ConfigError, ModelError, RowFaults
from tests import mplug, tiny

SENTENCES = ["a cup", "cat.", "a cat a cup", "cup?", "a a a"]


@pytest.fixture(scope="module")
def matching(tmp_path_factory):
    return str(mplug.write(tmp_path_factory.mktemp("models") / "matching", mplug.MATCHING, seed=3))


@pytest.fixture(scope="module")
def captioning(tmp_path_factory):
    return mplug.write(tmp_path_factory.mktemp("models") / "captioning", mplug.CAPTIONING)


@pytest.fixture(scope="module")
def embedding():
    return str(tiny.checkpoint("chinese_clip_mini"))


@pytest.fixture(scope="module")
def photographs():
    return [Image.open(path).convert("RGB") for path in tiny.photographs()[:6]]


@pytest.fixture(scope="module")
def judged(matching, embedding, photographs):
    """For each image and sentence what the matcher and the embedder say."""
    matches = Matcher(matching).match(photographs, SENTENCES)
    odds = Embedder(embedding).probabilities(photographs, SENTENCES)
    return [
        [(match.score, float(chance)) for match, chance in zip(row, chances, strict=True)]
        for row, chances in zip(matches, odds, strict=True)
    ]


@pytest.mark.parametrize(("by_matcher", "by_embedder"), [(1, 0), (0, 2.5), (1, 0.2), (3, 3)])
def test_the_largest_weighted_sum_of_judgements_wins(
    matching, embedding, photographs, judged, by_matcher, by_embedder
):
    judges = {
        "matcher": {"model": matching, "weight": by_matcher},
        "embedder": {"model": embedding, "weight": by_embedder},
    }
    asked = {judge: given for judge, given in judges.items() if given["weight"]}
    found = Reranker(asked).choose(photographs, [SENTENCES] * len(photographs))
    sums = [[by_matcher * m + by_embedder * e for m, e in row] for row in judged]
    assert found == [row.index(max(row)) for row in sums]


def test_of_equal_sentences_the_first_wins(matching, photographs):
    [alone] = Reranker({"matcher": {"model": matching}}).choose(photographs[:1], [SENTENCES])
    best = SENTENCES[alone]
    doubled = [*(text for text in SENTENCES if text != best), best, best]
    [found] = Reranker({"matcher": {"model": matching}}).choose(photographs[:1], [doubled])
    assert found == len(doubled) - 2


def test_the_caption_is_the_chosen_alternative_and_keeps_its_score(
    captioning, matching, photographs
):
    plain = Captioner(captioning).caption(photographs)
    captioner = Captioner(captioning, rerank={"matcher": {"model": matching}})
    found = captioner.caption(photographs)
    assert [c.alternatives for c in found] == [c.alternatives for c in plain]
    matcher = Matcher(matching)
    for image, caption in zip(photographs, found, strict=True):
        [matches] = matcher.match([image], [s.text for s in caption.alternatives])
        scores = [match.score for match in matches]
        best = caption.alternatives[scores.index(max(scores))]
        assert (caption.text, caption.score) == (best.text, best.score)
    assert any(one.text != other.text for one, other in zip(found, plain, strict=True))


def test_an_ofa_captioner_reranks_too(matching, photographs):
    rerank = {"matcher": {"model": matching}}
    options = {"beam_size": 2, "max_tokens": 2, "rerank": rerank}
    [found] = Captioner(tiny.checkpoint("ofa_caption_mini"), **options).caption(photographs[:1])
    assert found.text in {sentence.text for sentence in found.alternatives}


def test_the_key_covers_the_judges_and_their_weights(captioning, matching, embedding, tmp_path):
    other = str(mplug.write(tmp_path / "other", mplug.MATCHING, seed=4))
    reranks = [
        None,
        {"matcher": {"model": matching}},
        {"matcher": {"model": other}},
        {"matcher": {"model": matching, "weight": 2}},
        {"embedder": {"model": embedding}},
        {"matcher": {"model": matching}, "embedder": {"model": embedding}},
    ]
    keys = [Captioner(captioning, rerank=rerank).key for rerank in reranks]
    assert len(set(keys)) == len(keys)
    spelled = {"matcher": {"model": matching, "weight": 1.0}}
    assert Captioner(captioning, rerank=spelled).key == keys[1]


def test_a_job_config_may_ask_for_it(captioning, matching):
    caption = {
        "use": "captioner",
        "model": str(captioning),
        "rerank": {"matcher": {"model": matching, "weight": 0.5}},
    }
    config = check_document({"manifest": "m", "table": "t", "operators": {"caption": caption}})
    [operator] = build_operators(config, ["image_id", "uri"])
    assert operator.description["options"]["rerank"]["matcher"]["weight"] == 0.5


def test_a_reranking_captioner_travels_without_weights(captioning, matching, photographs):
    captioner = Captioner(captioning, rerank={"matcher": {"model": matching}})
    captioner.load()
    copy = pickle.loads(pickle.dumps(captioner))
    assert copy.reranker.matcher._net is None
    assert copy.caption(photographs[:1])[0].text == captioner.caption(photographs[:1])[0].text


@pytest.mark.parametrize(
    ("rerank", "told"),
    [
        ({}, r"rerank is \{\}; it must name matcher or embedder"),
        ("matcher", "rerank is 'matcher'; it must name"),
        ({"macher": {"model": "x"}}, "rerank has no 'macher'; did you mean 'matcher'"),
        ({"matcher": "x"}, r"rerank\.matcher is 'x'; it must be a model and a weight"),
        ({"matcher": {}}, r"rerank\.matcher\.model is None; it must be a directory"),
        ({"matcher": {"model": "x", "weigth": 1}}, "has no 'weigth'; did you mean 'weight'"),
        ({"matcher": {"model": "x", "weight": 0}}, r"\.weight is 0; it must be a number above 0"),
        ({"matcher": {"model": "x", "weight": True}}, r"\.weight is True"),
        ({"matcher": {"model": "x", "weight": float("nan")}}, r"\.weight is nan"),
        ({"matcher": {"model": "x", "weight": 10**400}}, r"\.weight is 10+; it must be a number"),
    ],
)
def test_what_cannot_be_followed_is_refused(captioning, rerank, told):
    with pytest.raises(ConfigError, match=told):
        Captioner(captioning, rerank=rerank)


def test_all_that_is_wrong_with_a_rerank_is_told_together(captioning):
    with pytest.raises(ConfigError) as error:
        Captioner(captioning, rerank={"matcher": 1, "embedder": {"model": 2}})
    told = str(error.value).splitlines()
    assert len(told) == 2
    assert all(line.startswith("operator 'caption': rerank.") for line in told)


def test_a_judge_of_another_task_is_refused(captioning):
    with pytest.raises(ModelError, match="'matcher' takes image-text-retrieval"):
        Captioner(captioning, rerank={"matcher": {"model": str(captioning)}})


def test_every_judge_that_is_not_there_is_named(captioning):
    judges = {"matcher": {"model": "nowhere"}, "embedder": {"model": "elsewhere"}}
    with pytest.raises(ModelError) as error:
        Captioner(captioning, name="said", rerank=judges)
    told = str(error.value).splitlines()
    assert told[0].startswith("operator 'said': rerank.matcher: model 'nowhere'")
    assert told[1].startswith("operator 'said': rerank.embedder: model 'elsewhere'")


def test_a_judgement_that_is_not_finite_names_the_image(tmp_path, photographs):
    broken = mplug.write(tmp_path / "model", mplug.MATCHING, initializer_range=1e30)
    reranker = Reranker({"matcher": {"model": broken}})
    with pytest.raises(RowFaults) as error:
        reranker.choose(photographs[:5], [SENTENCES] * 5)
    assert 0 in error.value.faults


def test_images_are_reordered_by_how_well_they_match_a_text(matching, photographs):
    matcher = Matcher(matching)
    found = rerank_images(matcher, "a cup", photographs)
    scores = [row[0].score for row in matcher.match(photographs, ["a cup"])]
    assert [at for at, _ in found] == sorted(range(6), key=lambda at: -scores[at])
    assert [m.score for _, m in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
    assert rerank_images(matcher, "a cup", []) == []
