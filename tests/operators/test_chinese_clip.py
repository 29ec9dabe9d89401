import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import ChineseCLIPModel

from operators.models import checkpoint, chinese_clip, chinese_clip_names
from operators.models.directory import expect, identify
from schemas.errors import ModelError
from tests import tiny

MINI = "chinese_clip_mini"


@pytest.fixture
def directory(tmp_path):
    return tiny.checkpoint(MINI, folder=tmp_path / "model")


def edit(directory, file, **changes):
    sizes = json.loads((directory / file).read_text()) | changes
    kept = {name: value for name, value in sizes.items() if value is not None}
    (directory / file).write_text(json.dumps(kept))


def rewrite(directory, change):
    """Passes the file's tensors through `change`, which may return a wrapped dictionary."""
    path = directory / "pytorch_model.bin"
    torch.save(change(torch.load(path, weights_only=True)), path)


@pytest.mark.parametrize(
    (
        "parameters",
        "vision",
        "text",
    ),  # the published sizes and their parameters, without BERT's unused pooler
    [
        (188_262_913, (512, 224, 12, 768, 16, 64), (768, 12, 12, 3072)),  # base-patch16
        (406_233_089, (768, 224, 24, 1024, 14, 64), (768, 12, 12, 3072)),  # large-patch14
        (406_560_769, (768, 336, 24, 1024, 14, 64), (768, 12, 12, 3072)),  # large-patch14_336
        (957_598_209, (1024, 224, 32, 1280, 14, 80), (1024, 24, 16, 4096)),  # huge-patch14
    ],
)
def test_the_published_sizes_have_their_parameters(directory, parameters, vision, text):
    names = (
        "embed_dim image_resolution vision_layers vision_width vision_patch_size vision_head_width"
    )
    edit(directory, "vision_model_config.json", **dict(zip(names.split(), vision, strict=True)))
    names = (
        "text_hidden_size text_num_hidden_layers text_num_attention_heads text_intermediate_size"
    )
    edit(directory, "text_model_config.json", **dict(zip(names.split(), text, strict=True)))
    with torch.device("meta"):
        net = ChineseCLIPModel(chinese_clip.read_config(directory))
    assert sum(tensor.numel() for tensor in net.parameters()) == parameters
    assert net.config.vision_config.num_attention_heads == vision[3] // vision[5]


def test_names_go_to_transformers_and_back_unchanged(directory):
    published = checkpoint.load_state_dict(directory)
    published = {k: v for k, v in published.items() if not k.startswith("bert.pooler")}
    back = chinese_clip_names.to_modelscope(chinese_clip_names.from_modelscope(published))
    assert back.keys() == published.keys()
    assert all(torch.equal(back[name], published[name]) for name in published)


def test_all_faults_of_the_weights_are_listed_in_the_names_of_the_file(directory):
    def damage(state):
        del state["visual.proj"], state["visual.transformer.resblocks.1.attn.in_proj_bias"]
        state["visual.extra"] = torch.zeros(1)
        state["visual.conv1.weight"] = torch.zeros(64, 3, 16, 16)
        return state

    rewrite(directory, damage)
    with pytest.raises(ModelError) as caught:
        chinese_clip.load(directory, rounding="none")
    message = str(caught.value)
    assert "2 missing" in message
    assert "visual.proj" in message
    assert "visual.transformer.resblocks.1.attn.in_proj_bias" in message
    assert "1 left over: visual.extra" in message
    assert "visual.conv1.weight (64, 3, 16, 16) instead of (64, 3, 14, 14)" in message


