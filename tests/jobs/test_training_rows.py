import base64
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.training_rows import (
    digest_of,
    fetcher_of,
    healthy_rows,
    images_of,
    look_at,
    read_splits,
    refuse_same_pictures,
)
from schemas.errors import ManifestError
from schemas.finetune import FinetuneConfig
from tests import tiny


@pytest.fixture
def folder(tmp_path):
    for number, photograph in enumerate(tiny.photographs()[:4]):
        (tmp_path / f"{number}.img").write_bytes(photograph.read_bytes())
    return tmp_path


def config_of(folder, **changes):
    document = {
        "use": "captioner",
        "model": "embedded:captioner",
        "output": str(folder / "out"),
        "train": str(folder / "train.jsonl"),
    }
    return FinetuneConfig.model_validate(document | changes)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_text(path, text):
    path.write_text(text)
    return str(path)


def write_train(folder, *rows):
    write_lines(folder / "train.jsonl", rows or [{"uri": "0.img", "caption": "a man"}])


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_rows_are_read_from_every_kind_of_manifest(folder, suffix):
    rows = [{"id": 7, "url": "0.img", "said": "a man"}, {"id": 8, "url": "1.img", "said": "b"}]
    path = folder / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "csv":
        path.write_text("id,url,said\n7,0.img,a man\n8,1.img,b\n")
    else:
        write_lines(path, rows)
    columns = {"image_id": "id", "uri": "url", "caption": "said"}
    train = {"path": str(path), "columns": columns}
    table = read_splits(config_of(folder, train=train))["train"].table
    assert table.select(["image_id", "uri", "caption"]).to_pylist() == [
        {"image_id": "7", "uri": "0.img", "caption": "a man"},
        {"image_id": "8", "uri": "1.img", "caption": "b"},
    ]


def test_a_missing_column_is_told_with_the_nearest(folder):
    write_train(folder, {"uri": "0.img", "captoin": "a man"})
    with pytest.raises(ManifestError, match="no column 'caption'; did you mean 'captoin'"):
        read_splits(config_of(folder))


def test_a_row_without_target_is_named(folder):
    write_train(folder, {"uri": "0.img", "caption": "a"}, {"uri": "1.img", "caption": " "})
    with pytest.raises(ManifestError, match=r"'caption' is ' ' in row 2"):
        read_splits(config_of(folder))


@pytest.mark.parametrize(
    ("name", "text"), [("none.csv", "uri,caption\n"), ("none.csv", ""), ("none.jsonl", "")]
)
def test_an_empty_split_is_refused(folder, name, text):
    write_train(folder)
    (folder / name).write_text(text)
    with pytest.raises(ManifestError, match=rf"validation: .*{name} has no rows"):
        read_splits(config_of(folder, validation=str(folder / name)))


def entailment_config(folder, label):
    write_train(folder, {"uri": "0.img", "hypothesis": "a man", "label": label})
    return config_of(folder, use="entailment", model="embedded:entailment")


@pytest.mark.parametrize(
    ("label", "known"), [("yes", "yes"), ("entailment", "yes"), ("neutral", "maybe")]
)
def test_labels_are_known_in_both_spellings(folder, label, known):
    table = read_splits(entailment_config(folder, label))["train"].table
    assert table["label"].to_pylist() == [known]


def test_a_label_outside_the_set_is_named(folder):
    with pytest.raises(ManifestError, match="the label is 'perhaps' in row 1; it may be 'yes'"):
        read_splits(entailment_config(folder, "perhaps"))


def validated(folder, train, validation, **changes):
    write_train(folder, train)
    path = write_lines(folder / "validation.jsonl", [validation])
    return config_of(folder, validation=path, **changes)


@pytest.mark.parametrize(
    ("validation", "how"),
    [
        ({"uri": "0.img", "caption": "b"}, "by uri"),
        ({"uri": "./0.img", "caption": "b"}, "by uri"),
        ({"image_id": "one", "uri": "1.img", "caption": "b"}, "by image_id"),
    ],
)
def test_an_image_in_both_splits_is_refused_unless_said(folder, validation, how):
    train = {"image_id": "one", "uri": "0.img", "caption": "a"}
    with pytest.raises(ManifestError, match=rf"1 of its images are in train too \({how}\)"):
        read_splits(validated(folder, train, validation))
    assert read_splits(validated(folder, train, validation, allow_overlap=True))


def test_a_picture_in_both_splits_under_two_names_is_found(folder):
    (folder / "copy.img").write_bytes((folder / "0.img").read_bytes())
    config = validated(
        folder, {"uri": "0.img", "caption": "a"}, {"uri": "copy.img", "caption": "b"}
    )
    splits = read_splits(config)
    seen = {n: look_at(images_of(split), fetcher_of(config, split)) for n, split in splits.items()}
    with pytest.raises(ManifestError, match=r"by content\), such as 'copy.img'"):
        refuse_same_pictures(seen)


def test_bad_images_are_left_out_with_their_reason(folder):
    (folder / "bad.img").write_bytes(b"no picture")
    write_train(
        folder,
        {"uri": "0.img", "caption": "a"},
        {"uri": "bad.img", "caption": "b"},
        {"uri": "gone.img", "caption": "c"},
        {"uri": "/etc/passwd", "caption": "d"},
        {"uri": "0.img", "caption": "e"},
    )
    config = config_of(folder)
    split = read_splits(config)["train"]
    seen = look_at(images_of(split), fetcher_of(config, split))
    assert seen["code"].to_pylist() == [None, "not_an_image", "missing", "policy"]
    assert healthy_rows(split, seen)["caption"].to_pylist() == ["a", "e"]


