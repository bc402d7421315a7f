"""Optimizers and learning-rate schedules by name, one of each per block."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from kit.errors import unknown

OPTIMIZERS = ("sgd", "adam", "adamw", "lars")
SCHEDULES = ("constant", "cosine", "step")

LR_FLOOR = 0.01
"""Where the cosine ends, as a share of the first learning rate (DeInfoReg's 0.2 → 0.002)."""


def optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float | None = None,
    momentum: float = 0.9,
    nesterov: bool = False,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Return a fresh optimizer over `parameters`.

    `lars` is You et al. 2017 with η 0.001; it neither decays nor rescales vectors (biases, norms). `weight_decay=None`
    is the optimizer's own: 0.01 for adamw, 1e-4 for lars, else 0. Momentum is for `sgd` and `lars`, Nesterov's for
    `sgd`. `fused` updates a parameter in one pass over memory, three to four times as fast, and differs from the plain
    update in the last bit.
    """
    decay = {"adamw": 0.01, "lars": 1e-4}.get(name, 0.0) if weight_decay is None else weight_decay
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum, weight_decay=decay, nesterov=nesterov, fused=fused)
    if name == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=decay, fused=fused)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr, weight_decay=decay, fused=fused)
    if name == "lars":
        from kit.compute.lars import LARS, FusedLARS

        kind = FusedLARS if fused else LARS
        return kind(parameters, lr, weight_decay=decay, momentum=momentum, trust_coefficient=0.001)
    raise unknown("optimizer", name, OPTIMIZERS)


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
    raise unknown("schedule", schedule, SCHEDULES)


def scheduler(optimizer: torch.optim.Optimizer, schedule: str, total: int, warmup: int = 0) -> LambdaLR:
    """Return the scheduler that applies `factor` to `optimizer`, one step per training step."""
    return LambdaLR(optimizer, partial(factor, schedule, total=total, warmup=warmup))
