from pathlib import Path

import pyarrow as pa
import pytest

from jobs.training_quality import judge
from schemas.finetune import FinetuneConfig

NOWHERE = Path("nowhere")


def config_of(use):
    document = {"use": use, "model": f"embedded:{use}", "output": "out", "train": "rows.csv"}
    return FinetuneConfig.model_validate(document)


def test_a_caption_is_exact_when_it_is_one_of_the_images_own():
    table = pa.table(
        {
            "image_sha256": ["a", "b", "a"],
            "caption": ["two dogs", "a cat.", "A pair of dogs, outside"],
        }
    )
    said = {"a": "a pair of dogs outside", "b": "a cats"}
    answers = [{"image": image, "said": text} for image, text in said.items()]
    figures = judge(config_of("captioner"), NOWHERE, table, answers)
    assert figures["exact"] == 0.5
    assert 0.0 < figures["cider"] < 10.0


def test_cider_is_ten_where_every_word_is_right():
    captions = ["two dogs on the grass", "a red car at night", "three cats in the snow"]
    table = pa.table({"image_sha256": ["a", "b", "c"], "caption": captions})
    answers = [{"image": image, "said": text} for image, text in zip("abc", captions, strict=True)]
    figures = judge(config_of("captioner"), NOWHERE, table, answers)
    assert figures == pytest.approx({"exact": 1.0, "cider": 10.0})


def test_accuracy_is_the_share_of_right_labels():
    answers = [{"label": "yes", "truth": "yes"}, {"label": "no", "truth": "maybe"}]
    assert judge(config_of("entailment"), NOWHERE, pa.table({}), answers) == {"accuracy": 0.5}


def test_a_matchers_recall_is_the_share_of_best_own_texts():
    answers = [{"is_right": True}, {"is_right": True}, {"is_right": False}]
    figures = judge(config_of("matcher"), NOWHERE, pa.table({}), answers)
    assert figures == pytest.approx({"recall": 2 / 3})
