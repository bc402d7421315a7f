"""Optimizers and learning-rate schedules by name, one of each per block."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from kit.errors import unknown
from kit.settings import Decay, NonNegative, Positive, check


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
    trust: Literal["split", "joint"] = "split"
    """LARS's trust ratio: You et al.'s, with gradient and decay apart, or of their sum, as DeInfoReg trains."""
    schedule: Literal["constant", "cosine", "cosine-blend", "step"] = "cosine"
    """How the learning rate falls: see `factor`."""
    lr_floor: Decay = 0.01
    """Where a cosine ends, as a share of the first learning rate: DeInfoReg's 0.2 → 0.002; InfoPro's 0."""
    lr_changes: Literal["step", "epoch"] = "step"
    """When the learning rate moves: at every step, or at the start of an epoch, as in published code."""
    warmup_epochs: NonNegative = 0.0
    """Epochs of warm-up."""
    warmup: Literal["rising", "held"] = "rising"
    """What the learning rate does in them: rise from `warmup_from` to `lr`, or stay there, as FDG's may."""
    warmup_from: Decay = 0.0
    """Where warm-up begins, as a share of `lr`: InfoPro's .01 of .8 is 0.0125, FDG's 0.1."""

    def __post_init__(self) -> None:
        check(self)
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"nesterov=True with optimizer={self.optimizer!r}: it is of sgd here; leave it out")
        if self.warmup == "held" and not self.warmup_from:
            raise ValueError("warmup='held' with warmup_from=0 would learn nothing: give the share of lr to stay at")

    def make_optimizer(self, parameters: Iterable[nn.Parameter], fused: bool = False) -> Optimizer:
        """Return a fresh optimizer over `parameters`.

        `fused` updates a parameter in one pass over memory, three to four times as fast, and differs from the plain
        update in the last bit.
        """
        name, decay = self.optimizer, self.weight_decay
        decay = {"adamw": 0.01, "lars": 1e-4}.get(name, 0.0) if decay is None else decay
        if name == "lars":
            from kit.compute.lars import LARS, FusedLARS  # its library imports every optimizer it has: only when asked

            kind, own = FusedLARS if fused else LARS, {"momentum": self.momentum, "trust_coefficient": 0.001}
            return kind(parameters, self.lr, weight_decay=decay, trust=self.trust, **own)
        if name == "muon":
            from kit.compute.muon import Muon  # of the same library

            return Muon(parameters, self.lr, decay, self.momentum)
        if name == "nadam":  # PyTorch has no fused one
            return torch.optim.NAdam(parameters, self.lr, weight_decay=decay, decoupled_weight_decay=True)
        own = {"momentum": self.momentum, "nesterov": self.nesterov} if name == "sgd" else {}
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
        return kind(parameters, self.lr, weight_decay=decay, fused=fused, **own)

    def shape(self, epoch_steps: int) -> dict[str, float]:
        """Return what `factor` takes beside the schedule's name and length, for epochs of so many steps."""
        hold = epoch_steps if self.lr_changes == "epoch" else 1
        return {"floor": self.lr_floor, "hold": hold, "begin": self.warmup_from, "rises": self.warmup == "rising"}


def factor(
    schedule: str, step: int, total: int, warmup: int = 0, floor: float = 0.01, hold: int = 1, begin: float = 0.0,
    rises: bool = True,
) -> float:  # fmt: skip
    """Return the share of the first learning rate in force at `step` of `total`; it moves every `hold` steps.

    The first `warmup` steps rise linearly from `begin`, or stay there. `cosine` then falls to `floor`; `step` divides
    by ten after 1/2, 3/4 and 11/12 of the run (150, 225 and 275 of 300 epochs, as FDG trains); `constant` stays.
    `cosine-blend`, InfoPro's, falls from the first step on, is taken at the end of each interval, and blended in.
    """
    step -= step % hold
    if step < warmup and not rises:
        return begin
    if schedule == "cosine-blend":
        blended = min(1.0, step / warmup) if warmup else 1.0
        return blended * _cosine((step + hold) / total, floor) + (1 - blended) * begin
    if step < warmup:
        return begin + (1 - begin) * (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return _cosine((step - warmup) / max(1, total - warmup), floor)
    if schedule == "step":
        return 0.1 ** sum(step >= total * share for share in (1 / 2, 3 / 4, 11 / 12))
    raise unknown("schedule", schedule, ("constant", "cosine", "cosine-blend", "step"))


def _cosine(done: float, floor: float) -> float:
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def with_own_rates(
    make: Callable[[Iterable], Optimizer], whole: nn.Module, apart: Mapping[nn.Module, float]
) -> Optimizer:
    """Return the optimizer of `whole`, in which the parts named in `apart` learn at so many times its rate."""
    theirs = {id(p) for part in apart for p in part.parameters()}
    rest = [p for p in whole.parameters() if id(p) not in theirs]
    if not apart:
        return make(rest)
    optimizer = make([{"params": own} for own in (rest, *(list(part.parameters()) for part in apart))])
    if len(optimizer.param_groups) != len(apart) + 1:
        raise ValueError("muon has a rate for matrices and one for vectors, and none for single parts: choose another")
    for group, factor in zip(optimizer.param_groups[1:], apart.values(), strict=True):
        group["lr"] *= factor
    return optimizer
