"""Who does what in which order: pipeline schedules as lists of integers.

Letters: K ranks, k a rank, M (micro-)batches, m one of them, V chunks per rank; chunk c lives on rank c mod K, but in
`v_schedules`. Nothing here knows of time: `kit.pipeline.simulate` gives each operation a length.

    decoupled, K=3     rank 0   S0 S1 S2 S3            a step is forward, local loss, backward and update at once;
                       rank 1      S0 S1 S2 S3         no rank ever waits for one behind it
                       rank 2         S0 S1 S2 S3

    1F1B, K=3, M=4     rank 0   F0 F1 F2 .  .  B0 F3 B1 .  B2 .  B3 U
                       rank 1      F0 F1 .  B0 F2 B1 F3 B2 .  B3 U
                       rank 2         F0 B0 F1 B1 F2 B2 F3 B3 U
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from kit.delayed import Delay
from kit.methods import REGISTRY
from kit.pipeline.operations import Op, Schedule, check_counts
from kit.pipeline.v_schedules import dualpipe_v, zb_v


def decoupled(num_ranks: int, num_batches: int) -> Schedule:
    """Every block steps on batch after batch; nothing comes back."""
    check_counts(num_ranks, num_batches)
    return [[Op("S", k, m) for m in range(num_batches)] for k in range(num_ranks)]


def gpipe(num_ranks: int, num_batches: int) -> Schedule:
    """All forwards, then all backwards, then the update (Huang et al., NeurIPS 2019)."""
    check_counts(num_ranks, num_batches)
    ops = [(kind, m) for kind in "FB" for m in range(num_batches)]
    return [[Op(kind, k, m) for kind, m in ops] + [Op("U", k, 0)] for k in range(num_ranks)]


def one_f_one_b(num_ranks: int, num_batches: int) -> Schedule:
    """As many forwards as ranks are behind, then a backward for each forward (PipeDream-flush, 1F1B)."""
    check_counts(num_ranks, num_batches)
    schedule = []
    for k in range(num_ranks):
        forwards = [Op("F", k, m) for m in range(num_batches)]
        backwards = [Op("B", k, m) for m in range(num_batches)]
        schedule.append(_alternate(forwards, backwards, num_ranks - k - 1) + [Op("U", k, 0)])
    return schedule


def interleaved(num_ranks: int, num_batches: int, num_chunks: int = 2) -> Schedule:
    """1F1B over `num_chunks` chunks per rank (Narayanan et al., SC 2021). M has to be a multiple of K."""
    check_counts(num_ranks, num_batches)
    if num_chunks < 1 or num_batches % num_ranks:
        raise ValueError(
            f"num_batches={num_batches}, num_chunks={num_chunks}: interleaving {num_ranks} ranks takes a multiple of "
            f"{num_ranks} micro-batches and at least 1 chunk"
        )
    total = num_batches * num_chunks

    def at(i: int) -> tuple[int, int]:  # K micro-batches through one chunk, then through the next
        return (i // num_ranks) % num_chunks, i // (num_ranks * num_chunks) * num_ranks + i % num_ranks

    schedule = []
    for k in range(num_ranks):
        forwards = [Op("F", v * num_ranks + k, m) for v, m in map(at, range(total))]
        backwards = [Op("B", (num_chunks - 1 - v) * num_ranks + k, m) for v, m in map(at, range(total))]
        ahead = (num_ranks - k - 1) * 2 + (num_chunks - 1) * num_ranks
        updates = [Op("U", v * num_ranks + k, 0) for v in range(num_chunks)]
        schedule.append(_alternate(forwards, backwards, ahead) + updates)
    return schedule


def zero_bubble(num_ranks: int, num_batches: int) -> Schedule:
    """1F1B whose weight gradients fill the gaps: rank k puts off k of them (ZB-H1, Qi et al., ICLR 2024)."""
    check_counts(num_ranks, num_batches)
    schedule = []
    for k, ops in enumerate(one_f_one_b(num_ranks, num_batches)):
        row = []
        for op in ops[:-1]:
            row.append(op._replace(kind="I") if op.kind == "B" else op)
            if op.kind == "B" and op.batch >= k:
                row.append(Op("W", k, op.batch - k))
        left = range(max(0, num_batches - k), num_batches)
        schedule.append([*row, *(Op("W", k, m) for m in left), Op("U", k, 0)])
    return schedule


def two_bw(num_ranks: int, num_batches: int) -> Schedule:
    """1F1B without a flush: an update every K micro-batches, two versions of the weights (PipeDream-2BW, ICML 2021)."""
    schedule = []
    for k, ops in enumerate(one_f_one_b(num_ranks, num_batches)):
        row = []
        for op in ops[:-1]:
            row.append(op)
            if op.kind == "B" and (op.batch + 1) % num_ranks == 0:
                row.append(Op("U", k, op.batch))
        schedule.append(row)
    return schedule


def late(delay: Delay, num_ranks: int, num_batches: int) -> Schedule:
    """Gradients that come ticks late (`kit.delayed`, which runs what this lists), and all that is under way learned."""
    check_counts(num_ranks, num_batches)
    back_kind, schedule = "R" if delay.weights == "replayed" else "B", []
    for k in range(num_ranks):
        row, is_last = [], k == num_ranks - 1
        for tick in range(num_batches + 2 * num_ranks):
            forward, back = delay.turn(tick, k, num_ranks)
            update = back - 1 if is_last and delay.unlocked else back
            ahead, behind = [Op("F", k, forward)], [Op("B" if is_last else back_kind, k, back)]
            if is_last and delay.unlocked:
                ops = [Op("U", k, update), *ahead, *behind]
            elif delay.unlocked:
                ops = [*behind, Op("U", k, update), *ahead]
            else:
                ops = [*ahead, *behind, Op("U", k, update)]
            row += [op for op in ops if 0 <= op.batch < num_batches]
        schedule.append(row)
    return schedule


SCHEDULES: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {
        "decoupled": decoupled,
        "gpipe": gpipe,
        "1f1b": one_f_one_b,
        "interleaved": interleaved,
        "zero-bubble": zero_bubble,
        "zb-v": zb_v,
        "dualpipe-v": dualpipe_v,
        "pipedream-2bw": two_bw,
    }
    | {name: partial(late, method.delay) for name, method in REGISTRY.items() if method.delay}
)
TWO_CHUNKS = ("interleaved", "zb-v", "dualpipe-v")
"""Schedules in which every rank holds two chunks."""
FLOWING = ("decoupled", "pipedream-2bw", *(name for name, method in REGISTRY.items() if method.delay))
"""Schedules without a flush: whole batches follow each other, and the pipeline fills once per run."""


def _alternate(forwards: list[Op], backwards: list[Op], ahead: int) -> list[Op]:
    """Go `ahead` forwards ahead, then take one forward and one backward in turn until both are used up."""
    ahead = min(ahead, len(forwards))
    row = forwards[:ahead]
    for i, forward in enumerate(forwards[ahead:]):
        row += [forward, backwards[i]]
    return row + backwards[len(forwards) - ahead :]
