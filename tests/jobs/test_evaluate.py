"""The command line scores the field's files with the figures of the field's own tools."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.evaluate import app
from schemas.errors import ConfigError, DatasetError
from tests.tiny import DATA

PAIRS = [("p0", "entailment"), ("p1", "neutral"), ("p2", "contradiction"), ("p3", "neutral")]
ANSWERS = ["yes", "maybe", "no", "yes"]


def golden(name: str) -> dict:
    return json.loads((DATA / "golden" / name).read_text(encoding="utf-8"))


def lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def document(path: Path, value: object) -> str:
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def evaluated(*words: str) -> dict:
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def coco(folder: Path) -> tuple[str, str]:
    told = golden("caption_metrics.json")
    annotations = [
        {"id": number, "image_id": int(image), "caption": caption}
        for number, (image, caption) in enumerate(
            (image, caption) for image, some in told["references"].items() for caption in some
        )
    ]
    images = [{"id": int(image), "file_name": f"{image}.jpg"} for image in told["references"]]
    results = [{"image_id": int(i), "caption": caption} for i, caption in told["captions"].items()]
    references = document(folder / "refs.json", {"images": images, "annotations": annotations})
    return references, document(folder / "results.json", results)


def test_captions_score_as_with_pycocoevalcap(tmp_path):
    references, results = coco(tmp_path)
    found = evaluated("captions", "--references", references, "--predictions", results)
    told = golden("caption_metrics.json")
    assert found["count"] == 24
    assert found["CIDEr"] == pytest.approx(told["CIDEr"], abs=1e-6)
    assert found["ROUGE_L"] == pytest.approx(told["ROUGE_L"], abs=1e-6)
    bleu = [found[f"Bleu_{n}"] for n in (1, 2, 3, 4)]
    assert bleu == pytest.approx(told["Bleu"], abs=1e-6)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_rankings_score_as_with_chinese_clip(tmp_path, direction):
    told = golden("chinese_clip_retrieval.json")
    texts = lines(tmp_path / "texts.jsonl", told["texts"])
    predictions = lines(tmp_path / "p.jsonl", told[f"{direction}_predictions"])
    found = evaluated(
        *("retrieval", "--annotations", texts),
        *("--predictions", predictions, "--direction", direction),
    )
    scores = told[f"{direction}_score"]["scoreJson"]
    assert found == pytest.approx({name: scores[name] for name in found}, abs=1e-9)
    assert set(found) == {"r1", "r5", "r10", "mean_recall"}


def test_labels_are_counted_by_truth_and_answer(tmp_path):
    pairs = [
        {"pairID": pair, "Flickr30K_ID": "1", "sentence1": "a", "sentence2": "b", "gold_label": g}
        for pair, g in PAIRS
    ]
    answers = [{"pairID": p, "label": a} for (p, _), a in zip(PAIRS, ANSWERS, strict=True)]
    found = evaluated(
        *("entailment", "--annotations", lines(tmp_path / "ve.jsonl", pairs)),
        *("--predictions", lines(tmp_path / "p.jsonl", answers)),
    )
    assert found["accuracy"] == 0.75
    assert found["per_label"] == {"entailment": 1.0, "neutral": 0.5, "contradiction": 1.0}
    assert found["confusion"]["neutral"] == {"entailment": 1, "neutral": 1, "contradiction": 0}


def test_a_file_cut_short_and_answers_from_nowhere_are_told(tmp_path):
    references, results = coco(tmp_path)
    Path(results).write_text(Path(results).read_text()[:200])
    with pytest.raises(DatasetError, match="not JSON"):
        evaluated("captions", "--references", references, "--predictions", results)
    with pytest.raises(ConfigError, match="give --predictions"):
        evaluated("captions", "--references", references)
