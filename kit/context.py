"""What a block sees beside its predecessor's output: context (ContSup, arXiv 2312.07636, eq. 5), and extra views."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.modules import fan_out_normal
from kit.settings import check, typed
from kit.shapes import Shape, Sides
from kit.signal import Signal


@dataclass(frozen=True)
class Needs:
    """What a block asks of those before it: the network's input, so many of their inputs, views by name."""

    x: bool = False
    depth: int = 0
    views: frozenset[str] = frozenset()
    entered: bool = False
    """Whether it asks for their inputs with the context that was added to them."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How context is read."""

    reads: Literal["entered", "received"] = "entered"
    """What R reads of an earlier block: its input with the context that was added to it, as ContSup, or without."""
    repeated: Literal["skip", "encode"] = "skip"
    """What R does, beside E, with the network's input: nothing, as in ContSup, or encode it once more."""
    encoders: Literal["biased", "plain"] = "biased"
    """Convolutions with a bias and normal fan-out weights, as ContSup's, or without a bias and with PyTorch's."""

    def __post_init__(self) -> None:
        check(self)


@typed
def parse(context: str, num_blocks: int | None = None) -> Needs:
    """Return what `none`, `E`, `Rn` or `RnE` asks for; ValueError for anything else, and for n over `num_blocks`."""
    found = re.fullmatch(r"none|(?:R(\d+))?(E)?", context)
    if not found or not context:
        raise ValueError(
            f"unknown context {context!r}: choose none, E (the network's input), R1, R2, … (so many earlier outputs), "
            "or both, as in R1E"
        )
    needs = Needs(bool(found[2]), int(found[1] or 0))
    if num_blocks is not None and needs.depth > num_blocks:
        raise ValueError(
            f"context={context!r} asks for {needs.depth} earlier outputs, but the net has only "
            f"num_blocks={num_blocks}; choose R1 to R{num_blocks}, or more blocks"
        )
    return needs


def supplied(
    supply: Needs, index: int, inputs: Sequence[Shape], example: Tensor, encoding: Encoding = Encoding()
) -> Context | None:
    """Return the context of block number `index`, or None where it gets none; `inputs` are all blocks' input shapes.

    Raises ValueError where the network's input, as in `example`, cannot be added to features.
    """
    if not index or supply == Needs():
        return None
    sources = inputs[:index][::-1][: supply.depth]
    if supply.x and encoding.repeated == "skip" and len(sources) == index:
        sources = sources[:-1]  # the earliest is the network's input, which E reads
    if (supply.x or len(sources) == index) and not example.is_floating_point() and not inputs[0].words:
        raise ValueError(
            f"context gives block {index + 1} the network's input, but inputs of shape {tuple(example.shape[1:])} and "
            f"{example.dtype} are numbers of words that no layer of the first block embeds: use context='none' or "
            "begin with an nn.Embedding"
        )
    return Context(inputs[index], inputs[0] if supply.x else None, sources, encoding)


class Context(nn.Module):
    """Adds encodings of the network's input and of earlier outputs to a block's input; trained by the block's loss.

    h (B, *shape) + E(x) + Σ_j R_j(c_j), everything from elsewhere detached. Encoders bring width and size to `shape`.
    """

    def __init__(self, shape: Shape, image: Shape | None, earlier: Sequence[Shape], encoding: Encoding):
        super().__init__()
        biased = encoding.encoders == "biased"
        self.image = _encoder(image, shape, 12, biased) if image is not None else None
        self.earlier = nn.ModuleList(_encoder(source, shape, None, biased) for source in earlier)
        self.entered = encoding.reads == "entered"
        if biased:
            fan_out_normal(self)

    @property
    def needs(self) -> Needs:
        """What the block asks of those before it."""
        return Needs(self.image is not None, len(self.earlier), entered=self.entered)

    def forward(self, signal: Signal) -> Tensor:
        h = signal.h
        if self.image is not None:
            h = h + self.image(signal.x)
        for encoder, source in zip(self.earlier, signal.context, strict=False):  # the first blocks have fewer before
            h = h + encoder(source)
        return h


class ExtraView(nn.Module):
    """Joins a block's input with an encoding of the view `name`; trained by the block's loss.

    mix([h, encode(view)]) (B, *shape): the encoding has the shape of h, or of words (B, 1, D), both lie side by side
    along the channels, and a 1×1 convolution (a Linear for vectors and tokens) brings them back to `shape`.
    `inner` is the block's own context, which comes first. Source: dynamic expansion with new features,
    Huang's thesis (NCU, 2024).
    """

    def __init__(self, name: str, shape: Shape, view: Shape | nn.Module, inner: nn.Module | None = None):
        super().__init__()
        shape = Shape(shape)
        self.name, self.inner, self.axis = name, inner, shape.axis + 1
        self.encoder = view if isinstance(view, nn.Module) else view_encoder(Shape(view), shape)
        width = shape.channels
        self.mix = nn.Conv2d(2 * width, width, 1) if self.axis == 1 and shape.is_map else nn.Linear(2 * width, width)

    def forward(self, signal: Signal) -> Tensor:
        h = signal.h if self.inner is None else self.inner(signal)
        seen = self.encoder(signal.views[self.name])
        seen = seen.expand(*h.shape[:-1], -1) if h.ndim == 3 else seen
        return cast(Tensor, self.mix(torch.cat([h, seen], dim=self.axis)))

    @property
    def needs(self) -> Needs:
        """What the block asks of those before it."""
        before = cast(Needs, self.inner.needs) if self.inner is not None else Needs()
        return replace(before, views=before.views | {self.name})


