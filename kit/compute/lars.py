"""LARS in as few passes over memory as its arithmetic needs."""

import pytorch_optimizer
import torch
from torch.optim.sgd import sgd

from kit.signal import dense


class CopiesWhole(torch.optim.Optimizer):
    """Part of an optimizer of pytorch-optimizer's that copies whole: PyTorch's own copy forgets what these added."""

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"maximize": self.maximize, "foreach": self.foreach}


class LARS(CopiesWhole, pytorch_optimizer.LARS):
    """pytorch-optimizer's LARS, with a choice of trust ratios.

    `trust`, of a gradient g and a decay d: "split" is η‖w‖ / (‖g‖ + d‖w‖), as You et al. print it, "joint"
    η‖w‖ / ‖g + dw‖, as DeInfoReg trains. The decay then is part of the gradient before LARS sees it.
    """

    def __init__(self, parameters, lr: float, *, weight_decay: float = 0.0, trust: str = "split", **settings):
        super().__init__(parameters, lr, weight_decay=weight_decay if trust == "split" else 0.0, **settings)
        for options in (self.defaults, *self.param_groups):
            options["joint_decay"] = weight_decay if trust == "joint" else 0.0

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; `closure` recomputes the loss, as for any PyTorch optimizer."""
        loss = self._prepare(closure)
        super().step()
        return loss

    def _prepare(self, closure):
        """Compute the loss, and add a joint decay to the gradients of all but scalars and vectors."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            decay = group.get("joint_decay", 0.0)  # the library's own states have none
            for p in group["params"] if decay else ():
                if p.grad is not None and p.ndim > 1:
                    p.grad.add_(p, alpha=-decay if self.maximize else decay)
        return loss


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
        loss = self._prepare(closure)
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
