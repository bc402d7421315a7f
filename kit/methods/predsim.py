"""PredSim: a classifier, and features as similar as their labels (Nøkland & Eidnes, ICML 2019)."""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit import heads, losses
from kit.methods.cross_entropy import greedy_objective
from kit.methods.method import Method
from kit.objective import HeadSpec, Objective
from kit.settings import Portion
from kit.signal import Signal


class PredSim(Objective):
    """A classifier's cross-entropy, and the similarity of samples against that of their labels.

    (1 - β)·CE + β·MSE(S(net(h)), S(onehot(y))), Nøkland & Eidnes, ICML 2019, eq. 4. Without labels' part in it, the
    similarity of the block's outputs is compared with that of its inputs, or the input is reconstructed.
    """

    batch_statistics = True

    def __init__(
        self, head: nn.Module, net: nn.Module | None, decoder: nn.Module | None, num_classes: int,
        weights: Mapping[str, float], similarity: str, watching: bool,
    ):  # fmt: skip
        super().__init__()
        self.head, self.net, self.decoder, self.num_classes = head, net, decoder, num_classes
        self.weights, self.watching = weights, watching
        self.rows = heads.spread_rows if similarity == "std" else partial(torch.flatten, start_dim=1)

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        features = None if self.net is None else self.net(h)
        images = None if self.decoder is None else self.decoder(h)
        logits = self.head(h.detach() if self.watching else h)
        with torch.autocast(h.device.type, enabled=False):
            terms = {"ce": losses.cross_entropy(logits, signal.y)}
            if features is not None:
                rows = self.gather(self.rows(features.float()))
                terms["similarity"] = losses.invariance(rows, self.gather(signal.y), self.num_classes)
                if "input_similarity" in self.weights:
                    before = losses.correlation(self.gather(self.rows(signal.h.detach().float())))
                    terms["input_similarity"] = F.mse_loss(losses.correlation(rows), before)
            if images is not None:
                terms["reconstruction"] = F.mse_loss(images.float(), signal.h.detach().float())
            return terms

    def readout(self, h: Tensor) -> Tensor:
        return self.head(h)


def predsim_objective(
    spec: HeadSpec, beta: Portion = 0.99, similarity: Literal["std", "flat"] = "std",
    classifier: Literal["places", "pooled"] = "places", loss: Literal["predsim", "pred", "sim"] = "predsim",
    unsupervised: Literal["none", "sim", "reconstruction"] = "none", alpha: Portion = 0.0,
) -> PredSim:  # fmt: skip
    """Return the objective; `beta` is the share of the similarity loss, the rest is the cross-entropy's.

    `similarity` compares each channel's standard deviation over the map ("std": `heads.spread_rows`) or all its places.
    The `classifier` reads up to 4,096 "places" (`heads.places_classifier`) or one average a channel. `loss` is both
    terms, the classifier alone, or the similarity alone, where the classifier only watches. `alpha` is the share of the
    `unsupervised` loss: inputs' similarity, or their reconstruction, which the first block does without.
    """
    places = spec.classifier is None and classifier == "places"
    head = heads.places_classifier(spec.shape, spec.num_classes) if places else greedy_objective(spec).head
    share = {"predsim": beta, "pred": 0.0, "sim": 1.0}[loss]
    own = {"ce": (1 - alpha) * (1 - share), "similarity": (1 - alpha) * share}
    if loss == "sim":
        own["ce"] = 1.0  # a classifier that only watches
    net = None if loss == "pred" and unsupervised != "sim" else heads.similarity_net(spec.shape)
    if unsupervised == "reconstruction" and spec.of_texts:
        raise ValueError(
            "unsupervised='reconstruction' of texts, whose length differs by batch: choose 'sim' or 'none'"
        )
    decoder = heads.input_decoder(spec.shape, spec.source) if unsupervised == "reconstruction" and spec.index else None
    own |= {"none": {}, "sim": {"input_similarity": alpha}, "reconstruction": {"reconstruction": alpha}}[unsupervised]
    return PredSim(head, net, decoder, spec.num_classes, own, similarity, loss == "sim")


METHOD = Method(
    "cross-entropy at each block, and similar features for samples of one class",
    predsim_objective,
    "Nøkland and Eidnes 2019",
)
