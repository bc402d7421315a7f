"""LARS in as few passes over memory as its arithmetic needs."""

from __future__ import annotations

import torch
from pytorch_optimizer import LARS
from torch.optim.sgd import sgd


class FusedLARS(LARS):
    """pytorch-optimizer's LARS with PyTorch's fused SGD as its update; same options, same state.

    The trust ratio scales gradient and weight decay alike, and fused SGD applies both while it updates: seven passes
    over the weights in place of seventeen. A ratio has to be known before its update, which on a GPU would wait for
    the device, so there the parent's batched step is taken.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; `closure` recomputes the loss, as for any PyTorch optimizer."""
        if any(p.is_cuda for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.init_group(group)
            group["step"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p: torch.Tensor, group: dict) -> None:
        decay, scale = 0.0, None
        if p.ndim > 1:  # scalars and vectors are neither decayed nor rescaled
            size, slope = torch.linalg.vector_norm(p), torch.linalg.vector_norm(p.grad)
            whole = slope + group["weight_decay"] * size
            trust = group["trust_coefficient"] * size / whole if size > 0 and whole > 0 else torch.ones(())
            decay, scale = group["weight_decay"] * trust.item(), 1 / trust  # fused SGD divides by its scale
        sgd(
            [p],
            [p.grad],
            [self.state[p]["momentum_buffer"] if group["momentum"] else None],
            fused=True,
            grad_scale=scale,
            weight_decay=decay,
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=self.maximize,
        )
