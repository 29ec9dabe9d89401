"""The net: names and sizes, how it is loaded, and that it computes what the published one does."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from operators.models.checkpoint import load_state_dict
from operators.models.ofa import positions
from operators.models.ofa.config import RESNETS, OFAConfig
from operators.models.ofa.decoder import Decoder
from operators.models.ofa.model import OFAModel, load
from operators.models.ofa.reader import Reader
from operators.models.ofa.resnet import ResNet
from schemas.errors import ModelError
from tests import tiny

SMALL = OFAConfig(
    vocab_size=40,
    d_model=32,
    encoder_layers=2,
    encoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_layers=1,
    decoder_attention_heads=2,
    decoder_ffn_dim=40,
    max_position_embeddings=30,
    token_bucket_size=8,
    image_bucket_size=4,
    resnet_layers=(1, 1, 1),
    image_codes=False,
)


def small_net(seed: int = 0, **changes) -> OFAModel:
    torch.manual_seed(seed)
    net = OFAModel(replace(SMALL, **changes)).eval()
    for parameter in net.parameters():  # far enough from the start that every part matters
        parameter.data += torch.randn_like(parameter) * 0.1
    return net


def write(net: OFAModel, folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**vars(net.config), **changes}))
    torch.save(net.published_state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def questions():
    return torch.tensor([[0, 9, 8, 7, 6, 2], [0, 5, 2, 1, 1, 1], [0, 30, 31, 32, 2, 1]])


@pytest.fixture(scope="module")
def answers():
    return torch.tensor([[0, 4, 5, 6], [0, 9, 1, 1], [0, 7, 7, 1]])


def test_the_33m_recipe_has_the_parameters_of_the_published_model():
    net = load(tiny.checkpoint("ofa_caption_tiny"))
    assert sum(parameter.numel() for parameter in net.parameters()) == 33_488_336


@pytest.mark.parametrize("recipe", ["ofa_caption_mini", "ofa_caption_tiny"])
def test_the_encoder_computes_what_the_published_one_does(recipe):
    golden = np.load(tiny.DATA / "golden" / f"{recipe}.npz")
    reader = Reader.load(tiny.checkpoint(recipe), precision="float32")
    with reader.arithmetic():
        [features] = reader.see([Image.open(tiny.photographs()[0])])
        memory = reader.net.encode(features, torch.from_numpy(golden["input_ids"]))
    published = golden["encoder_last_hidden_state_sub"]
    # float32, other order of sums, and features of up to 4e6 before they are normed
    np.testing.assert_allclose(memory.states[:, ::16], published, atol=3e-5)


def test_the_bucket_tables_are_those_of_the_published_checkpoints():
    with np.load(tiny.RECIPES / "common" / "ofa_buffers.npz") as published:
        tokens = published["decoder.token_rp_bucket"]
        cells = published["encoder.image_rp_bucket"]
    grid = positions.cell_positions(42, 42, 42, torch.device("cpu"))
    assert np.array_equal(positions.token_buckets(1024, 256), tokens)
    assert np.array_equal(positions.cell_buckets(grid, 42), cells[1:, 1:])


def test_a_smaller_map_uses_the_buckets_of_its_corner_of_the_grid():
    whole = positions.cell_buckets(positions.cell_positions(6, 6, 6, torch.device("cpu")), 6)
    corner = positions.cell_positions(2, 3, 6, torch.device("cpu"))
    assert torch.equal(positions.cell_buckets(corner, 6), whole[corner - 1][:, corner - 1])


@pytest.mark.parametrize("depth", RESNETS)
def test_every_published_resnet_depth_can_be_built(depth):
    blocks = RESNETS[depth]
    with torch.device("meta"):
        net = ResNet(blocks)
    assert [len(stage) for stage in (net.layer1, net.layer2, net.layer3)] == list(blocks)


@pytest.mark.parametrize("side", [16, 33, 48, 72])
def test_a_feature_stands_for_sixteen_pixels(side):
    net = small_net()
    assert net.encode_image_features(torch.zeros(1, 3, side, side)).shape == (
        (1, 1024, math.ceil(side / 16), math.ceil(side / 16))
    )


def test_folding_the_batch_norms_changes_nothing_but_the_speed(pixels):
    net = small_net()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        before = net.encode_image_features(pixels)
        net.encoder.embed_images.fold_batch_norms()
        torch.testing.assert_close(net.encode_image_features(pixels), before, atol=1e-3, rtol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())


@torch.no_grad()
def test_padding_does_not_change_a_row(pixels, questions, answers):
    net = small_net()
    together = net(pixels, questions, answers)
    for row, (question, answer) in enumerate([(6, 4), (3, 2), (5, 3)]):
        alone = net(pixels[row, None], questions[row, None, :question], answers[row, None, :answer])
        torch.testing.assert_close(together[row, :answer], alone[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_token_does_not_see_those_after_it(pixels, questions, answers):
    net = small_net()
    other = answers.clone()
    other[:, 2:] = 20
    first, second = (net(pixels, questions, tokens)[:, :2] for tokens in (answers, other))
    torch.testing.assert_close(first, second)


@torch.no_grad()
def test_reading_token_by_token_equals_reading_the_whole(pixels, questions, answers):
    net = small_net()
    memory = net.encode(net.encode_image_features(pixels), questions)
    whole = net.decoder(memory, answers)
    cache = net.decoder.start(memory, length=4)
    steps = [net.decoder.read(answers[:, i, None], cache) for i in range(4)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_beams_of_an_image_share_its_keys_and_follow_their_parents(pixels, questions):
    net = small_net()
    memory = net.encode(net.encode_image_features(pixels), questions)
    cache = net.decoder.start(memory, length=3)
    net.decoder.read(torch.zeros(3, 1, dtype=torch.int64), cache)
    cache.follow(torch.tensor([0, 0, 2, 2]))  # two beams an image; the second image is done
    net.decoder.read(torch.tensor([[4], [5], [6], [7]]), cache)
    cache.follow(torch.tensor([1, 0, 3, 3]))
    states = net.decoder.read(torch.tensor([[8], [9], [10], [11]]), cache)
    texts = torch.tensor([[0, 5, 8], [0, 4, 9], [0, 7, 10], [0, 7, 11]])
    rows = [0, 0, 2, 2]
    whole = net.encode(net.encode_image_features(pixels[rows]), questions[rows])
    expected = net.decoder(whole, texts)[:, -1:]
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)


def test_features_can_be_computed_once_for_several_questions(pixels, questions, answers):
    net = small_net()
    with torch.no_grad():
        features = net.encode_image_features(pixels)
        apart = net.answer(features, questions, answers)
        torch.testing.assert_close(apart, net(pixels, questions, answers))


def test_biases_kept_for_inference_are_forgotten_when_weights_change(pixels, questions, answers):
    net = small_net()
    with torch.no_grad():
        before = net(pixels, questions, answers)
        net.train().encoder.image_rel_pos_table_list[0].weight.add_(
            torch.randn_like(net.encoder.image_rel_pos_table_list[0].weight)
        )
        assert not torch.allclose(net.eval()(pixels, questions, answers), before)


def test_every_parameter_learns(pixels, questions, answers):
    net = small_net(dropout=0.1, encoder_drop_path_rate=0.1, resnet_drop_path_rate=0.1).train()
    logits = net(pixels, questions, answers[:, :-1])
    functional.cross_entropy(logits.transpose(1, 2), answers[:, 1:], ignore_index=1).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_a_few_steps_lower_the_loss(pixels, questions, answers):
    net = small_net(dropout=0.0).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        logits = net(pixels, questions, answers[:, :-1])
        loss = functional.cross_entropy(logits.transpose(1, 2), answers[:, 1:], ignore_index=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_codes": True},
        {"share_attn_bias": True},
        {"share_decoder_input_output_embed": False},
        {"normformer": False, "layernorm_embedding": False, "patch_layernorm_embedding": False},
        {"encoder_normalize_before": False, "decoder_normalize_before": False},
        {"entangle_position_embedding": True, "scale_embedding": True},
        {"interpolate_position": True, "orig_patch_image_size": 32},
        {"use_gamma_feature": True, "gamma": 0.5, "exclude_mlp": False},
        {"resnet_layers": None, "resnet_type": "resnet18", "add_type_embedding": False},
    ],
)
@torch.no_grad()
def test_what_is_written_is_what_is_loaded(tmp_path, pixels, questions, answers, changes):
    net = small_net(**changes)
    loaded = load(write(net, tmp_path / "net"))
    assert loaded.config == net.config
    torch.testing.assert_close(
        loaded(pixels, questions, answers), net(pixels, questions, answers), atol=0, rtol=0
    )
    weights = load_state_dict(tmp_path / "net")
    assert "decoder.embed_tokens.weight" not in weights
    assert not any("bucket" in name for name in weights)


def test_tied_tensors_stay_one_after_loading(tmp_path):
    net = load(write(small_net(), tmp_path / "net"))
    assert net.decoder.output_projection.weight is net.encoder.embed_tokens.weight
    assert net.decoder.embed_tokens is net.encoder.embed_tokens


def test_half_precision_files_are_computed_in_float32(tmp_path, pixels, questions, answers):
    net = small_net()
    folder = write(net, tmp_path / "net")
    (folder / "pytorch_model.bin").unlink()
    halves = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in net.published_state_dict().items()
    }
    save_file(halves, folder / "model.safetensors")
    loaded = load(folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(
        loaded(pixels, questions, answers), net(pixels, questions, answers), atol=0.05, rtol=0.05
    )


def damaged(tmp_path, change):
    folder = write(small_net(), tmp_path / "net")
    weights = load_state_dict(folder)
    change(weights)
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def test_a_missing_tensor_is_named(tmp_path):
    folder = damaged(tmp_path, lambda w: w.pop("encoder.layers.1.fc1.bias"))
    with pytest.raises(ModelError, match=r"1 missing: encoder\.layers\.1\.fc1\.bias"):
        load(folder)


def test_a_tensor_left_over_is_named(tmp_path):
    folder = damaged(tmp_path, lambda w: w.update(extra=torch.ones(1)))
    with pytest.raises(ModelError, match="1 left over: extra"):
        load(folder)


def test_a_misshapen_tensor_is_named(tmp_path):
    name = "decoder.layers.0.fc2.weight"
    folder = damaged(tmp_path, lambda w: w.update({name: torch.ones(2, 2)}))
    with pytest.raises(ModelError, match=r"fc2\.weight \(2, 2\) instead of \(32, 40\)"):
        load(folder)


def test_a_config_of_another_size_lists_every_kind_of_misfit(tmp_path):
    folder = write(small_net(), tmp_path / "net", encoder_layers=1, decoder_layers=2, d_model=64)
    with pytest.raises(ModelError, match=r"(?s)missing: .*left over: .*misshapen: .* and \d+ more"):
        load(folder)


def test_tied_tensors_that_differ_are_refused(tmp_path):
    name = "decoder.output_projection.weight"
    folder = damaged(tmp_path, lambda w: w.update({name: torch.ones(40, 32)}))
    with pytest.raises(ModelError, match=r"output_projection\.weight differs"):
        load(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("d_model", 0, "'d_model' is 0, not a whole number from 1 to 200000"),
        ("vocab_size", "many", "'vocab_size' is 'many'"),
        ("vocab_size", 10**12, "'vocab_size' is 1000000000000, not a whole number"),
        ("encoder_layers", 10**9, "'encoder_layers' is 1000000000, not a whole number from 1 to"),
        ("dropout", "x", "'dropout' is 'x', not a number from 0 on"),
        ("dropout", -0.1, "'dropout' is -0.1, not a number from 0 on"),
        ("decoder_layerdrop", 1.5, "'decoder_layerdrop' is 1.5, not a number from 0 to 1"),
        ("attn_scale_factor", 0, "'attn_scale_factor' is 0, but scores are divided by it"),
        ("normformer", "yes", "'normformer' is 'yes', not true or false"),
        ("resnet_type", ["resnet50"], "not one of resnet18, resnet34"),
        ("pad_token_id", 100, "'pad_token_id' is 100, but 'vocab_size' 40"),
        ("encoder_attention_heads", 5, "'d_model' 32 is no multiple of 5 encoder heads"),
        ("resnet_layers", [1, 1], "resnet_layers"),
        ("activation_function", "tanh", "not one of gelu, relu"),
        ("use_ofasys", True, "OFA-Sys"),
        ("model_type", "bart", "not 'ofa'"),
    ],
)
def test_a_config_no_net_can_be_built_from_is_explained(tmp_path, key, value, message):
    folder = write(small_net(), tmp_path / "net", **{key: value})
    with pytest.raises(ModelError, match=rf"config\.json: .*{message}"):
        load(folder)


def test_the_decoder_without_image_codes_has_no_tables_for_them():
    names = {name for name, _ in Decoder(SMALL, torch.nn.Embedding(40, 32)).named_parameters()}
    assert not any("image" in name or "code" in name for name in names)
