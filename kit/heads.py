"""Auxiliary heads: the small networks that a local loss looks through. `shape` is a feature's, without batch."""

from collections.abc import Sequence
from math import ceil, isqrt, prod
from typing import Annotated, Literal, cast

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kit.modules import fan_out_normal
from kit.settings import Count, Positive, one_of, typed
from kit.shapes import Shape, Sides, Sizes, average, channels_first

AUX_NETS = ("0c1f", "0c2f", "1c1f", "1c2f", "1c3f", "2c2f", "mlp", "mlp-sr", "cnn")
"""InfoPro's auxiliary nets (ICLR 2021, appendix): so many convolutions, then so many fully connected layers; and DGL's
(ICML 2020): after pooling to 2×2 places, three layers, alone or behind three 1×1 convolutions, or behind two of 3×3."""

Init = Literal["pytorch", "fan-out"]
"""First weights of a head's convolutions: PyTorch's, or normal with variance 2 / (places × outputs), as InfoPro's."""

AuxNet = Annotated[str, one_of("auxiliary net", lambda: AUX_NETS)]
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
        self.shape, self.num_features = Shape(shape), prod(shape)
        self.size: Sides | None = None
        if pool is not None and self.shape.is_map:
            self.size = cast(Sides, tuple(min(pool, size) for size in self.shape.size))
            self.num_features = self.shape.channels * prod(self.size)

    def forward(self, h: Tensor) -> Tensor:
        if self.size:
            h = F.adaptive_avg_pool2d(channels_first(h, self.shape), self.size)
        return h.flatten(1)


