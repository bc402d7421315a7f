"""What travels from block to block."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Signal:
    """One batch on its way through the blocks. Everything in it is detached: no gradient crosses a cut."""

    h: Tensor
    """(B, …) activations for the next block; for the first block, the network's input."""

    y: Tensor
    """(B,) int64 labels."""

    x: Tensor | None = None
    """(B, …) the network's input, kept only if a later block asks for it."""

    context: tuple[Tensor, ...] = ()
    """Inputs of earlier blocks, newest first, kept only as far back as a later block asks."""

    target: Tensor | None = None
    """(B, …) encoded label travelling beside the activations (AL); None for the first block, and in evaluation."""

    def advance(self, h: Tensor, keep_x: bool = False, depth: int = 0, target: Tensor | None = None) -> Signal:
        """Return the signal for the next block: the same batch with `h`, cut from its graph, as activations.

        `keep_x` and `depth` say what later blocks ask for: the network's input, so many of the inputs of blocks.
        """
        context = (self.h, *self.context)[:depth]
        return replace(self, h=dense(h.detach()), x=self.x if keep_x else None, context=context, target=target)


def dense(tensor: Tensor) -> Tensor:
    """Return the tensor without gaps in memory: itself, or a copy if it is a part of a larger one.

    What is handed on then keeps nothing else alive, and looks the same after a journey to another process.
    """
    same = torch.empty_like(tensor, device="meta").stride() == tensor.stride()  # a copy keeps strides only if dense
    return tensor if same else tensor.contiguous()
