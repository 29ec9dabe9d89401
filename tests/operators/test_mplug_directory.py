"""What of an mPLUG directory is read, and what is refused, with the reason."""

import json
import re
import shutil

import pytest
import safetensors.torch
import torch

from operators.captioner import Captioner
from operators.matcher import Matcher
from operators.models.mplug.config import MPlugConfig
from operators.models.mplug.weights import load_captioner, load_matcher
from schemas.errors import ModelError
from tests import mplug, tiny


@pytest.fixture
def captioning(tmp_path):
    return mplug.write(tmp_path / "captioning", mplug.CAPTIONING)


@pytest.fixture
def matching(tmp_path):
    return mplug.write(tmp_path / "matching", mplug.MATCHING)


def weights(folder):
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def save(folder, state):
    torch.save(state, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"module": state},
        lambda state: {"model": {"module": state}},
        lambda state: {f"model.{name}": tensor for name, tensor in state.items()},
    ],
    ids=["bare", "model", "module", "model>module", "model."],
)
def test_every_published_wrapping_is_read(captioning, wrap):
    state = weights(captioning)
    save(captioning, wrap(state))
    found = load_captioner(captioning).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_safetensors_in_half_precision_are_read_as_float32(captioning):
    state = {name: tensor.half() for name, tensor in weights(captioning).items()}
    (captioning / "pytorch_model.bin").unlink()
    safetensors.torch.save_file(state, captioning / "model.safetensors")
    found = load_captioner(captioning).state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in state.items())


def test_a_file_in_the_oldest_format_is_read(captioning):
    state = weights(captioning)
    path = captioning / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert load_captioner(captioning).state_dict().keys() == state.keys()


