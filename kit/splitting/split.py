"""Cut any traceable model into stages that compose to it and share its tensors."""

from torch import Tensor, fx, nn

from kit.errors import unknown
from kit.splitting.balance import BALANCES, balanced, cheapest
from kit.splitting.liveness import Cut, Line, find_cuts
from kit.splitting.stage import split_classifier, stages_between
from kit.splitting.tracing import trace
from kit.splitting.verify import verify

__all__ = ["BALANCES", "balanced", "choose", "cut_points", "split", "split_classifier"]


def split(
    model: nn.Module, num_blocks: int | None, example: Tensor, balance: str = "params", at: list[str] | None = None
) -> list[nn.Module]:
    """Cut `model` into `num_blocks` stages, each (B, …) → (B, …), that compose to it and share its tensors.

    `example` (B, …) is one batch as the model takes it, best with B ≥ 2. The cuts minimise the largest stage cost in
    terms of `balance` (see `BALANCES`), and among such choices keep the stages as even as can be. Every stage holds a
    layer with weights; norms, activations and pools stay with the layer before them, unless a module of the model's
    own ends between them. With `at` the cuts are right behind the named modules or nodes instead (`cut_points` lists
    them), and `num_blocks` is None or `len(at) + 1`. One block is the model itself, which then need not be traceable.
    A parameter that the forward pass never reads is in no stage. The model stays as it was: all runs on a copy.

    Raises ValueError for a model that cannot be traced, returns several values, has too few cut points or gives other
    outputs, gradients or buffers than its stages; for a cut point in `at` that is unknown, out of order or none; for
    an unknown `balance`.
    """
    if balance not in BALANCES:
        raise unknown("balance", balance, BALANCES)
    num_blocks = _count(num_blocks, at)
    if num_blocks == 1:
        return [model]
    name, traced = type(model).__name__, trace(model)
    lines, cuts = find_cuts(traced, _batch(example))
    if at is not None:
        chosen = [_named(lines[True], cuts, point) for point in at]
        _ascending(at, chosen)
    else:
        chosen = cheapest(name, traced, lines, cuts, num_blocks, balance, example)
    verify(name, traced, stages_between(traced.twin, lines, chosen), example)
    return stages_between(traced.root, lines, chosen)


def choose(model: nn.Module, num_blocks: int, example: Tensor, balance: str) -> list[str]:
    """Return the points where `split` would cut, to be cut at again with `at`; measured times vary."""
    if num_blocks == 1:
        return []
    traced = trace(model)
    lines, cuts = find_cuts(traced, _batch(example))
    return [cut.name for cut in cheapest(type(model).__name__, traced, lines, cuts, num_blocks, balance, example)]


def cut_points(model: nn.Module, example: Tensor) -> list[str]:
    """Return the names of all points where `split(…, at=[…])` can cut `model`, in order of execution.

    A point is named by the outermost module that ends there (`layer1`, `features.8`) or else by the operation
    (`layer1.add`). Raises ValueError as `split` does, but does not compare stages with the model.
    """
    _, cuts = find_cuts(trace(model), _batch(example))
    return _names(cuts)


def _names(cuts: list[Cut]) -> list[str]:
    """Return the cuts' names, one where several cuts hand on the same value."""
    same: dict[fx.Node, Cut] = {}
    for cut in cuts:
        same[cut.value[True]] = min(same.get(cut.value[True], cut), cut, key=lambda cut: cut.depth)
    return [cut.name for cut in same.values()]


def _count(num_blocks: int | None, at: list[str] | None) -> int:
    """Return the number of blocks asked for, checked against `at`."""
    if isinstance(at, str):
        raise ValueError(f"at={at!r}, expected a list of cut points, such as [{at!r}]")
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


def _named(line: Line, cuts: list[Cut], point: str) -> Cut:
    """Return the cut right behind the module or node called `point`."""
    if point not in line.ends:
        raise unknown("cut point", point, _names(cuts))
    end = line.ends[point]
    if exact := [cut for cut in cuts if cut.after[True] == end]:
        return exact[0]
    near = _names([cut for cut in cuts if cut.after[True] < end])[-1:]
    near += _names([cut for cut in cuts if cut.after[True] > end])[:1]
    advice = f"The nearest cut points are {' and '.join(map(repr, near))}" if near else "The model has no cut point"
    raise ValueError(
        f"cannot cut behind {point!r}: a cut needs exactly one batched floating tensor that is still to be used and "
        f"not overwritten, layers behind it, and no parameter used on both sides. {advice}"
    )


def _ascending(at: list[str], chosen: list[Cut]) -> None:
    order = sorted(zip(chosen, at, strict=True), key=lambda pair: pair[0].after[True])
    if [name for _, name in order] != list(at) or len({cut.after[True] for cut in chosen}) < len(at):
        raise ValueError(
            f"at={list(at)}, expected different cut points in order of execution: {[name for _, name in order]}"
        )
