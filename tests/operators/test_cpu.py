import pytest
import torch
from torch import nn
from torch.nn import functional

from operators.models.cpu import PackedConv2d, PackedLinear, linear, pack, rows_at_once


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(96, 40), nn.GELU(), nn.Linear(40, 7, bias=False))
    return nn.ModuleDict({"layers": layers, "norm": nn.LayerNorm(7)}).eval()


def answer(net, x):
    with torch.inference_mode():
        return net["norm"](net["layers"](x))


@pytest.mark.parametrize("shape", [(1, 96), (3, 5, 96), (0, 96)])
def test_a_packed_net_computes_what_it_did(net, shape):
    x = torch.randn(shape)
    before = answer(net, x)
    pack(net, torch.float32)
    assert isinstance(net["layers"][0], PackedLinear)
    torch.testing.assert_close(answer(net, x), before, atol=1e-5, rtol=0)  # other order of sums


def test_a_net_packed_in_bfloat16_takes_float32_and_is_near(net):
    x = torch.randn(4, 96)
    before = answer(net, x)
    pack(net, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = answer(net, x).float()
    torch.testing.assert_close(found, before, atol=0.1, rtol=0)  # 8 bits, after a norm


def test_a_type_that_onednn_lacks_leaves_the_net_as_it_was(net):
    pack(net, torch.float16)
    assert isinstance(net["layers"][0], nn.Linear)


def test_a_loose_matrix_is_multiplied_alike_with_gradients_and_without():
    x, weight, bias = torch.randn(2, 3, 8), torch.randn(5, 8, requires_grad=True), torch.randn(5)
    expected = functional.linear(x, weight, bias)
    learning = linear(x, weight, bias)
    learning.sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias), expected, atol=1e-5, rtol=0)


def test_so_many_rows_go_at_once_that_no_tensor_passes_32_mb():
    cpu = torch.device("cpu")
    assert rows_at_once(cpu, 577 * 4096) == 3  # of ViT-L/14 at 336 pixels: 28 MB
    assert rows_at_once(cpu, 10**9) == 1


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_packed_convolution_adds_and_takes_the_relu_of_any_batch(rows):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3, stride=2, padding=1)
    packed = PackedConv2d(conv, torch.float32)
    with torch.inference_mode():
        packed(torch.randn(2, 8, 9, 9))  # the shape that its weights are packed for
        x = torch.randn(rows, 8, 9, 9)
        residual = torch.randn(rows, 6, 5, 5)
        expected = conv(x)
        torch.testing.assert_close(packed(x), expected, atol=1e-5, rtol=0)  # other order of sums
        found = packed.add_to(residual.clone(), x)
        torch.testing.assert_close(found, (residual + expected).relu(), atol=1e-5, rtol=0)
