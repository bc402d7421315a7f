"""Growth: blocks that join a net between two steps, and when a net wants another one.

`Net.append`, `insert`, `grow`, `freeze` and `thaw` are these functions. Growing changes no weight and no optimizer of
the blocks that are there, and no answer of the exits before the new block.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from kit.block import Block
from kit.modules import evaluating
from kit.settings import Count, NonNegative, accept, check
from kit.shapes import Axes, Shape
from kit.signal import Signal
from kit.walk import walk


def link(blocks: Sequence[Block]) -> None:
    """Tell every block what those behind it ask for, so that it hands on that and nothing else."""
    needs = [block.needs for block in blocks]
    for k, block in enumerate(blocks):
        behind = needs[k + 1 :]
        block.keep_x = any(need.x for need in behind)
        block.depth = max((need.depth - j for j, need in enumerate(behind)), default=0)
        block.keep_entered = block.depth > 0 and any(need.entered for need in behind)
        block.keep_views = frozenset().union(*(need.views for need in behind))


def insert(blocks: nn.ModuleList, k: int, block: Block, first: Signal | None) -> None:
    """Put `block` before block k, or at the end where k is the number of blocks, and number the blocks anew.

    `first` is a signal that enters the net, to try it on. Raises ValueError, and leaves everything as it was, for a
    place outside the net and where a block would get an input that it was not made for.
    """
    if not isinstance(block, Block):
        raise TypeError(f"a {type(block).__name__} is no block: make one of it with net.new_block(module)")
    if not 0 <= k <= len(blocks):
        raise ValueError(f"cannot insert before block {k}: the net's blocks are numbered 0 to {len(blocks) - 1}")
    if any(block is other for other in blocks):
        raise ValueError("the block is in the net already; a block learns in one place")
    there = list(blocks)
    grown = [*there[:k], block, *there[k:]]
    check_disjoint(grown)
    link(grown)
    try:
        if first is not None:
            trial(grown, first, k)
    except ValueError:
        link(there)
        raise
    blocks.insert(k, block)
    block.train(blocks.training)
    for index, moved in enumerate(blocks):
        moved.index = index


def check_disjoint(blocks: Iterable[Block]) -> None:
    """Raise ValueError where a stage, a parameter or a buffer is in two blocks: what a block learns is its own."""
    owners: dict[int, int] = {}
    for k, block in enumerate(blocks):
        tensors = [*block.named_parameters(), *block.named_buffers()]
        for name, part in [*block.body.named_children(), *tensors]:
            if (owner := owners.setdefault(id(part), k)) != k:
                what = f"the stage {type(part).__name__}" if isinstance(part, nn.Module) else f"the tensor {name!r}"
                raise ValueError(
                    f"blocks {owner + 1} and {k + 1} share {what}, but each learns by itself: give each one of its own "
                    "(copy.deepcopy), or put both into one block"
                )


@torch.no_grad()
def trial(blocks: Sequence[Block], signal: Signal, new: int | None = None) -> list[Shape]:
    """Send `signal` through; return the input shapes of all blocks and the last one's output shape.

    Raises ValueError for a block that does not take its input; `new` is the number of the block that joins.
    """
    found = []
    with evaluating(nn.ModuleList(blocks)), Axes() as axes:
        axes.note(signal.h, Shape(signal.h.shape[1:]).axis + 1)
        for k, block in enumerate(blocks):
            found.append(axes.shape(signal.h))
            if block.shapes and block.shapes[0] != found[-1]:
                raise _misfit(block, k, found[-1], new)
            try:
                for visit in walk([block], signal):
                    visit.logits()
            except (RuntimeError, ValueError, IndexError) as error:
                raise _misfit(block, k, found[-1], new, str(error).splitlines()[0]) from error
            signal = visit.after
        return [*found, axes.shape(signal.h)]


def _misfit(block: Block, k: int, given: Shape, new: int | None, reason: str = "") -> ValueError:
    made = f"fails ({reason})" if reason else f"takes inputs of shape {tuple(block.shapes[0])}"
    if new is not None and k > new:
        return ValueError(
            f"block {k} of the net {made}, but behind the new block it would see {tuple(given)}: insert a block whose "
            "output has the shape of its input"
        )
    return ValueError(
        f"the new block {made}, but the net's output there has shape {tuple(given)}: make it with net.new_block, which "
        "takes its shapes from the net"
    )


def upto(net: Sequence[Block], count: int | None) -> list[Block]:
    """Return the first `count` blocks, or all for None. Raises ValueError for a count that the net does not have."""
    count = len(net) if count is None else count
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= len(net):
        raise ValueError(f"upto={count!r}, but the net has {len(net)} blocks; choose 0 to {len(net)}, or None for all")
    return [net[k] for k in range(count)]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """When a net in training gets its next block: at given epochs (`at`), or by need (`when="plateau"`).

    By need, a block comes when the last exit's validation accuracy has not risen by more than `min_gain` for
    `patience` epochs; no more come once a block has not paid: its best accuracy is not more than `min_gain` above the
    best before it came.
    """

    at: Sequence[Count] = ()
    """Numbers of finished epochs after which a block comes."""
    when: Literal["plateau"] | None = None
    patience: Count = 3
    min_gain: NonNegative = 0.001
    start: int = 2
    """Blocks at the start."""
    max_blocks: int = 2
    """Blocks at the most."""
    freeze: Literal["none", "earlier"] = "none"
    """`earlier`: the blocks before a new one are frozen when it comes; `none`: all go on learning."""
    side: Sequence[str | None] = ()
    """The view that the first, second, … new block sees besides; None is none."""

    def __post_init__(self) -> None:
        check(self, "grow ")

    def num_blocks(self, accuracies: Sequence[float]) -> int:
        """Return how many blocks there are after these epochs, from the last exit's validation accuracy in each."""
        if self.when is None:
            return self.start + sum(epoch <= len(accuracies) for epoch in self.at)
        count, before, own = self.start, None, []
        for accuracy in accuracies:
            own.append(accuracy)
            earlier, recent = own[: -self.patience], own[-self.patience :]
            if not earlier or max(recent) > max(earlier) + self.min_gain or count == self.max_blocks:
                continue
            if before is not None and max(own) <= before + self.min_gain:
                break  # the last block did not pay, so the next would not either
            count, before, own = count + 1, max(own), []
        return count

    def view(self, k: int) -> str | None:
        """Return the view that block k sees besides."""
        return self.side[k - self.start] if 0 <= k - self.start < len(self.side) else None


