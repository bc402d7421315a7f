"""Auxiliary heads: the small networks that a local loss looks through. `shape` is a feature's, without batch."""

from collections.abc import Sequence
from math import isqrt, prod
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kit.settings import Count, one_of, typed
from kit.shapes import Shape, Sizes, average, channels_first

AUX_NETS = ("0c1f", "0c2f", "1c1f", "1c2f", "1c3f", "2c2f")
"""InfoPro's auxiliary nets (ICLR 2021, appendix): so many convolutions, then so many fully connected layers."""


AuxNet = one_of("auxiliary net", lambda: AUX_NETS)
Widths = Annotated[Sequence[Count], Field(min_length=1, description="a list of widths of layers, such as (512, 1024)")]


class GlobalPool(nn.Module):
    """Average maps over their places and tokens over their positions: (B, *shape) -> (B, channels)."""

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = Shape(shape)

    def forward(self, h: Tensor) -> Tensor:
        return average(h, self.shape)


class ShrinkFlatten(nn.Module):
    """Shrink a map to at most `pool` × `pool` places by averaging, then flatten: (B, *shape) -> (B, num_features)."""

    def __init__(self, shape: Sequence[int], pool: int | None = None):
        super().__init__()
        self.shape, self.size = Shape(shape), None
        self.num_features = prod(shape)
        if pool is not None and self.shape.is_map:
            self.size = tuple(min(pool, size) for size in self.shape.size)
            self.num_features = self.shape.channels * prod(self.size)

    def forward(self, h: Tensor) -> Tensor:
        if self.size:
            h = F.adaptive_avg_pool2d(channels_first(h, self.shape), self.size)
        return h.flatten(1)


def dense_layers(*widths: int) -> nn.Sequential:
    """Return Linear-BN-ReLU for each step between `widths` but the last, which is a plain Linear."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-2], widths[1:-1], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


@typed
def projector(shape: Sizes, widths: Widths = (2048, 2048, 2048), pool: Count | None = None) -> nn.Sequential:
    """Return DeInfoReg's projector (B, *shape) -> (B, widths[-1]): flatten, then `dense_layers` (arXiv 2506.18193).

    `pool` averages a feature map down to at most pool × pool places first: at VGG's width, flattened maps make the
    first Linear of each projector by far the largest part of the network.
    """
    flatten = ShrinkFlatten(shape, pool)
    return nn.Sequential(flatten, *dense_layers(flatten.num_features, *widths))


@typed
def similarity_net(shape: Sizes) -> nn.Sequential:
    """Return PredSim's similarity net (B, *shape) -> (B, features): one 3×3 convolution, or a Linear, then flatten.

    Source: Nøkland & Eidnes, ICML 2019, section 2.1.
    """
    width = Shape(shape).channels
    layer = nn.Conv2d(width, width, 3, padding=1, bias=False) if convolves(shape) else nn.Linear(width, width, False)
    return nn.Sequential(layer, nn.Flatten())


def convolves(shape: Sequence[int]) -> bool:
    """Say whether features of that shape are maps that convolutions read as they are: (C, H, W)."""
    return Shape(shape).is_map and Shape(shape).axis == 0


class _Square(nn.Module):
    """Lay the last side² tokens out as a map: (B, T, D) -> (B, D, side, side)."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, h: Tensor) -> Tensor:
        return h[:, -self.side * self.side :].movedim(1, -1).unflatten(-1, (self.side, self.side))


class Decoder(nn.Module):
    """InfoPro's decoder: features (B, *shape) -> images (B, *image) in [0, 1] (ICLR 2021, appendix).

    Bilinear upsampling to the image's size, conv3×3 to 12 channels, BN, ReLU, conv3×3, sigmoid. Tokens first get
    a Linear to 12 channels, and the last that fill a square are laid out as a map, so a class token in front stays
    out; vectors get a Linear to 12 maps of a quarter of the image's side.
    """

    def __init__(self, shape: Sequence[int], image: Sequence[int]):
        super().__init__()
        channels, *self.size = image
        self.shape, self.lift = Shape(shape), nn.Sequential()
        width = self.shape.channels if self.shape.is_map else 12
        if len(shape) == 2:
            self.lift.extend([nn.Linear(self.shape.channels, 12), _Square(isqrt(shape[0]))])
        elif len(shape) == 1:
            small = [max(1, side // 4) for side in self.size]
            self.lift.extend([nn.Flatten(), nn.Linear(prod(shape), 12 * prod(small)), nn.Unflatten(1, (12, *small))])
        conv, norm = nn.Conv2d(width, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.paint = nn.Sequential(conv, norm, nn.ReLU(), nn.Conv2d(12, channels, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        maps = channels_first(h, self.shape) if self.shape.is_map else self.lift(h)
        maps = F.interpolate(maps, self.size, mode="bilinear", align_corners=True)
        return self.paint(maps).float().sigmoid()


@typed
def aux_net(kind: AuxNet, shape: Sizes, out: Count, widest: Count) -> nn.Sequential:
    """Return an auxiliary net (B, *shape) -> (B, out), e.g. `1c2f`: one convolution, two fully connected layers.

    Each 3×3 convolution halves the map and doubles the channels until they reach `widest`, the network's last width.
    Vectors and tokens have no places to convolve: tokens are averaged and a Linear of the same widths stands in.
    Source: InfoPro (ICLR 2021), appendix.
    """
    num_convs, num_linears = int(kind[0]), int(kind[2])
    convolve, channels = convolves(shape), Shape(shape).channels
    layers: list[nn.Module] = [] if convolve else [GlobalPool(shape)]
    for _ in range(num_convs):
        grows = channels < widest
        width = min(2 * channels, widest) if grows else channels
        if convolve:
            conv = nn.Conv2d(channels, width, 3, stride=2 if grows else 1, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        else:
            layers += [nn.Linear(channels, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        channels = width
    if convolve:
        layers.append(GlobalPool(shape))
    for _ in range(num_linears - 1):
        layers += [nn.Linear(channels, 128), nn.ReLU()]
        channels = 128
    return nn.Sequential(*layers, nn.Linear(channels, out))
