"""The one walk over blocks: training, evaluation, exits, probes and measurements all visit a net by it."""

from collections.abc import Generator, Iterable
from typing import NamedTuple

from torch import Tensor

from kit.block import Block
from kit.modules import apply
from kit.signal import Signal


class Visit(NamedTuple):
    """A walk's stop behind one stage of a block: the signal that entered, the stage's output, and what follows."""

    block: Block
    signal: Signal
    h: Tensor
    """(B, …) the output of stage number `stage`, from 0."""
    stage: int
    after: Signal | None
    """The signal for the next block; None behind the inner stages of a block of several."""
    terms: dict[str, Tensor]
    """The block's loss terms, unweighted, where they were asked for."""

    def logits(self) -> Tensor:
        """Return what the exit here answers, (B, C) in fp32."""
        head = self.block.readout if self.after is not None else self.block.probes[self.stage]
        with self.block.computing(self.signal):
            return head(self.feature()).float()

    def feature(self) -> Tensor:
        """Return what the head here reads: see `Block.feature`."""
        return self.block.feature(self.h, self.signal, self.stage)


def walk(blocks: Iterable[Block], signal: Signal, losses: bool = False) -> Generator[Visit, Tensor | None, None]:
    """Visit `blocks` in order, handing on the signal; nothing learns. Stops behind every stage, where an exit can be.

    `send` it the rows (b,) int64 that go on, or None for all of them. With `losses` the blocks compute as in their next
    step, with its random numbers and a graph, and the walk stops behind whole blocks.
    """
    for block in blocks:
        last = len(block.body) - 1
        if losses:
            h, terms = block.losses(signal)
            after = block.next_signal(signal, h)
            yield Visit(block, signal, h, last, after, terms)
            signal = after
            continue
        h = None
        for k, stage in enumerate(block.body):
            with block.computing(signal):
                h = apply(stage, block.enter(signal) if h is None else h, signal.views.get("mask"))
            after = block.next_signal(signal, h) if k == last else None
            rows = yield Visit(block, signal, h, k, after, {})
            if rows is not None and after is not None:
                after = after.select(rows)
            elif rows is not None:
                h, signal = h[rows], signal.select(rows)
        signal = after
