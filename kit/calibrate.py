"""Choosing an exit rule's threshold on validation data, for a wanted accuracy or a wanted cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kit.errors import unknown
from kit.exits import RULES, Rule, score


@dataclass(frozen=True)
class Point:
    """What a rule does on some samples."""

    rule: Rule
    accuracy: float
    """Share of samples that are answered right at the exit they leave at."""

    cost: float
    """Mean cost of a sample, in the unit of the exits' costs."""

    shares: tuple[float, ...]
    """Share of the samples that leaves at each exit."""

    random: float
    """Expected accuracy where as many leave at each exit, but drawn at random: the same cost without the rule."""


@torch.no_grad()
def collect(net, batches: Iterable) -> tuple[Tensor, Tensor]:
    """Return every exit's logits (K, N, C) and the labels (N,) of all batches (x, y), in evaluation mode."""
    logits, labels = zip(*((torch.stack(net.predict(x)), y) for x, y in batches), strict=True)
    return torch.cat(logits, dim=1), torch.cat(labels)


def leaving(rule: Rule, logits: Tensor) -> Tensor:
    """Return the exit, from 0, that each sample leaves at, (N,), for all exits' `logits` (K, N, C)."""
    num_exits, size, _ = logits.shape
    if rule.compares and num_exits < 2:
        raise ValueError(f"the rule {rule.name!r} compares an exit with the one before, but these are of one exit")
    left = torch.full((size,), num_exits - 1, device=logits.device)
    gone, count, before = torch.zeros_like(left, dtype=torch.bool), torch.zeros_like(left), None
    for k, own in enumerate(logits):
        leaves, count = rule(own, before, count)
        left[leaves & ~gone] = k
        gone, before = gone | leaves, own
    return left


def measure(rule: Rule, logits: Tensor, labels: Tensor, cost: Sequence[float]) -> Point:
    """Return what `rule` does on samples with these `logits` (K, N, C) and `labels` (N,), at these costs by exit."""
    left = leaving(rule, logits)
    right = (logits.argmax(2) == labels).double()  # (K, N)
    shares = torch.bincount(left, minlength=len(logits)).double() / len(labels)
    return Point(
        rule,
        accuracy=right.gather(0, left[None]).mean().item(),
        cost=float(shares.cpu() @ torch.tensor(cost, dtype=torch.float64)),
        shares=tuple(shares.tolist()),
        random=float(shares @ right.mean(1)),
    )


def candidates(name: str, logits: Tensor, num: int = 60) -> list[Rule]:
    """Return rules of that name with about `num` thresholds, where the samples' own scores lie; every patience."""
    if name not in RULES:
        raise unknown("rule", name, RULES)
    patiences = range(1, max(2, len(logits)))
    if name == "patience":
        return [Rule(name, None, patience) for patience in patiences]
    if name == "patience-cosine":
        values = F.cosine_similarity(logits[1:], logits[:-1], dim=2) if len(logits) > 1 else torch.zeros(1)
        return [Rule(name, t, p) for p in patiences for t in _spread(values, num // len(patiences), -1.0)]
    return [Rule(name, t) for t in _spread(torch.stack([score(name, own) for own in logits]), num, 0.0)]


def _spread(values: Tensor, num: int, low: float) -> list[float]:
    """Return `num` quantiles of the values, within [`low`, 1], and both ends."""
    order = values.flatten().double().sort().values
    places = torch.linspace(0, len(order) - 1, max(2, num)).long()
    return sorted({low, 1.0, *order[places].clamp(low, 1.0).tolist()})


def curve(name: str, logits: Tensor, labels: Tensor, cost: Sequence[float], num: int = 60) -> list[Point]:
    """Return the rule's points, cheapest first: accuracy against cost, over thresholds and patiences."""
    points = [measure(rule, logits, labels, cost) for rule in candidates(name, logits, num)]
    return sorted(points, key=lambda point: (point.cost, -point.accuracy))


def choose(points: Sequence[Point], *, accuracy: float | None = None, cost: float | None = None) -> Point:
    """Return the cheapest point that is right at least `accuracy` of the time, or the most accurate of at most `cost`.

    Raises ValueError where no point does, with the best that one can have.
    """
    if (accuracy is None) == (cost is None):
        raise ValueError(f"accuracy={accuracy}, cost={cost}: want one of the two")
    name = points[0].rule.name
    if accuracy is not None:
        good = [point for point in points if point.accuracy >= accuracy]
        if not good:
            best = max(point.accuracy for point in points)
            raise ValueError(f"no threshold of {name!r} reaches an accuracy of {accuracy:g}: the best is {best:.4f}")
        return min(good, key=lambda point: (point.cost, -point.accuracy))
    good = [point for point in points if point.cost <= cost]
    if not good:
        least = min(point.cost for point in points)
        raise ValueError(f"no threshold of {name!r} costs {cost:g} or less: the cheapest costs {least:g}")
    return max(good, key=lambda point: (point.accuracy, -point.cost))


def calibrate(
    net, batches: Iterable, name: str, cost_by_exit: Sequence[float], *, accuracy: float | None = None,
    cost: float | None = None,
) -> Point:  # fmt: skip
    """Return the rule `name` with the threshold that validation `batches` (x, y) call for: see `choose`."""
    return choose(curve(name, *collect(net, batches), cost_by_exit), accuracy=accuracy, cost=cost)
