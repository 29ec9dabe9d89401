"""`tagline export`: each format is read by the library that it is for, or held to its rules."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from PIL import Image

from jobs.exporting import web_dataset
from jobs.exporting.selection import Selection
from jobs.pictures import fetcher_of
from jobs.roles import Roles
from jobs.table import open_table
from operators.policy import Policy
from tests.reviewed import HYPOTHESES, Reviewed

FORMATS = ("labelstudio", "coco", "fiftyone", "webdataset", "hf", "parquet", "clip-retrieval")


@pytest.fixture
def table(tmp_path):
    return Reviewed(tmp_path / "job")


@pytest.fixture
def export(tagline, table, tmp_path):
    """Exports the table; gives the folder, and what was answered."""

    def export(to, *arguments):
        out = tmp_path / "out" / to
        answer = tagline("export", table.path, "--to", to, "--out", out, "--json", *arguments)
        assert answer.code == 0, answer.errors
        (told,) = answer.lines
        return out, told

    return export


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def listed(told):
    """The rows that were left out."""
    return [json.loads(line) for line in Path(told["failed_file"]).read_text().splitlines()]


def picture(table, image_id):
    return pixels(table.folder / "pictures" / f"{image_id}.png")


def test_parquet_keeps_every_column_as_it_is(export, table):
    out, told = export("parquet")
    (path,) = out.iterdir()
    rows = pq.read_table(path)
    expected = DeltaTable(table.path).to_pyarrow_table()
    expected = expected.filter(pc.is_null(expected["error"]))
    assert rows.schema.equals(pa.schema(expected.schema).remove_metadata())
    assert rows.equals(expected.combine_chunks())
    assert (told["rows"], told["failed"], told["failed_file"]) == (10, 0, None)


@pytest.mark.parametrize("to", FORMATS)
def test_a_condition_chooses_the_rows_of_every_format(export, to):
    _, told = export(to, "--where", "accept = 'review' AND caption_score < -0.1")
    assert told["rows"] == 2


def test_a_limit_and_rows_with_an_error_when_asked_for(export):
    assert export("parquet", "--limit", "3")[1]["rows"] == 3
    out, told = export("coco", "--with-errors")
    assert (told["rows"], told["failed"]) == (10, 2)
    lines = listed(told)
    assert [(line["image_id"], line["code"]) for line in lines] == [
        ("scene-10", "missing"),
        ("scene-11", "missing"),
    ]
    assert out.with_name("coco.failed.jsonl").exists()


def test_no_file_is_read_ahead_of_a_limit(table):
    table.write(report={})
    opened = open_table(str(table.path))
    (table.path / "data" / "plan" / "1.parquet").write_bytes(b"never looked at")
    selection = Selection(opened, Roles(()), fetcher_of(Policy()), where="image_id > ''", limit=6)
    (rows,) = selection.batches(["image_id"])
    assert rows["image_id"].to_pylist() == table.ids[:6]


def test_a_column_that_a_file_has_not_is_null_there(export, table):
    table.write()
    later = DeltaTable(table.path).to_pyarrow_table().slice(0, 1)
    later = later.append_column("note", pa.array(["new"]))
    write_deltalake(table.path, later, mode="append", schema_mode="merge")
    out, _ = export("parquet", "--where", "note IS NULL OR note = 'new'")
    assert sorted(pq.read_table(out)["note"].to_pylist(), key=str) == [None] * 10 + ["new"]


def test_many_rows_become_several_parquet_files(export, table, monkeypatch):
    monkeypatch.setattr("jobs.exporting.parquet.FILE_ROWS", 4)
    monkeypatch.setattr("jobs.exporting.selection.BATCH_ROWS", 2)
    out, _ = export("parquet")
    names = sorted(path.name for path in out.iterdir())
    assert names == ["rows-00000.parquet", "rows-00001.parquet", "rows-00002.parquet"]
    ids = [name for path in sorted(out.iterdir()) for name in pq.read_table(path)["image_id"]]
    assert [one.as_py() for one in ids] == table.ids[:10]


def test_coco_annotations_are_read_by_pycocotools(export, table):
    from pycocotools.coco import COCO

    out, _ = export("coco")
    coco = COCO(str(out / "annotations" / "captions.json"))
    assert len(coco.getImgIds()) == len(coco.getAnnIds()) == 10
    for image in coco.loadImgs(coco.getImgIds()):
        n = table.ids.index(image["table_image_id"])
        (said,) = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        assert said["caption"] == table.captions[n]
        shown = pixels(out / "images" / image["file_name"])
        assert shown.shape == (image["height"], image["width"], 3)
        assert np.array_equal(shown, picture(table, table.ids[n]))


def test_coco_keeps_numbers_that_are_ids_so_that_evaluate_can_compare(export, table):
    table.write(image_id=pa.array([str(1000 + n) for n in range(table.rows)]))
    out, _ = export("coco", "--limit", "2")
    document = json.loads((out / "annotations" / "captions.json").read_text())
    assert [image["id"] for image in document["images"]] == [1000, 1001]
    assert [one["image_id"] for one in document["annotations"]] == [1000, 1001]


@pytest.mark.filterwarnings("ignore")
def test_web_dataset_shards_are_read_by_webdataset(export, table, monkeypatch):
    import webdataset

    monkeypatch.setattr(web_dataset, "SHARD_SAMPLES", 4)
    out, _ = export("webdataset")
    assert len(list(out.glob("shard-*.tar"))) == 3
    url = str(out / "shard-{000000..000002}.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode("rgb8"))
    assert [sample["json"]["image_id"] for sample in samples] == table.ids[:10]
    for sample, caption in zip(samples, table.captions, strict=False):
        assert sample["txt"] == caption
        assert np.array_equal(sample["png"], picture(table, sample["json"]["image_id"]))
        assert not {"embedding", "caption_key"} & set(sample["json"])


@pytest.mark.filterwarnings("ignore")
def test_a_hugging_face_folder_is_read_by_datasets(export, table, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    table.write(image=pa.array(["mine"] * table.rows))
    out, _ = export("hf")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert len(loaded) == 10
    rows = {row["image_id"]: row for row in loaded}
    assert set(rows) == set(table.ids[:10])
    for image_id, row in rows.items():
        assert row["caption"] == table.captions[table.ids.index(image_id)]
        assert np.array_equal(np.asarray(row["image"]), picture(table, image_id))
        assert row["embedding"] == pytest.approx([0.6, 0.8])
        assert row["table_image"] == "mine"


def test_fiftyone_labels_follow_its_documented_format(export, table):
    # https://docs.voxel51.com/user_guide/import_datasets.html#fiftyoneimageclassificationdataset
    out, _ = export("fiftyone")
    document = json.loads((out / "labels.json").read_text())
    files = {path.stem: path for path in (out / "data").iterdir()}
    assert set(document) == {"labels"}  # without `classes` targets hold the labels themselves
    assert set(document["labels"]) == set(files)
    for uuid, target in document["labels"].items():
        assert set(target) == {"label", "confidence", "attributes"}
        assert target["label"] in ("yes", "no", "maybe")
        assert 0 <= target["confidence"] <= 1
        assert all(isinstance(one, str | int | float) for one in target["attributes"].values())
        n = table.ids.index(target["attributes"]["image_id"])
        assert target["attributes"]["caption"] == table.captions[n]
        assert target["confidence"] == pytest.approx(
            target["attributes"][f"holds_{target['label']}"]
        )
        assert np.array_equal(pixels(files[uuid]), picture(table, table.ids[n]))


def controls(config):
    """The tags of a labelling config that people answer, by name."""
    root = ElementTree.fromstring(config)
    assert root.tag == "View"
    objects = {one.get("name"): one for one in root if one.get("value") and one.get("name")}
    assert set(objects) == {"image"}
    found = {one.get("name"): one for one in root if one.get("toName")}
    assert all(one.get("toName") in objects for one in found.values())
    shown = [one.get("value", "") for one in root]
    return found, {value[1:] for value in shown if value.startswith("$")}


def test_label_studio_tasks_follow_its_format(export, table):
    # Rules of label_studio/tasks/validation.py (TaskValidator) and of label_studio_sdk's
    # label_interface (ChoicesValue, TextAreaValue, PredictionValue, LabelInterface.validate_task).
    tags = table.columns["tags"].to_pylist()
    tags[0] = [{**tags[0][0], "label": '<b>"sky"</b>'}, *tags[0]]  # one row has two
    table.write(tags=pa.array(tags, table.columns["tags"].type))
    out, _ = export("labelstudio")
    tags, variables = controls((out / "config.xml").read_text())
    assert {name: tag.tag for name, tag in tags.items()} == {
        "caption_is": "Choices",
        "caption": "TextArea",
        "holds": "Choices",
        "match": "Choices",
        "claims_0": "Choices",
        "claims_1": "Choices",
        "tags_0": "Choices",
        "tags_1": "Choices",
    }
    tasks = json.loads((out / "tasks.json").read_text())
    assert len(tasks) == 10
    for task in tasks:
        assert set(task) == {"data", "predictions"}
        assert variables <= set(task["data"])
        assert all(isinstance(task["data"][name], str) for name in variables)
        (prediction,) = task["predictions"]
        assert isinstance(prediction["score"], float)
        ids = [one["id"] for one in prediction["result"]]
        has_two = task["data"]["image_id"] == "scene-0"
        assert len(set(ids)) == len(ids) == (7 if has_two else 6)
        assert ("tags_1" in task["data"]["questions"]) == has_two
        for one in prediction["result"]:
            tag = tags[one["from_name"]]
            assert (one["to_name"], one["type"]) == (tag.get("toName"), tag.tag.lower())
            ((kind, values),) = one["value"].items()
            assert kind == {"choices": "choices", "textarea": "text"}[one["type"]]
            assert isinstance(values, list)
            if one["type"] == "choices":
                assert set(values) <= {choice.get("value") for choice in tag}


def test_label_studio_tasks_hold_the_answers_with_the_least_sure_first(export, table):
    out, _ = export("labelstudio")
    tasks = json.loads((out / "tasks.json").read_text())
    scores = [task["predictions"][0]["score"] for task in tasks]
    assert scores == sorted(scores)
    assert {task["data"]["image_id"] for task in tasks[:2]} == {"scene-3", "scene-7"}
    for task in tasks:
        n = table.ids.index(task["data"]["image_id"])
        said = {one["from_name"]: one["value"] for one in task["predictions"][0]["result"]}
        assert said["caption"] == {"text": [table.captions[n]]}
        assert said["holds"] == {"choices": ["no" if table.is_wrong[n] else "yes"]}
        assert task["data"]["claims_1_text"] == HYPOTHESES[1]
        version = task["predictions"][0]["model_version"].split()
        assert f"caption={table.keys['caption']}" in version
        shown = re.fullmatch(r"/data/local-files/\?d=(labelstudio/.+)", task["data"]["image"])[1]
        assert np.array_equal(pixels(out.parent / shown), picture(table, table.ids[n]))


def test_label_studio_is_given_the_agreement_where_the_table_has_one(export, table):
    agreement = np.linspace(0.9, 0.1, table.rows)
    table.write(agreement=pa.array(agreement, pa.float32()))
    out, _ = export("labelstudio")
    tasks = json.loads((out / "tasks.json").read_text())
    assert [task["data"]["image_id"] for task in tasks] == table.ids[:10][::-1]
    assert tasks[0]["predictions"][0]["score"] == pytest.approx(agreement[9])


def test_pictures_in_a_bucket_stay_there_for_label_studio(export, table):
    table.write(uri=pa.array([f"s3://photos/{name}.png" for name in table.ids]))
    out, told = export("labelstudio")
    tasks = json.loads((out / "tasks.json").read_text())
    assert {task["data"]["image"] for task in tasks} == {
        f"s3://photos/{name}.png" for name in table.ids[:10]
    }
    assert told["failed"] == 0
    assert not list((out / "images").iterdir())


def test_pictures_that_cannot_be_had_are_left_out_and_listed(export, table):
    (table.folder / "pictures" / "scene-1.png").unlink()
    (table.folder / "pictures" / "scene-2.png").write_bytes(b"not an image at all")
    for to in ("labelstudio", "coco", "fiftyone", "webdataset", "hf"):
        _, told = export(to)
        lines = listed(told)
        assert (told["rows"], told["failed"]) == (8, 2)
        assert [line["code"] for line in lines] == ["missing", "not_an_image"]


def test_a_failed_export_leaves_no_folder(tagline, table, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(web_dataset._Shards, "add", fail)
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        tagline("export", table.path, "--to", "webdataset", "--out", out)
    assert not out.exists()
    assert list(tmp_path.iterdir()) == [table.folder]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--where", "captoin = 'x'"), r'"captoin" not found.*columns image_id, uri,'),
        (("--where", "caption ="), r"--where 'caption =': Parser Error.*columns image_id"),
        (("--where", "true); DROP TABLE x; --"), r"Parser Error"),
        (("--where", "CAST(caption AS INTEGER) > 1"), r"Could not convert string"),
        (("--where", "sum(caption_score) > 1"), r"cannot contain aggregates"),
        (("--limit", "0"), r"--limit is 0; it is a number of rows from 1 on"),
        (("--images", "/nowhere/at/all"), r"no such folder"),
        (("--to", "coca"), r"'coca': no such format; did you mean 'coco'\?"),
        (("--out", "s3://bucket/there"), r"a folder of this machine"),
        (("--out", "."), r"something is there; give a folder that is new or empty"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tagline, table, tmp_path, arguments, message):
    given = {"--to": "parquet", "--out": str(tmp_path / "out")}
    given |= dict([arguments])
    words = [word for pair in given.items() for word in pair]
    answer = tagline("export", table.path, *words, "--json")
    assert (answer.code, answer.output) == (2, "")
    assert re.search(message, answer.errors), answer.errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["coco", "fiftyone", "labelstudio"])
def test_a_table_without_answers_has_nothing_for_these_formats(tagline, table, tmp_path, to):
    for name in set(table.columns) - {"image_id", "uri", "error"}:
        table.columns[name] = None
    table.keys = {}
    table.write()
    answer = tagline("export", table.path, "--to", to, "--out", tmp_path / "out")
    assert answer.code == 2
    assert "export to another format" in answer.errors
    assert not (tmp_path / "out").exists()


def test_no_table_is_told(tagline, tmp_path):
    answer = tagline("export", tmp_path / "none", "--to", "hf", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "no table; write one with `tagline enrich`" in answer.errors
