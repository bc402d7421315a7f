"""A network of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from kit.blocks.block import Block
from kit.blocks.signal import Signal


class Net(nn.Module):
    """Blocks in order. Training is a walk over them: `for block in net: signal = block.step(signal)`."""

    def __init__(self, blocks: Iterable[Block], method: str, num_classes: int, channels_last: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.method, self.num_classes, self.channels_last = method, num_classes, channels_last

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, k: int) -> Block:
        return self.blocks[k]

    @property
    def num_exits(self) -> int:
        """Number of places where the net can answer: one per block, and one per probe inside a block."""
        return sum(len(block.probes) + 1 for block in self)

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether training needs at least two samples in a batch."""
        norm = nn.modules.batchnorm._BatchNorm
        return any(isinstance(m, norm) for m in self.modules()) or any(b.objective.batch_statistics for b in self)

    def signal(self, x: Tensor, y: Tensor) -> Signal:
        """Return the signal that enters the first block, for inputs `x` (B, …) and labels `y` (B,)."""
        if self.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return Signal(x, y, x)

    def step(self, x: Tensor, y: Tensor) -> None:
        """Train every block on one batch, first to last."""
        signal = self.signal(x, y)
        for block in self:
            signal = block.step(signal)

    @torch.no_grad()
    def predict(self, x: Tensor) -> list[Tensor]:
        """Return the logits (B, C) of every exit for inputs `x` (B, …), first to last, in evaluation mode."""
        training = self.training
        self.eval()
        try:
            signal = self.signal(x, torch.empty(len(x), dtype=torch.int64, device=x.device))
            logits: list[Tensor] = []
            for block in self:
                answers, signal = block.exits(signal)
                logits += answers
            return logits
        finally:
            self.train(training)