def schedule(given: Mapping[str, object], num_blocks: int, epochs: int) -> Growth:
    """Return the schedule that a config's `grow` describes, for a backbone cut into `num_blocks`.

    With `at`, the net starts with as many blocks fewer as are to come, unless `start` says otherwise; by need with 2.
    Raises ValueError for what cannot be.
    """
    settings = accept("setting of grow:", given, Growth)
    if isinstance(settings.get("side"), str):
        settings["side"] = (settings["side"],)
    growth = Growth(**settings)
    at = growth.at
    if bool(at) == (growth.when is not None):
        raise ValueError(f"grow={dict(given)!r}, but it takes either at=[epochs] or when='plateau'")
    start = settings.get("start", num_blocks - len(at) if at else min(2, num_blocks))
    growth = replace(growth, start=start, max_blocks=settings.get("max_blocks", start + len(at) if at else num_blocks))
    _check_numbers(growth, num_blocks, epochs)
    return growth


def _check_numbers(growth: Growth, num_blocks: int, epochs: int) -> None:
    at, most = list(growth.at), growth.max_blocks
    if any(epoch >= epochs for epoch in at) or at != sorted(set(at)):
        raise ValueError(f"grow at={at}, but it takes rising numbers of epochs from 1 to {epochs - 1}")
    if growth.start < 1:
        raise ValueError(
            f"grow starts with {growth.start} blocks: at={at} adds {len(at)} to reach num_blocks={num_blocks}; choose "
            "a larger num_blocks or fewer epochs"
        )
    wanted = max(most, growth.start + len(at))
    if wanted > num_blocks:
        raise ValueError(
            f"grow goes up to max_blocks={wanted}, but the backbone is cut into num_blocks={num_blocks}; "
            "raise num_blocks, or grow less"
        )
    if growth.start + len(at) > most:
        raise ValueError(f"grow at={at} from {growth.start} blocks goes beyond max_blocks={most}")
    if len(growth.side) > most - growth.start:
        raise ValueError(f"grow side={list(growth.side)}, but {most - growth.start} blocks come")
