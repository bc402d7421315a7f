"""Which blocks go to which rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist

from kit import seeds
from kit.backbones import backbone
from kit.data import Data
from kit.measure.costs import step_seconds
from kit.net import Net
from kit.pipeline import saved
from kit.signal import Signal
from kit.splitting.split import balanced, choose
from kit.train import build
from kit.train.config import RunConfig


def runs(costs: Sequence[float], num_stages: int) -> list[range]:
    """Divide blocks of these costs into consecutive runs, one per stage, whose dearest is as cheap as can be."""
    ends = [0, *(last + 1 for last in balanced(list(costs), num_stages)), len(costs)]
    return [range(start, end) for start, end in zip(ends[:-1], ends[1:], strict=True)]


def place(config: RunConfig, known: Data, num_blocks: int, num_stages: int) -> list[range]:
    """Return each stage's blocks; where there is a choice, by step times that rank 0 measures."""
    if num_stages in (1, num_blocks):
        return runs([1.0] * num_blocks, num_stages)
    told: list = [None]
    if dist.get_rank() == 0:
        net = build(config, known)
        while len(net) < num_blocks:
            net.grow(config.growth.view(len(net)))
        told = [runs(block_seconds(net, known, config.batch_size), num_stages)]
    dist.broadcast_object_list(told, 0)
    return told[0]


def block_seconds(net: Net, known: Data, batch_size: int, repeats: int = 3) -> list[float]:
    """Return the median seconds of each block's step on random images. The net is trained by it, so throw it away."""
    device = next(net.parameters()).device
    noise = seeds.generator("placement")
    x = torch.randn(batch_size, *known.shape, generator=noise).to(device)
    y = torch.randint(known.num_classes, (batch_size,), generator=noise).to(device)
    views = {name: torch.randn(batch_size, *shape, generator=noise) for name, shape in known.view_shapes.items()}
    inputs = {"x": x} | {name: view.to(device) for name, view in views.items()}
    return step_seconds_by_block(net, net.train().signal(inputs, y), repeats)


def step_seconds_by_block(net: Net, signal: Signal, repeats: int) -> list[float]:
    """Return the median seconds of each block's step on that signal."""
    seconds = []
    for block in net:
        seconds.append(step_seconds(block.step, repeats, lambda signal=signal: (signal,)))
        signal = block.step(signal)
    return seconds


def fix_cuts(config: RunConfig, known: Data) -> RunConfig:
    """Return the config with cuts that depend on a measurement replaced by the places that rank 0 found.

    A run that goes on keeps the places it began with.
    """
    if config.cuts != "time":
        return config
    told: list = [None]
    if dist.get_rank() == 0:
        path = config.folder and saved.latest(config.folder / saved.FOLDER, "step")
        told = [saved.load(path, ["run"])["run"]["cuts"] if path else _cuts(config, known)]
    dist.broadcast_object_list(told, 0)
    return replace(config, cuts=tuple(told[0]))


def _cuts(config: RunConfig, known: Data) -> list[str]:
    channels, *_, side = known.shape
    options = dict(config.backbone_options)
    model = backbone(config.backbone, channels, known.num_classes, config.width, side, **options)
    example = torch.zeros(min(config.batch_size, 32), *known.shape, device=config.resolved_device())
    return choose(model.to(example.device), config.num_blocks, example, "time")