def dense_layers(*widths: int, norm: bool = True) -> nn.Sequential:
    """Return Linear-BN-ReLU for each step between `widths` but the last, a plain Linear; BN only with `norm`."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-2], widths[1:-1], strict=True):
        layers += [nn.Linear(fan_in, fan_out), *([nn.BatchNorm1d(fan_out)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


@typed
def projector(
    shape: Sizes, widths: Widths = (2048, 2048, 2048), pool: Count | None = None, norm: bool = True
) -> nn.Sequential:
    """Return DeInfoReg's projector (B, *shape) -> (B, widths[-1]): flatten, then `dense_layers` (arXiv 2506.18193).

    `pool` averages a feature map down to at most pool × pool places first: at VGG's width, flattened maps make the
    first Linear of each projector by far the largest part of the network.
    """
    flatten = ShrinkFlatten(shape, pool)
    return nn.Sequential(flatten, *dense_layers(flatten.num_features, *widths, norm=norm))


def places_classifier(shape: Sequence[int], num_classes: int, most: int = 4096) -> nn.Sequential:
    """Return PredSim's classifier (B, *shape) -> (B, num_classes): average pool, flatten, Linear with zero weights.

    Rows and columns of a map are halved in turn until at most `most` features are left (Nøkland & Eidnes' code).
    """
    flatten, features = nn.Sequential(nn.Flatten()), prod(shape)
    if convolves(shape):
        (channels, *size), sides, kernel, axis = shape, shape[1:], [1, 1], 0
        while prod(size) * channels > most and kernel[axis] < sides[axis]:
            kernel[axis] *= 2
            size[axis], axis = ceil(sides[axis] / kernel[axis]), 1 - axis
        padding = tuple(k * (n - side // k) // 2 for k, n, side in zip(kernel, size, sides, strict=True))
        flatten.insert(0, nn.AvgPool2d(cast(Sides, tuple(kernel)), padding=cast(Sides, padding)))
        features = channels * prod(size)
    linear = nn.Linear(features, num_classes)
    nn.init.zeros_(linear.weight)
    return nn.Sequential(*flatten, linear)


@typed
def similarity_net(shape: Sizes) -> nn.Module:
    """Return PredSim's similarity net (B, *shape) -> (B, *shape): one 3×3 convolution, or a Linear.

    Source: Nøkland & Eidnes, ICML 2019, section 2.1.
    """
    width = Shape(shape).channels
    return nn.Conv2d(width, width, 3, padding=1, bias=False) if convolves(shape) else nn.Linear(width, width, False)


def spread_rows(h: Tensor) -> Tensor:
    """Return one row per sample (B, features), whose correlations PredSim compares.

    Of maps (B, C, H, W) with more than three channels the standard deviation of each over its places, of anything else
    all numbers. A constant channel has the gradient 0, where that of a root would be none.
    """
    if h.ndim != 4 or h.shape[1] <= 3 or h.shape[2] == 1:
        return h.flatten(1)
    return h.flatten(2).var(dim=2).clamp(min=1e-12).sqrt()


def input_decoder(shape: Shape, source: Shape) -> nn.Sequential:
    """Return PredSim's decoder (B, *shape) -> (B, *source) from a block's output to its input, which is not negative.

    One transposed 3×3 convolution with the block's stride, or a Linear, and ReLU.
    """
    if not (convolves(shape) and convolves(source)):
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), prod(source)), nn.ReLU(), nn.Unflatten(1, source))
    stride = cast(Sides, tuple(after // before for before, after in zip(shape[1:], source[1:], strict=True)))
    rest = cast(Sides, tuple((after - 1) % step for after, step in zip(source[1:], stride, strict=True)))
    return nn.Sequential(nn.ConvTranspose2d(shape[0], source[0], 3, stride, 1, rest), nn.ReLU())


def convolves(shape: Sequence[int]) -> bool:
    """Say whether features of that shape are maps that convolutions read as they are: (C, H, W)."""
    return Shape(shape).is_map and Shape(shape).axis == 0


class _Square(nn.Module):
    """Lay the last side² tokens out as a map: (B, T, D) -> (B, D, side, side)."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, h: Tensor) -> Tensor:
        return cast(Tensor, h[:, -self.side * self.side :].movedim(1, -1).unflatten(-1, (self.side, self.side)))


class Decoder(nn.Module):
    """InfoPro's decoder: features (B, *shape) -> images (B, *image) in [0, 1] (ICLR 2021, appendix).

    Bilinear upsampling to the image's size, conv3×3 to 12 channels, BN, ReLU, conv3×3, sigmoid. Tokens first get
    a Linear to 12 channels, and the last that fill a square are laid out as a map, so a class token in front stays
    out; vectors get a Linear to 12 maps of a quarter of the image's side. `widen` multiplies the 12 between the two
    convolutions.
    """

    def __init__(self, shape: Sequence[int], image: Sequence[int], widen: float = 1.0, init: Init = "pytorch"):
        super().__init__()
        hidden = int(12 * widen)
        channels, *self.size = image
        self.shape, self.lift = Shape(shape), nn.Sequential()
        width = self.shape.channels if self.shape.is_map else 12
        if len(shape) == 2:
            self.lift.extend([nn.Linear(self.shape.channels, 12), _Square(isqrt(shape[0]))])
        elif len(shape) == 1:
            small = [max(1, side // 4) for side in self.size]
            self.lift.extend([nn.Flatten(), nn.Linear(prod(shape), 12 * prod(small)), nn.Unflatten(1, (12, *small))])
        conv, norm = nn.Conv2d(width, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.paint = nn.Sequential(conv, norm, nn.ReLU(), nn.Conv2d(hidden, channels, 3, padding=1))
        if init == "fan-out":
            fan_out_normal(self.paint)

    def forward(self, h: Tensor) -> Tensor:
        maps = channels_first(h, self.shape) if self.shape.is_map else self.lift(h)
        if list(maps.shape[2:]) != self.size:  # to the same size it changes nothing, and costs two copies
            maps = F.interpolate(maps, self.size, mode="bilinear", align_corners=True)
        return cast(Tensor, self.paint(maps)).float().sigmoid()


@typed
def aux_net(
    kind: AuxNet, shape: Sizes, out: Count, widest: Count, widen: Positive = 1.0, feature_dim: Count = 128,
    widening: Literal["once", "each"] = "once", init: Init = "pytorch",
) -> nn.Sequential:  # fmt: skip
    """Return an auxiliary net (B, *shape) -> (B, out), e.g. `1c2f`: one convolution, two fully connected layers.

    The first 3×3 convolution halves the map and doubles the channels, unless they have reached `widest`, the network's
    last width; with `widening="each"` so do the others. Vectors and tokens have no places to convolve: tokens are
    averaged and a Linear of the same widths stands in. `feature_dim` is the width of the hidden layers, `widen`
    multiplies all widths. Source: InfoPro (ICLR 2021), appendix and code. For `mlp`, `mlp-sr` and `cnn`: `pooled_net`.
    """
    if not kind[0].isdigit():
        return pooled_net(kind, shape, out)
    num_convs, num_linears = int(kind[0]), int(kind[2])
    convolve, channels = convolves(shape), Shape(shape).channels
    layers: list[nn.Module] = [] if convolve else [GlobalPool(shape)]
    planned = channels
    for number in range(num_convs):
        grows = planned < widest and (number == 0 or widening == "each")
        planned = min(2 * planned, widest) if grows else planned
        width = max(1, int(planned * widen))
        if convolve:
            conv = nn.Conv2d(channels, width, 3, stride=2 if grows else 1, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        else:
            layers += [nn.Linear(channels, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        channels = width
    if convolve:
        layers.append(GlobalPool(shape))
    for _ in range(num_linears - 1):
        hidden = max(1, int(feature_dim * widen))
        layers += [nn.Linear(channels, hidden), nn.ReLU()]
        channels = hidden
    net = nn.Sequential(*layers, nn.Linear(channels, out))
    return fan_out_normal(net) if init == "fan-out" else net


def pooled_net(kind: str, shape: Sequence[int], out: int) -> nn.Sequential:
    """Return DGL's auxiliary net (B, C, H, W) -> (B, out): `mlp`, `mlp-sr` or `cnn` (Belilovsky et al., ICML 2020).

    `mlp`: pool to 2×2 places, three times Linear-BN-ReLU of 4·C, Linear. `mlp-sr`: the same behind a quarter of the
    size and three 1×1 convolutions with BN-ReLU. `cnn`: two 3×3 convolutions with BN-ReLU, pool to 2×2, BN, Linear.
    """
    if not convolves(shape):
        raise ValueError(f"aux={kind!r} reads maps (C, H, W), but features have the shape {tuple(shape)}: take 1c2f")
    channels, *sides = shape
    layers: list[nn.Module] = [] if kind == "cnn" else [nn.AdaptiveAvgPool2d(tuple(ceil(side / 4) for side in sides))]
    for _ in range({"mlp": 0, "mlp-sr": 3, "cnn": 2}[kind]):
        conv = nn.Conv2d(channels, channels, 3 if kind == "cnn" else 1, padding=int(kind == "cnn"), bias=False)
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(2), *([nn.BatchNorm2d(channels)] if kind == "cnn" else []), nn.Flatten()]
    layers.append(dense_layers(*[4 * channels] * (1 if kind == "cnn" else 4), out))
    return nn.Sequential(*layers)
