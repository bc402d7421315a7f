"""Objectives: an auxiliary head with the local loss that trains a block through it.

Heads run in the block's precision; terms are taken in fp32, since correlations of bf16 rows lose the digits that they
are about.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from torch import Tensor, nn

from kit.shapes import Shape
from kit.signal import Signal


class Objective(nn.Module):
    """What a block asks of its objective."""

    weights: Mapping[str, float] = MappingProxyType({})
    """The factor of each term of the loss; terms not named here weigh 1."""

    batch_statistics = False
    """Whether a sample's loss depends on the others of its batch."""

    needs_x = False
    """Whether the loss looks at the network's input."""

    lr_factors: Mapping[str, float] = MappingProxyType({})
    """The factor of the learning rate of parts that have one of their own, by the part's name."""

    head: nn.Module
    """What the loss reads the block's output through."""
    lent: nn.Module | None = None
    """A part of the head that later blocks answer with, and this one trains (AL's decoder)."""
    borrowed: tuple[nn.Module, ...] = ()
    """The lent parts of earlier blocks, first to last: a tuple, so that they are none of this module's own."""
    gather: Callable[[Tensor], Tensor] = staticmethod(lambda rows: rows)
    """How a loss that compares samples gets the rows of the whole batch: differentiable all-gather, with replicas."""

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        """Return the terms, scalars, by name and unweighted, for the block's output `h` on the signal it received."""
        raise NotImplementedError

    def readout(self, h: Tensor) -> Tensor:
        """Return the logits (B, C) that the block alone would answer."""
        raise NotImplementedError

    def encode(self, signal: Signal) -> Tensor | None:
        """Return the encoded label for the next block, detached; None where labels are all it needs."""
        return None

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the loss: the terms, weighted. Nowhere else are they."""
        return cast(Tensor, sum(self.weights.get(name, 1.0) * term for name, term in terms.items()))


@dataclass(frozen=True)
class HeadSpec:
    """What the objective at one cut is built from."""

    shape: Shape
    """Of the features it reads."""
    num_classes: int
    widest: int
    """Channels of the net's widest layer: auxiliary nets grow up to it."""
    classifier: nn.Module | None
    """The model's own classifier, at its end; None elsewhere."""
    index: int
    """Number of cuts before it."""
    num_cuts: int
    """How many there are in all, the model's end counted."""
    image: Shape
    """Of the network's input."""
    pixels: Callable[[Tensor], Tensor] | None
    """Turns the network's input into images in [0, 1]; None where nobody said how."""
    before: tuple[Objective, ...] = ()
    """The objectives of the blocks before it."""
    source: Shape | None = None
    """Of the block's input."""
    of_texts: bool = False
    """Whether the features are of texts: one row for all words of each."""
