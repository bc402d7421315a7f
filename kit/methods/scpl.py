"""SCPL: samples of one class drawn together in a projection (arXiv 2602.00062)."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from kit import heads, losses
from kit.methods.cross_entropy import greedy_objective
from kit.methods.method import Last, Method
from kit.objective import HeadSpec, Objective
from kit.settings import Count, Positive
from kit.signal import Signal


class SCPL(Objective):
    """Supervised contrast (Khosla et al. 2020) of a projection, and a classifier beside it.

    The classifier reads the block's output detached: it answers, and teaches the block nothing.
    """

    weights: Mapping[str, float] = {"contrast": 1.0, "ce": 1.0}
    batch_statistics = True

    def __init__(self, projector: nn.Module, head: nn.Module, temperature: float, contrast: losses.Contrast):
        super().__init__()
        self.projector, self.head, self.temperature, self.contrast = projector, head, temperature, contrast

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        p, logits = self.projector(h), self.head(h.detach())
        with torch.autocast(h.device.type, enabled=False):
            rows, y = self.gather(p.float()), self.gather(signal.y)
            contrast = losses.supervised_contrast(rows, y, self.temperature, self.contrast)
            return {"contrast": contrast, "ce": losses.cross_entropy(logits, signal.y)}

    def readout(self, h: Tensor) -> Tensor:
        return self.head(h)


Projector = Literal["mlp", "mlp-bn", "linear", "average", "identity"]


def scpl_objective(
    spec: HeadSpec, widths: heads.Widths = (512, 1024), pool: Count | None = None, temperature: Positive = 0.1,
    contrast: losses.Contrast = "scpl", projector: Projector = "mlp", last: Last = "pooled",
    classifier: Literal["linear", "mlp"] = "linear",
) -> SCPL:  # fmt: skip
    """Return the objective; `pool` and `widths` as for `heads.projector`, `contrast` as for the loss.

    `projector`: an MLP of `widths`, with batch norm or without as SCPL's; a Linear to the last width; the average over
    places; or nothing but flattening. `last`: whether the last block's loss reads the map before the pool, as published
    on ResNets, or what the pool leaves, so that its classifier can be the model's own. `classifier`: "mlp" gives the
    last block one with a hidden layer of 2048, as published on VGG; exits before it are average pool and Linear.
    """
    flat = heads.ShrinkFlatten(spec.shape, pool)
    if projector == "average":
        own = heads.GlobalPool(spec.shape)
    elif projector == "identity":
        own = flat
    else:
        sizes = widths[-1:] if projector == "linear" else widths
        own = heads.projector(spec.shape, sizes, pool, norm=projector == "mlp-bn")
    if classifier == "mlp" and spec.index == spec.num_cuts - 1:
        answer = heads.projector(spec.shape, (2048, spec.num_classes), pool, norm=False)
    else:
        answer = greedy_objective(spec).head
    return SCPL(own, answer, temperature, contrast)


METHOD = Method(
    "supervised contrast of each block's projection; classifiers only watch", scpl_objective, "arXiv 2602.00062"
)
