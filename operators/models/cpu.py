"""What makes nets fast on a CPU: oneDNN's layers, and memory that is kept.

PyTorch has oneDNN inside, but gives float32 `nn.Linear` to MKL, which leaves half of an AMD
processor idle: two cores of a Zen 5 EPYC reach 215 GFLOP/s with MKL and 480 with oneDNN.
`torch.compile` takes the same way where it freezes weights, but needs a C++ compiler at hand.

glibc takes large tensors from the system and gives them back, each time; filling fresh pages costs
more than an activation does (of ViT-L/14 at 336 pixels a quarter of the feed-forward). So it is
told to keep what is freed, and tensors are held to the size that it can keep.
"""

import ctypes
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn import functional

PIECE_BYTES = 32 * 2**20  # of one tensor; the most that glibc allows for M_MMAP_THRESHOLD
KEPT_BYTES = 256 * 2**20  # free memory that a process keeps; some tensors of a layer
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of mallopt's settings, in malloc.h


class PackedLinear(nn.Module):
    """Does what an `nn.Linear` does, by weights in oneDNN's own order; without gradients."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype))
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (…, inputs) of any floating type; returns (…, outputs) of the weights'."""
        return _onednn(x.to(self.dtype), self.weight, self.bias)


class PackedConv2d(nn.Module):
    """Does what an `nn.Conv2d` does, by weights in oneDNN's own order; without gradients.

    They are put in the order that suits the first input. Others of its size are as fast, and all
    are computed. The plain weights keep oneDNN from its best kernels: with them two thirds as fast.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, *, relu: bool = False) -> None:
        super().__init__()
        self.dtype = dtype
        self.then = "relu" if relu else "none"
        self.weight = conv.weight.detach().to(dtype)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.is_packed = False

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: as of the convolution, x of any floating type; the ReLU is taken where asked."""
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(
            *self._operands(x), *self.geometry, self.then, [], ""
        )
        return convolved

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Adds the convolution of x to the residual, in place, and takes the ReLU of the sum."""
        added: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            residual, *self._operands(x), *self.geometry, "add", 1.0, "relu", [], ""
        )
        return added

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if not self.is_packed:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self.weight = reorder(self.weight, *self.geometry, list(x.shape))
            self.is_packed = True
        return x.to(self.dtype), self.weight, self.bias


def pack(net: nn.Module, dtype: torch.dtype) -> None:
    """Puts `PackedLinear` in the place of each `nn.Linear`, where the net is on a CPU.

    After it the net is fit for inference only, and has no state dict that anything could read.

    Args:
        net: with its weights, on the device where it is to run.
        dtype: of the linears' weights and arithmetic; one that oneDNN lacks here changes nothing.
    """
    _keep_memory()
    parents = [part for part in net.modules() if not isinstance(part, nn.Linear)]
    for parent in parents:  # and no list of the linears, so that each is gone when it is packed
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and is_onednns(child.weight, dtype):
                setattr(parent, name, PackedLinear(child, dtype))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Does what `functional.linear` does, by oneDNN where no gradient is asked for.

    For a matrix that is not of an `nn.Linear`, such as a word table that also scores words.

    Shapes: x (…, inputs); weight (outputs, inputs); bias (outputs,); returns (…, outputs).
    """
    if torch.is_grad_enabled() or not is_onednns(weight, weight.dtype):
        return functional.linear(x, weight, bias)
    return _onednn(x, weight, bias)


def rows_at_once(device: torch.device, row_values: int) -> int:
    """How many rows go through a net at once without ever filling fresh pages.

    Args:
        device: where the net is; on a GPU there is no such bound.
        row_values: float32 numbers of a row in the net's largest tensor.
    """
    return max(1, PIECE_BYTES // (4 * row_values)) if device.type == "cpu" else 2**20


def _keep_memory() -> None:
    """Has glibc keep freed memory for the next tensor; other systems are left as they are."""
    with suppress(AttributeError):  # no mallopt
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, PIECE_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def is_onednns(weight: Tensor, dtype: torch.dtype) -> bool:
    """Tells whether oneDNN computes with such a weight here, in such a type."""
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type != "cpu" or not is_there:
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
