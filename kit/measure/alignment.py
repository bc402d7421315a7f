"""How far a block's local gradient points where backpropagation's would."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kit import seeds
from kit.block import Block
from kit.measure.probes import Readings, differentiate, flat, untouched
from kit.net import Net
from kit.settings import Count, typed
from kit.signal import Signal
from kit.walk import Visit


@typed
@contextmanager
def alignment(
    net: Net, every: Count = 1, loss: Literal["cross-entropy", "own"] = "cross-entropy"
) -> Iterator[Readings]:
    """Read, at every `every`-th training step of a kit net, how each block's local gradient compares with backprop's.

    Both gradients are taken at the weights before the step, on the step's batch and with its random numbers, by the
    weights of the block's body. Metrics: `alignment`, their cosine; `local` and `end_to_end`, their norms. The depth
    counts blocks. End to end is the `cross-entropy` of the last exit, through the activations alone (context stays
    detached); with `loss="own"` the last block's own loss, which tells how much comes from the cuts. One block with
    cross-entropy is aligned by exactly 1. A step that is read takes 1.5 to 3 times as long on the CPU and the memory of
    backprop. Raises ValueError for another `loss`.
    """
    readings, steps = Readings([f"block {k}" for k in range(1, len(net) + 1)]), count()

    def read(first: Block, signal: Signal) -> None:
        if (step := next(steps)) % every == 0:
            for layer, metrics in zip(readings.depths, compare(net, signal, loss), strict=True):
                readings.keep(layer, step, **metrics)

    with net[0].register_step_pre_hook(read):
        yield readings


def compare(net: Net, signal: Signal, loss: str = "cross-entropy") -> list[dict[str, Tensor]]:
    """Return the metrics of `alignment` for each block of `net`, given the signal that enters it. Changes nothing."""
    parts, rows, gradient = [], [], None
    with untouched(net):
        for visit in net.walk(signal, losses=True):
            weights, own = [*visit.block.body.parameters()], visit.block.objective.total(visit.terms)
            local = flat(differentiate(own, weights, retain=True))
            parts.append((local, weights, visit.signal.h, visit.h))
            visit.after.h.requires_grad_()  # what the next block reads is a leaf: its gradient can be asked for
        parts[-1] = (local, weights, visit.signal.h, own if loss == "own" else _cross_entropy(visit))
        for local, weights, start, output in reversed(parts):  # the chain rule, from cut to cut
            *by_weights, gradient = differentiate(output, [*weights, start], gradient)
            whole = flat(by_weights)
            norms = {"local": local.norm(), "end_to_end": whole.norm()}
            rows.append({"alignment": local @ whole / (norms["local"] * norms["end_to_end"]), **norms})
    return rows[::-1]


def _cross_entropy(visit: Visit) -> Tensor:
    """Return the cross-entropy of the block's exit, with the random numbers of the block's next step."""
    block = visit.block
    if dict(block.objective.weights) == {"ce": 1.0}:  # the local loss is that very cross-entropy
        return visit.terms["ce"]
    with seeds.seeded(block.seed, block.index, block.num_steps, device=visit.h.device):
        return F.cross_entropy(visit.logits(), visit.signal.y)
