"""Captions; goldens are of ModelScope's image-captioning pipeline on the same checkpoints."""

import json
import pickle
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest
import torch
from PIL import Image

from operators.base import apply
from operators.captioner import Caption, Captioner, Sentence, _check_said
from schemas.errors import ConfigError, ModelError, RowFaults
from tests import tiny


@pytest.fixture(scope="module")
def photographs():
    return [Image.open(path) for path in tiny.photographs()]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A directory whose images are small, so that tests that compare with no golden are fast."""
    return directory(tmp_path_factory.mktemp("models") / "small", patch_image_size=96)


@pytest.fixture(scope="module")
def captioner(small):
    return Captioner(small)


@pytest.fixture(scope="module")
def captions(captioner, photographs):
    return captioner.caption(photographs)


def encoded(paths) -> pa.Table:
    files = [path.read_bytes() for path in paths]
    return pa.table({"image_encoded": pa.array(files, pa.large_binary())})


def directory(folder, **model):
    """A copy of the smallest checkpoint with another `model` part of configuration.json."""
    shutil.copytree(tiny.checkpoint("ofa_caption_mini"), folder)
    path = folder / "configuration.json"
    configuration = json.loads(path.read_text())
    configuration["model"] |= model
    path.write_text(json.dumps(configuration))
    return folder


@pytest.mark.parametrize(
    "recipe", ["ofa_caption_mini", pytest.param("ofa_caption_tiny", marks=pytest.mark.slow)]
)
def test_captions_are_those_of_the_published_pipeline(recipe, photographs):
    golden = json.loads((tiny.DATA / "golden" / f"{recipe}.json").read_text())
    captioner = Captioner(tiny.checkpoint(recipe))
    found = captioner.caption(photographs)
    clean = captioner._loaded().clean
    assert [caption.text for caption in found] == [image["caption"][0] for image in golden]
    for caption, image in zip(found, golden, strict=True):
        assert len(caption.alternatives) == 5
        texts = [clean(beam["tokens"]) for beam in image["beams"]]
        assert [sentence.text for sentence in caption.alternatives] == texts
        scores = [beam["score"] for beam in image["beams"]]
        assert [sentence.score for sentence in caption.alternatives] == pytest.approx(
            scores, abs=1e-4
        )


def test_the_winner_is_the_first_alternative(captions):
    for caption in captions:
        assert caption.alternatives[0] == Sentence(caption.text, caption.score)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_captions_do_not_depend_on_batch_size(captioner, captions, photographs, batch):
    found: list[Caption] = []
    for start in range(0, len(photographs), batch):
        found += captioner.caption(photographs[start : start + batch])
    for one, other in zip(found, captions, strict=True):
        assert [s.text for s in one.alternatives] == [s.text for s in other.alternatives]
        scores = [s.score for s in other.alternatives]
        assert [s.score for s in one.alternatives] == pytest.approx(scores, abs=1e-4)


def test_a_table_gets_one_caption_a_row(captioner, captions):
    table = captioner(encoded(tiny.photographs()[:3]))
    assert table.schema == captioner.writes
    assert table["caption"].to_pylist() == [caption.text for caption in captions[:3]]
    first = table["caption_alternatives"][0].as_py()
    assert [entry["text"] for entry in first] == [s.text for s in captions[0].alternatives]


def test_a_corrupt_image_keeps_its_row_and_names_the_fault(captioner, captions):
    table = encoded(tiny.photographs()[:2])
    broken = pa.table({"image_encoded": pa.array([b"not an image"], pa.large_binary())})
    done = apply(captioner, pa.concat_tables([table.slice(0, 1), broken, table.slice(1)]))
    assert done["caption"].to_pylist() == [captions[0].text, None, captions[1].text]
    assert [error and error["code"] for error in done["error"].to_pylist()] == [
        None,
        "not_an_image",
        None,
    ]


def test_images_of_any_mode_and_size_are_captioned(captioner):
    images = [
        Image.new("L", (1, 1)),
        Image.new("RGBA", (3, 900), (255, 0, 0, 10)),
        Image.new("P", (50, 20)),
    ]
    assert len(captioner.caption(images)) == 3


def test_no_images_give_no_captions(captioner):
    assert captioner.caption([]) == []
    assert captioner(encoded([])).num_rows == 0


@pytest.mark.parametrize("beam_size", [1, 3, 7])
def test_as_many_alternatives_are_kept_as_beams(small, photographs, beam_size):
    captioner = Captioner(small, beam_size=beam_size)
    [caption] = captioner.caption(photographs[:1])
    assert len(caption.alternatives) == beam_size


def test_options_left_out_are_those_of_the_directory(tmp_path, photographs):
    search = {"beam_size": 2, "max_len_b": 4}
    folder = directory(tmp_path / "model", patch_image_size=96, beam_search=search)
    by_directory = Captioner(folder)
    by_option = Captioner(folder, beam_size=2, max_tokens=4)
    assert by_directory.options["max_tokens"] == 4
    assert by_directory.key == by_option.key
    [caption] = by_directory.caption(photographs[:1])
    assert len(caption.alternatives) == 2
    assert by_option.caption(photographs[:1]) == [caption]


def test_the_directorys_prompt_is_asked(tmp_path, captions, photographs):
    prompt = " what is in the picture?"
    captioner = Captioner(directory(tmp_path / "model", patch_image_size=96, prompt=prompt))
    assert captioner.caption(photographs[:1])[0].score != pytest.approx(captions[0].score, abs=1e-6)


def test_scores_that_are_not_finite_are_faults_of_their_rows(tmp_path, photographs):
    folder = directory(tmp_path / "model", patch_image_size=96)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights["encoder.image_proj.bias"] = weights["encoder.image_proj.bias"] * torch.nan
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(RowFaults) as caught:
        Captioner(folder).caption(photographs[:2])
    assert [(row, fault.code) for row, fault in caught.value.faults.items()] == [
        (0, "model"),
        (1, "model"),
    ]
    assert "not finite" in caught.value.faults[0].message


def test_the_key_follows_what_decides_the_output_and_nothing_else(small, captioner):
    assert captioner.key == Captioner(str(small), name="other").key
    others = [
        Captioner(small, beam_size=4),
        Captioner(small, precision="bfloat16"),
        Captioner(tiny.checkpoint("ofa_caption_mini")),
    ]
    assert len({captioner.key, *(other.key for other in others)}) == 4


def test_a_captioner_is_pickled_without_its_weights(captioner, captions, photographs):
    captioner.load()
    pickled = pickle.dumps(captioner)
    assert len(pickled) < 10_000
    copy = pickle.loads(pickled)
    assert copy.key == captioner.key
    assert copy.caption(photographs[:1])[0].text == captions[0].text


def test_building_a_captioner_imports_no_torch(small):
    code = (
        "import sys; from operators.captioner import Captioner; "
        f"Captioner({str(small)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tiny.DATA.parents[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0"),
        ({"beam_size": 10**6}, "beam_size is 1000000; at most 100"),
        ({"beam_size": 2.5}, "beam_size is 2.5"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens is 9 and max_tokens 8"),
        ({"max_tokens": 5000}, "max_tokens <= 1023"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram is -1"),
        ({"precision": "int4"}, "it may be 'float32'"),
    ],
)
def test_an_impossible_option_is_refused_before_weights_are_read(options, message):
    with pytest.raises(ConfigError, match=f"operator 'caption': .*{message}"):
        Captioner(tiny.checkpoint("ofa_caption_mini"), **options)


def test_a_directory_of_another_task_is_refused():
    with pytest.raises(ModelError, match="visual-entailment"):
        Captioner(tiny.checkpoint("ofa_entailment_mini"))
    with pytest.raises(ModelError, match="multi-modal-embedding"):
        Captioner(tiny.checkpoint("chinese_clip_tiny"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"beam_search": {"gen_box": True}}, "'beam_search' sets 'gen_box'"),
        ({"beam_search": [5]}, "'beam_search' is .*not an object"),
        ({"beam_search": {"temperature": None}}, "temperature of None"),
        ({"answer2label": ["yes"]}, "'answer2label' is .*not the name of a file"),
        ({"language": "zh"}, "'language' is 'zh'"),
        ({"patch_image_size": "big"}, "'patch_image_size' is 'big'"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_refused(tmp_path, model, message):
    with pytest.raises(ModelError, match=message):
        Captioner(directory(tmp_path / "model", **model))


def test_images_larger_than_the_net_has_positions_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"'image_bucket_size' in config\.json allows 672 pixels"):
        Captioner(directory(tmp_path / "model", patch_image_size=1000)).load()


def test_a_prompt_longer_than_the_net_has_positions_is_refused(tmp_path):
    folder = directory(tmp_path / "model", prompt=" word" * 1100, max_src_length=1100)
    with pytest.raises(ModelError, match="1102 tokens"):
        Captioner(folder).load()


def test_an_image_that_nothing_is_said_of_is_a_fault_of_its_row():
    words = ["a dog", " ", "a cat"]
    captions = [Caption(text=text, score=-1.0, alternatives=()) for text in words]

    with pytest.raises(RowFaults) as caught:
        _check_said(captions)

    assert {row: fault.code for row, fault in caught.value.faults.items()} == {1: "model"}