def view_encoder(source: Shape, target: Shape) -> nn.Sequential:
    """Return a net (B, *source) -> (B, *target) that learns features of a view of its own.

    Between maps, 3×3 convolutions with BN and ReLU that halve the side and double the channels until they reach the
    target's, then one more to its width; of words, the mean of their embeddings, (B, 1, D); else two Linear-BN-ReLU on
    the flattened view. Raises ValueError for a view that is no map, and a target that is one.
    """
    if source.words and len(target) == 2:
        return nn.Sequential(nn.EmbeddingBag(source.words, target.channels, padding_idx=0), nn.Unflatten(1, (1, -1)))
    if target.is_map and not source.is_map:
        raise ValueError(
            f"a view of shape {tuple(source)} cannot be joined with maps of shape {tuple(target)}: give an encoder of "
            "your own, or append behind a block that ends in vectors"
        )
    if target.is_map:
        return _shrinking(source, target)
    sizes = [prod(source), 2 * target.channels, prod(target)]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out, bias=False), nn.BatchNorm1d(fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Unflatten(1, tuple(target)))


def _shrinking(source: Shape, target: Shape) -> nn.Sequential:
    channels, sides, size = source.channels, list(source.size), target.size
    out, layers = max(1, target.channels // 4), []
    while any(side >= 2 * wanted for side, wanted in zip(sides, size, strict=True)):
        stride = tuple(2 if side >= 2 * wanted else 1 for side, wanted in zip(sides, size, strict=True))
        layers += _conv(channels, out, 3, cast(Sides, stride))
        channels, out = out, min(2 * out, target.channels)
        sides = [-(-side // step) for side, step in zip(sides, stride, strict=True)]
    return _in_layout(source, target, [*layers, *_conv(channels, target.channels, 3), Resize(size)])


def _encoder(source: Shape, target: Shape, hidden: int | None, bias: bool) -> nn.Sequential:
    """Return a net (B, *source) -> (B, *target): between maps conv-BN-ReLU (3×3 twice for images, else 1×1), pool."""
    if source.is_map and target.is_map:
        return _between_maps(source, target, hidden, bias)
    if len(target) == 2 and (source.words or len(source) == 2):
        width, same = target.channels, source[0] == target[0]
        read = nn.Embedding(source.words, width) if source.words else nn.Linear(source.channels, width)
        to_length = [] if same else [Move(-1, 1), Resize(target.size), Move(1, -1)]
        return nn.Sequential(read, nn.LayerNorm(width), nn.ReLU(), *to_length)
    if len(target) == 1:
        linear = nn.Linear(prod(source), target[0], bias=False)
        return nn.Sequential(nn.Flatten(), linear, nn.BatchNorm1d(target[0]), nn.ReLU())
    if len(target) == 2 and source.is_map:
        side = max(1, int(target[0] ** 0.5))
        patches = Shape((target.channels, *(min(side, size) for size in source.size)))
        encoder = _between_maps(source, patches, hidden, bias)
        return nn.Sequential(encoder, nn.Flatten(2), Resize(target.size), Move(1, -1))
    raise ValueError(
        f"context of shape {tuple(source)} cannot be brought to a block's input of shape {tuple(target)}: "
        "use context='none', or give the blocks before it maps, tokens or vectors of one kind"
    )


def _between_maps(source: Shape, target: Shape, hidden: int | None, bias: bool) -> nn.Sequential:
    layers = _conv(source.channels, hidden, 3, bias=bias) if hidden else []
    last = (hidden, target.channels, 3) if hidden else (source.channels, target.channels, 1)
    layers += _conv(*last, bias=bias)
    return _in_layout(source, target, [*layers, Resize(target.size)])


def _conv(channels: int, out: int, kernel: int, stride: int | Sides = 1, bias: bool = False) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=bias), nn.BatchNorm2d(out), nn.ReLU()]


def _in_layout(source: Shape, target: Shape, layers: Sequence[nn.Module]) -> nn.Sequential:
    """Return `layers`, which work on (B, C, H, W), for maps that have their channels elsewhere."""
    before = [Move(source.axis + 1, 1)] if source.axis else []
    return nn.Sequential(*before, *layers, *([Move(1, target.axis + 1)] if target.axis else []))


class Resize(nn.Module):
    """Average or repeat places until a map (B, C, ·, ·) has `size`, or tokens (B, C, ·) have a length."""

    def __init__(self, size: Sequence[int]):
        super().__init__()
        self.size = tuple(size)

    def forward(self, h: Tensor) -> Tensor:
        if tuple(h.shape[2:]) == self.size:
            return h
        return F.adaptive_avg_pool2d(h, cast(Sides, self.size)) if h.ndim == 4 else F.adaptive_avg_pool1d(h, self.size)


class Move(nn.Module):
    """Puts a dimension into another place."""

    def __init__(self, source: int, to: int):
        super().__init__()
        self.source, self.target = source, to

    def forward(self, h: Tensor) -> Tensor:
        return h.movedim(self.source, self.target)
