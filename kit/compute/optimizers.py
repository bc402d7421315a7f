"""Optimizers and learning-rate schedules by name, one of each per block."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from kit.errors import unknown
from kit.settings import Decay, NonNegative, Positive, check

LR_FLOOR = 0.01
"""Where the cosine ends, as a share of the first learning rate (DeInfoReg's 0.2 → 0.002)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Every block's optimizer, and how its learning rate moves."""

    optimizer: Literal["sgd", "adam", "adamw", "nadam", "lars", "muon"] = "adamw"
    """Every block's optimizer: sgd, adam, adamw, nadam, lars (You et al. 2017; η 0.001, vectors neither decayed nor
    rescaled) or muon (Jordan et al. 2024; vectors by AdamW)."""
    lr: Positive = 1e-3
    """Learning rate at the schedule's top."""
    weight_decay: NonNegative | None = None
    """Weight decay; None is the optimizer's own: 0.01 for adamw, 1e-4 for lars, else 0."""
    momentum: Decay = 0.9
    """Momentum of sgd, lars and muon."""
    nesterov: bool = False
    """Nesterov's momentum for sgd."""
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    """How the learning rate falls: constant, cosine or step."""
    warmup_epochs: NonNegative = 0.0
    """Epochs over which the learning rate rises from zero."""

    def __post_init__(self) -> None:
        check(self)

    def make_optimizer(self, parameters: Iterable[nn.Parameter], fused: bool = False) -> torch.optim.Optimizer:
        """Return a fresh optimizer over `parameters`.

        `fused` updates a parameter in one pass over memory, three to four times as fast, and differs from the plain
        update in the last bit.
        """
        name, decay = self.optimizer, self.weight_decay
        decay = {"adamw": 0.01, "lars": 1e-4}.get(name, 0.0) if decay is None else decay
        if name == "lars":
            from kit.compute.lars import LARS, FusedLARS  # its library imports every optimizer it has: only when asked

            kind = FusedLARS if fused else LARS
            return kind(parameters, self.lr, weight_decay=decay, momentum=self.momentum, trust_coefficient=0.001)
        if name == "muon":
            from kit.compute.muon import Muon  # of the same library

            return Muon(parameters, self.lr, decay, self.momentum)
        if name == "nadam":  # PyTorch has no fused one
            return torch.optim.NAdam(parameters, self.lr, weight_decay=decay, decoupled_weight_decay=True)
        own = {"momentum": self.momentum, "nesterov": self.nesterov} if name == "sgd" else {}
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
        return kind(parameters, self.lr, weight_decay=decay, fused=fused, **own)


def factor(schedule: str, step: int, total: int, warmup: int = 0) -> float:
    """Return the share of the first learning rate in force at `step` of `total`.

    The first `warmup` steps rise linearly. `cosine` then falls to 0.01; `step` divides by ten after 1/2, 3/4 and
    11/12 of the run (150, 225 and 275 of 300 epochs, as FDG trains); `constant` stays.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return LR_FLOOR + (1 - LR_FLOOR) * (1 + math.cos(math.pi * done)) / 2
    if schedule == "step":
        return 0.1 ** sum(step >= total * share for share in (1 / 2, 3 / 4, 11 / 12))
    raise unknown("schedule", schedule, ("constant", "cosine", "step"))


def scheduler(optimizer: torch.optim.Optimizer, schedule: str, total: int, warmup: int = 0) -> LambdaLR:
    """Return the scheduler that applies `factor` to `optimizer`, one step per training step."""
    return LambdaLR(optimizer, partial(factor, schedule, total=total, warmup=warmup))
