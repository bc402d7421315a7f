"""Exits: leaving a net early, sample by sample, by a rule whose threshold is chosen on validation data.

After every block the samples that the rule lets go are dropped from the batch, so that what they would still have cost
is really saved. A sample's way depends on nothing but the sample: not on its batch, not on the order.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kit.errors import unknown
from kit.measure import costs
from kit.signal import Signal
from kit.modules import evaluating

RULES = {
    "confidence": "leave when the largest probability is at least the threshold",
    "entropy": "leave when the entropy, as a share of ln C, is at most the threshold",
    "margin": "leave when the largest probability is ahead of the second by at least the threshold",
    "patience": "leave when `patience` exits in a row have named the class of the one before (PABEE)",
    "patience-cosine": "leave when so many exits have named the class of the one before, with logits whose cosine to "
    "that one's is above the threshold (Huang's thesis)",
}
"""Rules by name: what each looks at."""

DEFAULTS = {"confidence": 0.9, "entropy": 0.2, "margin": 0.8, "patience": None, "patience-cosine": 0.8}


@dataclass(frozen=True)
class Rule:
    """When a sample leaves. Raises ValueError for an unknown name or a threshold or patience out of range."""

    name: str
    threshold: float | None = None
    """Of a share in [0, 1], or of a cosine in [-1, 1]; None is the rule's default. `patience` has none."""

    patience: int = 1

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise unknown("rule", self.name, RULES)
        if self.threshold is None:
            object.__setattr__(self, "threshold", DEFAULTS[self.name])
        if self.name == "patience" and self.threshold is not None:
            raise ValueError(f"threshold={self.threshold}, but the rule 'patience' has none: give patience=1, 2, …")
        low = -1 if self.name == "patience-cosine" else 0
        if self.threshold is not None and not low <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}, but that of {self.name!r} lies in [{low}, 1]")
        if not isinstance(self.patience, int) or isinstance(self.patience, bool) or self.patience < 1:
            raise ValueError(f"patience={self.patience!r}, but it has to be a whole number of at least 1")

    @property
    def compares(self) -> bool:
        """Whether the rule looks at two exits one after the other."""
        return self.name.startswith("patience")

    def __call__(self, logits: Tensor, before: Tensor | None, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return who leaves, bool (b,), and everybody's patience so far, int64 (b,).

        `logits` (b, C) are those of this exit, `before` those of the exit before, None at the first.
        """
        if not self.compares:
            value = score(self.name, logits)
            return (value <= self.threshold if self.name == "entropy" else value >= self.threshold), count
        if before is None:
            return torch.zeros_like(count, dtype=torch.bool), count
        agrees = logits.argmax(1) == before.argmax(1)
        if self.name == "patience":
            count = torch.where(agrees, count + 1, 0)
        else:
            count = count + (agrees & (F.cosine_similarity(logits, before, dim=1) > self.threshold))
        return count >= self.patience, count


def score(name: str, logits: Tensor) -> Tensor:
    """Return what the rule compares with its threshold, in [0, 1], for each row of `logits` (b, C)."""
    shares = logits.softmax(1)
    if name == "confidence":
        return shares.amax(1)
    if name == "margin":
        first, second = shares.topk(2, dim=1).values.unbind(1)
        return first - second
    entropy = -(shares * logits.log_softmax(1)).sum(1)
    return entropy / torch.tensor(float(logits.shape[1])).log()


def answers(net, signal: Signal) -> Generator[Tensor, Tensor | None, None]:
    """Give every exit's logits (b, C), fp32, first to last; `send` it the rows that go on, or None for all of them.

    A probe within a block is an exit too: samples may leave there as well.
    """
    for block in net:
        with block.autocast(signal.h):
            h = signal.h if block.context is None else block.context(signal)
        heads = [*block.probes, block.readout]
        for stage, head in zip(block.body, heads, strict=True):
            with block.autocast(h):
                h = stage(h)
                logits = head(h).float()
            rows = yield logits
            if rows is not None:
                h, signal = h[rows], signal.select(rows)
        signal = block.answered(signal, h)


@torch.no_grad()
def adaptive(net, x, rule: Rule, cost: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's logits (B, C), the number of the exit it left at (B,), from 0, and its cost (B,).

    `cost` is that of leaving at each exit, as `exit_costs` gives it. Runs in evaluation mode. Raises ValueError for
    an empty batch, and for a rule that compares two exits on a net that has one.
    """
    num_exits, signal = net.num_exits, net.signal(x)
    size = len(signal.h)
    _check(size, rule, num_exits)
    with evaluating(net):
        here = torch.arange(size, device=signal.h.device)  # who is still under way
        left = torch.full_like(here, num_exits - 1)
        count, before, result, rows = torch.zeros_like(here), None, None, None
        walk = answers(net, signal)
        for k in range(num_exits):
            logits = walk.send(rows)
            result = logits.new_empty(size, logits.shape[1]) if result is None else result
            leaves, count = rule(logits, before, count)
            if k == num_exits - 1 or leaves.all():
                result[here], left[here] = logits, k
                break
            rows = None
            if leaves.any():
                gone, rows = leaves.nonzero().squeeze(1), (~leaves).nonzero().squeeze(1)
                result[here[gone]], left[here[gone]] = logits[gone], k
                here, count, logits = here[rows], count[rows], logits[rows]
            before = logits
    return result, left, torch.tensor(cost, dtype=torch.float64)[left.cpu()]


def _check(size: int, rule: Rule, num_exits: int) -> None:
    if size == 0:
        raise ValueError("an empty batch: adaptive inference needs at least 1 sample")
    if rule.compares and num_exits < 2:
        raise ValueError(
            f"the rule {rule.name!r} compares an exit with the one before, but this net has one exit; choose "
            "confidence, entropy or margin, or cut the net into more blocks"
        )


@torch.no_grad()
def exit_costs(net, x, unit: str = "flops", repeats: int = 5) -> list[float]:
    """Return what a sample costs that leaves at each exit: all bodies and heads up to there, first exit to last.

    `flops` are PyTorch's count, `seconds` measured medians; both on the batch `x`, divided by its size.
    """
    if unit not in ("flops", "seconds"):
        raise unknown("unit", unit, ("flops", "seconds"))
    signal = net.signal(x)
    _check(len(signal.h), Rule("confidence"), net.num_exits)
    with evaluating(net):
        if unit == "flops":
            with costs.counting() as counter:
                totals = [counter.get_total_flops() for _ in answers(net, signal)]
        else:
            runs = torch.tensor([_clocked(net, signal) for _ in range(repeats + 1)][1:])
            totals = runs.median(0).values.tolist()
    return [total / len(signal.h) for total in totals]


def _clocked(net, signal: Signal) -> list[float]:
    begin = time.perf_counter()
    return [time.perf_counter() - begin for _ in answers(net, signal)]


@torch.no_grad()
def last_only(net, x) -> Tensor:
    """Return the last exit's logits (B, C), fp32, in evaluation mode, without asking any head before it."""
    signal, (*inner, last) = net.signal(x), net
    with evaluating(net):
        for block in inner:
            with block.autocast(signal.h):
                signal = block.answered(signal, block(signal))
        with last.autocast(signal.h):
            return last.readout(last(signal)).float()


def last_cost(net, x) -> float:
    """Return the FLOPs of a sample that only the last exit is asked about: all bodies, and its head."""
    size = len(next(iter(x.values())) if isinstance(x, dict) else x)
    return costs.flops(lambda: last_only(net, x)) / size
