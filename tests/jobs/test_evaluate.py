"""`tagline evaluate` on answers that exist: the official figures, and what it refuses.

Goldens: pycocoevalcap 1.2 and Chinese-CLIP's own scripts.
"""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from jobs.evaluation import Source
from schemas.enriched import ERROR_TYPE
from schemas.errors import ConfigError
from tests import tiny

CAPTIONS = json.loads((tiny.DATA / "golden" / "caption_metrics_awkward.json").read_text("utf-8"))
RETRIEVAL = json.loads((tiny.DATA / "golden" / "chinese_clip_retrieval.json").read_text("utf-8"))
SCORES = ("CIDEr", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L")


@pytest.fixture
def write(tmp_path):
    """Writes JSON, or JSON lines for a list, and gives the path."""

    def write(name, document):
        path = tmp_path / name
        if path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(line) + "\n" for line in document), "utf-8")
        else:
            path.write_text(json.dumps(document), "utf-8")
        return path

    return write


@pytest.fixture
def references(write):
    told = [(int(image), one) for image, true in CAPTIONS["references"].items() for one in true]
    images = [{"id": int(image)} for image in CAPTIONS["references"]]
    annotations = [
        {"id": at, "image_id": image, "caption": caption}
        for at, (image, caption) in enumerate(told)
    ]
    return write("references.json", {"images": images, "annotations": annotations})


def results():
    said = CAPTIONS["captions"].items()
    return [{"image_id": int(image), "caption": caption} for image, caption in said]


def write_table(folder, **columns):
    """A table as enrich writes it."""
    rows = len(next(iter(columns.values())))
    whole = {
        "uri": pa.array(["x.png"] * rows, pa.string()),
        "error": pa.nulls(rows, ERROR_TYPE),
        **columns,
    }
    write_deltalake(str(folder), pa.table(whole))
    return folder


def test_captions_get_the_official_figures_in_any_order(tagline, write, references):
    predictions = write("predictions.json", results()[::-1])
    arguments = ("captions", "--references", references, "--predictions", predictions, "--json")
    answer = tagline("evaluate", *arguments)
    assert answer.code == 0
    (scores,) = answer.lines
    assert set(scores) == {*SCORES, "count"}
    expected = [CAPTIONS["CIDEr"], *CAPTIONS["Bleu"], CAPTIONS["ROUGE_L"]]
    assert [scores[name] for name in SCORES] == pytest.approx(expected, abs=1e-9)
    assert scores["count"] == 220


def test_figures_stand_beside_the_cards_with_intervals(tagline, write, references, tmp_path):
    predictions = write("predictions.json", results())
    arguments = ("captions", "--references", references, "--predictions", predictions)
    printed = tagline("evaluate", *arguments, "--report", tmp_path / "out" / "report.json").output
    assert "| **measured** | 214.4 (" in printed
    assert "| reported, damo/ofa_image-caption_coco_distilled_en | 120.1 |" in printed
    assert "Karpathy's test split" in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    low, high = report["intervals"]["CIDEr"]
    assert low < report["scores"]["CIDEr"] < high
    assert report["reported"][0]["figures"] == {"CIDEr": 1.201}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda some: some[3:], r"no prediction for 3 of 220: image '0', '1', '2'"),
        (lambda some: [*some, {"image_id": 999, "caption": "x"}], r"do not have: image '999'"),
        (lambda some: [*some, some[0]], r"results\[220\]: image '0' was there before"),
        (lambda some: [{**some[0], "caption": 5}], r"results\[0\]: caption is 5"),
        (lambda some: {"results": some}, r"results is of type dict; it must be a list"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tagline, write, references, change, message):
    predictions = write("predictions.json", change(results()))
    arguments = ("captions", "--references", references, "--predictions", predictions, "--json")
    answer = tagline("evaluate", *arguments)
    assert answer.code == 2
    assert answer.output == ""
    assert re.search(message, answer.errors), answer.errors
    assert "predictions.json" in answer.errors


def test_captions_of_a_table_are_judged_whatever_else_it_holds(tagline, references, tmp_path):
    said = {**CAPTIONS["captions"], "another": "image"}
    table = write_table(
        tmp_path / "table", image_id=list(said), short=pa.array(list(said.values()))
    )
    arguments = ("captions", "--references", references, "--table", table, "--json")
    (scores,) = tagline("evaluate", *arguments, "--column", "short").lines
    assert scores["CIDEr"] == pytest.approx(CAPTIONS["CIDEr"], abs=1e-9)
    wrong = tagline("evaluate", *arguments)
    assert wrong.code == 2
    assert "no column 'caption'; it has " in wrong.errors


def test_a_row_that_failed_must_be_computed_first(tagline, references, tmp_path):
    said = {**CAPTIONS["captions"], "5": None}
    table = write_table(
        tmp_path / "table", image_id=list(said), caption=pa.array(list(said.values()))
    )
    answer = tagline("evaluate", "captions", "--references", references, "--table", table)
    assert answer.code == 2
    assert "no prediction for 1 of 220: image '5'" in answer.errors


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_rankings_get_chinese_clips_figures(tagline, write, direction):
    texts = write("texts.jsonl", RETRIEVAL["exact"]["texts"])
    rankings = write("p.jsonl", RETRIEVAL["exact"][f"{direction}_predictions"])
    arguments = ("--annotations", texts, "--predictions", rankings, "--direction", direction)
    (scores,) = tagline("evaluate", "retrieval", *arguments, "--json").lines
    expected = RETRIEVAL["exact"][f"{direction}_score"]["scoreJson"]
    assert scores == pytest.approx({name: expected[name] for name in scores})
    assert set(scores) == {"r1", "r5", "r10", "mean_recall"}


