"""Context supply: what a block sees beside its predecessor's output (ContSup, arXiv 2312.07636, eq. 5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kit.heads import is_channels_last, num_channels
from kit.signal import Signal


@dataclass(frozen=True)
class Supply:
    """A context mode taken apart: the network's input or not, and how many earlier outputs."""

    image: bool
    depth: int


def parse(context: str, num_blocks: int | None = None) -> Supply:
    """Return what `none`, `E`, `Rn` or `RnE` asks for; ValueError for anything else, and for n over `num_blocks`."""
    found = re.fullmatch(r"none|(?:R(\d+))?(E)?", context)
    if not found or not context:
        raise ValueError(
            f"unknown context {context!r}: choose none, E (the network's input), R1, R2, … (so many earlier outputs), "
            "or both, as in R1E"
        )
    supply = Supply(bool(found[2]), int(found[1] or 0))
    if num_blocks is not None and supply.depth > num_blocks:
        raise ValueError(
            f"context={context!r} asks for {supply.depth} earlier outputs, but the net has only "
            f"num_blocks={num_blocks}; choose R1 to R{num_blocks}, or more blocks"
        )
    return supply


def supplied(supply: Supply, index: int, inputs: Sequence[Sequence[int]], example: Tensor) -> Context | None:
    """Return the context of block number `index`, or None where it gets none; `inputs` are all blocks' input shapes.

    Raises ValueError where the network's input, as in `example`, cannot be added to features.
    """
    if not index or supply == Supply(False, 0):
        return None
    sources = inputs[:index][::-1][: supply.depth]
    if (supply.image or len(sources) == index) and not example.is_floating_point():
        raise ValueError(
            f"context gives block {index + 1} the network's input, but inputs of shape {tuple(example.shape[1:])} and "
            f"{example.dtype} are numbers of tokens, which cannot be added to its features of shape "
            f"{tuple(inputs[index])}: use context='none', or embed the tokens before the net"
        )
    return Context(inputs[index], inputs[0] if supply.image else None, sources)


@dataclass(frozen=True)
class Needs:
    """What a block asks of those before it: the network's input, so many of their inputs, views by name."""

    x: bool = False
    depth: int = 0
    views: frozenset[str] = frozenset()


class Context(nn.Module):
    """Adds encodings of the network's input and of earlier outputs to a block's input; trained by the block's loss.

    h (B, *shape) + E(x) + Σ_j R_j(c_j), everything from elsewhere detached. Encoders bring width and size to `shape`.
    """

    def __init__(self, shape: Sequence[int], image: Sequence[int] | None, earlier: Sequence[Sequence[int]]):
        super().__init__()
        self.image = _encoder(image, shape, hidden=12) if image is not None else None
        self.earlier = nn.ModuleList(_encoder(source, shape, hidden=None) for source in earlier)

    @property
    def needs(self) -> Needs:
        """What the block asks of those before it."""
        return Needs(self.image is not None, len(self.earlier))

    def forward(self, signal: Signal) -> Tensor:
        h = signal.h
        if self.image is not None:
            h = h + self.image(signal.x)
        for encoder, source in zip(self.earlier, signal.context, strict=False):
            h = h + encoder(source)
        return h


class Resize(nn.Module):
    """Average or repeat places until a map (B, C, ·, ·) has `size`, or tokens (B, C, ·) have a length."""

    def __init__(self, size: Sequence[int]):
        super().__init__()
        self.size = tuple(size)

    def forward(self, h: Tensor) -> Tensor:
        if tuple(h.shape[2:]) == self.size:
            return h
        return (F.adaptive_avg_pool2d if len(self.size) == 2 else F.adaptive_avg_pool1d)(h, self.size)


class Move(nn.Module):
    """Puts a dimension into another place."""

    def __init__(self, source: int, to: int):
        super().__init__()
        self.source, self.to = source, to

    def forward(self, h: Tensor) -> Tensor:
        return h.movedim(self.source, self.to)


def _encoder(source: Sequence[int], target: Sequence[int], hidden: int | None) -> nn.Sequential:
    """Return a net (B, *source) -> (B, *target): between maps conv-BN-ReLU (3×3 twice for images, else 1×1), pool."""
    if len(source) == 3 and len(target) == 3:
        return _between_maps(source, target, hidden)
    if len(source) == len(target) == 2:
        to_channels = [Move(-1, 1), Resize(target[:1]), Move(1, -1)]
        return nn.Sequential(nn.Linear(source[-1], target[-1]), nn.LayerNorm(target[-1]), nn.ReLU(), *to_channels)
    if len(target) == 1:
        flat = nn.Flatten()
        features = _numel(source)
        return nn.Sequential(flat, nn.Linear(features, target[0], bias=False), nn.BatchNorm1d(target[0]), nn.ReLU())
    if len(target) == 2 and len(source) == 3:
        patches = _between_maps(source, (target[-1], *_grid(target[0], source)), hidden)
        return nn.Sequential(patches, nn.Flatten(2), Resize(target[:1]), Move(1, -1))
    raise ValueError(
        f"context of shape {tuple(source)} cannot be brought to a block's input of shape {tuple(target)}: "
        "use context='none', or give the blocks before it maps, tokens or vectors of one kind"
    )


def _between_maps(source: Sequence[int], target: Sequence[int], hidden: int | None) -> nn.Sequential:
    fan_in, width = num_channels(source), num_channels(target)
    size = target[:2] if is_channels_last(target) else target[1:]
    if hidden:
        first = nn.Conv2d(fan_in, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
        layers = [*first, nn.Conv2d(hidden, width, 3, padding=1, bias=False)]
    else:
        layers = [nn.Conv2d(fan_in, width, 1, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU(), Resize(size)]
    before = [Move(-1, 1)] if is_channels_last(source) else []
    after = [Move(1, -1)] if is_channels_last(target) else []
    return nn.Sequential(*before, *layers, *after)


def _grid(tokens: int, source: Sequence[int]) -> tuple[int, int]:
    side = max(1, int(tokens**0.5))
    return min(side, source[1]), min(side, source[2])


def _numel(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
