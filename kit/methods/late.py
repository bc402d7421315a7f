"""Backprop's gradient, arriving late: FDG, DDG, FR and PipeDream, which differ in how late and at which weights."""

from kit.delayed import Delay
from kit.methods.cross_entropy import greedy_objective
from kit.methods.method import Method

FDG = Method(
    "backprop's gradient, ticks late: no block waits, forwards or backwards", greedy_objective,
    "Zhuang et al. 2021 (TNNLS)", delay=Delay(unlocked=True, weights="mixed"),
)  # fmt: skip
DDG = Method(
    "backprop's gradient, ticks late: no block waits backwards", greedy_objective, "Huo et al. 2018 (ICML)",
    delay=Delay(unlocked=False, weights="mixed"),
)  # fmt: skip
FR = Method(
    "DDG that keeps inputs only, and goes forward again at today's weights", greedy_objective,
    "Huo et al. 2018 (NeurIPS)", delay=Delay(unlocked=False, weights="replayed", delay_lr=(2.0,)),
)  # fmt: skip
PIPEDREAM = Method(
    "FDG's timing, at the weights of each batch's own forward", greedy_objective, "Harlap et al. 2018",
    delay=Delay(unlocked=True, weights="stashed"),
)  # fmt: skip