@pytest.mark.parametrize("prefix", ["", "module.", "clip_model.", "module.clip_model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_training_wrappers_and_prefixes_make_no_difference(directory, prefix, wrapper):
    plain = chinese_clip.load(directory, rounding="none").model.state_dict()

    def wrap(state):
        named = {prefix + name: tensor for name, tensor in state.items()}
        return {wrapper: named, "epoch": 3} if wrapper else named

    rewrite(directory, wrap)
    found = chinese_clip.load(directory, rounding="none").model.state_dict()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_a_file_without_the_unused_pooler_loads(directory):
    rewrite(directory, lambda state: {k: v for k, v in state.items() if "pooler" not in k})
    chinese_clip.load(directory, rounding="fp16")


def test_safetensors_in_half_precision_load_as_float32(directory):
    state = checkpoint.load_state_dict(directory)
    expected = chinese_clip.load(directory, rounding="fp16").model.state_dict()
    (directory / "pytorch_model.bin").unlink()
    halves = {name: tensor.half().contiguous() for name, tensor in state.items()}
    save_file(halves, directory / "model.safetensors")
    found = chinese_clip.load(directory, rounding="none").model.state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    name = "text_model.encoder.layer.0.output.LayerNorm.weight"
    assert torch.equal(found[name], expected[name])


def test_rounding_leaves_what_modelscope_leaves_in_float32(directory):
    exact = chinese_clip.load(directory, rounding="none").model.state_dict()
    rounded = chinese_clip.load(directory, rounding="fp16").model.state_dict()
    kept = {name for name in exact if torch.equal(exact[name], rounded[name])}
    published = set(chinese_clip_names.to_modelscope({name: exact[name] for name in exact}))
    expected = {
        name
        for name in published
        if name in ("logit_scale", "visual.class_embedding", "visual.positional_embedding")
        or (name.startswith("visual.") and ".ln_" in name)
    }
    assert kept == set(chinese_clip_names.from_modelscope(dict.fromkeys(expected, torch.zeros(1))))


def test_positions_are_counted_though_no_file_holds_them(directory):
    net = chinese_clip.load(directory, rounding="none").model
    reference = ChineseCLIPModel(net.config)
    found, expected = dict(net.named_buffers()), dict(reference.named_buffers())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("vision_model_config.json", {"vision_layers": [3, 4, 6, 3]}, "ResNet vision tower"),
        ("vision_model_config.json", {"vision_width": None}, "lack vision_width"),
        ("vision_model_config.json", {"vision_haed_width": 32}, "hold vision_haed_width"),
        ("vision_model_config.json", {"vision_width": "wide"}, "vision_width is 'wide'"),
        ("vision_model_config.json", {"vision_patch_size": 0}, "vision_patch_size is 0"),
        ("vision_model_config.json", {"vision_head_width": 128}, "narrower than one head"),
        ("text_model_config.json", {"text_num_attention_heads": 5}, "not the sizes"),
        ("text_model_config.json", {"text_num_hidden_layers": 10**9}, "1000000000 layers; at most"),
        ("vision_model_config.json", {"vision_layers": 10**9}, "1000000000 layers; at most 1000"),
        ("text_model_config.json", {"text_hidden_act": "sine"}, "sine"),
        ("text_model_config.json", {"vocab_size": 100}, "of another model"),
    ],
)
def test_an_unusable_configuration_is_explained(directory, file, changes, message):
    edit(directory, file, **changes)
    with pytest.raises(ModelError, match=message):
        chinese_clip.load(directory, rounding="fp16")


def test_a_directory_of_another_task_is_refused_by_name(directory):
    edit(directory, "configuration.json", task="image-captioning", model={"type": "ofa"})
    with pytest.raises(
        ModelError, match="the operator 'captioner' takes; 'embedder' takes multi-modal"
    ):
        expect(directory, "embedder")


def test_an_unknown_task_is_told_with_the_known_ones(directory):
    edit(directory, "configuration.json", task="text-generation")
    with pytest.raises(ModelError, match=r"task is 'text-generation' .*visual-entailment of ofa"):
        identify(directory)


def test_clip_files_without_a_configuration_are_known(directory):
    (directory / "configuration.json").unlink()
    assert identify(directory).operator == "embedder"


def test_a_directory_with_nothing_known_says_what_it_should_hold(tmp_path):
    with pytest.raises(ModelError, match=r"neither configuration.json"):
        identify(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="model_type is 'bert'"):
        identify(tmp_path)
    with pytest.raises(ModelError, match="no such model directory"):
        identify(tmp_path / "absent")


def test_hugging_face_weights_are_checked_in_their_own_names(directory, tmp_path):
    net = chinese_clip.load(directory, rounding="none").model
    net.save_pretrained(tmp_path / "hf")
    shutil.copy(directory / "vocab.txt", tmp_path / "hf")
    state = checkpoint.load_state_dict(tmp_path / "hf")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 missing: visual_projection\.weight"):
        chinese_clip.load(tmp_path / "hf", rounding="none")
