"""DeInfoReg: variance, invariance and covariance of a projection (Huang et al., Neurocomputing 651, 2025)."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kit import heads, losses
from kit.methods.method import Last, Method
from kit.objective import HeadSpec, Objective
from kit.settings import Count, NonNegative
from kit.signal import Signal

TERMS = ("invariance", "variance", "covariance", "ce")
Weights = Annotated[
    Mapping[Literal[TERMS], NonNegative], Field(description=f"numbers of at least 0 by term: {', '.join(TERMS)}")
]


class DeInfoReg(Objective):
    """Variance, invariance and covariance of a projection, and a classifier beside them (arXiv 2506.18193).

    `merge=True`: the classifier reads the projection, and its small gradient reaches the block.
    `merge=False`: the classifier reads the block's output, detached.
    """

    batch_statistics = True

    def __init__(
        self, projector: nn.Module, classifier: nn.Module, num_classes: int, variant: str, merge: bool,
        weights: Mapping[str, float] | None,
    ):  # fmt: skip
        super().__init__()
        self.projector, self.classifier = projector, classifier
        self.num_classes, self.variant, self.merge = num_classes, variant, merge
        self.weights = {"invariance": 1.0, "variance": 1.0, "covariance": 1.0, "ce": 0.001} | dict(weights or {})

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        p = self.projector(h)
        logits = self.classifier(p if self.merge else h.detach())
        with torch.autocast(h.device.type, enabled=False):
            terms = losses.deinforeg(self.gather(p.float()), self.gather(signal.y), self.num_classes, self.variant)
            return terms | {"ce": losses.cross_entropy(logits, signal.y)}

    def readout(self, h: Tensor) -> Tensor:
        return self.classifier(self.projector(h) if self.merge else h)


def deinforeg_objective(
    spec: HeadSpec, variant: losses.Variant = "paper", widths: heads.Widths = (2048, 2048, 2048),
    pool: Count | None = None, classifier: Literal["merge", "unmerge"] = "merge",
    hidden: heads.Widths = (2048, 2048), weights: Weights | None = None, last: Last = "pooled",
    project: Literal["auto", "mlp", "none"] = "auto",
) -> DeInfoReg:  # fmt: skip
    """Return the objective; `weights` of its terms, `pool` and `widths` as for `heads.projector`.

    `variant` is that of `losses.deinforeg`, `classifier` merge or unmerge (its gradient reaches the block or not),
    `hidden` the widths of an unmerged one. `last`: published code reads a ResNet's last map; the default reads what the
    pool leaves, so that the last projector is no larger than the others and the exit that of the whole network.
    `project="none"` takes features as they are, with a classifier of Tanh and Linear, as published for texts; "auto"
    does so for texts only.
    """
    none = project == "none" or (project == "auto" and spec.of_texts)
    projector = heads.ShrinkFlatten(spec.shape, pool) if none else heads.projector(spec.shape, widths, pool)
    if none:
        answer = nn.Sequential(nn.Tanh(), nn.Linear(projector.num_features, spec.num_classes))
    elif classifier == "merge":
        answer = nn.Sequential(nn.BatchNorm1d(widths[-1]), nn.ReLU(), nn.Linear(widths[-1], spec.num_classes))
    else:
        answer = heads.projector(spec.shape, (*hidden, spec.num_classes), pool)
    return DeInfoReg(projector, answer, spec.num_classes, variant, none or classifier == "merge", weights)


METHOD = Method(
    "variance, invariance and covariance of each block's projection, on labels",
    deinforeg_objective,
    "Huang et al. 2025",
)
