import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageOps

from operators.base import apply
from operators.embedder import Embedder
from operators.models import chinese_clip
from operators.models.chinese_clip import prepare_images
from schemas.enriched import IMAGE_ENCODED
from schemas.errors import ConfigError, ModelError, RowFaults
from tests import tiny

RECIPES = ("chinese_clip_mini", "chinese_clip_tiny")
CARD_TEXTS = ["杰尼龟", "妙蛙种子", "小火龙", "皮卡丘"]


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request):
    return request.param


@pytest.fixture(scope="module")
def embedder(recipe):
    return Embedder(tiny.checkpoint(recipe))


@pytest.fixture(scope="module")
def mini():
    return Embedder(tiny.checkpoint("chinese_clip_mini"))


@pytest.fixture(scope="module")
def golden(recipe):
    facts = json.loads((tiny.DATA / "golden" / f"{recipe}.json").read_text())
    with np.load(tiny.DATA / "golden" / f"{recipe}.npz") as arrays:
        return facts, dict(arrays)


@pytest.fixture(scope="module")
def photographs():
    return [Image.open(path) for path in tiny.photographs()]


@pytest.fixture(scope="module")
def rgb(photographs):
    return [ImageOps.exif_transpose(image).convert("RGB") for image in photographs]


def encoded_table():
    return pa.table(
        {IMAGE_ENCODED: pa.array([p.read_bytes() for p in tiny.photographs()], pa.large_binary())}
    )


@pytest.mark.parametrize("source", ["", "raw_"])  # decoded as the job does; as Pillow opens it
def test_pixels_equal_the_published_pipeline(golden, embedder, photographs, rgb, source):
    facts, arrays = golden
    size, step = facts["images"][0]["pixel_shape"][1], facts["pixel_stride"]
    pixels = prepare_images(photographs if source else rgb, size).numpy()
    assert np.array_equal(pixels[:, :, ::step, ::step], arrays[f"{source}pixel_sample"])


# Float32 with another order of sums; ModelScope's own runs differ by 5e-7.
def test_image_embeddings_equal_the_published_pipeline(golden, embedder, photographs, rgb):
    _, arrays = golden
    np.testing.assert_allclose(embedder.embed(rgb), arrays["img_embedding"], atol=2e-5, rtol=0)
    raw = embedder.embed(photographs)
    np.testing.assert_allclose(raw, arrays["raw_img_embedding"], atol=2e-5, rtol=0)


def test_text_embeddings_equal_the_published_pipeline(golden, embedder):
    facts, arrays = golden
    found = embedder.embed_texts([text["text"] for text in facts["texts"]])
    np.testing.assert_allclose(found, arrays["text_embedding"], atol=2e-5, rtol=0)


def test_probabilities_equal_the_published_pipeline(golden, embedder, rgb):
    facts, arrays = golden
    found = embedder.probabilities(rgb, [text["text"] for text in facts["texts"]])
    np.testing.assert_allclose(found, arrays["probs"], atol=1e-4, rtol=0)
    card = embedder.probabilities(rgb, CARD_TEXTS)
    np.testing.assert_allclose(card, arrays["card_probs"], atol=1e-4, rtol=0)


def test_the_card_s_example_flows(mini, photographs):
    probabilities = mini.probabilities(photographs[0], CARD_TEXTS)
    assert probabilities.shape == (1, 4)
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)
    image, texts = mini.embed(photographs[0]), mini.embed_texts(CARD_TEXTS)
    assert image.shape == (1, mini.dimension)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    assert np.argmax(image @ texts.T) == np.argmax(probabilities)


@pytest.mark.parametrize("batch_rows", [1, 3, 16])
def test_vectors_do_not_depend_on_the_batch(mini, batch_rows):
    table = encoded_table()
    together = np.stack(apply(mini, table, batch_rows=12)["embedding"].to_pylist())
    found = np.stack(apply(mini, table, batch_rows=batch_rows)["embedding"].to_pylist())
    np.testing.assert_allclose(found, together, atol=1e-6, rtol=0)


def test_a_table_gets_unit_vectors_as_plain_lists(mini, rgb):
    out = mini(encoded_table())
    assert out.schema == mini.writes
    assert out.schema.field("embedding").type == pa.list_(pa.float32())
    np.testing.assert_array_equal(np.stack(out["embedding"].to_pylist()), mini.embed(rgb))


def test_an_empty_table_and_empty_lists_give_empty_answers(mini, rgb):
    assert mini(encoded_table().slice(0, 0)).num_rows == 0
    assert mini.embed([]).shape == (0, mini.dimension)
    assert mini.embed_texts([]).shape == (0, mini.dimension)
    assert mini.probabilities(rgb[:2], []).shape == (2, 0)
    assert mini.probabilities([], CARD_TEXTS).shape == (0, 4)


def test_a_hugging_face_directory_gives_what_the_modelscope_directory_gives_unrounded(
    tmp_path, rgb
):
    from transformers import BertTokenizer

    directory = tiny.checkpoint("chinese_clip_mini")
    plain = Embedder(directory, rounding="none")
    chinese_clip.load(directory, rounding="none").model.save_pretrained(tmp_path)
    BertTokenizer(str(directory / "vocab.txt")).save_pretrained(tmp_path)
    other = Embedder(tmp_path)
    assert other.rounding == "none"
    texts = ["a [MASK] \ue000私", *CARD_TEXTS]
    np.testing.assert_allclose(other.embed(rgb), plain.embed(rgb), atol=1e-6, rtol=0)
    np.testing.assert_allclose(other.embed_texts(texts), plain.embed_texts(texts), atol=1e-6)
    np.testing.assert_allclose(
        other.probabilities(rgb, texts), plain.probabilities(rgb, texts), atol=1e-6
    )


