"""Cut any traceable model into stages that compose to it and share its tensors."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn

from kit.errors import unknown
from kit.measure.costs import step_seconds
from kit.splitting.cut_points import Cut, Line, evaluating, find_cuts, tensors
from kit.splitting.tracing import Graphs, Stage, segment, split_classifier, trace

__all__ = ["BALANCES", "balanced", "places", "split", "split_classifier"]

BALANCES = {
    "params": "number of parameters",
    "layers": "number of weight matrices and kernels",
    "time": "measured seconds of forward and backward on the example, batch norms in evaluation mode",
    "memory": "bytes autograd keeps for the backward pass on the example",
}
"""What a block's cost can be measured in: name → meaning."""


def split(
    model: nn.Module, num_blocks: int | None, example: Tensor, balance: str = "params", at: list[str] | None = None
) -> list[nn.Module]:
    """Cut `model` into `num_blocks` stages, each (B, …) → (B, …), that compose to it and share its tensors.

    `example` (B, …) is one batch as the model takes it, best with B ≥ 2; no flag, buffer or gradient of the model
    changes. The cuts make the largest block as cheap as can be, in terms of `balance` (see `BALANCES`), and among
    such choices the blocks as even as can be. Every block holds a layer with weights; norms, activations and pools
    stay with the layer before them, unless a module of the model's own ends between them.
    With `at` the cuts are right behind the named modules or nodes instead (`places` lists them), and `num_blocks`
    is None or `len(at) + 1`. One block is the model itself, which then need not be traceable.
    A parameter that the forward pass never reads is in no stage.

    Raises ValueError for a model that cannot be traced, returns several values or has too few places to cut; for a
    place in `at` that is unknown, out of order or no place to cut; for an unknown `balance`.
    """
    if balance not in BALANCES:
        raise unknown("balance", balance, BALANCES)
    num_blocks = _count(num_blocks, at)
    if num_blocks == 1:
        return [model]
    root, graphs = trace(model)
    lines, cuts = find_cuts(root, graphs, _batch(example))
    if at is not None:
        chosen = [_named(lines[True], cuts, place) for place in at]
        _ascending(at, chosen)
    else:
        chosen = _cheapest(type(model).__name__, root, lines, cuts, num_blocks, balance, example)
    return _stages(model, root, graphs, lines, chosen)


def choose(model: nn.Module, num_blocks: int, example: Tensor, balance: str) -> list[str]:
    """Return the places after which `split` would cut, to be cut at again with `at`; measured times vary."""
    if num_blocks == 1:
        return []
    root, graphs = trace(model)
    lines, cuts = find_cuts(root, graphs, _batch(example))
    return [cut.name for cut in _cheapest(type(model).__name__, root, lines, cuts, num_blocks, balance, example)]


def places(model: nn.Module, example: Tensor) -> list[str]:
    """Return the names of all places where `split(…, at=[…])` can cut `model`, in order of execution.

    A place is named by the outermost module that ends there (`layer1`, `features.8`) or else by the operation
    (`layer1.add`). Raises ValueError as `split` does.
    """
    _, cuts = find_cuts(*trace(model), _batch(example))
    return _names(cuts)


def _names(cuts: list[Cut]) -> list[str]:
    """Return the cuts' names, one where several cuts hand on the same value."""
    same: dict[fx.Node, Cut] = {}
    for cut in cuts:
        same[cut.value[True]] = min(same.get(cut.value[True], cut), cut, key=lambda cut: cut.depth)
    return [cut.name for cut in same.values()]


def _count(num_blocks: int | None, at: list[str] | None) -> int:
    """Return the number of blocks asked for, checked against `at`."""
    if at is not None and num_blocks not in (None, len(at) + 1):
        raise ValueError(f"num_blocks={num_blocks}, but at={at} makes {len(at) + 1} blocks; give one of the two")
    if at is not None:
        return len(at) + 1
    if not isinstance(num_blocks, int) or isinstance(num_blocks, bool) or num_blocks < 1:
        raise ValueError(f"num_blocks={num_blocks!r}, expected an integer of at least 1, or None with at=[…]")
    return num_blocks


