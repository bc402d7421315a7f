"""New features: a view of the sample that earlier blocks do not know, joined with what they hand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from kit.context import Move, Needs, Resize
from kit.heads import is_channels_last, num_channels
from kit.signal import Signal


class Side(nn.Module):
    """Joins a block's input with an encoding of the view `name`; trained by the block's loss.

    mix([h, encode(view)]) (B, *shape): the encoding has the shape of h, both lie side by side along the channels, and
    a 1×1 convolution (a Linear for vectors and tokens) brings them back to `shape`. `inner` is the block's own context,
    which comes first. Source: dynamic expansion with new features, Huang's thesis (NCU, 2024).
    """

    def __init__(
        self, name: str, shape: Sequence[int], view: Sequence[int] | nn.Module, inner: nn.Module | None = None
    ):
        super().__init__()
        self.name, self.inner = name, inner
        self.encoder = view if isinstance(view, nn.Module) else side_encoder(view, shape)
        width, is_map = num_channels(shape), len(shape) == 3 and not is_channels_last(shape)
        self.channels = 1 if is_map else len(shape)
        self.mix = nn.Conv2d(2 * width, width, 1) if is_map else nn.Linear(2 * width, width)

    def forward(self, signal: Signal) -> Tensor:
        h = signal.h if self.inner is None else self.inner(signal)
        return self.mix(torch.cat([h, self.encoder(signal.views[self.name])], dim=self.channels))

    @property
    def needs(self) -> Needs:
        """What the block asks of those before it."""
        before = self.inner.needs if self.inner is not None else Needs()
        return replace(before, views=before.views | {self.name})


def side_encoder(source: Sequence[int], target: Sequence[int]) -> nn.Sequential:
    """Return a net (B, *source) -> (B, *target) that learns features of a view of its own.

    Between maps, 3×3 convolutions with BN and ReLU that halve the side and double the channels until they reach the
    target's, then one more to its width; else two Linear-BN-ReLU on the flattened view.
    """
    if len(source) == 3 and len(target) == 3:
        return _between_maps(source, target)
    if len(target) == 3:
        raise ValueError(
            f"a view of shape {tuple(source)} cannot be joined with maps of shape {tuple(target)}: give an encoder of "
            "your own, or append behind a block that ends in vectors"
        )
    sizes = [prod(source), 2 * num_channels(target), prod(target)]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out, bias=False), nn.BatchNorm1d(fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Unflatten(1, tuple(target)))


def _between_maps(source: Sequence[int], target: Sequence[int]) -> nn.Sequential:
    """Return the net between maps; the view is (C, H, W), the target may have its channels last."""
    last = is_channels_last(target)
    size, width = target[:2] if last else target[1:], num_channels(target)
    channels, *sides = source
    out = max(1, width // 4)
    layers: list[nn.Module] = []
    while any(side >= 2 * wanted for side, wanted in zip(sides, size, strict=True)):
        stride = [2 if side >= 2 * wanted else 1 for side, wanted in zip(sides, size, strict=True)]
        layers += _conv(channels, out, stride)
        channels, out = out, min(2 * out, width)
        sides = [-(-side // step) for side, step in zip(sides, stride, strict=True)]
    layers += [*_conv(channels, width, [1, 1]), Resize(size)]
    return nn.Sequential(*layers, *([Move(1, -1)] if last else []))


def _conv(channels: int, out: int, stride: Sequence[int]) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