def test_texts_keep_their_order_whatever_their_lengths(mini):
    texts = ["皮卡丘" * (number * 7 % 20) for number in range(40)]  # more than one group
    alone = np.concatenate([mini.embed_texts(text) for text in texts])
    np.testing.assert_allclose(mini.embed_texts(texts), alone, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_gives_nearly_the_same_vectors(mini, rgb, precision):
    lower = Embedder(mini.directory, precision=precision)
    assert (lower.embed(rgb) * mini.embed(rgb)).sum(axis=1).min() > 0.999
    texts = [*CARD_TEXTS, "一只猫"]
    assert (lower.embed_texts(texts) * mini.embed_texts(texts)).sum(axis=1).min() > 0.999


def test_rounding_is_seen_in_the_vectors_and_in_the_key(mini, rgb):
    exact = Embedder(mini.directory, rounding="none")
    difference = np.abs(exact.embed(rgb) - mini.embed(rgb)).max()
    assert 5e-5 < difference < 5e-3  # ModelScope rounds its weights to half precision
    assert mini.rounding == "fp16"
    assert exact.key != mini.key
    assert Embedder(mini.directory, rounding="fp16", name="other").key == mini.key


def test_a_vector_that_is_not_finite_is_a_fault_of_its_row(tmp_path, rgb):
    directory = tiny.checkpoint("chinese_clip_mini", folder=tmp_path / "model")
    path = directory / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    state["visual.proj"] *= 0  # a vector of length zero has no direction
    state["bert.embeddings.word_embeddings.weight"][0] = float("nan")
    torch.save(state, path)
    broken = Embedder(directory)
    with pytest.raises(RowFaults) as caught:
        broken.embed(rgb[:2])
    assert set(caught.value.faults) == {0, 1}
    assert caught.value.faults[0].code == "model"
    table = apply(broken, encoded_table().slice(0, 2))
    assert [error["code"] for error in table["error"].to_pylist()] == ["model", "model"]
    assert table["embedding"].null_count == 2


def test_an_image_that_cannot_be_read_spoils_only_its_row(mini):
    good = tiny.photographs()[0].read_bytes()
    table = pa.table({IMAGE_ENCODED: pa.array([good, b"<html>", good], pa.large_binary())})
    out = apply(mini, table)
    assert [row is None for row in out["embedding"].to_pylist()] == [False, True, False]
    assert out["error"][1].as_py()["code"] == "not_an_image"


@pytest.mark.parametrize("given", ["cat.jpg", ["cat.jpg"], np.zeros((2, 2, 3), np.uint8)])
def test_what_is_no_image_is_named(mini, given):
    with pytest.raises(TypeError, match=r"image 0 is a \w+; open it with PIL\.Image\.open"):
        mini.embed(given)


def test_a_text_that_is_no_string_is_named(mini):
    with pytest.raises(TypeError, match="text 1 is 3; a text must be a str"):
        mini.embed_texts(["a", 3])


def test_options_are_checked_before_any_weights_are_read(mini):
    with pytest.raises(ConfigError, match=r"rounding is 'fp32'; it may be 'fp16', 'none'"):
        Embedder(mini.directory, rounding="fp32")
    with pytest.raises(ConfigError, match="precision is 'double'"):
        Embedder(mini.directory, precision="double")


def test_a_directory_of_another_task_is_refused_at_once():
    with pytest.raises(ModelError, match="'captioner' takes"):
        Embedder(tiny.checkpoint("ofa_caption_mini"))


def test_a_pickled_embedder_leaves_the_weights_behind(mini, rgb):
    mini.load()
    copied = pickle.loads(pickle.dumps(mini))
    assert len(pickle.dumps(mini)) < 10_000
    assert copied.key == mini.key
    np.testing.assert_array_equal(copied.embed(rgb[:1]), mini.embed(rgb[:1]))


def test_building_reads_no_weights(tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(tiny.checkpoint("chinese_clip_mini"), directory)
    (directory / "pytorch_model.bin").write_bytes(b"cut")
    embedder = Embedder(directory)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        embedder.load()


def test_a_machine_without_the_directory_finds_the_model_again(tmp_path, monkeypatch, rgb):
    shutil.copytree(tiny.checkpoint("chinese_clip_mini"), tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    built = Embedder("there")
    built.directory = tmp_path / "of another machine"
    assert built.embed(rgb[:1]).shape == (1, built.dimension)


def test_weights_that_changed_since_the_plan_are_refused(tmp_path):
    directory = tiny.checkpoint("chinese_clip_mini", folder=tmp_path / "model")
    built = Embedder(directory)
    tiny.checkpoint("chinese_clip_mini", seed=1, folder=directory)
    with pytest.raises(ModelError, match="not what it was when the run was planned"):
        built.load()


def test_tiny_images_and_long_strips_are_embedded(mini):
    for size in ((1, 1), (1, 5000), (5000, 1)):
        assert np.isfinite(mini.embed(Image.new("RGB", size, "teal"))).all()
