"""Evaluation with a model: through enrich, into a table, and no image twice.

Goldens: Chinese-CLIP's own scripts on ModelScope's features of the same checkpoint.
"""

import json
import shutil
from base64 import b64encode
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from PIL import Image

from jobs import demo, enrich, evaluation, predict
from jobs.cluster import connected
from jobs.evaluation import Source
from operators.embedder import Embedder
from schemas.enriched import ERROR_TYPE
from schemas.errors import DatasetError
from tests import tiny

GOLDEN = json.loads((tiny.DATA / "golden" / "chinese_clip_retrieval.json").read_text("utf-8"))
IMAGES = tiny.DATA / "images"
SCENES = 12


@pytest.fixture(scope="module")
def _ray():
    with connected():
        yield


@pytest.fixture(scope="module")
def chinese_clip():
    return str(tiny.checkpoint("chinese_clip_tiny"))


@pytest.fixture
def no_ray(monkeypatch):
    def refuse(address):
        pytest.fail("Ray was asked for")

    monkeypatch.setattr(enrich, "connected", refuse)


def scenes():
    return pq.read_table(demo.INPUT / "manifest.parquet").slice(0, SCENES).to_pylist()


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_captions_of_a_model_are_computed_once(tmp_path, request):
    images = [{"id": at, "file_name": row["uri"]} for at, row in enumerate(scenes())]
    annotations = [
        {"id": at, "image_id": at, "caption": row["true_caption"]}
        for at, row in enumerate(scenes())
    ]
    references = tmp_path / "captions.json"
    references.write_text(json.dumps({"images": images, "annotations": annotations}), "utf-8")
    source = Source(
        column="caption", model="embedded:captioner", images=demo.INPUT, to=tmp_path / "run"
    )
    first = evaluation.captions(references, source).evaluation
    assert first.answer["Bleu_4"] > 0.5  # it was trained on such scenes
    assert first.count == SCENES
    request.getfixturevalue("no_ray")
    assert evaluation.captions(references, source).evaluation == first


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_pairs_are_judged_by_a_model(tmp_path):
    words = {"yes": "entailment", "maybe": "neutral", "no": "contradiction"}
    folder = tmp_path / "flickr30k-images"
    folder.mkdir()
    lines = []
    for row in scenes():
        shutil.copy(demo.INPUT / row["uri"], folder / f"{row['image_id']}.jpg")
        lines.append(
            {
                "pairID": f"{row['image_id']}.jpg#0r1",
                "Flickr30K_ID": row["image_id"],
                "sentence1": row["true_caption"],
                "sentence2": row["claim"],
                "gold_label": words[row["true_label"]],
            }
        )
    path = tmp_path / "snli_ve_test.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    source = Source(
        column="entailment", model="embedded:entailment", images=folder, to=tmp_path / "run"
    )
    assert evaluation.entailment(path, source).evaluation.answer["accuracy"] > 0.7


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_retrieval_of_a_model_gets_the_published_score(chinese_clip, tmp_path, request):
    texts = tmp_path / "valid_texts.jsonl"
    texts.write_text("\n".join(map(json.dumps, GOLDEN["texts"])), "utf-8")
    rows = [
        f"{image}\t{b64encode((IMAGES / name).read_bytes()).decode()}\n"
        for image, name in GOLDEN["images"].items()
    ]
    encoded = tmp_path / "valid_imgs.tsv"
    encoded.write_text("".join(rows), "utf-8")
    source = Source(column="embedding", model=chinese_clip, images=encoded, to=tmp_path / "run")
    for direction in ("t2i", "i2t"):
        report = evaluation.retrieval(texts, source, direction=direction)
        expected = GOLDEN[f"{direction}_score"]["scoreJson"]
        scores = report.evaluation.answer
        assert scores == pytest.approx({name: expected[name] for name in scores})
        if direction == "t2i":
            request.getfixturevalue("no_ray")


@pytest.mark.slow
def test_zero_shot_classes_are_the_published_ones(chinese_clip, tmp_path):
    zero_shot = GOLDEN["zero_shot"]
    names = {int(image): name for image, name in GOLDEN["images"].items()}
    (tmp_path / "label_cn.txt").write_text("\n".join(zero_shot["classes"]), "utf-8")
    paths = []
    for image, predicted in zip(zero_shot["image_ids"], zero_shot["prediction"], strict=True):
        folder = tmp_path / "test" / str(predicted)
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(Path(shutil.copy(IMAGES / names[image], folder)))
    vectors = Embedder(chinese_clip).embed([Image.open(path).convert("RGB") for path in paths])
    columns = {
        "image_id": [str(path.relative_to(tmp_path / "test")) for path in paths],
        "uri": [str(path) for path in paths],
        "error": pa.nulls(len(paths), ERROR_TYPE),
        "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32())),
    }
    write_deltalake(str(tmp_path / "table"), pa.table(columns))
    source = Source(column="embedding", model=chinese_clip, table=str(tmp_path / "table"))
    templates = tuple(zero_shot["templates"])
    report = evaluation.classification(tmp_path, source, templates=templates)
    assert report.evaluation.answer["accuracy"] == 1.0


def test_images_are_unpacked_once_and_again_when_they_changed(tmp_path):
    def table(image):
        return pa.table({"image_id": pa.array([7]), "image": pa.array([image], pa.binary())})

    (file,) = predict.unpack([table(b"one")], tmp_path).values()
    written = file.stat().st_mtime_ns
    predict.unpack([table(b"one")], tmp_path)
    assert file.stat().st_mtime_ns == written
    predict.unpack([table(b"two")], tmp_path)
    assert file.read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["7"]


def test_references_that_do_not_say_where_images_lie_cannot_be_captioned(tmp_path):
    path = tmp_path / "captions.json"
    annotations = [{"id": 1, "image_id": 1, "caption": "a cat"}]
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": annotations}), "utf-8")
    source = Source(column="caption", model="embedded:captioner", images=Path("photographs"))
    with pytest.raises(DatasetError, match=r"captions\.json: an image without 'file_name'"):
        evaluation.captions(path, source)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DatasetError, match="none: no table; write one with `tagline enrich`"):
        predict.read_column(str(tmp_path / "none"), "caption", None)