def _batch(example: Tensor) -> Tensor:
    if not isinstance(example, Tensor) or example.ndim == 0 or len(example) == 0:
        given = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ValueError(f"example={given}, expected one batch as a tensor (B, …) with B ≥ 1")
    return example


def _named(line: Line, cuts: list[Cut], place: str) -> Cut:
    """Return the cut right behind the module or node called `place`."""
    if place not in line.ends:
        raise unknown("place", place, _names(cuts))
    end = line.ends[place]
    exact = [cut for cut in cuts if cut.after[True] == end]
    if exact:
        return exact[0]
    near = _names([cut for cut in cuts if cut.after[True] < end])[-1:]
    near += _names([cut for cut in cuts if cut.after[True] > end])[:1]
    advice = f"The nearest places are {' and '.join(map(repr, near))}" if near else "The model has no place to cut"
    raise ValueError(
        f"cannot cut behind {place!r}: a cut needs exactly one batched floating tensor that is still to be used and "
        f"not overwritten, layers behind it, and no parameter used on both sides. {advice}"
    )


def _ascending(at: list[str], chosen: list[Cut]) -> None:
    order = sorted(zip(chosen, at, strict=True), key=lambda pair: pair[0].after[True])
    if [name for _, name in order] != list(at) or len({cut.after[True] for cut in chosen}) < len(at):
        raise ValueError(
            f"at={list(at)}, expected different places in order of execution: {[name for _, name in order]}"
        )


def _cheapest(name, root: nn.Module, lines: dict, cuts: list[Cut], num_blocks: int, balance: str, example) -> list[Cut]:
    """Return the `num_blocks - 1` cuts whose largest block costs least."""
    line = lines[True]
    layers = _layers(root, line)
    between = defaultdict(list)
    for cut in cuts:
        between[bisect_right(layers, cut.after[True])].append(cut)
    candidates = [
        min(group, key=lambda cut: (cut.depth, -cut.after[True]))
        for behind, group in sorted(between.items())
        if 0 < behind < len(layers)
    ]
    if num_blocks > len(candidates) + 1:
        raise ValueError(
            f"num_blocks={num_blocks}, but {name} has only {len(candidates)} places to cut with a layer of its own for "
            f"every block; choose 1 to {len(candidates) + 1}"
        )
    ends = [cut.after[True] for cut in candidates]
    costs = [0] * (len(ends) + 1)
    for index, cost in enumerate(_costs(root, line, balance, example)):
        costs[bisect_left(ends, index)] += cost
    return [candidates[index] for index in balanced(costs, num_blocks)]


def _layers(root: nn.Module, line: Line) -> list[int]:
    """Return the places of nodes that use a weight matrix or kernel."""
    return [index for index, node in enumerate(line.nodes) if any(_weights(node, tensors(root, node)))]


def _weights(node: fx.Node, held: list[Tensor]) -> list[bool]:
    """Tell which of the tensors that `node` reads are matrices or kernels.

    One that is read by itself, not through its layer, may also be a token, a scale or a position: (1, …), (C, 1, 1).
    """
    least = 1 if node.op == "call_module" else 2
    return [isinstance(t, nn.Parameter) and t.ndim >= 2 and min(t.shape[:2]) >= least for t in held]


def _costs(root: nn.Module, line: Line, balance: str, example: Tensor) -> list[float]:
    """Return what each node costs; a parameter counts where it is first used."""
    if balance == "memory":
        return [line.watch.bytes[node] for node in line.nodes]
    if balance == "time":
        return _clocked(root, line, example)
    seen, costs = set(), []
    for node in line.nodes:
        new = [t for t in tensors(root, node) if isinstance(t, nn.Parameter) and id(t) not in seen]
        seen.update(map(id, new))
        costs.append(sum(_weights(node, new)) if balance == "layers" else sum(t.numel() for t in new))
    return costs


