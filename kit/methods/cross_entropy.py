"""Cross-entropy of a classifier on each block: backprop, greedy and DGL, which differ in the classifier alone."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from kit import heads, losses
from kit.methods.method import Method
from kit.objective import HeadSpec, Objective
from kit.settings import Count, Positive
from kit.signal import Signal


class CrossEntropy(Objective):
    """Cross-entropy of a classifier on the block's output: greedy, DGL, backprop, and every last module."""

    weights: Mapping[str, float] = {"ce": 1.0}

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        return {"ce": losses.cross_entropy(self.head(h), signal.y)}

    def readout(self, h: Tensor) -> Tensor:
        return self.head(h)


def greedy_objective(spec: HeadSpec) -> CrossEntropy:
    """Cross-entropy of average pooling and a Linear; at the end, of the model's own classifier."""
    return dgl_objective(spec, aux="0c1f")


def dgl_objective(
    spec: HeadSpec, aux: heads.AuxNet = "1c2f", widen: Positive = 1.0, feature_dim: Count = 128,
    widening: Literal["once", "each"] = "once", init: heads.Init = "pytorch",
) -> CrossEntropy:  # fmt: skip
    """Cross-entropy of a small auxiliary classifier (Belilovsky et al., ICML 2020); options as for `heads.aux_net`.

    The default `aux` is InfoPro's for DGL: unlike DGL's own, `mlp-sr` and others, it reads features of any shape.
    """
    if spec.classifier is not None:
        return CrossEntropy(spec.classifier)
    return CrossEntropy(
        heads.aux_net(aux, spec.shape, spec.num_classes, spec.widest, widen, feature_dim, widening, init)
    )


BP = Method(
    "backpropagation: one block, the cuts only watched by classifiers", greedy_objective, "Rumelhart et al. 1986", True
)
GREEDY = Method(
    "cross-entropy of average pooling and a linear classifier at each block", greedy_objective, "Belilovsky et al. 2020"
)
DGL = Method("cross-entropy of a small auxiliary network at each block", dgl_objective, "Belilovsky et al. 2020")
