"""`tagline apply`: the published answers, in the order asked, whatever happens to one image."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.apply import read_options
from operators.embedder import Embedder
from operators.matcher import Matcher
from schemas.errors import ConfigError
from tests import mplug, s3, tiny
from tests.command import Command

GOLDEN = tiny.DATA / "golden"
IMAGES = tiny.DATA / "images"
QUICK = ("--set", "beam_size=1", "--set", "max_tokens=2")


@pytest.fixture
def tagline(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capfd)


def golden(name: str) -> list[dict[str, Any]]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def test_captions_are_the_published_ones_in_the_order_given(tagline):
    expected = golden("ofa_caption_mini")[:2]
    paths = [IMAGES / row["image"] for row in expected]
    model = tiny.checkpoint("ofa_caption_mini")
    answer = tagline("apply", "captioner", "--model", model, "--json", *paths)
    assert answer.code == 0
    assert [line["image"] for line in answer.lines] == [str(path) for path in paths]
    for line, row in zip(answer.lines, expected, strict=True):
        assert line["text"] == row["caption"][0]
        assert line["score"] == pytest.approx(row["beams"][0]["score"], abs=1e-4)
        assert len(line["alternatives"]) == len(row["beams"])
        assert set(line) == {"image", "text", "score", "alternatives"}


def test_judgements_are_the_published_ones_with_and_without_a_premise(tagline):
    model = tiny.checkpoint("ofa_entailment_mini")
    for row in golden("ofa_entailment_mini")[1:3]:
        premise = ["--text2", row["text2"]] if "text2" in row else []
        arguments = ["--text", row["text"], *premise, IMAGES / row["image"], "--json"]
        (line,) = tagline("apply", "entailment", "--model", model, *arguments).lines
        assert line["label"] == row["label"]
        assert line[row["label"]] == pytest.approx(row["probability"], abs=1e-4)
        assert line["yes"] + line["no"] + line["maybe"] == pytest.approx(1, abs=1e-5)
        assert set(line) == {"image", "text", "label", "yes", "no", "maybe"}


def test_entailment_answers_image_by_image_and_text_by_text(tagline):
    model = tiny.checkpoint("ofa_entailment_mini")
    names = [str(IMAGES / name) for name in ("clock.png", "coins.png")]
    texts = ["a cup", "two birds", "a cup"]
    flags = [part for text in texts for part in ("--text", text)]
    answer = tagline("apply", "entailment", "--model", model, *flags, "--json", *names)
    found = [(line["image"], line["text"]) for line in answer.lines]
    assert found == [(name, text) for name in names for text in texts]


def test_an_unreadable_image_fails_with_each_of_its_texts(tagline):
    model = tiny.checkpoint("ofa_entailment_mini")
    texts = ("--text", "a cup", "--text", "two birds")
    images = ["nowhere.png", IMAGES / "clock.png"]
    answer = tagline("apply", "entailment", "--model", model, *texts, "--json", *images)
    assert answer.code == 1
    assert [line["text"] for line in answer.lines] == ["a cup", "two birds"] * 2
    codes = [line.get("error", {}).get("code") for line in answer.lines]
    assert codes == ["missing", "missing", None, None]


def test_a_damaged_model_is_told_though_no_image_can_be_read(tagline, tmp_path):
    model = tiny.checkpoint("ofa_caption_mini", folder=tmp_path / "model")
    weights = model / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:1000])
    answer = tagline("apply", "captioner", "--model", model, "--json", "nowhere.png")
    assert (answer.code, answer.output) == (2, "")
    assert "pytorch_model.bin: " in answer.errors


def test_images_come_before_texts_and_both_are_embedded_as_by_the_operator(tagline):
    model = tiny.checkpoint("chinese_clip_mini")
    image = IMAGES / "coffee.jpg"
    texts = ("皮卡丘", "a cup of coffee")
    flags = [part for text in texts for part in ("--text", text)]
    answer = tagline("apply", "embedder", "--model", model, *flags, image, "--json")
    assert [line.get("image", line.get("text")) for line in answer.lines] == [str(image), *texts]
    vectors = np.array([line["embedding"] for line in answer.lines])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    expected = Embedder(model).embed_texts(texts)
    np.testing.assert_allclose(vectors[1:], expected, atol=1e-6)


def test_texts_need_no_image(tagline):
    model = tiny.checkpoint("chinese_clip_mini")
    answer = tagline("apply", "embedder", "--model", model, "--text", "猫", "--json")
    assert [set(line) for line in answer.lines] == [{"text", "embedding"}]


def test_a_failed_image_keeps_its_place_and_the_rest_go_on(tagline, tmp_path):
    page = tmp_path / "page.jpg"
    page.write_text("<html>")
    images = [IMAGES / "coins.png", tmp_path / "nowhere.png", page, IMAGES / "clock.png"]
    model = tiny.checkpoint("ofa_caption_mini")
    answer = tagline("apply", "captioner", "--model", model, *QUICK, "--json", *images)
    assert answer.code == 1
    assert [line["image"] for line in answer.lines] == [str(image) for image in images]
    codes = [line.get("error", {}).get("code") for line in answer.lines]
    assert codes == [None, "missing", "not_an_image", None]
    assert set(answer.lines[1]) == {"image", "error"}
    assert answer.lines[1]["error"]["stage"] == "fetch"


def test_an_image_at_a_private_address_is_refused_though_it_was_typed(tagline):
    model = tiny.checkpoint("ofa_caption_mini")
    address = "http://127.0.0.1:9/x.jpg"
    answer = tagline("apply", "captioner", "--model", model, "--json", address)
    assert answer.code == 1
    assert answer.lines[0]["error"]["code"] == "policy"


def test_images_may_lie_on_s3(tagline, s3_bucket, s3_endpoint):
    client = s3.client(s3_endpoint)
    client.upload_file(str(IMAGES / "coins.png"), s3_bucket.removeprefix("s3://"), "a/coins.png")
    model = tiny.checkpoint("chinese_clip_mini")
    images = [f"{s3_bucket}/a/coins.png", IMAGES / "coins.png"]
    answer = tagline("apply", "embedder", "--model", model, "--json", *images)
    assert answer.code == 0
    assert answer.lines[0]["embedding"] == pytest.approx(answer.lines[1]["embedding"], abs=1e-6)


def test_options_reach_the_operator(tagline):
    model = tiny.checkpoint("ofa_caption_mini")
    arguments = ["--set", "beam_size=2", "--set", "max_tokens=2", IMAGES / "coins.png", "--json"]
    (line,) = tagline("apply", "captioner", "--model", model, *arguments).lines
    assert len(line["alternatives"]) == 2


def test_people_get_lines_without_markup(tagline, tmp_path):
    image = tmp_path / "[red]photo[bold].png"
    image.write_bytes((IMAGES / "coins.png").read_bytes())
    model = tiny.checkpoint("ofa_caption_mini")
    answer = tagline("apply", "captioner", "--model", model, *QUICK, image)
    assert answer.code == 0
    assert "[red]photo[bold].png" in answer.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["captoner", "x.jpg"], "did you mean 'captioner'"),
        (["captioner"], "needs at least one image"),
        (["captioner", "--text", "a", "x.jpg"], "takes no --text"),
        (["entailment", "x.jpg"], "give at least one --text"),
        (["entailment", "--text", "a"], "needs at least one image"),
        (["embedder"], "needs an image or a --text"),
        (["embedder", "--text", "a", "--text2", "b"], "takes no --text2"),
        (["captioner", "--set", "beam=2", "x.jpg"], "did you mean 'beam_size'"),
        (["captioner", "--set", "beam_size", "x.jpg"], "is not key=value"),
        (["entailment", "--text", "a", "--set", "premise=b", "x.jpg"], "given by --text"),
        (["captioner", "--set", "model=b", "x.jpg"], "'model' is given by --model"),
        (["captioner", "--set", "use=embedder", "x.jpg"], "'use' is given by OPERATOR"),
        (["captioner", "\udcff.jpg"], "is not UTF-8; rename the file"),
        (["captioner", "x.jpg"], "image-captioning"),
    ],
)
def test_wrong_use_exits_2_and_says_why(tagline, arguments, message):
    model = tiny.checkpoint("chinese_clip_mini")
    answer = tagline("apply", *arguments, "--model", model, "--json")
    assert answer.code == 2
    assert answer.output == ""
    assert message in answer.errors
    assert "Traceback" not in answer.errors


def test_a_model_must_be_named(tagline):
    answer = tagline("apply", "captioner", "x.jpg")
    assert answer.code == 2
    assert "--model" in answer.errors


def test_settings_are_yaml():
    assert read_options(["a=5", "b= true", "c=x=y", "d=[1, 2]"]) == {
        "a": 5,
        "b": True,
        "c": "x=y",
        "d": [1, 2],
    }
    with pytest.raises(ConfigError, match="not YAML"):
        read_options(["a=[1"])


@pytest.fixture(scope="module")
def matching(tmp_path_factory):
    return mplug.write(tmp_path_factory.mktemp("models") / "matching", mplug.MATCHING)


def test_a_matcher_answers_image_by_image_and_text_by_text(tagline, matching):
    images = [IMAGES / "clock.png", IMAGES / "coins.png"]
    texts = ["a cup", "", "Á cat 猫", "a cup"]
    flags = [part for text in texts for part in ("--text", text)]
    answer = tagline("apply", "matcher", "--model", matching, *flags, "--json", *images)
    assert answer.code == 0
    asked = [(str(image), text) for image in images for text in texts]
    assert [(line["image"], line["text"]) for line in answer.lines] == asked
    assert all(set(line) == {"image", "text", "score", "similarity"} for line in answer.lines)
    pictures = [Image.open(image).convert("RGB") for image in images]
    expected = [match for row in Matcher(matching).match(pictures, texts) for match in row]
    for line, match in zip(answer.lines, expected, strict=True):
        assert line["score"] == pytest.approx(match.score, abs=1e-4)
        assert line["similarity"] == pytest.approx(match.similarity, abs=1e-4)


def test_a_text_whose_end_is_not_read_is_flagged(tagline, matching):
    texts = ("--text", "cat " * 30, "--text", "cat")
    answer = tagline(
        "apply", "matcher", "--model", matching, *texts, IMAGES / "clock.png", "--json"
    )
    assert [line.get("is_cut") for line in answer.lines] == [True, None]


def test_an_image_that_cannot_be_matched_fails_with_each_of_its_texts(tagline, matching):
    images = ["nowhere.png", IMAGES / "clock.png"]
    texts = ("--text", "a", "--text", "b")
    answer = tagline("apply", "matcher", "--model", matching, *texts, *images, "--json")
    assert answer.code == 1
    assert [line["text"] for line in answer.lines] == ["a", "b"] * 2
    assert answer.lines[0]["error"]["code"] == "missing"


def test_many_texts_are_matched_in_portions(tagline, matching, monkeypatch):
    monkeypatch.setattr("jobs.apply.GROUP_ROWS", 2)
    texts = ["a", "b", "c", "d", "e"]
    flags = [part for text in texts for part in ("--text", text)]
    images = [IMAGES / "clock.png", IMAGES / "coins.png"]
    answer = tagline("apply", "matcher", "--model", matching, *flags, "--json", *images)
    assert [line["text"] for line in answer.lines] == texts * 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([IMAGES / "clock.png"], "give at least one --text"),
        (["--text", "a"], "matcher needs at least one image"),
        (["--text", "a", "--text2", "b", IMAGES / "clock.png"], "takes no --text2"),
        (["--text", "a", "--set", "text=b", IMAGES / "clock.png"], "'text' is given by --text"),
    ],
)
def test_a_matcher_says_what_it_lacks(tagline, matching, arguments, told):
    answer = tagline("apply", "matcher", "--model", matching, *arguments)
    assert answer.code == 2
    assert told in answer.errors
