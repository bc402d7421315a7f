"""Schedules of two chunks per rank that lie like a V: rank k of K holds chunks k and 2K-1-k, so the last rank turns.

A rank's row is written as phases, so often such a pattern. `F0` is the next forward of its first chunk, `I1` and `W1`
the next halves of a backward of its second, `B` both at once, `W` the oldest weights' gradient put off, of either.
"""

from collections import Counter
from collections.abc import Iterable

from kit.pipeline.operations import Op, Schedule, check_counts

Phases = Iterable[tuple[int, str]]


def zb_v(num_ranks: int, num_batches: int) -> Schedule:
    """Zero bubble with as little memory as 1F1B (ZB-V, Qi et al., ICML 2024)."""
    check_counts(num_ranks, num_batches)
    return [_row(k, num_ranks, num_batches, _zb_v(k, num_ranks, num_batches)) for k in range(num_ranks)]


def dualpipe_v(num_ranks: int, num_batches: int) -> Schedule:
    """DualPipe folded into a V (DeepSeek 2025): a forward beside a backward; from 2 micro-batches per rank on."""
    check_counts(num_ranks, num_batches)
    if num_batches < 2 * num_ranks:
        raise ValueError(
            f"num_batches={num_batches}, but DualPipeV takes at least two micro-batches a rank: {2 * num_ranks}"
        )
    return [_row(k, num_ranks, num_batches, _dualpipe_v(k, num_ranks, num_batches)) for k in range(num_ranks)]


def _zb_v(k: int, num_ranks: int, num_batches: int) -> Phases:
    count = max(2 * num_ranks - 1, num_batches)  # with fewer, the same without those that are not there
    rest, ahead = num_ranks - k, 2 * num_ranks - k - 1
    yield 2 * rest - 1, "F0"
    yield k, "F1 F0"
    yield rest, "F1 I1 W1"
    yield count - ahead, "F0 I0 W0 F1 I1 W1"
    yield ahead - num_ranks, "I0 W0 F1 I1 W1"
    yield k, "I0 I1"
    yield rest, "I0 W0"
    yield k, "W1"
    yield k, "W0"


def _dualpipe_v(k: int, num_ranks: int, num_batches: int) -> Phases:
    rest = num_ranks - k - 1
    yield 2 * rest, "F0"
    yield k + 1, "F0 F1"
    yield rest, "I1 W F1"
    yield num_batches - 2 * num_ranks + k + 1, "F0 B1 F1 B0"
    yield rest, "B1 F1 B0"
    whole = (k + 1) // 2  # from the middle on, weights' gradients are put off
    yield whole, "B1 B0"
    yield 1, "I1 I0" if k % 2 else "B1 I0"
    yield k - whole, "I1 I0"
    yield rest, "W I0"
    yield k + 1, "W"


def _row(k: int, num_ranks: int, num_batches: int, phases: Phases) -> list[Op]:
    chunks, done, waiting, row = (k, 2 * num_ranks - 1 - k), Counter(), [], []
    for step in [step for times, pattern in phases for step in pattern.split() * times]:
        if step[0] == "W":
            fitting = [op for op in waiting if len(step) == 1 or op.chunk == chunks[int(step[1])]]
            if fitting:
                waiting.remove(fitting[0])
                row.append(fitting[0]._replace(kind="W"))
            continue
        chunk, way = chunks[int(step[1])], step[0] == "F"
        op = Op(step[0], chunk, done[chunk, way])
        done[chunk, way] += 1
        row.append(op)
        waiting += [op] if op.kind == "I" else []
    return [op for op in row if op.batch < num_batches] + [Op("U", chunk, 0) for chunk in chunks]