def test_weights_are_kept_in_the_precision_asked_for(matching):
    net = load_matcher(matching, torch.bfloat16)
    assert {tensor.dtype for tensor in net.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("recipe", ["mplug_caption_tiny", "mplug_retrieval_tiny"])
def test_halves_that_are_never_used_are_not_kept(recipe):
    load = load_captioner if "caption" in recipe else load_matcher
    names = set(load(tiny.checkpoint(recipe)).state_dict())
    spec = json.loads((tiny.RECIPES / recipe / "tensors.json").read_text())["tensors"]
    left = set(spec) - names
    assert names <= set(spec)
    assert any(name.startswith("visual_encoder.transformer.") for name in left)
    assert any(name.startswith("fusion_encoder.encoder.layer.0.") for name in left)


def test_a_name_that_is_no_published_one_is_refused(captioning):
    save(captioning, weights(captioning) | {"text_decoder.bert.pooler.weight": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"1 left over: text_decoder\.bert\.pooler\.weight"):
        load_captioner(captioning)


def test_what_is_missing_or_misshapen_is_listed(captioning):
    state = weights(captioning)
    del state["visn_fc.weight"]
    state["visn_fc.bias"] = torch.zeros(3)
    save(captioning, state)
    found = r"1 missing: visn_fc\.weight\n.*1 misshapen: visn_fc\.bias \(3,\) instead of \(32,\)"
    with pytest.raises(ModelError, match=found):
        load_captioner(captioning)


def test_an_image_size_that_is_not_the_weights_is_refused(captioning):
    mplug.edit(captioning, "config.yaml", image_res=64)
    with pytest.raises(ModelError, match=r"positional_embedding \(6, 64\) instead of \(17, 64\)"):
        load_captioner(captioning)


def test_two_names_of_one_tensor_may_not_differ(captioning):
    state = weights(captioning)
    words = state["text_decoder.bert.embeddings.word_embeddings.weight"]
    twin = "text_decoder.cls.predictions.decoder.weight"
    save(captioning, state | {twin: words.clone()})
    load_captioner(captioning)
    save(captioning, state | {twin: words + 1})
    with pytest.raises(ModelError, match="in mPLUG they are one tensor"):
        load_captioner(captioning)


def test_either_name_of_one_tensor_is_enough(captioning):
    state = weights(captioning)
    words = state.pop("text_decoder.bert.embeddings.word_embeddings.weight")
    save(captioning, state | {"text_decoder.cls.predictions.decoder.weight": words})
    assert torch.equal(
        load_captioner(captioning).text_decoder.bert.embeddings.word_embeddings.weight, words
    )


def test_weights_of_the_other_task_are_refused(captioning, matching):
    shutil.copy(matching / "pytorch_model.bin", captioning)
    with pytest.raises(ModelError, match=r"missing: text_decoder\."):
        Captioner(captioning).load()
    with pytest.raises(ModelError, match=r"image-text-retrieval.*'captioner' takes"):
        Captioner(matching)


def test_half_written_weights_are_refused(captioning):
    path = captioning / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match="fetch it again"):
        load_captioner(captioning)


class Code:
    """What would run when unpickled without care."""

    def __reduce__(self):
        return print, ("executed",)


def test_pickled_code_is_refused(captioning, capfd):
    save(captioning, {"model": weights(captioning), "extra": Code()})
    with pytest.raises(ModelError, match="nothing was executed"):
        load_captioner(captioning)
    assert "executed" not in capfd.readouterr().out


def test_code_in_a_config_is_refused(captioning):
    with (captioning / "config.yaml").open("a") as file:
        file.write("alpha: !!python/object/apply:print [executed]\n")
    with pytest.raises(ModelError, match=r"config\.yaml: asks for objects.*nothing was executed"):
        MPlugConfig.read(captioning)


def test_a_config_in_which_few_lines_stand_for_billions_of_values_is_refused(captioning):
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with (captioning / "config.yaml").open("a") as file:
        file.write("\n".join(["a0: &a0 [lol]", *lines, "image_res: *a11"]) + "\n")
    with pytest.raises(ModelError, match=r"config\.yaml: not YAML \(.*an alias"):
        MPlugConfig.read(captioning)


def test_a_missing_vocabulary_is_named(captioning):
    (captioning / "vocab.txt").unlink()
    with pytest.raises(ModelError, match=r"no vocabulary; there must be a vocab\.txt"):
        Captioner(captioning).load()


def test_a_vocabulary_larger_than_the_word_table_is_refused(captioning):
    with (captioning / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(ModelError, match=r"37 pieces, but 'vocab_size'.*36"):
        Captioner(captioning).load()


@pytest.mark.parametrize("file", ["config.yaml", "config_bert.json"])
def test_a_missing_configuration_is_named(captioning, file):
    (captioning / file).unlink()
    with pytest.raises(ModelError, match=rf"{re.escape(file)}: no such file"):
        Captioner(captioning)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("image_res", "98", "'image_res' is '98', not a whole number from 1"),
        ("image_res", 98.5, "not a whole number from 1"),
        ("image_res", True, "not a whole number from 1"),
        ("image_res", 8, "less than a patch of 16 pixels"),
        ("clip_vision_layers", [3, 4, 6, 3], "not a whole number from 1 to 1000"),
        ("clip_vision_layers", 10**9, "'clip_vision_layers' is 1000000000, not a whole number"),
        ("image_res", 10**30, "not a whole number from 1 to 1000000"),
        ("clip_vision_width", 32, "at least 64"),
        ("clip_vision_width", 200, "multiple of its 3 heads"),
        ("vision_width", 768, "'vision_width' is 768, but 'clip_vision_width' is 64"),
        ("min_length", -1, "'min_length' is -1, not a whole number from 0"),
        ("max_length", 0, "'max_length' is 0, not a whole number from 1"),
        ("beam_size", None, None),
        ("clip_name", 5, "'clip_name' is 5"),
        ("temp", "warm", "'temp' is 'warm', not a number above 0"),
        ("temp", 10**400, "not a number above 0 and below 1000000"),
        ("bert_config", "../other.json", "not the name of a file beside it"),
    ],
)
def test_a_setting_that_cannot_be_followed_is_refused_by_name(captioning, name, value, told):
    mplug.edit(captioning, "config.yaml", **{name: value})
    if told is None:
        assert MPlugConfig.read(captioning).beam_size == 5
        return
    with pytest.raises(ModelError, match=rf"config\.yaml: .*{re.escape(told)}"):
        MPlugConfig.read(captioning)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("num_attention_heads", 5, "'hidden_size' 32 is no multiple of 5 heads"),
        ("hidden_size", "32", "'hidden_size' is '32', not a whole number from 1"),
        ("hidden_dropout_prob", "x", "'hidden_dropout_prob' is 'x', not a number from 0"),
        ("attention_probs_dropout_prob", 1, "not a number from 0 to below 1"),
        ("layer_norm_eps", 0, "'layer_norm_eps' is 0, not a number above 0"),
        ("hidden_act", "tanh", "it can be gelu"),
        ("hidden_act", ["gelu"], "it can be gelu"),
        ("stride_layer", 0, "'stride_layer' is 0"),
        ("fusion_layers", None, "no 'fusion_layers'"),
        ("text_decode_layers", None, "no 'text_decode_layers'"),
        ("encoder_width", 64, "'encoder_width' is 64; it must be 32"),
        ("pad_token_id", 36, "'pad_token_id' is 36, not from 0 to 35"),
        ("position_embedding_type", "relative_key", "only 'absolute'"),
    ],
)
def test_a_size_of_the_text_stacks_that_cannot_be_is_refused(captioning, name, value, told):
    mplug.edit(captioning, "config_bert.json", **{name: value})
    with pytest.raises(ModelError, match=rf"config_bert\.json: .*{re.escape(told)}"):
        MPlugConfig.read(captioning)


