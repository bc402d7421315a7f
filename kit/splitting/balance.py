"""Which of a model's cut points to take: those that minimise the largest stage cost."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from itertools import accumulate, pairwise

import torch
from torch import Tensor, fx, nn

from kit.measure.costs import step_seconds
from kit.splitting.liveness import Cut, Line, tensors
from kit.splitting.stage import Stage, stages_between
from kit.splitting.tracing import Traced

BALANCES = {
    "params": "number of parameters",
    "layers": "number of weight matrices and kernels",
    "time": "measured seconds of forward and backward on the example, in evaluation mode",
    "memory": "bytes autograd keeps for the backward pass on the example",
}
"""What a stage's cost can be measured in: name → meaning."""


def cheapest(
    name: str, traced: Traced, lines: dict[bool, Line], cuts: list[Cut], num_blocks: int, balance: str, example: Tensor
) -> list[Cut]:
    """Return the `num_blocks - 1` cuts that minimise the largest stage cost; ValueError if there are too few."""
    line, twin = lines[True], traced.twin
    candidates = _candidates(_layers(twin, line), cuts)
    if num_blocks > len(candidates) + 1:
        raise ValueError(
            f"num_blocks={num_blocks}, but {name} has only {len(candidates)} cut points with a layer of its own for "
            f"every block; choose 1 to {len(candidates) + 1}"
        )
    if balance == "time":
        costs = _seconds(stages_between(twin, lines, candidates), example)
    else:
        ends, costs = [cut.after[True] for cut in candidates], [0] * (len(candidates) + 1)
        for index, cost in enumerate(_costs(twin, line, balance)):
            costs[bisect_left(ends, index)] += cost
    return [candidates[index] for index in balanced(costs, num_blocks)]


def _layers(root: nn.Module, line: Line) -> list[int]:
    """Return the numbers of the nodes that use a weight matrix or kernel."""
    return [index for index, node in enumerate(line.nodes) if any(_weights(node, tensors(root, node)))]


def _candidates(layers: list[int], cuts: list[Cut]) -> list[Cut]:
    """Return one cut between each two successive layers that can be parted.

    The outermost comes first, so that whole modules stay together; then the last, so that norms, activations and
    pools stay with the layer before them.
    """
    between = defaultdict(list)
    for cut in cuts:
        between[bisect_right(layers, cut.after[True])].append(cut)
    groups = [group for behind, group in sorted(between.items()) if 0 < behind < len(layers)]
    return [min(group, key=lambda cut: (cut.depth, -cut.after[True])) for group in groups]


def _weights(node: fx.Node, held: list[Tensor]) -> list[bool]:
    """Tell which of the tensors that `node` reads are matrices or kernels.

    One that is read by itself, not through its layer, may also be a token, a scale or a position: (1, …), (C, 1, 1).
    """
    least = 1 if node.op == "call_module" else 2
    return [isinstance(t, nn.Parameter) and t.ndim >= 2 and min(t.shape[:2]) >= least for t in held]


def _costs(root: nn.Module, line: Line, balance: str) -> list[int]:
    """Return what each node costs; a parameter counts where it is first used."""
    if balance == "memory":
        return [line.watch.bytes[node] for node in line.nodes]
    seen, costs = set(), []
    for node in line.nodes:
        new = [t for t in tensors(root, node) if isinstance(t, nn.Parameter) and id(t) not in seen]
        seen.update(map(id, new))
        costs.append(sum(_weights(node, new)) if balance == "layers" else sum(t.numel() for t in new))
    return costs


@torch.enable_grad()
def _seconds(stages: list[Stage], example: Tensor) -> list[float]:
    """Return the median seconds of each stage's forward and backward; batch norms take any batch in evaluation."""
    seconds, h = [], example
    for stage in stages:
        weights = [p for p in stage.eval().parameters() if p.requires_grad]

        def fresh(h: Tensor = h) -> tuple[Tensor, Tensor]:  # a stage may overwrite its input, which a leaf refuses
            leaf = h.detach().requires_grad_(h.is_floating_point())
            return leaf, leaf.clone()

        def step(leaf: Tensor, x: Tensor, stage: Stage = stage, weights: list[Tensor] = weights) -> None:
            out = stage(x)
            if out.requires_grad:
                inputs = [leaf, *weights] if leaf.requires_grad else weights
                torch.autograd.grad(out, inputs, torch.ones_like(out), allow_unused=True)

        seconds.append(step_seconds(step, 3, fresh))
        h = stage(h.clone()).detach()
    return seconds


def balanced(costs: list[float], num_blocks: int) -> list[int]:
    """Divide a row of `costs` into `num_blocks` runs; return the index of the last item of each run but the last.

    Minimises the largest run's cost; among such divisions, the sum of the squared costs, which keeps runs even.
    """
    total, count = [0, *accumulate(costs)], len(costs)
    least = max(after - before for before, after in pairwise(total))
    sums = {total[j] - total[i] for i in range(count) for j in range(i + 1, count + 1)}
    limits = sorted(cost for cost in sums if cost >= least)
    bound = limits[bisect_left(limits, True, key=lambda limit: _runs_needed(total, limit) <= num_blocks)]
    best, choice = [0] + [float("inf")] * count, []
    for _ in range(num_blocks):
        best, starts = _one_more_run(total, best, bound)
        choice.append(starts)
    ends, end = [], count
    for starts in reversed(choice[1:]):
        end = starts[end]
        ends.append(end - 1)
    return ends[::-1]


def _runs_needed(total: list[float], limit: float) -> int:
    """Return how many runs of at most `limit` cover the row whose running totals are given; no item costs more."""
    runs, start = 0, 0
    while start < len(total) - 1:
        start = bisect_right(total, limit, lo=start, key=lambda sum, start=start: sum - total[start]) - 1
        runs += 1
    return runs


def _one_more_run(total: list[float], best: list[float], bound: float) -> tuple[list[float], list[int]]:
    """Return, for every end, the least sum of squares with one more run of at most `bound`, and where it starts."""
    longer, starts = [float("inf")] * len(total), [0] * len(total)
    for end in range(1, len(total)):
        for start in range(end - 1, -1, -1):
            if total[end] - total[start] > bound:
                break
            squares = best[start] + (total[end] - total[start]) ** 2
            if squares < longer[end]:  # at a tie the last run stays the shorter one
                longer[end], starts[end] = squares, start
    return longer, starts
