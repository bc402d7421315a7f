"""Which of a model's cut points to take: those that minimise the largest stage cost."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import inf
from statistics import median

import torch
from torch import Tensor, fx, nn

from kit.measure.costs import clock
from kit.modules import apply
from kit.splitting.liveness import Line
from kit.splitting.stage import Stage, stages_between
from kit.splitting.tracing import Traced, same_random_numbers

BALANCES = {
    "params": "number of parameters",
    "layers": "number of weight matrices and kernels",
    "time": "measured seconds of forward and backward on the example, in evaluation mode",
    "memory": "bytes autograd keeps for the backward pass on the example; kit.run counts heads and losses too",
}
"""What a stage's cost can be measured in: name → meaning."""

Peaks = Callable[[Sequence[nn.Module]], tuple[Sequence[int], Sequence[int]]]
"""From all the pieces between a model's cut points to the peak bytes of each one's backward pass: alone, and ending a
block, with the head and loss there."""


@same_random_numbers(0)
def cheapest(
    traced: Traced, lines: list[Line], cuts: list[str], num_blocks: int, balance: str, example: Tensor,
    peaks: Peaks | None = None,
) -> list[str]:  # fmt: skip
    """Return the `num_blocks - 1` cuts that minimise the largest stage cost; ValueError if there are too few.

    With `peaks`, for batches of the example's size, a stage costs its peak: the largest of its pieces', each on top of
    what the pieces before it keep, the last with its head.
    """
    line, between = lines[0], defaultdict(list)
    layers = [index for index, node in enumerate(line.nodes) if _num_weights(node, line.tensors(node))]
    for cut in cuts:
        between[bisect_right(layers, line.index[cut])].append(cut)
    # One cut between two layers: the outermost keeps modules whole, and the last leaves norms, activations and pools
    # with the layer before them.
    candidates = [
        min(group, key=lambda cut: (line.name_of(cut).count("."), -line.index[cut]))
        for behind, group in sorted(between.items())
        if 0 < behind < len(layers)
    ]
    if num_blocks > (most := len(candidates) + 1):
        number = f"{most - 1} cut points with a layer of its own for every block"
        raise ValueError(f"num_blocks={num_blocks}, but {traced.name} has only {number}; choose 1 to {most}")
    if balance == "time":
        costs = _seconds(stages_between(traced.twin, lines, candidates), example)
    else:
        ends, costs = [line.index[cut] for cut in candidates], [0] * most
        for index, cost in enumerate(_costs(line, balance)):
            costs[bisect_left(ends, index)] += cost
    found = None
    if peaks:
        entries = [example.nbytes, *(line.env[line.carried[cut]].nbytes for cut in candidates)]
        alone = peaks(stages_between(traced.twin, lines, candidates))
        # What enters a piece is kept by the piece before, unless the block begins there.
        found = *([peak - entry for peak, entry in zip(each, entries, strict=True)] for each in alone), entries
    return [candidates[index] for index in balanced(costs, num_blocks, found)]


def _num_weights(node: fx.Node, held: list[Tensor]) -> int:
    """Return how many of the tensors that `node` reads are matrices or kernels.

    One that is read by itself, not through its layer, may also be a token, a scale or a position: (1, …), (C, 1, 1).
    """
    least = 1 if node.op == "call_module" else 2
    return sum(isinstance(t, nn.Parameter) and t.ndim >= 2 and min(t.shape[:2]) >= least for t in held)


def _costs(line: Line, balance: str) -> list[int]:
    """Return what each node costs; a parameter counts where it is first used."""
    if balance == "memory":
        return [line.bytes[node] for node in line.nodes]
    seen, costs = set(), []
    for node in line.nodes:
        new = [t for t in line.tensors(node) if isinstance(t, nn.Parameter) and id(t) not in seen]
        seen.update(map(id, new))
        costs.append(_num_weights(node, new) if balance == "layers" else sum(t.numel() for t in new))
    return costs


@torch.enable_grad()
def _seconds(stages: list[Stage], example: Tensor) -> list[float]:
    """Return the median seconds of each stage's forward and backward, of three rounds over all after one to warm up."""
    rounds, mask = [], torch.ones_like(example, dtype=torch.bool)
    for _ in range(4):  # by rounds, so that a slow moment is not one stage's
        h, seconds = example, []
        for stage in stages:
            leaf = h.detach().clone().requires_grad_(h.is_floating_point())
            sources = [tensor for tensor in (leaf, *stage.eval().parameters()) if tensor.requires_grad]
            begin = clock()
            h = apply(stage, leaf.clone(), mask)  # it may overwrite its input, which a leaf refuses
            if h.requires_grad:
                torch.autograd.grad(h, sources, torch.ones_like(h), allow_unused=True)
            seconds.append(clock() - begin)
        rounds.append(seconds)
    return [median(column) for column in zip(*rounds[1:], strict=True)]


def balanced(costs: Sequence[float], num_blocks: int, peaks: tuple[Sequence[float], ...] | None = None) -> list[int]:
    """Divide a row of `costs` into `num_blocks` runs; return the index of the last item of each run but the last.

    Minimises the largest run's cost; among such divisions, the sum of squared costs: the most even one. A run costs
    the sum of its items' costs, or with `peaks` the largest of its items' peaks, each on top of the costs before it:
    within a run, the first list's, and at its end the second's; and what enters it, the third's.
    """
    within, at_end, entries = peaks or (costs, costs, [0] * len(costs))
    cost: dict[tuple[int, int], float] = {}  # of the run from one item up to, without, another
    for start in range(len(costs)):
        before, high = entries[start], 0
        for item in range(start, len(costs)):
            cost[start, item + 1] = max(high, before + at_end[item])
            high, before = max(high, before + within[item]), before + costs[item]
    items = range(1, len(costs) + 1)
    largest = [0, *(inf for _ in items)]  # for each item, the least possible largest cost of so many runs up to it
    for _ in range(num_blocks):
        largest = [inf, *(min(max(largest[i], cost[i, j]) for i in range(j)) for j in items)]
    best = {0: (0, [])}  # for each item so many runs can end before: the least sum of squares, and the runs' last items
    for _ in range(num_blocks):
        longer = {}
        for end in items:
            found = [
                (squares + cost[start, end] ** 2, -start, [*lasts, end - 1])
                for start, (squares, lasts) in best.items()
                if start < end and cost[start, end] <= largest[-1]
            ]
            if found:
                squares, _, lasts = min(found)  # the shorter last run at a tie
                longer[end] = squares, lasts
        best = longer
    return best[len(costs)][1][:-1]
