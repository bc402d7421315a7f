"""Which blocks go to which rank, and where the net is cut, if that takes a measurement."""

import statistics
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.distributed as dist

from kit import seeds
from kit.data import Data
from kit.measure.costs import clock
from kit.net import Net
from kit.pipeline.ranks import all_gather
from kit.signal import Signal
from kit.splitting.balance import balanced
from kit.train import build
from kit.train.config import RunConfig


def runs(costs: Sequence[float], num_stages: int) -> list[range]:
    """Divide blocks of these costs into consecutive runs, one per stage, minimising the largest stage cost."""
    cuts = [last + 1 for last in balanced(list(costs), num_stages)]
    return [range(*run) for run in pairwise([0, *cuts, len(costs)])]


def place(config: RunConfig, data_spec: Data, cuts: Sequence[str] | None, num_stages: int) -> list[range]:
    """Return each stage's blocks; where there is a choice, by step times that rank 0 measures."""
    num_blocks, costs = config.most_blocks, None
    if num_stages in (1, num_blocks):
        return runs([1.0] * num_blocks, num_stages)
    if dist.get_rank() == 0:
        net = build(config, data_spec, cuts)
        while len(net) < num_blocks:
            net.grow(config.growth.view(len(net)))
        costs = block_seconds(net, data_spec, config.batch_size)
    return runs(all_gather(costs, "placing blocks")[0], num_stages)


def block_seconds(net: Net, data_spec: Data, batch_size: int, repeats: int = 3) -> list[float]:
    """Return the median seconds of each block's step on random images, or texts of full length; it trains the net."""
    noise = seeds.generator("placement")
    shapes = {"x": data_spec.shape, **data_spec.view_shapes}
    drawn = {name: torch.randn(batch_size, *shape, generator=noise) for name, shape in shapes.items()}
    if data_spec.words:
        drawn = {name: torch.ones_like(view, dtype=data_spec.dtype) for name, view in drawn.items()}
    y = torch.randint(data_spec.num_classes, (batch_size,), generator=noise).to(net.device)
    inputs = {name: view.to(net.device) for name, view in drawn.items()}
    return step_seconds_by_block(net, net.train().signal(inputs, y), repeats)


def step_seconds_by_block(net: Net, signal: Signal, repeats: int) -> list[float]:
    """Return the median seconds of each block's step on that signal."""
    rows = []
    for _ in range(net.num_filling + repeats):
        begin = clock()
        ends = [clock() for _ in net.steps(signal)]
        rows.append([end - start for start, end in pairwise([begin, *ends])])
    return [statistics.median(column) for column in zip(*rows[-repeats:], strict=True)]
