"""LARS in as few passes over memory as its arithmetic needs."""

import pytorch_optimizer
import torch
from torch.optim.sgd import sgd

from kit.signal import dense


class LARS(pytorch_optimizer.LARS):
    """pytorch-optimizer's LARS, which copies whole: PyTorch's own copy forgets what a subclass added."""

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"maximize": self.maximize, "foreach": self.foreach}


class FusedLARS(LARS):
    """LARS with PyTorch's fused SGD as its update; same options, same state.

    SGD weighs gradient and weight decay by (1 - dampening) when it adds them to the momentum, and LARS by the trust
    ratio: seven passes over the weights in place of seventeen. A ratio has to be known before its update, which on a
    GPU would wait for the device, so there the parent's batched step is taken, as for options that SGD understands
    otherwise.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; `closure` recomputes the loss, as for any PyTorch optimizer."""
        otherwise = any(not g["momentum"] or g["nesterov"] or g["dampening"] for g in self.param_groups)
        if otherwise or any(p.is_cuda for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            self.init_group(group)
            group["step"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p: torch.Tensor, group: dict) -> None:
        decay, trust = 0.0, 1.0
        if p.ndim > 1:  # scalars and vectors are neither decayed nor rescaled
            decay, size, slope = group["weight_decay"], _norm(p), _norm(p.grad)
            whole = slope + decay * size
            trust = group["trust_coefficient"] * size / whole if size > 0 and whole > 0 else 1.0
        options = {name: group[name] for name in ("momentum", "lr")} | {"nesterov": False, "maximize": self.maximize}
        options |= {"weight_decay": decay, "dampening": 1 - trust}
        sgd([p], [p.grad], [self.state[p]["momentum_buffer"]], fused=True, **options)


def _norm(x: torch.Tensor) -> float:
    """Return the Euclidean norm of `x`; `torch.linalg.vector_norm` takes twice as long for it."""
    flat = dense(x).as_strided((x.numel(),), (1,))  # as it lies in memory: flattening channels-last weights copies them
    return torch.dot(flat, flat).sqrt().item()
