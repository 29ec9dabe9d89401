"""Chinese-CLIP's TSV and JSON lines, and predictions for them."""

import json
import re
from base64 import b64encode, urlsafe_b64encode

import pytest

from jobs.datasets import chinese_clip
from schemas.errors import DatasetError

BYTES = bytes([0xFF, 0xD8, 0xFB, 0xFF, 0x3E]) * 7  # their base64 has + and /


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "valid_texts.jsonl"
        told = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path.write_text("".join(told), "utf-8")
        return path

    return write


def text(identity, *images, words="高级感托特包"):
    return {"text_id": identity, "text": words, "image_ids": list(images)}


def test_texts_keep_their_order_and_words(write):
    path = write(text(8428, 1076345, 517602), text(8427, words="Café “a”\u2028b"))
    assert chinese_clip.read_texts(path).to_pylist() == [
        {"text_id": 8428, "text": "高级感托特包", "image_ids": [1076345, 517602]},
        {"text_id": 8427, "text": "Café “a”\u2028b", "image_ids": []},
    ]


def test_images_are_read_in_either_alphabet(tmp_path):
    path = tmp_path / "valid_imgs.tsv"
    plain, safe = b64encode(BYTES), urlsafe_b64encode(BYTES)
    assert plain != safe
    path.write_bytes(b"\xef\xbb\xbf1000002\t" + plain + b"\n1000016\t" + safe + b"\n")
    (table,) = chinese_clip.read_images(path)
    assert table.to_pylist() == [
        {"image_id": 1000002, "image": BYTES},
        {"image_id": 1000016, "image": BYTES},
    ]


def test_many_images_come_in_several_tables(tmp_path):
    path = tmp_path / "imgs.tsv"
    path.write_bytes(b"".join(b"%d\t/9j/\n" % number for number in range(130)))
    assert [table.num_rows for table in chinese_clip.read_images(path)] == [64, 64, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"12 /9j/", "is not an id, a tab and an image in base64"),
        (b"x\t/9j/", "is not an id, a tab and an image in base64"),
        (b"12\t/9j", "image 12 is not base64"),
        (b"12\t/9j!", "image 12 is not base64"),
        (b"7\t/9j/", "image 7 was there before"),
    ],
)
def test_an_image_of_another_form_is_refused_by_line(tmp_path, line, message):
    path = tmp_path / "imgs.tsv"
    path.write_bytes(b"7\t/9j/\n" + line + b"\n")
    with pytest.raises(DatasetError, match=re.escape("imgs.tsv, line 2: ") + ".*" + message):
        list(chinese_clip.read_images(path))


def test_from_image_to_text_the_annotations_are_turned_round(write):
    path = write(text(1, 20, 10), text(2, 10), text(3))
    assert chinese_clip.read_gold(path, "t2i") == {1: {20, 10}, 2: {10}, 3: set()}
    assert chinese_clip.read_gold(path, "i2t") == {20: {1}, 10: {1, 2}}


def test_annotations_may_be_turned_round_already(write):
    path = write({"image_id": 20, "text_ids": [1]}, {"image_id": 10, "text_ids": [1, 2]})
    assert chinese_clip.read_gold(path, "i2t") == {20: {1}, 10: {1, 2}}


def test_rankings_keep_their_order(write):
    ranking = list(range(12, 0, -1))
    path = write({"text_id": 5, "image_ids": ranking})
    assert chinese_clip.read_rankings(path, "t2i") == {5: ranking}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text_id": 5, "image_ids": [*range(9)]}, "names 9 candidates; 10 are needed"),
        ({"text_id": 5, "image_ids": [1, *range(9)]}, "names a candidate twice"),
        ({"text_id": 5, "image_ids": [*"abcdefghij"]}, "it must be a list, of a whole number"),
        ({"text_id": 5, "image_ids": 5}, "image_ids is 5; it must be a list"),
        ({"text_id": "5", "image_ids": [*range(10)]}, "text_id is '5'; it must be a whole number"),
        ({"text_id": 2**63, "image_ids": [*range(10)]}, "it must be a whole number of 64 bits"),
        ({"image_id": 5, "text_ids": [*range(10)]}, "no 'text_id'; it has 'image_id', 'text_ids'"),
        ({"text_id": 4, "image_ids": [*range(10)]}, "text_id 4 was there before"),
        ([5], r"\[5\] is not a JSON object"),
    ],
)
def test_a_ranking_of_another_form_is_refused_by_line(write, line, message):
    path = write({"text_id": 4, "image_ids": [*range(10)]}, line)
    with pytest.raises(DatasetError, match=f"line 2: .*{message}"):
        chinese_clip.read_rankings(path, "t2i")