class _Clock(fx.Interpreter):
    """Runs a graph and measures the seconds of each node's forward and backward."""

    def __init__(self, root: nn.Module, graph: fx.Graph):
        super().__init__(root, graph=graph)
        self.seconds: dict[fx.Node, float] = {}

    def run_node(self, node: fx.Node) -> Any:
        if not node.op.startswith("call_"):
            return super().run_node(node)
        inputs = self.fetch_args_kwargs_from_env(node)
        weights = [t for t in tensors(self.module, node) if t.requires_grad]

        def step(leaves: list[Tensor], args: tuple, kwargs: dict) -> Any:
            out = getattr(self, node.op)(node.target, args, kwargs)
            results = [t for t in _tensors_in(out) if t.requires_grad]
            if results:
                torch.autograd.grad(results, leaves + weights, [torch.ones_like(t) for t in results], allow_unused=True)
            return out

        result = step(*_fresh(inputs))
        self.seconds[node] = step_seconds(step, 3, lambda: _fresh(inputs)) if _tensors_in(result) else 0.0
        return fx.node.map_aggregate(result, lambda value: value.detach() if isinstance(value, Tensor) else value)


def _fresh(inputs: tuple) -> tuple[list[Tensor], tuple, dict]:
    """Return copies of the tensors in `inputs`, and the leaves that their gradients arrive at."""
    leaves = []

    def copy(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        leaves.append(value.detach().requires_grad_())
        return leaves[-1].clone()  # an operation may overwrite its input, and a leaf refuses that

    return leaves, *(fx.node.map_aggregate(part, copy) for part in inputs)


def _tensors_in(value: Any) -> list[Tensor]:
    found = []
    fx.node.map_aggregate(value, lambda part: found.append(part) if isinstance(part, Tensor) else None)
    return found


def _clocked(root: nn.Module, line: Line, example: Tensor) -> list[float]:
    clock = _Clock(root, line.nodes[0].graph)
    with evaluating(root), torch.enable_grad():
        clock.run(example)
    return [clock.seconds.get(node, 0.0) for node in line.nodes]


def balanced(costs: list[float], num_blocks: int) -> list[int]:
    """Divide a row of `costs` into `num_blocks` runs; return the index of the last item of each run but the last.

    The dearest run is as cheap as can be; among such divisions the sum of squared run costs is the smallest.
    """
    total = [0, *accumulate(costs)]
    count = len(costs)
    sums = sorted({total[j] - total[i] for i in range(count) for j in range(i + 1, count + 1)})
    bound = sums[bisect_left(sums, True, key=lambda limit: _runs_needed(total, limit) <= num_blocks)]
    best, choice = [0] + [float("inf")] * count, []
    for _ in range(num_blocks):
        best, starts = _one_more_run(total, best, bound)
        choice.append(starts)
    ends, end = [], count
    for starts in reversed(choice[1:]):
        end = starts[end]
        ends.append(end - 1)
    return ends[::-1]


def _runs_needed(total: list[float], limit: float) -> float:
    """Return how many runs of at most `limit` cover the row whose running totals are given."""
    runs, start, count = 0, 0, len(total) - 1
    while start < count:
        end = start
        while end < count and total[end + 1] - total[start] <= limit:
            end += 1
        if end == start:
            return float("inf")
        runs, start = runs + 1, end
    return runs


def _one_more_run(total: list[float], best: list[float], bound: float) -> tuple[list[float], list[int]]:
    """Return, for every end, the least sum of squares with one more run of at most `bound`, and where it starts."""
    longer, starts = [float("inf")] * len(total), [0] * len(total)
    for end in range(1, len(total)):
        for start in range(end - 1, -1, -1):
            if total[end] - total[start] > bound:
                break
            squares = best[start] + (total[end] - total[start]) ** 2
            if squares < longer[end]:
                longer[end], starts[end] = squares, start
    return longer, starts


def _stages(model: nn.Module, root: nn.Module, graphs: Graphs, lines: dict, chosen: list[Cut]) -> list[nn.Module]:
    """Build the stages between the chosen cuts; each has the model's training flag."""
    stages = []
    for before, behind in zip([None, *chosen], [*chosen, None], strict=True):
        parts = {}
        for mode, line in lines.items():
            start = before.after[mode] + 1 if before else 0
            end = behind.after[mode] + 1 if behind else len(line.nodes)
            leave = behind.value[mode] if behind else line.result
            parts[mode] = segment(line.nodes[start:end], before and before.value[mode], leave)
        same = lines[True] is lines[False]
        stage = Stage(root, {True: parts[True], False: parts[True] if same else parts[False]})
        stage.training = model.training
        stages.append(stage)
    return stages
