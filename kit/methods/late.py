"""Backprop's gradient, arriving late: FDG, DDG, FR and PipeDream, which differ in how late and at which weights."""

from collections.abc import Sequence

from kit.delayed import Delay
from kit.methods.cross_entropy import greedy_objective
from kit.methods.method import Method


def fdg_delay(beta: float = 1.0, weights: str = "mixed", delay_lr: Sequence[float] = ()) -> Delay:
    """Forward and backward passes wait for nobody (Zhuang et al., IEEE TNNLS 2021); options as for `Delay`."""
    return Delay(unlocked=True, weights=weights, beta=beta, delay_lr=delay_lr)


def ddg_delay(beta: float = 1.0, weights: str = "mixed", delay_lr: Sequence[float] = ()) -> Delay:
    """Backward passes do not wait, forward passes do (Huo et al., ICML 2018)."""
    return Delay(unlocked=False, weights=weights, beta=beta, delay_lr=delay_lr)


def fr_delay(beta: float = 1.0, weights: str = "replayed", delay_lr: Sequence[float] = (2.0,)) -> Delay:
    """DDG that keeps inputs only and goes forward again (Huo et al., NeurIPS 2018); block 1 learns twice as fast."""
    return Delay(unlocked=False, weights=weights, beta=beta, delay_lr=delay_lr)


def pipedream_delay(beta: float = 1.0, weights: str = "stashed", delay_lr: Sequence[float] = ()) -> Delay:
    """FDG's timing with the exact gradient at the weights of each batch's forward (Harlap et al. 2018)."""
    return Delay(unlocked=True, weights=weights, beta=beta, delay_lr=delay_lr)


FDG = Method(
    "backprop's gradient, ticks late: no block waits, forwards or backwards", greedy_objective, "Zhuang et al. 2021",
    delay=fdg_delay,
)  # fmt: skip
DDG = Method(
    "backprop's gradient, ticks late: no block waits backwards", greedy_objective, "Huo et al. 2018 (ICML)",
    delay=ddg_delay,
)  # fmt: skip
FR = Method(
    "backprop's gradient, ticks late and computed anew", greedy_objective, "Huo et al. 2018 (NeurIPS)", delay=fr_delay
)
PIPEDREAM = Method(
    "backprop's gradient, ticks late, at the weights of its forward", greedy_objective, "Harlap et al. 2018",
    delay=pipedream_delay,
)  # fmt: skip
