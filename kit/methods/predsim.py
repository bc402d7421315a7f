"""PredSim: a classifier, and features as similar as their labels (Nøkland & Eidnes, ICML 2019)."""

import torch
from torch import Tensor, nn

from kit import heads, losses
from kit.methods.cross_entropy import greedy_objective
from kit.methods.method import Method
from kit.objective import HeadSpec, Objective
from kit.settings import Portion
from kit.signal import Signal


class PredSim(Objective):
    """A classifier's cross-entropy, and the similarity of samples against that of their labels.

    (1 - β)·CE + β·MSE(S(net(h)), S(onehot(y))), Nøkland & Eidnes, ICML 2019, eq. 4.
    """

    batch_statistics = True

    def __init__(self, head: nn.Module, net: nn.Module, num_classes: int, beta: float):
        super().__init__()
        self.head, self.net, self.num_classes = head, net, num_classes
        self.weights = {"ce": 1 - beta, "similarity": beta}

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        rows, logits = self.net(h), self.head(h)
        with torch.autocast(h.device.type, enabled=False):
            similarity = losses.invariance(self.gather(rows.float()), self.gather(signal.y), self.num_classes)
            return {"ce": losses.cross_entropy(logits, signal.y), "similarity": similarity}

    def readout(self, h: Tensor) -> Tensor:
        return self.head(h)


def predsim_objective(spec: HeadSpec, beta: Portion = 0.99) -> PredSim:
    """Return the objective; `beta` is the share of the similarity loss, the rest is the cross-entropy's."""
    return PredSim(greedy_objective(spec).head, heads.similarity_net(spec.shape), spec.num_classes, beta)


METHOD = Method(
    "cross-entropy at each block, and similar features for samples of one class",
    predsim_objective,
    "Nøkland and Eidnes 2019",
)
