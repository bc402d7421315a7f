"""Auxiliary heads: the small networks that a block's local loss looks through."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AUX_NETS = ("0c1f", "0c2f", "1c1f", "1c2f", "1c3f", "2c2f")
"""InfoPro's auxiliary nets (ICLR 2021, appendix): so many convolutions, then so many fully connected layers."""


def is_channels_last(shape: Sequence[int]) -> bool:
    """Say whether a feature map of `shape` (without batch) is (H, W, C), as Swin's are, and not (C, H, W)."""
    return len(shape) == 3 and shape[0] == shape[1] != shape[2]


def num_channels(shape: Sequence[int]) -> int:
    """Return the width of features of `shape`, without batch: (D,), tokens (T, D), maps (C, H, W) or (H, W, C)."""
    return shape[0] if len(shape) == 3 and not is_channels_last(shape) else shape[-1]


def on(device: torch.device, module: nn.Module) -> nn.Module:
    """Return `module`, moved to `device` unless all of it is there: tensors without data refuse even an idle move."""
    return module if all(p.device == device for p in module.parameters()) else module.to(device)


class GlobalPool(nn.Module):
    """Average maps over their places and tokens over their positions: (B, …) -> (B, channels)."""

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        places = range(1, len(shape) + 1)
        channel = 1 if len(shape) == 3 and not is_channels_last(shape) else len(shape)
        self.dims = tuple(d for d in places if d != channel)

    def forward(self, h: Tensor) -> Tensor:
        return h.mean(dim=self.dims) if self.dims else h


class ShrinkFlatten(nn.Module):
    """Shrink a feature map to at most `pool` × `pool` places by averaging, then flatten: (B, …) -> (B, features)."""

    def __init__(self, shape: Sequence[int], pool: int | None = None):
        super().__init__()
        self.channels_last = is_channels_last(shape)
        self.size = None
        self.num_features = prod(shape)
        if pool is not None and len(shape) == 3:
            height, width = shape[:2] if self.channels_last else shape[1:]
            self.size = (min(pool, height), min(pool, width))
            self.num_features = num_channels(shape) * prod(self.size)

    def forward(self, h: Tensor) -> Tensor:
        if self.size:
            h = F.adaptive_avg_pool2d(h.movedim(-1, 1) if self.channels_last else h, self.size)
        return h.flatten(1)


def mlp(*widths: int) -> nn.Sequential:
    """Return Linear-BN-ReLU for each step between `widths` but the last, which is a plain Linear."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-2], widths[1:-1], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def projector(
    shape: Sequence[int], widths: Sequence[int] = (2048, 2048, 2048), pool: int | None = None
) -> nn.Sequential:
    """Return DeInfoReg's projector (B, *shape) -> (B, widths[-1]): flatten, then `mlp` (arXiv 2506.18193).

    `pool` averages a feature map down to at most pool × pool places first: at VGG's width, flattened maps make the
    first Linear of each projector by far the largest part of the network.
    """
    flatten = ShrinkFlatten(shape, pool)
    return nn.Sequential(flatten, *mlp(flatten.num_features, *widths))


def similarity_net(shape: Sequence[int]) -> nn.Sequential:
    """Return PredSim's similarity net (B, *shape) -> (B, features): one 3×3 convolution, or a Linear, then flatten.

    Source: Nøkland & Eidnes, ICML 2019, section 2.1.
    """
    width = num_channels(shape)
    is_map = len(shape) == 3 and not is_channels_last(shape)
    layer = nn.Conv2d(width, width, 3, padding=1, bias=False) if is_map else nn.Linear(width, width, bias=False)
    return nn.Sequential(layer, nn.Flatten())


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
        self.channels_last = is_channels_last(shape)
        self.lift, width = nn.Sequential(), num_channels(shape)
        if len(shape) == 2:
            self.lift.extend([nn.Linear(width, 12), _Square(isqrt(shape[0]))])
            width = 12
        elif len(shape) == 1:
            small, width = [max(1, side // 4) for side in self.size], 12
            self.lift.extend([nn.Flatten(), nn.Linear(prod(shape), 12 * prod(small)), nn.Unflatten(1, (12, *small))])
        conv, norm = nn.Conv2d(width, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.paint = nn.Sequential(conv, norm, nn.ReLU(), nn.Conv2d(12, channels, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        maps = self.lift(h.movedim(-1, 1) if self.channels_last else h)
        maps = F.interpolate(maps, self.size, mode="bilinear", align_corners=True)
        return self.paint(maps).float().sigmoid()


def aux_net(kind: str, shape: Sequence[int], out: int, widest: int) -> nn.Sequential:
    """Return an auxiliary net (B, *shape) -> (B, out), e.g. `1c2f`: one convolution, two fully connected layers.

    Each 3×3 convolution halves the map and doubles the channels until they reach `widest`, the network's last width.
    Vectors and tokens have no places to convolve: tokens are averaged and a Linear of the same widths stands in.
    Source: InfoPro (ICLR 2021), appendix.
    """
    if kind not in AUX_NETS:
        raise ValueError(f"unknown auxiliary net {kind!r}: choose one of {', '.join(AUX_NETS)}")
    num_convs, num_linears = int(kind[0]), int(kind[2])
    is_map = len(shape) == 3 and not is_channels_last(shape)
    channels = num_channels(shape)
    layers: list[nn.Module] = [] if is_map else [GlobalPool(shape)]
    for _ in range(num_convs):
        grows = channels < widest
        width = min(2 * channels, widest) if grows else channels
        if is_map:
            conv = nn.Conv2d(channels, width, 3, stride=2 if grows else 1, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        else:
            layers += [nn.Linear(channels, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        channels = width
    if is_map:
        layers.append(GlobalPool(shape))
    for _ in range(num_linears - 1):
        layers += [nn.Linear(channels, 128), nn.ReLU()]
        channels = 128
    return nn.Sequential(*layers, nn.Linear(channels, out))