def test_no_good_image_at_all_is_refused(folder):
    write_train(folder, {"uri": "gone.img", "caption": "c"})
    config = config_of(folder)
    split = read_splits(config)["train"]
    with pytest.raises(ManifestError, match="none of its images can be used"):
        healthy_rows(split, look_at(images_of(split), fetcher_of(config, split)))


def test_a_target_with_several_columns_makes_a_row_of_each(folder):
    write_train(
        folder,
        {"uri": "0.img", "en": "a man", "zh": "一个男人"},
        {"uri": "1.img", "en": "a cat", "zh": "一只猫"},
    )
    train = {"path": str(folder / "train.jsonl"), "columns": {"text": ["en", "zh"]}}
    config = config_of(folder, use="embedder", model="embedded:embedder", train=train)
    split = read_splits(config)["train"]
    assert split.table["text"].to_pylist() == ["a man", "a cat", "一个男人", "一只猫"]
    assert split.table["uri"].to_pylist() == ["0.img", "1.img"] * 2
    assert images_of(split).num_rows == 2


def write_muge(folder, *texts):
    encoded = base64.urlsafe_b64encode((folder / "0.img").read_bytes()).decode()
    images = write_text(folder / "train_imgs.tsv", f"7\t{encoded}\n8\t{encoded[:40]}\n")
    path = write_lines(folder / "train_texts.jsonl", texts)
    train = {"path": path, "images": images, "format": "chinese_clip"}
    return config_of(folder, use="embedder", model="embedded:embedder", train=train)


def test_texts_and_packed_images_come_from_chinese_clips_files(folder):
    config = write_muge(folder, {"text_id": 1, "text": "一只猫", "image_ids": [7, 8]})
    split = read_splits(config)["train"]
    assert split.table.select(["image_id", "text"]).to_pylist() == [
        {"image_id": "7", "text": "一只猫"},
        {"image_id": "8", "text": "一只猫"},
    ]
    seen = look_at(images_of(split), fetcher_of(config, split))
    assert seen["code"].to_pylist() == [None, "truncated"]


def test_a_text_of_an_image_that_is_not_packed_is_named(folder):
    config = write_muge(folder, {"text_id": 1, "text": "一只猫", "image_ids": [7, 9]})
    with pytest.raises(ManifestError, match="text 1 is of images 9, which are not in"):
        read_splits(config)


def test_captions_come_from_karpathys_file(folder):
    image = {"filename": "0.img", "split": "train", "cocoid": 3, "sentences": [{"raw": "a man"}]}
    (folder / "data.json").write_text(json.dumps({"images": [image], "dataset": "coco"}))
    train = {
        "path": str(folder / "data.json"),
        "format": "captions",
        "images": str(folder),
        "split": "train",
    }
    config = config_of(folder, train=train)
    split = read_splits(config)["train"]
    assert split.table["caption"].to_pylist() == ["a man"]
    seen = look_at(images_of(split), fetcher_of(config, split))
    assert seen["code"].to_pylist() == [None]


def test_captions_of_several_splits_come_together(folder):
    images = [
        {"filename": f"{n}.img", "split": split, "cocoid": n, "sentences": [{"raw": split}]}
        for n, split in enumerate(["train", "restval", "val"])
    ]
    (folder / "data.json").write_text(json.dumps({"images": images}))
    train = {
        "path": str(folder / "data.json"),
        "format": "captions",
        "images": "s3://coco/images/",
        "split": ["train", "restval"],
    }
    table = read_splits(config_of(folder, train=train))["train"].table
    assert table["caption"].to_pylist() == ["train", "restval"]
    assert table["uri"].to_pylist() == ["s3://coco/images/0.img", "s3://coco/images/1.img"]


def test_pairs_come_from_snli_ves_file(folder):
    (folder / "12.jpg").write_bytes((folder / "0.img").read_bytes())
    lines = [
        {"pairID": str(n), "Flickr30K_ID": "12", "sentence1": "p", "sentence2": "h"}
        | {"gold_label": label}
        for n, label in enumerate(["contradiction", "-"])
    ]
    path = write_lines(folder / "pairs.jsonl", lines)
    train = {"path": path, "format": "snli_ve", "images": str(folder)}
    config = config_of(
        folder, use="entailment", model="embedded:entailment", train=train, premise=True
    )
    split = read_splits(config)["train"]
    assert split.table.select(["hypothesis", "label", "premise"]).to_pylist() == [
        {"hypothesis": "h", "label": "no", "premise": "p"}
    ]
    assert look_at(images_of(split), fetcher_of(config, split))["code"].to_pylist() == [None]


def test_the_digest_tells_other_words_and_other_pictures_apart():
    def table(digest, caption, uri="a"):
        return pa.table({"uri": [uri], "image_sha256": [digest], "caption": [caption]})

    first = digest_of([table("1", "a")])
    assert first == digest_of([table("1", "a", uri="elsewhere")])
    assert len({first, digest_of([table("2", "a")]), digest_of([table("1", "b")])}) == 3
