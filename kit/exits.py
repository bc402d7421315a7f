"""Exits: leaving a net early, sample by sample, by a rule whose threshold is chosen on validation data.

After every stop of the walk the samples that the rule lets go are dropped from the batch, so that what they would still
have cost is really saved. A sample's way depends on nothing but the sample: not on its batch, not on the order.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kit.losses import check_class_numbers
from kit.measure import costs
from kit.modules import evaluating
from kit.settings import Count, check, one_of, typed
from kit.signal import Signal

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

    name: Annotated[str, one_of("rule", lambda: RULES)]
    threshold: float | None = None
    """Of a share in [0, 1], or of a cosine in [-1, 1]; None is the rule's default. `patience` has none."""
    patience: Count = 1

    def __post_init__(self) -> None:
        check(self)
        if self.threshold is None:
            object.__setattr__(self, "threshold", DEFAULTS[self.name])
        if self.name == "patience" and self.threshold is not None:
            raise ValueError(f"threshold={self.threshold}, but the rule 'patience' has none: give patience=1, 2, …")
        low = -1 if self.name == "patience-cosine" else 0
        if self.threshold is not None and not low <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}, but that of {self.name!r} lies in [{low}, 1]")

    @property
    def compares(self) -> bool:
        """Whether the rule looks at two exits one after the other."""
        return self.name.startswith("patience")

    def __call__(self, logits: Tensor, before: Tensor | None, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return who leaves, bool (b,), and everybody's patience so far, int64 (b,).

        `logits` (b, C) are those of this exit, `before` those of the exit before, None at the first.
        """
        threshold: Any = self.threshold  # None of `patience` only
        if not self.compares:
            value = score(self.name, logits)
            return (value <= threshold if self.name == "entropy" else value >= threshold), count
        if before is None:
            return torch.zeros_like(count, dtype=torch.bool), count
        agrees = logits.argmax(1) == before.argmax(1)
        if self.name == "patience":
            count = torch.where(agrees, count + 1, 0)
        else:
            count = count + (agrees & (F.cosine_similarity(logits, before, dim=1) > threshold))
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


@torch.no_grad()
@typed
def adaptive(net: Any, x: Any, rule: Rule, cost: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's logits (B, C), the number of the exit it left at (B,), from 0, and its cost (B,).

    `cost` is that of leaving at each exit, as `exit_costs` gives it. Runs in evaluation mode. Raises ValueError for
    an empty batch, and for a rule that compares two exits on a net that has one.
    """
    signal = net.signal(x)
    _check(size := len(signal.h), rule, net.num_exits, cost)
    here = torch.arange(size, device=signal.h.device)  # who is still under way
    left, count, before, rows, walk = here.clone(), torch.zeros_like(here), None, None, net.walk(signal)
    with evaluating(net):
        for k in range(net.num_exits):
            logits = walk.send(rows).logits()
            if k == 0:
                result = logits.new_empty(size, logits.shape[1])
            result[here], left[here] = logits, k  # of those who go on, a later exit's answer replaces it
            leaves, count = rule(logits, before, count)
            if leaves.all():
                break
            rows = (~leaves).nonzero().squeeze(1) if leaves.any() else None
            here, count, before = (t if rows is None else t[rows] for t in (here, count, logits))
    return result, left, torch.tensor(cost, dtype=torch.float64)[left.cpu()]


def _check(size: int, rule: Rule, num_exits: int, cost: Sequence[float] | None = None) -> None:
    if cost is not None and len(cost) != num_exits:
        raise ValueError(f"cost has {len(cost)} numbers, but there are {num_exits} exits: give the cost of each")
    if size == 0:
        raise ValueError("an empty batch: adaptive inference needs at least 1 sample")
    if rule.compares and num_exits < 2:
        raise ValueError(
            f"the rule {rule.name!r} compares an exit with the one before, but this net has one exit; choose "
            "confidence, entropy or margin, or cut the net into more blocks"
        )


@torch.no_grad()
@typed
def exit_costs(net: Any, x: Any, unit: Literal["flops", "seconds"] = "flops", repeats: Count = 5) -> list[float]:
    """Return what a sample costs that leaves at each exit: all bodies and heads up to there, first exit to last.

    `flops` are PyTorch's count, `seconds` measured medians; both on the batch `x`, divided by its size.
    """
    signal = net.signal(x)
    _check(len(signal.h), Rule("confidence"), net.num_exits)
    with evaluating(net):
        if unit == "flops":
            with costs.counting() as counter:
                totals = _readings(net, signal, counter.get_total_flops)
        else:
            runs = torch.tensor([_readings(net, signal, time.perf_counter) for _ in range(repeats + 1)][1:])
            totals = runs.median(0).values.tolist()
    return [total / len(signal.h) for total in totals]


def _readings(net: Any, signal: Signal, meter: Callable[[], float]) -> list[float]:
    """Return what `meter` has gone up by at each exit of a walk."""
    begin = meter()
    return [meter() - begin for visit in net.walk(signal) if visit.logits() is not None]


@torch.no_grad()
def last_only(net: Any, x: Any) -> Tensor:
    """Return the last exit's logits (B, C), fp32, in evaluation mode, without asking any head before it."""
    with evaluating(net):
        *_, last = net.walk(net.signal(x))
        return cast(Tensor, last.logits())


def last_cost(net: Any, x: Any) -> float:
    """Return the FLOPs of a sample that only the last exit is asked about: all bodies, and its head."""
    size = len(x["x"] if isinstance(x, Mapping) else x)
    return costs.flops(lambda: last_only(net, x)) / size


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


Batches = Iterable[tuple[Any, Tensor]]
Points = Annotated[Sequence[Point], Field(min_length=1, description="a list of points, as `curve` gives it")]


@torch.no_grad()
def collect(net: Any, batches: Batches) -> tuple[Tensor, Tensor]:
    """Return every exit's logits (K, N, C) and the labels (N,) of all batches (x, y), in evaluation mode."""
    answers = [(torch.stack(net.predict(x)), y) for x, y in batches]
    if not answers:
        raise ValueError("there is no batch to collect answers on: give validation batches (x, y)")
    logits, labels = zip(*answers, strict=True)
    return torch.cat(logits, dim=1), torch.cat(labels)


def leaving(rule: Rule, logits: Tensor) -> Tensor:
    """Return the exit, from 0, that each sample leaves at, (N,), for all exits' `logits` (K, N, C)."""
    num_exits, size, _ = logits.shape
    _check(size, rule, num_exits)
    left = torch.full((size,), num_exits - 1, device=logits.device)
    gone, count, before = torch.zeros_like(left, dtype=torch.bool), torch.zeros_like(left), None
    for k, own in enumerate(logits):
        leaves, count = rule(own, before, count)
        left[leaves & ~gone] = k
        gone, before = gone | leaves, own
    return left


def measure(rule: Rule, logits: Tensor, labels: Tensor, cost: Sequence[float]) -> Point:
    """Return what `rule` does on samples with these `logits` (K, N, C) and `labels` (N,), at these costs by exit."""
    if logits.ndim != 3:
        raise ValueError(f"logits of shape {tuple(logits.shape)}, but those of all exits are (K, N, C)")
    check_class_numbers(labels, logits.shape[1])
    _check(logits.shape[1], rule, len(logits), cost)
    left = leaving(rule, logits)
    right = (logits.argmax(2) == labels).double()  # (K, N)
    shares = torch.bincount(left, minlength=len(logits)).double() / len(labels)
    mean_cost = float(shares.cpu() @ torch.tensor(cost, dtype=torch.float64))
    accuracy, random = right.gather(0, left[None]).mean().item(), float(shares @ right.mean(1))
    return Point(rule, accuracy, mean_cost, tuple(shares.tolist()), random)


@typed
def candidates(name: Annotated[str, one_of("rule", lambda: RULES)], logits: Tensor, num: Count = 60) -> list[Rule]:
    """Return rules of that name with about `num` thresholds, where the samples' own scores lie; every patience."""
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
    ranks = torch.linspace(0, len(order) - 1, max(2, num)).long()
    return sorted({low, 1.0, *order[ranks].clamp(low, 1.0).tolist()})


def curve(name: str, logits: Tensor, labels: Tensor, cost: Sequence[float], num: int = 60) -> list[Point]:
    """Return the rule's points, cheapest first: accuracy against cost, over thresholds and patiences."""
    points = [measure(rule, logits, labels, cost) for rule in candidates(name, logits, num)]
    return sorted(points, key=lambda point: (point.cost, -point.accuracy))


@typed
def choose(points: Points, *, accuracy: float | None = None, cost: float | None = None) -> Point:
    """Return the cheapest point that is right at least `accuracy` of the time, or the most accurate of at most `cost`.

    Raises ValueError where no point does, with the best that one can have.
    """
    if (accuracy is None) == (cost is None):
        raise ValueError(f"accuracy={accuracy}, cost={cost}: want one of the two")
    name, best = points[0].rule.name, max(point.accuracy for point in points)
    if accuracy is not None:
        if best < accuracy:
            raise ValueError(f"no threshold of {name!r} reaches an accuracy of {accuracy:g}: the best is {best:.4f}")
        return min((p for p in points if p.accuracy >= accuracy), key=lambda p: (p.cost, -p.accuracy))
    cost = cast(float, cost)
    if (least := min(point.cost for point in points)) > cost:
        raise ValueError(f"no threshold of {name!r} costs {cost:g} or less: the cheapest costs {least:g}")
    return max((p for p in points if p.cost <= cost), key=lambda p: (p.accuracy, -p.cost))


def calibrate(
    net: Any, batches: Batches, name: str, cost_by_exit: Sequence[float], *, accuracy: float | None = None,
    cost: float | None = None,
) -> Point:  # fmt: skip
    """Return the rule `name` with the threshold that validation `batches` (x, y) call for: see `choose`."""
    return choose(curve(name, *collect(net, batches), cost_by_exit), accuracy=accuracy, cost=cost)
