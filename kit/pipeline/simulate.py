"""The cost model: how long a schedule takes, how idle its ranks are, what they keep in memory.

Assumed: a rank does one thing at a time; transfers run beside the computing, one after the other on each link between
two ranks; operations and transfers always take the same time. Data loading and evaluation are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import pandas as pd

from kit.errors import check_name
from kit.pipeline.operations import Op, Schedule
from kit.pipeline.schedule import FLOWING, SCHEDULES, TWO_CHUNKS

COLUMNS = ("rank", "kind", "chunk", "batch", "start", "end")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of each chunk, first to last, on one (micro-)batch; and of one transfer between two ranks."""

    forward: Sequence[float]
    backward: Sequence[float]
    update: Sequence[float]
    transfer: float = 0.0
    """Seconds in which a transfer fills its link."""
    latency: float = 0.0
    """Seconds that a transfer is under way besides; others may be at the same time."""
    slowness: Sequence[float] = ()
    """How many times as long a rank takes, first to last; 1 for those not named."""

    def seconds(self, op: Op, rank: int) -> float:
        """Return how long an operation takes on a rank. The two halves of a backward take half each."""
        forward, backward, update = (part[op.chunk] for part in (self.forward, self.backward, self.update))
        half, step = backward / 2, forward + backward + update
        whole = {"F": forward, "B": backward, "I": half, "W": half, "R": forward + backward, "U": update, "S": step}
        return whole[op.kind] * (self.slowness[rank] if rank < len(self.slowness) else 1.0)

    def split(self, num_micro: int, overhead: float = 0.0) -> Costs:
        """Return the costs of micro-batches of 1/`num_micro`; each forward and each backward has its `overhead`."""
        parts = [[s / num_micro + overhead for s in part] for part in (self.forward, self.backward)]
        return replace(self, forward=parts[0], backward=parts[1], transfer=self.transfer / num_micro)


def even(num_chunks: int, seconds: float, backward: float = 2.0, update: float = 0.1, slowest: float = 1.0) -> Costs:
    """Return costs of a batch that takes `seconds` in one process, cut into equal chunks, the middle one `slowest`
    times as dear as the others. `backward` and `update` are in units of the forward.
    """
    shares = [slowest if c == num_chunks // 2 else 1.0 for c in range(num_chunks)]
    unit = seconds / sum(shares) / (1 + backward + update)
    forward = [unit * share for share in shares]
    return Costs(forward=forward, backward=[f * backward for f in forward], update=[f * update for f in forward])


def timeline(schedule: Schedule, costs: Costs) -> pd.DataFrame:
    """Return when each operation starts and ends, as a table of rank, kind, chunk, batch, start, end.

    Raises ValueError for a schedule in which ranks wait for each other forever.
    """
    num_ranks, num_chunks = len(schedule), len(costs.forward)
    clock, position, rows = [0.0] * num_ranks, [0] * num_ranks, []
    home = {op.chunk: k for k, row in enumerate(schedule) for op in row}
    arrivals, links = {}, {}  # by direction, chunk and batch, when what was made is where it is needed; of a link, free
    while any(position[k] < len(schedule[k]) for k in range(num_ranks)):
        before = len(rows)
        for k in range(num_ranks):
            while position[k] < len(schedule[k]):
                op = schedule[k][position[k]]
                way, start = _DIRECTION.get(op.kind, 0), clock[k]  # what its own chunk has to do first stands before it
                if way and 0 <= op.chunk - way < num_chunks:
                    if (needed := (way, op.chunk - way, op.batch)) not in arrivals:
                        break
                    start = max(start, arrivals[needed])
                clock[k] = arrivals[way, op.chunk, op.batch] = start + costs.seconds(op, k)
                rows.append((k, *op, start, clock[k]))
                position[k] += 1
                to = op.chunk + way
                if 0 <= to < num_chunks and home.get(to) != k:
                    link = k, home.get(to)
                    links[link] = max(clock[k], links.get(link, 0.0)) + costs.transfer
                    arrivals[way, op.chunk, op.batch] = links[link] + costs.latency
        if len(rows) == before:
            raise ValueError("the schedule is stuck: every rank waits for another one")
    return pd.DataFrame(rows, columns=list(COLUMNS))


_DIRECTION = {"F": 1, "S": 1, "B": -1, "I": -1, "R": -1}
"""Whether what an operation makes goes to the next chunk or the one before; of others it stays."""


def predict(name: str, costs: Costs, num_ranks: int, num_micro: int = 1, overhead: float = 0.0) -> dict[str, float]:
    """Predict a schedule of `SCHEDULES` for these costs of whole batches.

    `step_seconds`: of one batch, once the pipeline is full; `bubble`: share of the ranks' time in which they wait;
    `peak_activations`: the most any rank keeps at once, in activations of one chunk for one whole batch;
    `speedup`: over one process that does the same work. `num_micro` and `overhead` are for the schedules that cut a
    batch into micro-batches. Raises ValueError for an unknown schedule, or costs that do not fit it.
    """
    check_name("schedule", name, SCHEDULES)
    if len(costs.forward) % num_ranks:
        raise ValueError(f"{len(costs.forward)} chunks cannot be dealt out to {num_ranks} ranks evenly")
    num_chunks = len(costs.forward) // num_ranks
    if num_chunks != 2 and name in TWO_CHUNKS[1:]:
        raise ValueError(f"{num_chunks} chunks per rank, but {name} takes 2")
    options = (num_chunks,) if name == "interleaved" else ()
    whole = sum(map(sum, (costs.forward, costs.backward, costs.update)))
    if name in FLOWING:
        parts = num_ranks if name == "pipedream-2bw" else 1  # micro-batches of a batch
        count = parts * (4 * num_ranks + 8)
        table = timeline(SCHEDULES[name](num_ranks, count), costs.split(parts, overhead if parts > 1 else 0.0))
        last = table[~table["kind"].isin(["F", "U"])].groupby("batch")["end"].max()
        seconds, share = (last[count - 1] - last[count // 2 - 1]) * parts / (count - count // 2), 1 / parts
    else:
        table = timeline(SCHEDULES[name](num_ranks, num_micro, *options), costs.split(num_micro, overhead))
        seconds, share = table["end"].max(), 1 / num_micro
        whole += 2 * overhead * num_micro * len(costs.forward)
    return {
        "step_seconds": float(seconds),
        "bubble": max(0.0, float(1 - whole / (num_ranks * seconds))),
        "peak_activations": max(peak_activations(table)) * share,
        "speedup": float(sum(map(sum, (costs.forward, costs.backward, costs.update))) / seconds),
    }


def peak_activations(table: pd.DataFrame) -> list[int]:
    """Return, by rank, the most (micro-)batches of a chunk whose activations a rank keeps at once."""
    peaks = []
    for _, own in table.groupby("rank"):
        ends = own[own["kind"].isin(["B", "R", "W", "S"])]["end"]
        starts = own[own["kind"].isin(["F", "S"])]["start"]
        events = sorted([(time, 0, -1) for time in ends] + [(time, 1, 1) for time in starts])
        peaks.append(max(accumulate((change for _, _, change in events), initial=0)))
    return peaks
