"""Objectives: an auxiliary head with the local loss that trains a block through it.

An objective is a module with `loss(h, signal) -> {term: scalar}`, `readout(h) -> logits (B, C)`, and `weights`, the
factor of each term. `Block.step` alone weighs and sums the terms. Heads run in the block's precision; terms are taken
in fp32, since correlations of bf16 rows lose the digits that they are about.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit import losses
from kit.blocks.signal import Signal


class CrossEntropy(nn.Module):
    """Cross-entropy of a classifier on the block's output: greedy, DGL, backprop, and every last module."""

    weights: Mapping[str, float] = {"ce": 1.0}
    batch_statistics = False

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(self.head(h).float(), signal.y)}

    def readout(self, h: Tensor) -> Tensor:
        return self.head(h)


class DeInfoReg(nn.Module):
    """Variance, invariance and covariance of a projection, and a classifier beside them (arXiv 2506.18193).

    `merge=True`: the classifier reads the projection, and its small gradient reaches the block.
    `merge=False`: the classifier reads the block's output, detached.
    """

    batch_statistics = True

    def __init__(
        self,
        projector: nn.Module,
        classifier: nn.Module,
        num_classes: int,
        variant: str = "paper",
        merge: bool = True,
        weights: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.projector, self.classifier = projector, classifier
        self.num_classes, self.variant, self.merge = num_classes, variant, merge
        self.weights = {"invariance": 1.0, "variance": 1.0, "covariance": 1.0, "ce": 0.001} | dict(weights or {})

    @staticmethod
    def gather(rows: Tensor) -> Tensor:
        """Return the rows of the whole batch; `kit.pipeline.replicas` replaces this where replicas share one."""
        return rows

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        p = self.projector(h)
        logits = self.classifier(p if self.merge else h.detach())
        with torch.autocast(h.device.type, enabled=False):
            terms = losses.deinforeg(self.gather(p.float()), self.gather(signal.y), self.num_classes, self.variant)
            return terms | {"ce": F.cross_entropy(logits.float(), signal.y)}

    def readout(self, h: Tensor) -> Tensor:
        return self.classifier(self.projector(h) if self.merge else h)
