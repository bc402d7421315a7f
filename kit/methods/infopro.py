"""InfoPro: keep what tells of the input while learning what tells of the label (Wang et al., ICLR 2021)."""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kit import heads, losses
from kit.methods.cross_entropy import CrossEntropy, dgl_objective, greedy_objective
from kit.methods.method import Method
from kit.methods.scpl import SCPL
from kit.objective import HeadSpec, Objective
from kit.settings import Count, NonNegative, Positive
from kit.signal import Signal

WEIGHTS = MappingProxyType({2: (5, 0.5, 0, 0), 4: (1, 0, 0, 1), 8: (5, 0, 0, 1), 16: (5, 0, 0.5, 1)})
"""(α₁, β₁, α₂, β₂) by number of blocks: ResNet-110, contrast, CIFAR-10 (InfoPro, ICLR 2021, appendix)."""


Task = Literal["softmax", "contrast"]
Weights = Annotated[
    Sequence[NonNegative], Field(min_length=4, max_length=4, description="four numbers of at least 0: (α₁, β₁, α₂, β₂)")
]


class InfoPro(Objective):
    """α·BCE(decoder(h), input in [0, 1]) + β·task, where `task` is CrossEntropy or SCPL (ICLR 2021, eq. 6).

    A classifier that only watches keeps its weight of 1.
    """

    needs_x = True

    def __init__(
        self, decoder: nn.Module, task: CrossEntropy | SCPL, pixels: Callable[[Tensor], Tensor], alpha: float,
        beta: float,
    ):  # fmt: skip
        super().__init__()
        self.decoder, self.task, self.pixels = decoder, task, pixels
        self.batch_statistics = task.batch_statistics
        watched = {"ce"} if isinstance(task, SCPL) else set()
        self.weights = {name: 1.0 if name in watched else beta * weight for name, weight in task.weights.items()}
        self.weights["reconstruction"] = alpha

    def loss(self, h: Tensor, signal: Signal) -> dict[str, Tensor]:
        # The decoder runs behind the first layer of the task's net. Backward goes the other way: what the rest of that
        # net keeps is freed before the decoder's peak, and what the decoder keeps before that layer's.
        net, images = self.task.projector if isinstance(self.task, SCPL) else self.task.head, []
        with net[0].register_forward_hook(lambda *_: images.append(self.decoder(h))):
            terms = self.task.loss(h, signal)
        with torch.autocast(h.device.type, enabled=False):
            return terms | {"reconstruction": losses.reconstruction(images[0], self.pixels(signal.x).float())}

    def readout(self, h: Tensor) -> Tensor:
        return self.task.readout(h)


def infopro_objective(
    spec: HeadSpec, task: Task = "softmax", aux: heads.AuxNet = "1c2f", weights: Weights | None = None,
    decoder: Literal["images", "none"] = "images", contrast: losses.Contrast = "all-anchors", widen: Positive = 1.0,
    feature_dim: Count = 128, widening: Literal["once", "each"] = "once", init: heads.Init = "fan-out",
) -> InfoPro | CrossEntropy | SCPL:  # fmt: skip
    """Return the objective: reconstruction of the input and a task loss; plain cross-entropy in the last block.

    `weights` are (α₁, β₁, α₂, β₂): α and β run linearly from their first to their last value over all blocks but the
    last. None takes the paper's for the nearest number of blocks in `WEIGHTS`. `decoder="none"` leaves the task loss
    alone, as ContSup trains. `contrast` is that of `losses.supervised_contrast`; `aux`, `widen`, `feature_dim`,
    `widening` and `init` are those of `heads.aux_net`, `widen` and `init` of the decoder too. Raises ValueError where
    nobody said how inputs become images.
    """
    own = {"widen": widen, "feature_dim": feature_dim, "widening": widening, "init": init}
    if spec.index == spec.num_cuts - 1:
        return dgl_objective(spec, aux, **own)
    if decoder == "images" and spec.of_texts:
        raise ValueError(
            f"infopro reconstructs images, and inputs of shape {tuple(spec.image)} are none: give decoder='none', "
            "which leaves its task loss, or choose another method"
        )
    if decoder == "images" and (spec.pixels is None or not spec.image.is_map):
        raise ValueError(
            f"infopro reconstructs images in [0, 1] from inputs of shape {tuple(spec.image)}, whose range it does not "
            "know: give decouple pixels=, a function from the network's input to images, such as data.denormalize"
        )
    if weights is None:
        weights = WEIGHTS[min(WEIGHTS, key=lambda k: abs(k - spec.num_cuts))]
    done = spec.index / max(1, spec.num_cuts - 2)
    alpha, beta = (first + (last - first) * done for first, last in zip(weights[:2], weights[2:], strict=True))
    if task == "softmax":
        task_loss = dgl_objective(spec, aux, **own)
    else:
        embed = heads.aux_net(aux, spec.shape, feature_dim, spec.widest, **own)
        task_loss = SCPL(embed, greedy_objective(spec).head, 0.07, contrast)
    if decoder == "none":
        return task_loss
    return InfoPro(heads.Decoder(spec.shape, spec.image, widen, init), task_loss, spec.pixels, alpha, beta)


METHOD = Method(
    "reconstruction of the input, with cross-entropy or contrast, at each block", infopro_objective, "Wang et al. 2021"
)
