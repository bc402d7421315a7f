"""What travels from block to block."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from kit.losses import check_class_numbers

Slot = tuple[str, int | str | None]
"""Where in a signal a tensor stands: the field, and in one that holds several the tensor's number or name."""


@dataclass(frozen=True)
class Signal:
    """One batch on its way through the blocks. Everything in it is detached: no gradient crosses a cut."""

    h: Tensor
    """(B, …) activations for the next block; for the first block, the network's input."""
    y: Tensor | None = None
    """(B,) int64 labels; None where nobody gave any: such a signal can be answered, and teaches nothing."""
    x: Tensor | None = None
    """(B, …) the network's input, kept only if a later block asks for it."""
    context: tuple[Tensor, ...] = ()
    """Inputs of earlier blocks, newest first, kept only as far back as a later block asks."""
    target: Tensor | None = None
    """(B, …) encoded label travelling beside the activations (AL); None for the first block, and without labels."""
    views: Mapping[str, Tensor] = field(default_factory=dict)
    """(B, …) by name: other views of the samples, each kept only until no later block asks for it."""

    def __post_init__(self) -> None:
        parts = self.parts()
        for (name, item), tensor in parts.items():
            if not isinstance(tensor, Tensor):
                kind = type(tensor).__name__
                raise TypeError(f"{item or name} is a {kind}, but a signal holds tensors: torch.as_tensor makes one")
        if len({tensor.shape[:1] for tensor in parts.values()} | {self.h.shape[:1], ()}) != 2:
            shapes = ", ".join(f"{item or name} {tuple(tensor.shape)}" for (name, item), tensor in parts.items())
            raise ValueError(f"a signal's parts are of one batch, (B, …) each, but these have the shapes {shapes}")
        if self.y is not None:
            check_class_numbers(self.y, len(self.y))
        if any(tensor.requires_grad for tensor in parts.values()):  # or its gradient would reach whoever made it
            detached = Signal.of({slot: tensor.detach() for slot, tensor in parts.items()})
            for part in fields(self):
                object.__setattr__(self, part.name, getattr(detached, part.name))

    def advance(
        self, h: Tensor, keep_x: bool = False, depth: int = 0, target: Tensor | None = None,
        views: Collection[str] = (), entered: Tensor | None = None,
    ) -> Signal:  # fmt: skip
        """Return the signal for the next block: the same batch with `h`, cut from its graph, as activations.

        `keep_x`, `depth` and `views` say what later blocks ask for: the network's input, so many of the inputs of
        blocks, views by name. `entered` is the block's input with its context, where that is what they ask for.
        """
        context = (self.h if entered is None else dense(entered), *self.context)[:depth]
        kept = {name: view for name, view in self.views.items() if name in views}
        x = self.x if keep_x else None
        return replace(self, h=dense(h.detach()), x=x, context=context, target=target, views=kept)

    def select(self, rows: Tensor) -> Signal:
        """Return the signal of some of the samples: `rows` (b,) int64, in that order."""
        return Signal.of({slot: tensor[rows] for slot, tensor in self.parts().items()})

    def parts(self) -> dict[Slot, Tensor]:
        """Return every tensor of the signal by its slot."""
        found: dict[Slot, Tensor] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Mapping):
                found |= {(part.name, name): tensor for name, tensor in value.items()}
            elif isinstance(value, tuple):
                found |= {(part.name, number): tensor for number, tensor in enumerate(value)}
            elif value is not None:
                found[part.name, None] = value
        return found

    @classmethod
    def of(cls, parts: Mapping[Slot, Tensor]) -> Signal:
        """Return the signal with these tensors in their slots."""
        values: dict[str, Any] = {}
        for (name, item), tensor in parts.items():
            if item is None:
                values[name] = tensor
            elif isinstance(item, str):
                values.setdefault(name, {})[item] = tensor
            else:
                values[name] = (*values.get(name, ()), tensor)
        return cls(**values)


def dense(tensor: Tensor) -> Tensor:
    """Return the tensor without gaps in memory: itself, or a copy if it is a part of a larger one.

    What is handed on then keeps nothing else alive, and looks the same after a journey to another process.
    """
    same = torch.empty_like(tensor, device="meta").stride() == tensor.stride()  # a copy keeps strides only if dense
    return tensor if same else tensor.contiguous()
