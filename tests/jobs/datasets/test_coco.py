"""COCO's and Karpathy's files, in the exact formats."""

import json
import re

import pytest

from jobs.datasets import coco
from jobs.datasets.captions import read_references
from schemas.errors import DatasetError

ANNOTATIONS = {
    "info": {"description": "COCO 2014 Dataset", "year": 2014},
    "licenses": [{"id": 1, "name": "by"}],
    "images": [
        {"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", "height": 360, "width": 640},
        {"id": 60623, "file_name": "COCO_val2014_000000060623.jpg", "height": 427, "width": 640},
    ],
    "annotations": [
        {"id": 770337, "image_id": 391895, "caption": "A man with a red helmet."},
        {"id": 771687, "image_id": 60623, "caption": "A young girl\ninhales."},
        {"id": 772707, "image_id": 391895, "caption": "Man riding a motor bike"},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{cocoid:012}.jpg",
            "cocoid": cocoid,
            "imgid": at,
            "split": split,
            "sentids": [at],
            "sentences": [
                {"raw": f"A man {at}.", "tokens": ["a", "man"], "imgid": at, "sentid": at}
            ],
        }
        for at, (cocoid, split) in enumerate([(391895, "test"), (522418, "restval")])
    ],
}


@pytest.fixture
def write(tmp_path):
    def write(document):
        path = tmp_path / "file.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
        return path

    return write


def changed(document, **fields):
    return {**document, **fields}


def test_annotations_give_an_image_a_row_with_its_captions_in_order(write):
    assert read_references(write(ANNOTATIONS)).to_pylist() == [
        {
            "image_id": "391895",
            "file": "COCO_val2014_000000391895.jpg",
            "split": None,
            "captions": ["A man with a red helmet.", "Man riding a motor bike"],
        },
        {
            "image_id": "60623",
            "file": "COCO_val2014_000000060623.jpg",
            "split": None,
            "captions": ["A young girl\ninhales."],
        },
    ]


def test_karpathys_file_gives_the_images_of_a_split(write):
    assert read_references(write(KARPATHY), split="test").to_pylist() == [
        {
            "image_id": "391895",
            "file": "val2014/COCO_val2014_000000391895.jpg",
            "split": "test",
            "captions": ["A man 0."],
        }
    ]
    assert read_references(write(KARPATHY))["split"].to_pylist() == ["test", "restval"]


def test_flickr30k_in_karpathys_form_names_images_by_their_file(write):
    image = {
        "sentids": [0],
        "imgid": 0,
        "sentences": [{"tokens": ["two"], "raw": "Two.", "imgid": 0, "sentid": 0}],
        "split": "train",
        "filename": "1000092795.jpg",
    }
    (row,) = read_references(write({"images": [image], "dataset": "flickr30k"})).to_pylist()
    assert (row["image_id"], row["file"]) == ("1000092795", "1000092795.jpg")


def test_results_give_each_image_its_caption(write):
    results = [{"image_id": 7, "caption": "a cat"}, {"image_id": "8", "caption": ""}]
    assert coco.read_results(write(results)) == {"7": "a cat", "8": ""}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not JSON"),
        ([], "a list; COCO's annotations are an object with 'images' and 'annotations'"),
        (changed(ANNOTATIONS, images=3), "images is of type int; it must be a list of objects"),
        (changed(ANNOTATIONS, images=[{"file_name": "x"}]), "images[0]: no 'id'"),
        (changed(ANNOTATIONS, images=[3]), "images[0]: 3 is not a JSON object"),
        (
            changed(ANNOTATIONS, images=[*ANNOTATIONS["images"], {"id": 60623}]),
            "images[2]: image '60623' was there before",
        ),
        (
            changed(ANNOTATIONS, images=[*ANNOTATIONS["images"], {"id": 5}]),
            "no caption for 1 images: '5'",
        ),
        (
            changed(ANNOTATIONS, annotations=[{"image_id": 9, "caption": "x"}]),
            "annotations[0]: image '9' is not among the images",
        ),
        (
            changed(ANNOTATIONS, annotations=[{"image_id": 60623, "caption": None}]),
            "annotations[0]: caption is None; it must be a string",
        ),
        (
            changed(ANNOTATIONS, annotations=[{"image_id": 1.5, "caption": "x"}]),
            "image_id is 1.5; it must be a whole number or a string",
        ),
        (
            changed(ANNOTATIONS, annotations=[{"image_id": 60623, "caption": "\ud83d"}]),
            "it holds half a character",
        ),
    ],
)
def test_annotations_of_another_form_are_refused_by_place(write, document, message):
    path = write(document)
    with pytest.raises(DatasetError, match=re.escape(message)) as refused:
        read_references(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"image_id": 1}, "results is of type dict; it must be a list of objects"),
        ([{"image_id": 1}], "results[0]: no 'caption'; it has 'image_id'"),
        ([{"image_id": 1, "caption": "a"}] * 2, "results[1]: image '1' was there before"),
        ([{"image_id": True, "caption": "a"}], "image_id is True"),
    ],
)
def test_results_of_another_form_are_refused_by_place(write, results, message):
    with pytest.raises(DatasetError, match=re.escape(message)):
        coco.read_results(write(results))


def test_a_split_that_is_not_there_is_named_with_those_that_are(write):
    with pytest.raises(DatasetError, match=r"no split 'dev'; it has test, restval"):
        read_references(write(KARPATHY), split="dev")
    with pytest.raises(DatasetError, match=r"has no splits, and so no 'test'"):
        read_references(write(ANNOTATIONS), split="test")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.json: cannot be read: No such file"):
        read_references(tmp_path / "none.json")
