"""SCPL: samples of one class drawn together in a projection (arXiv 2602.00062)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kit import heads, losses
from kit.methods.cross_entropy import greedy_objective
from kit.methods.method import Method
from kit.objective import HeadSpec, Objective
from kit.settings import Count, Positive
from kit.signal import Signal


class SCPL(Objective):
    """Supervised contrast (Khosla et al. 2020) of a projection, and a classifier beside it.

    The classifier reads the block's output detached: it answers, and teaches the block nothing.
    """

    weights: Mapping[str, float] = {"contrast": 1.0, "ce": 1.0}
    batch_statistics = True

    def __init__(self, projector: nn.Module, head: nn.Module, temperature: float):
        super().__init__()
        self.projector, self.head, self.temperature = projector, head, temperature

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        p, logits = self.projector(h), self.head(h.detach())
        with torch.autocast(h.device.type, enabled=False):
            contrast = losses.supervised_contrast(self.gather(p.float()), self.gather(signal.y), self.temperature)
            return {"contrast": contrast, "ce": losses.cross_entropy(logits, signal.y)}

    def readout(self, h: Tensor) -> Tensor:
        return self.head(h)


def scpl_objective(
    spec: HeadSpec, widths: heads.Widths = (512, 1024), pool: Count | None = None, temperature: Positive = 0.1
) -> SCPL:
    """Return the objective; `pool` and `widths` as for `heads.projector`."""
    return SCPL(heads.projector(spec.shape, widths, pool), greedy_objective(spec).head, temperature)


METHOD = Method(
    "supervised contrast of each block's projection; classifiers only watch", scpl_objective, "arXiv 2602.00062"
)