@pytest.mark.parametrize("text", ["[1]", "a: [", "\x00", "", "[" * 3000])
def test_a_config_that_is_no_mapping_is_refused(captioning, text):
    (captioning / "config.yaml").write_text(text)
    with pytest.raises(ModelError, match=r"config\.yaml: (not YAML|holds a)"):
        MPlugConfig.read(captioning)


def test_a_missing_stride_connects_no_layer(captioning):
    mplug.edit(captioning, "config_bert.json", stride_layer=None)
    config = MPlugConfig.read(captioning)
    assert not any(map(config.is_connected, config.fusion_numbers))


@pytest.mark.parametrize(
    ("image_res", "name", "width", "patch", "rows", "tokens"),
    [
        (336, "ViT-L-14", 1024, 14, 577, 577),
        (384, "ViT-L-14", 1024, 14, 753, 730),  # the published table is longer than the sequence
        (504, "ViT-B-16", 768, 16, 993, 962),
        (36, "ViT-L-14", 64, 16, 6, 5),
    ],
)
def test_the_position_table_is_as_long_as_the_published_one(
    image_res, name, width, patch, rows, tokens
):
    config = MPlugConfig(
        image_res=image_res, clip_name=name, clip_vision_width=width, clip_vision_patch_size=patch
    )
    assert (config.image_positions, config.image_tokens) == (rows, tokens)


def test_the_task_is_taken_from_config_yaml_where_configuration_json_has_none(matching):
    mplug.edit(matching, "configuration.json", task=None)
    Matcher(matching)
    mplug.edit(matching, "config.yaml", task="visual-question-answering")
    with pytest.raises(ModelError, match="task is 'visual-question-answering'"):
        Matcher(matching)


def test_a_temperature_may_be_a_whole_number(matching):
    mplug.edit(matching, "config.yaml", temp=1)
    Matcher(matching).load()


def test_a_matcher_as_wide_as_its_image_tower_is_refused(matching):
    mplug.edit(matching, "config_bert.json", hidden_size=64)
    with pytest.raises(ModelError, match="a matcher needs them to differ"):
        Matcher(matching)


def test_a_matcher_without_room_for_its_texts_is_refused(matching):
    mplug.edit(matching, "config_bert.json", max_position_embeddings=24)
    with pytest.raises(ModelError, match="24, but texts have up to 25 tokens"):
        Matcher(matching)
