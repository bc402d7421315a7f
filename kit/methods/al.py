"""AL, associated learning: features and labels meet half-way, in a code (Kao & Chen, Neural Comput. 33(1), 2021)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit import heads, losses
from kit.methods.method import Last, Method
from kit.objective import HeadSpec, Objective
from kit.settings import Count, Positive
from kit.signal import Signal


class AL(Objective):
    """MSE(b(h), t_k) + MSE(r(t_k), t_{k-1}) with t_k = g(t_{k-1}) and t_0 = onehot(y).

    The bridge b reads the block's output, the code before travels with the signal, and no gradient reaches either
    through the other. The answer goes back the way the label came: bridge, then the decoder r of this block, then those
    of the blocks before, which lend them.
    """

    weights: Mapping[str, float] = {"association": 1.0, "decoding": 1.0}

    def __init__(
        self, bridge: nn.Module, encoder: nn.Module, decoder: nn.Module, num_classes: int,
        earlier: Sequence[nn.Module], inverse_lr: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        self.bridge, self.encoder, self.decoder, self.num_classes = bridge, encoder, decoder, num_classes
        self.borrowed = tuple(earlier)
        self.lr_factors = {} if inverse_lr == 1 else {"decoder": inverse_lr}

    @property
    def lent(self) -> nn.Module:
        return self.decoder

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
        for decoder in (self.decoder, *reversed(self.borrowed)):
            answer = decoder(answer)
        return answer

    def _code_before(self, signal: Signal) -> Tensor:
        if signal.target is not None:
            return signal.target
        losses.check_class_numbers(signal.y, len(signal.h), self.num_classes)
        return F.one_hot(signal.y, self.num_classes).float()


def al_objective(
    spec: HeadSpec, code: Count = 128, hidden: Count = 512, pool: Count | None = None,
    activation: Literal["tanh", "sigmoid"] = "tanh", inverse_lr: Positive = 1.0, last: Last = "pooled",
) -> AL:  # fmt: skip
    """Return the objective: a code of `code` numbers, bridges with a hidden layer of `hidden` units.

    Published: `code=500, hidden=2500, activation="sigmoid", inverse_lr=2`, decoders then learning twice as fast, and
    `last="map"`. Its bridges have 287 M weights on DeInfoReg's VGG; the default, tanh with batch norm and weights that
    keep codes apart, has 65 M. `last` as for `kit.methods.method.Last`.
    """
    size = code if spec.before else spec.num_classes
    act = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid}[activation]
    if activation == "sigmoid":
        flatten = heads.ShrinkFlatten(spec.shape, pool)
        layers = nn.Linear(flatten.num_features, hidden), act(), nn.Linear(hidden, code), act()
        bridge = nn.Sequential(flatten, *layers)
    else:
        bridge = nn.Sequential(heads.projector(spec.shape, (hidden, code), pool), act())
    encoder, decoder = nn.Sequential(nn.Linear(size, code), act()), nn.Sequential(nn.Linear(code, size))
    if activation == "tanh":  # or classes' codes fade, block by block
        nn.init.xavier_uniform_(encoder[0].weight, nn.init.calculate_gain("tanh"))
    if spec.before or activation == "sigmoid":  # the first decodes to labels, the others to codes
        decoder.append(act())
    return AL(bridge, encoder, decoder, spec.num_classes, [each.lent for each in spec.before], inverse_lr)


METHOD = Method(
    "features and encoded labels brought together at each block, decoded the way back",
    al_objective,
    "Kao and Chen 2021",
)
