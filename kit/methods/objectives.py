"""Objectives: an auxiliary head with the local loss that trains a block through it.

`Block.step` alone weighs and sums the terms of a loss. Heads run in the block's precision; terms are taken in fp32,
since correlations of bf16 rows lose the digits that they are about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit import losses
from kit.signal import Signal


def whole_batch(rows: Tensor) -> Tensor:
    """Return the rows of the whole batch: these. `kit.pipeline.replicas` replaces this where replicas share a batch."""
    return rows


class Objective(nn.Module):
    """What a block asks of its objective."""

    weights: Mapping[str, float]
    """The factor of each term of the loss."""

    batch_statistics = False
    """Whether a sample's loss depends on the others of its batch; `gather` then brings replicas' samples together."""

    needs_x = False
    """Whether the loss looks at the network's input."""

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        """Return the terms, scalars, by name, for the block's output `h` on the signal it received."""
        raise NotImplementedError

    def readout(self, h: Tensor) -> Tensor:
        """Return the logits (B, C) that the block alone would answer."""
        raise NotImplementedError

    def encode(self, signal: Signal) -> Tensor | None:
        """Return the encoded label for the next block, detached; None where labels are all it needs."""
        return None


class CrossEntropy(Objective):
    """Cross-entropy of a classifier on the block's output: greedy, DGL, backprop, and every last module."""

    weights: Mapping[str, float] = {"ce": 1.0}

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(self.head(h).float(), signal.y)}

    def readout(self, h: Tensor) -> Tensor:
        return self.head(h)


class DeInfoReg(Objective):
    """Variance, invariance and covariance of a projection, and a classifier beside them (arXiv 2506.18193).

    `merge=True`: the classifier reads the projection, and its small gradient reaches the block.
    `merge=False`: the classifier reads the block's output, detached.
    """

    batch_statistics = True
    gather = staticmethod(whole_batch)

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

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        p = self.projector(h)
        logits = self.classifier(p if self.merge else h.detach())
        with torch.autocast(h.device.type, enabled=False):
            terms = losses.deinforeg(self.gather(p.float()), self.gather(signal.y), self.num_classes, self.variant)
            return terms | {"ce": F.cross_entropy(logits.float(), signal.y)}

    def readout(self, h: Tensor) -> Tensor:
        return self.classifier(self.projector(h) if self.merge else h)


class PredSim(Objective):
    """A classifier's cross-entropy, and the similarity of samples against that of their labels.

    (1 - β)·CE + β·MSE(S(net(h)), S(onehot(y))), Nøkland & Eidnes, ICML 2019, eq. 4.
    """

    batch_statistics = True
    gather = staticmethod(whole_batch)

    def __init__(self, head: nn.Module, net: nn.Module, num_classes: int, beta: float = 0.99):
        super().__init__()
        self.head, self.net, self.num_classes = head, net, num_classes
        self.weights = {"ce": 1 - beta, "similarity": beta}

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        rows, logits = self.net(h), self.head(h)
        with torch.autocast(h.device.type, enabled=False):
            similarity = losses.invariance(self.gather(rows.float()), self.gather(signal.y), self.num_classes)
            return {"ce": F.cross_entropy(logits.float(), signal.y), "similarity": similarity}

    def readout(self, h: Tensor) -> Tensor:
        return self.head(h)


class SCPL(Objective):
    """Samples of one class drawn together in a projection (arXiv 2602.00062, supervised contrast of Khosla et al.).

    The classifier reads the block's output detached: it answers, and teaches the block nothing.
    """

    weights: Mapping[str, float] = {"contrast": 1.0, "ce": 1.0}
    batch_statistics = True
    gather = staticmethod(whole_batch)

    def __init__(self, projector: nn.Module, head: nn.Module, temperature: float = 0.1):
        super().__init__()
        self.projector, self.head, self.temperature = projector, head, temperature

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        p, logits = self.projector(h), self.head(h.detach())
        with torch.autocast(h.device.type, enabled=False):
            contrast = losses.supervised_contrast(self.gather(p.float()), self.gather(signal.y), self.temperature)
            return {"contrast": contrast, "ce": F.cross_entropy(logits.float(), signal.y)}

    def readout(self, h: Tensor) -> Tensor:
        return self.head(h)


class InfoPro(Objective):
    """Keep what tells of the input while learning what tells of the label (Wang et al., ICLR 2021, eq. 6).

    α·BCE(decoder(h), input in [0, 1]) + β·task, where `task` is an objective: CrossEntropy or SCPL. A classifier that
    only watches keeps its weight of 1.
    """

    needs_x = True

    def __init__(
        self,
        decoder: nn.Module,
        task: CrossEntropy | SCPL,
        pixels: Callable[[Tensor], Tensor],
        alpha: float,
        beta: float,
    ):
        super().__init__()
        self.decoder, self.task, self.pixels = decoder, task, pixels
        self.batch_statistics = task.batch_statistics
        watched = {"ce"} if isinstance(task, SCPL) else set()
        self.weights = {name: 1.0 if name in watched else beta * weight for name, weight in task.weights.items()}
        self.weights["reconstruction"] = alpha

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        images = self.decoder(h)
        with torch.autocast(h.device.type, enabled=False):
            kept = losses.reconstruction(images, self.pixels(signal.x).float())
        return self.task.loss(h, signal) | {"reconstruction": kept}

    def readout(self, h: Tensor) -> Tensor:
        return self.task.readout(h)


class AL(Objective):
    """Features and labels meet half-way, in a code (associated learning, Kao & Chen, Neural Computation 33(1), 2021).

    MSE(b(h), t_k) + MSE(r(t_k), t_{k-1}) with t_k = g(t_{k-1}) and t_0 = onehot(y): the bridge b reads the block's
    output, the code before travels with the signal, and no gradient reaches either through the other. The answer goes
    back the way the label came: bridge, then the decoder r of this block, then those of the blocks before (`earlier`,
    first to last; theirs to train).
    """

    weights: Mapping[str, float] = {"association": 1.0, "decoding": 1.0}

    def __init__(
        self, bridge: nn.Module, encoder: nn.Module, decoder: nn.Module, num_classes: int, earlier: Sequence[nn.Module]
    ):
        super().__init__()
        self.bridge, self.encoder, self.decoder, self.num_classes = bridge, encoder, decoder, num_classes
        self.earlier = tuple(earlier)  # a tuple, and so none of this module's own parameters

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        guess, before = self.bridge(h), self._code_before(signal)
        with torch.autocast(h.device.type, enabled=False):
            code = self.encoder(before)
            return losses.associated(guess.float(), code, self.decoder(code), before)

    @torch.no_grad()
    def encode(self, signal: Signal) -> Tensor:
        return self.encoder(self._code_before(signal))

    def readout(self, h: Tensor) -> Tensor:
        answer = self.bridge(h)
        for decoder in (self.decoder, *reversed(self.earlier)):
            answer = decoder(answer)
        return answer

    def _code_before(self, signal: Signal) -> Tensor:
        return F.one_hot(signal.y, self.num_classes).float() if signal.target is None else signal.target
