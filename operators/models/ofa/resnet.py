"""The first three stages of a ResNet with bottleneck blocks: what OFA sees an image with.

He et al. 2015, arXiv:1512.03385, with the stride in the 3 x 3 convolution. Every published depth
uses bottlenecks, the 18 and 34 layer ones too.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from operators.models.cpu import PackedConv2d, is_onednns

FEATURES = 1024  # channels that come out
PLANES = (64, 128, 256)  # of the three stages; a block puts out four times as many
EXPANSION = 4


class ResNet(nn.Module):
    """Turns pixels into a map of features, one for each 16 x 16 pixels."""

    def __init__(self, blocks: tuple[int, ...], drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.conv1: nn.Module = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(64)
        self.relu: nn.Module = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(64, PLANES[0], blocks[0], 1, drop_path_rate)
        self.layer2 = _stage(PLANES[0] * EXPANSION, PLANES[1], blocks[1], 2, drop_path_rate)
        self.layer3 = _stage(PLANES[1] * EXPANSION, PLANES[2], blocks[2], 2, drop_path_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Tensor) -> Tensor:
        """Sees.

        Shapes: B images, S pixels a side; pixels (B, 3, S, S); returns (B, 1024, S / 16, S / 16),
        rounded up.
        """
        x = pixels.contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, 64, S/4, S/4)
        features: Tensor = self.layer3(self.layer2(self.layer1(x)))  # (B, 1024, S/16, S/16)
        return features

    def fold_batch_norms(self) -> None:
        """Puts each batch norm into the convolution before it: faster, but not to be trained."""
        _fold(self, "conv1", "bn1")
        for module in self.modules():
            if isinstance(module, Bottleneck):
                for number in "123":
                    _fold(module, f"conv{number}", f"bn{number}")
                if module.downsample is not None:
                    _fold(module.downsample, "0", "1")
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def pack(self, dtype: torch.dtype) -> None:
        """Gives the convolutions to oneDNN, where the net is on a CPU, after their norms' folding.

        Args:
            dtype: of their arithmetic; one that oneDNN lacks here changes nothing.
        """
        first = cast(nn.Conv2d, self.conv1)
        if not is_onednns(first.weight, dtype):
            return
        self.conv1, self.relu = PackedConv2d(first, dtype, relu=True), nn.Identity()
        for stage in (self.layer1, self.layer2, self.layer3):
            for number, block in enumerate(list(stage)):
                stage[number] = PackedBottleneck(cast(Bottleneck, block), dtype)


class Bottleneck(nn.Module):
    """Narrows, looks around, widens, and adds the result to what came in."""

    def __init__(self, width_in: int, planes: int, stride: int, drop_path_rate: float) -> None:
        super().__init__()
        width_out = planes * EXPANSION
        self.conv1 = nn.Conv2d(width_in, planes, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, width_out, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width_out)
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path_rate)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or width_in != width_out:
            projection = nn.Conv2d(width_in, width_out, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(width_out))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (B, C, h, w); returns (B, 4 planes, h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.drop_path(self.bn3(self.conv3(y)))
        residual = x if self.downsample is None else self.downsample(x)
        added: Tensor = self.relu(y + residual)
        return added


class PackedBottleneck(nn.Module):
    """A bottleneck for inference on a CPU: its ReLUs and its sum are done within convolutions."""

    def __init__(self, block: Bottleneck, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1 = PackedConv2d(block.conv1, dtype, relu=True)
        self.conv2 = PackedConv2d(block.conv2, dtype, relu=True)
        self.conv3 = PackedConv2d(block.conv3, dtype)
        self.downsample: nn.Module | None = None
        if block.downsample is not None:
            self.downsample = PackedConv2d(cast(nn.Conv2d, block.downsample[0]), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: as of the bottleneck; x is written over."""
        y = self.conv2(self.conv1(x))
        return self.conv3.add_to(x if self.downsample is None else self.downsample(x), y)


class DropPath(nn.Module):
    """Leaves out a residual branch for some samples in training (arXiv:1605.07648)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (B, …), returned with whole samples zeroed and the others scaled up."""
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


def drop_path_rates(highest: float, depth: int) -> list[float]:
    """Rates of `depth` layers, rising from 0 to `highest`."""
    return [highest * number / max(depth - 1, 1) for number in range(depth)]


def _stage(
    width_in: int, planes: int, blocks: int, stride: int, drop_path_rate: float
) -> nn.Sequential:
    rates = drop_path_rates(drop_path_rate, blocks)
    widths = [width_in] + [planes * EXPANSION] * (blocks - 1)
    strides = [stride] + [1] * (blocks - 1)
    return nn.Sequential(
        *(Bottleneck(widths[i], planes, strides[i], rates[i]) for i in range(blocks))
    )


def _fold(parent: nn.Module, convolution: str, norm: str) -> None:
    conv, batch_norm = getattr(parent, convolution), getattr(parent, norm)
    if isinstance(conv, nn.Conv2d) and isinstance(batch_norm, nn.BatchNorm2d):
        setattr(parent, convolution, fuse_conv_bn_eval(conv.eval(), batch_norm.eval()))
        setattr(parent, norm, nn.Identity())
