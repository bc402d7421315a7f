"""Cut any traceable model into stages that compose to it and share its tensors."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from kit.errors import check_name, unknown
from kit.settings import typed
from kit.splitting.balance import BALANCES, Peaks, cheapest
from kit.splitting.liveness import Line, find_cuts
from kit.splitting.stage import stages_between
from kit.splitting.tracing import trace
from kit.splitting.verify import check_against_model

CutPoints = Annotated[Sequence[object], Field(description="a list of cut points, such as ['layer1']")]


@typed
def split(
    model: nn.Module, num_blocks: int | None, example: Tensor, balance: str = "params", at: CutPoints | None = None,
    verify: bool = True,
) -> list[nn.Module]:  # fmt: skip
    """Cut `model` into `num_blocks` stages, each (B, …) → (B, …), that compose to it and share its tensors.

    `example` (B, …) is one batch as the model takes it. The cuts minimise the largest stage cost in terms of `balance`
    (see `BALANCES`), and among such choices keep the stages even. Every stage holds a layer with weights; norms,
    activations and pools stay with the layer before them, unless a module of the model's own ends between them. With
    `at` the cuts are right behind the named modules or nodes instead (`cut_points` lists them), and `num_blocks` is
    None or `len(at) + 1`. One block is the model itself, which then need not be traceable. A parameter that the
    forward pass never reads is in no stage. The model stays as it was: whatever runs, runs on a copy.

    `verify=False` skips the comparison of the stages with the model, which takes a few forward and backward passes: for
    large models whose cuts are known to be right.

    Raises ValueError for a model that cannot be traced, returns several values, has too few cut points or gives other
    outputs, gradients or buffers than its stages; for a name in `at` that is unknown, out of order or no cut point.
    """
    traced, lines, cuts = _cut(model, num_blocks, example, balance, at)
    if not cuts:
        return [model]
    if verify:
        check_against_model(traced, stages_between(traced.twin, lines, cuts), example)
    return stages_between(traced.root, lines, cuts)


def choose_cuts(
    model: nn.Module, num_blocks: int, example: Tensor, balance: str, peaks: Peaks | None = None
) -> list[str]:
    """Return the points where `split` would cut, to be cut at again with `at`; measured times vary.

    `peaks` count heads and losses in, for `balance="memory"`: see `kit.splitting.balance.cheapest`.
    """
    _, lines, cuts = _cut(model, num_blocks, example, balance, None, peaks)
    return [lines[0].name_of(cut) for cut in cuts]


@typed
def cut_points(model: nn.Module, example: Tensor) -> list[str]:
    """Return the names of all points where `split(…, at=[…])` can cut `model`, in order of execution.

    A point is named by the outermost module that ends there (`layer1`, `features.8`) or else by the operation
    (`layer1.add`). Raises ValueError as `split` does, but does not compare stages with the model.
    """
    (line, *_), cuts = find_cuts(trace(model), example)
    return _names(line, cuts)


def _cut(
    model: nn.Module, num_blocks: int | None, example: Tensor, balance: str, at: list[str] | None,
    peaks: Peaks | None = None,
) -> tuple:  # fmt: skip
    """Return the traced model, its lines and the chosen cuts, of which one block has none."""
    check_name("balance", balance, BALANCES)
    if at is not None and num_blocks not in (None, len(at) + 1):
        raise ValueError(f"num_blocks={num_blocks}, but at={at} makes {len(at) + 1} blocks; give one of the two")
    if at is None and (num_blocks is None or num_blocks < 1):
        raise ValueError(f"num_blocks={num_blocks!r}, expected an integer of at least 1, or None with at=[…]")
    if num_blocks == 1 or at is not None and not len(at):
        return None, [], []  # the model need not be traceable
    traced = trace(model)
    lines, cuts = find_cuts(traced, example)
    if at is None:
        return traced, lines, cheapest(traced, lines, cuts, num_blocks, balance, example, peaks)
    return traced, lines, _named(lines[0], cuts, at)


def _names(line: Line, cuts: list[str]) -> list[str]:
    """Return the cuts' names; of several that hand on the same value, the outermost's."""
    same = {}
    for cut in cuts:
        name, value = line.name_of(cut), line.carried[cut]
        same[value] = min(same.get(value, name), name, key=lambda name: name.count("."))
    return list(same.values())


def _named(line: Line, cuts: list[str], at: list[str]) -> list[str]:
    """Return the cuts right behind the modules or nodes called `at`."""
    for name in at:
        if name not in line.ends:
            raise unknown("cut point", name, _names(line, cuts))
    chosen = [line.nodes[line.ends[name]].meta["path"] for name in at]
    for name, path in zip(at, chosen, strict=True):
        if path not in cuts:
            near = _names(line, [cut for cut in cuts if line.index[cut] < line.ends[name]])[-1:]
            near += _names(line, [cut for cut in cuts if line.index[cut] > line.ends[name]])[:1]
            advice = f"nearest cut points are {' and '.join(map(repr, near))}" if near else "model has no cut point"
            raise ValueError(
                f"cannot cut behind {name!r}: a cut needs exactly one batched floating tensor that is still to be used "
                f"and not overwritten, layers behind it, and no parameter used on both sides. The {advice}"
            )
    order = sorted(dict.fromkeys(at), key=line.ends.get)
    if order != list(at) or len(set(chosen)) < len(at):
        raise ValueError(f"at={list(at)}, expected different cut points in order of execution: {order}")
    return chosen
