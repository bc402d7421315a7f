"""The networks made for CIFAR's 32×32 images: ResNet, Wide ResNet and DenseNet-BC, three stages each."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.modules import fan_out_normal
from kit.settings import Count, Decay

Init = Literal["fan-out", "pytorch"]
"""First weights of convolutions: normal, variance 2 / (places × outputs), as He et al., or what PyTorch gives."""


def resnet(
    blocks: int, in_channels: int, num_classes: int, width: float, image_size: int,
    shortcut: Literal["A", "conv"] = "A", init: Init = "fan-out", dropout: Decay = 0.0,
) -> nn.Sequential:  # fmt: skip
    """He et al. (2016), section 4.2: a stem, three stages of 16, 32 and 64 channels with `blocks` blocks, a linear.

    `shortcut` where sizes change: "A", He's, without parameters, or "conv", 1×1 and BN, as InfoPro and ContSup train.
    `init`: FDG trains PyTorch's own first weights. `dropout` is before each block's second convolution, as InfoPro's.
    """
    widths = [max(1, round(planned * width)) for planned in (16, 32, 64)]
    layers = OrderedDict(conv1=nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False))
    layers |= OrderedDict(bn1=nn.BatchNorm2d(widths[0]), relu=nn.ReLU())
    layers.update(_stages(partial(_BasicBlock, shortcut=shortcut, dropout=dropout), widths[0], widths, blocks))
    return _finished(layers, widths[-1], num_classes, init)


def wide_resnet(
    in_channels: int, num_classes: int, width: float, image_size: int, widen: Count = 10, bias: bool = False,
    stride: Literal["first", "second"] = "first", shortcut: Literal["active", "raw"] = "active", init: Init = "fan-out",
    dropout: Decay = 0.0,
) -> nn.Sequential:  # fmt: skip
    """WRN-28-`widen` (Zagoruyko & Komodakis, BMVC 2016): a stem of 16, stages of 16, 32, 64 × `widen` with 4 blocks.

    FDG trains it with a `bias` in every convolution, the `stride` in a block's second one, and a `shortcut` that reads
    the block's input "raw", not the first activation. `dropout` stands before a block's second convolution (ibid.).
    """
    stem, *widths = (max(1, round(planned * width)) for planned in (16, 16 * widen, 32 * widen, 64 * widen))
    layers = OrderedDict(conv1=nn.Conv2d(in_channels, stem, 3, padding=1, bias=bias))
    block = partial(_PreActivationBlock, bias=bias, where=stride, shortcut=shortcut, dropout=dropout)
    layers.update(_stages(block, stem, widths, 4))
    layers |= OrderedDict(bn=nn.BatchNorm2d(widths[-1]), relu=nn.ReLU())
    return _finished(layers, widths[-1], num_classes, init)


def densenet_bc(in_channels: int, num_classes: int, width: float, image_size: int, growth: Count = 12) -> nn.Sequential:
    """DenseNet-BC-100-`growth` (Huang et al., CVPR 2017): three stages of 16 layers, each adding `growth` channels.

    Unlike in torchvision's, a layer hands on the joined maps, so that there is a cut point behind each.
    """
    growth = max(1, round(growth * width))
    channels = 2 * growth
    layers = OrderedDict(conv1=nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
    for number in (1, 2, 3):
        layers[f"dense{number}"] = nn.Sequential(*(_DenseLayer(channels + i * growth, growth) for i in range(16)))
        channels += 16 * growth
        if number < 3:  # halve the channels and the map
            parts = OrderedDict(bn=nn.BatchNorm2d(channels), relu=nn.ReLU())
            parts |= OrderedDict(conv=nn.Conv2d(channels, channels // 2, 1, bias=False), pool=nn.AvgPool2d(2))
            layers[f"transition{number}"] = nn.Sequential(parts)
            channels //= 2
    return _finished(layers | OrderedDict(bn=nn.BatchNorm2d(channels), relu=nn.ReLU()), channels, num_classes)


def _stages(block: Callable[..., nn.Module], channels: int, widths: Sequence[int], count: int) -> Iterator[tuple]:
    """Yield layer1 … layer3 by name, `count` blocks each; the second and the third halve the map."""
    for number, out in enumerate(widths, start=1):
        first = block(channels, out, 1 if number == 1 else 2)
        yield f"layer{number}", nn.Sequential(first, *(block(out, out, 1) for _ in range(count - 1)))
        channels = out


def _finished(layers: OrderedDict, channels: int, num_classes: int, init: Init = "fan-out") -> nn.Sequential:
    """Return the network with average pooling and a linear classifier."""
    layers |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, num_classes))
    model = nn.Sequential(layers)
    return fan_out_normal(model) if init == "fan-out" else model


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: strided and padded with zero channels (option A), or 1×1 and BN."""

    def __init__(self, channels: int, out: int, stride: int, shortcut: str, dropout: float):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.dropout = nn.Dropout(dropout) if dropout else None
        extra = out - channels
        self.stride, self.padding, self.shortcut = stride, (0, 0, 0, 0, extra // 2, extra - extra // 2), None
        if shortcut == "conv" and (stride != 1 or extra):
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out if self.dropout is None else self.dropout(out)))
        if self.shortcut is not None:
            return F.relu(out + self.shortcut(x))
        return F.relu(out + F.pad(x[:, :, :: self.stride, :: self.stride], self.padding))


class _PreActivationBlock(nn.Module):
    """BN-ReLU-conv3×3 twice; the shortcut is a 1×1 convolution where the sizes differ."""

    def __init__(self, channels: int, out: int, stride: int, bias: bool, where: str, shortcut: str, dropout: float):
        super().__init__()
        first, second = (stride, 1) if where == "first" else (1, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, first, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(out)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.conv2 = nn.Conv2d(out, out, 3, second, padding=1, bias=bias)
        differ, self.raw = channels != out or stride != 1, shortcut == "raw"
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=bias) if differ else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(x if self.raw else active)
        out = F.relu(self.bn2(self.conv1(active)))
        return shortcut + self.conv2(out if self.dropout is None else self.dropout(out))


class _DenseLayer(nn.Module):
    """BN-ReLU-conv1×1 to four times `growth`, BN-ReLU-conv3×3 to `growth` new channels, joined to the old."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(new)))], 1)