def test_every_query_needs_a_ranking_and_others_do_not_count(tagline, write):
    texts = write("texts.jsonl", [{"text_id": 1, "text": "a", "image_ids": [3]}])
    other = {"text_id": 2, "image_ids": [*range(10)]}
    arguments = ("evaluate", "retrieval", "--annotations", texts, "--direction", "t2i", "--json")
    lacking = tagline(*arguments, "--predictions", write("p.jsonl", [other]))
    assert lacking.code == 2
    assert "no prediction for 1 of 1: query 1" in lacking.errors
    whole = write("p.jsonl", [other, {**other, "text_id": 1}])
    (scores,) = tagline(*arguments, "--predictions", whole).lines
    assert scores == pytest.approx({"r1": 0, "r5": 100, "r10": 100, "mean_recall": 200 / 3})


def pair(identity, label):
    return {
        "pairID": identity,
        "gold_label": label,
        "sentence1": "p",
        "sentence2": "h",
        "Flickr30K_ID": "1",
    }


def test_entailment_is_scored_overall_and_per_label(tagline, write):
    truth = ["entailment", "entailment", "neutral", "-"]
    gold = write("gold.jsonl", [pair(f"p{at}", label) for at, label in enumerate(truth)])
    answers = ["yes", "contradiction", "maybe", "no"]
    given = [{"pairID": f"p{at}", "label": label} for at, label in enumerate(answers)]
    arguments = ("evaluate", "entailment", "--annotations", gold, "--predictions")
    (scores,) = tagline(*arguments, write("p.jsonl", given), "--json").lines
    assert scores == {
        "accuracy": pytest.approx(2 / 3),
        "per_label": {"entailment": 0.5, "neutral": 1.0, "contradiction": None},
        "confusion": {
            "entailment": {"entailment": 1, "neutral": 0, "contradiction": 1},
            "neutral": {"entailment": 0, "neutral": 1, "contradiction": 0},
            "contradiction": {"entailment": 0, "neutral": 0, "contradiction": 0},
        },
    }
    printed = tagline(*arguments, write("p.jsonl", given)).output
    assert "| reported, damo/ofa_visual-entailment_snli-ve_distilled_v2_en | 87.0 |" in printed
    assert "| entailment | 1 | 0 | 1 |" in printed
    unknown = write("q.jsonl", [*given, {"pairID": "p9", "label": "no"}])
    refused = tagline(*arguments, unknown)
    assert refused.code == 2
    assert "pair 'p9'" in refused.errors


def test_entailment_of_a_table_is_read_by_pair(tagline, write, tmp_path):
    gold = write("gold.jsonl", [pair("a", "entailment"), pair("b", "contradiction")])
    table = write_table(tmp_path / "table", image_id=["b", "a"], entailment=["maybe", "yes"])
    arguments = ("entailment", "--annotations", gold, "--table", table, "--json")
    (scores,) = tagline("evaluate", *arguments).lines
    assert scores["accuracy"] == 0.5


def test_classes_are_scored_by_label(tagline, write, tmp_path):
    (tmp_path / "label_cn.txt").write_text("猫\n狗\n", "utf-8")
    for name in ("0/a.png", "1/b.png", "1/c.png"):
        file = tmp_path / "test" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"picture")
    lines = [{"image": name, "label": 1} for name in ("0/a.png", "1/b.png", "1/c.png")]
    arguments = ("classification", "--data", tmp_path, "--predictions")
    (scores,) = tagline("evaluate", *arguments, write("p.jsonl", lines), "--json").lines
    assert scores == {
        "accuracy": pytest.approx(2 / 3),
        "per_label": {"猫": 0.0, "狗": 1.0},
        "confusion": {"猫": {"狗": 1}, "狗": {"狗": 2}},
    }


def test_a_table_of_embeddings_is_ranked_with_the_models_texts(tagline, write, tmp_path):
    """The texts' own vectors stand for images, so every text must find its image first."""
    from jobs.predict import embed_texts

    words = ["红苹果", "猫", "火箭", "Dog", "“day”", "tree", "船", "房子", "鱼", "星星", "a bus"]
    texts = [{"text_id": at, "text": w, "image_ids": [100 + at]} for at, w in enumerate(words)]
    vectors = embed_texts("embedded:embedder", words)
    table = write_table(
        tmp_path / "table",
        image_id=[str(100 + at) for at in range(len(words))],
        embedding=pa.array(vectors.tolist(), pa.list_(pa.float32())),
    )
    arguments = ("--annotations", write("t.jsonl", texts), "--model", "embedded:embedder")
    for direction in ("t2i", "i2t"):
        command = ("evaluate", "retrieval", *arguments, "--table", table, "--direction", direction)
        (scores,) = tagline(*command, "--json").lines
        distinct = len(np.unique(vectors.round(6), axis=0))
        assert scores["r1"] >= 100 * distinct / len(words) - 1e-9
        assert scores["r10"] == 100


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"predictions": "p.json", "table": "table"},
        {"model": "embedded:captioner"},
        {"images": "folder"},
        {"table": "table", "model": "embedded:captioner"},
    ],
)
def test_answers_come_from_exactly_one_source(given):
    with pytest.raises(ConfigError, match="give --predictions; or --table; or --model with --im"):
        Source(**given).check()


def test_a_report_of_another_kind_is_refused_before_anything_is_read(tagline):
    arguments = ("captions", "--references", "none.json", "--report", "report.txt")
    answer = tagline("evaluate", *arguments)
    assert answer.code == 2
    assert "--report report.txt: the suffix must be .json or .md" in answer.errors
