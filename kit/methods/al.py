"""AL, associated learning: features and labels meet half-way, in a code (Kao & Chen, Neural Comput. 33(1), 2021)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit import heads, losses
from kit.methods.method import Method
from kit.objective import HeadSpec, Objective
from kit.settings import Count
from kit.signal import Signal


class AL(Objective):
    """MSE(b(h), t_k) + MSE(r(t_k), t_{k-1}) with t_k = g(t_{k-1}) and t_0 = onehot(y).

    The bridge b reads the block's output, the code before travels with the signal, and no gradient reaches either
    through the other. The answer goes back the way the label came: bridge, then the decoder r of this block, then those
    of the blocks before, which lend them.
    """

    weights: Mapping[str, float] = {"association": 1.0, "decoding": 1.0}

    def __init__(
        self, bridge: nn.Module, encoder: nn.Module, decoder: nn.Module, num_classes: int, earlier: Sequence[nn.Module]
    ):
        super().__init__()
        self.bridge, self.encoder, self.decoder, self.num_classes = bridge, encoder, decoder, num_classes
        self.borrowed = tuple(earlier)

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


def al_objective(spec: HeadSpec, code: Count = 128, hidden: Count = 512, pool: Count | None = None) -> AL:
    """Return the objective: a code of `code` numbers in [-1, 1], bridges with a hidden layer of `hidden` units."""
    size = code if spec.before else spec.num_classes
    bridge = nn.Sequential(heads.projector(spec.shape, (hidden, code), pool), nn.Tanh())
    encoder, decoder = nn.Sequential(nn.Linear(size, code), nn.Tanh()), nn.Sequential(nn.Linear(code, size))
    nn.init.xavier_uniform_(encoder[0].weight, nn.init.calculate_gain("tanh"))  # or classes' codes fade, block by block
    if spec.before:  # the first decodes to labels, the others to codes
        decoder.append(nn.Tanh())
    return AL(bridge, encoder, decoder, spec.num_classes, [objective.lent for objective in spec.before])


METHOD = Method(
    "features and encoded labels brought together at each block, decoded the way back",
    al_objective,
    "Kao and Chen 2021",
)
