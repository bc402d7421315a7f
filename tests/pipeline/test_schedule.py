"""Schedules against literal lists, and the cost model against what is known on paper."""

import pytest
from torch.distributed.pipelining.schedules import ScheduleDualPipeV, ScheduleZBVZeroBubble

from kit.pipeline.schedule import SCHEDULES, TWO_CHUNKS, decoupled, gpipe, interleaved, one_f_one_b, two_bw, zero_bubble
from kit.pipeline.simulate import Costs, even, peak_activations, predict, timeline


def text(schedule, chunks=False):
    return [
        " ".join(f"{op.kind}{op.chunk}.{op.batch}" if chunks else f"{op.kind}{op.batch}" for op in row)
        for row in schedule
    ]


def test_decoupled():
    assert text(decoupled(3, 3)) == ["S0 S1 S2"] * 3


def test_gpipe():
    assert text(gpipe(2, 3)) == ["F0 F1 F2 B0 B1 B2 U0"] * 2


def test_one_f_one_b():
    assert text(one_f_one_b(3, 4)) == [
        "F0 F1 F2 B0 F3 B1 B2 B3 U0",
        "F0 F1 B0 F2 B1 F3 B2 B3 U0",
        "F0 B0 F1 B1 F2 B2 F3 B3 U0",
    ]
    assert text(one_f_one_b(3, 1)) == ["F0 B0 U0"] * 3


def test_interleaved():
    assert text(interleaved(2, 2, 2), chunks=True) == [
        "F0.0 F0.1 F2.0 F2.1 B2.0 B2.1 B0.0 B0.1 U0.0 U2.0",
        "F1.0 F1.1 F3.0 B3.0 F3.1 B3.1 B1.0 B1.1 U1.0 U3.0",
    ]


def test_zero_bubble():
    assert text(zero_bubble(2, 3)) == ["F0 F1 I0 W0 F2 I1 W1 I2 W2 U0", "F0 I0 F1 I1 W0 F2 I2 W1 W2 U0"]


@pytest.mark.parametrize(
    ("name", "num_ranks", "rows"),
    [
        ("fdg", 2, ["F0 F1 B0 U0 F2 B1 U1 B2 U2", "F0 B0 U0 F1 B1 U1 F2 B2 U2"]),
        (
            "fdg",
            3,
            [
                "F0 F1 F2 F3 B0 U0 F4 B1 U1 B2 U2 B3 U3 B4 U4",
                "F0 F1 B0 U0 F2 B1 U1 F3 B2 U2 F4 B3 U3 B4 U4",
                "F0 B0 U0 F1 B1 U1 F2 B2 U2 F3 B3 U3 F4 B4 U4",
            ],
        ),
        (
            "fdg",
            4,
            [
                "F0 F1 F2 F3 F4 F5 B0 U0 F6 B1 U1 B2 U2 B3 U3 B4 U4 B5 U5 B6 U6",
                "F0 F1 F2 F3 B0 U0 F4 B1 U1 F5 B2 U2 F6 B3 U3 B4 U4 B5 U5 B6 U6",
                "F0 F1 B0 U0 F2 B1 U1 F3 B2 U2 F4 B3 U3 F5 B4 U4 F6 B5 U5 B6 U6",
                "F0 B0 U0 F1 B1 U1 F2 B2 U2 F3 B3 U3 F4 B4 U4 F5 B5 U5 F6 B6 U6",
            ],
        ),
        ("ddg", 2, ["F0 F1 B0 U0 F2 B1 U1 B2 U2", "F0 B0 U0 F1 B1 U1 F2 B2 U2"]),
        ("ddg", 3, ["F0 F1 F2 B0 U0 B1 U1 B2 U2", "F0 F1 B0 U0 F2 B1 U1 B2 U2", "F0 B0 U0 F1 B1 U1 F2 B2 U2"]),
        (
            "fr",
            4,
            [
                "F0 F1 F2 F3 R0 U0 R1 U1 R2 U2 R3 U3",
                "F0 F1 F2 R0 U0 F3 R1 U1 R2 U2 R3 U3",
                "F0 F1 R0 U0 F2 R1 U1 F3 R2 U2 R3 U3",
                "F0 B0 U0 F1 B1 U1 F2 B2 U2 F3 B3 U3",
            ],
        ),
    ],
)
def test_late_gradients(name, num_ranks, rows):
    assert text(SCHEDULES[name](num_ranks, rows[-1].count("F"))) == rows


def test_two_bw_updates_every_k_micro_batches():
    assert text(two_bw(2, 4)) == ["F0 F1 B0 F2 B1 U1 F3 B2 B3 U3", "F0 B0 F1 B1 U1 F2 B2 F3 B3 U3"]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("name", "known"), [("zb-v", ScheduleZBVZeroBubble), ("dualpipe-v", ScheduleDualPipeV)])
def test_v_shapes_are_those_of_pytorch(name, known, num_ranks):
    for num_batches in (2 * num_ranks, 2 * num_ranks + 1, 5 * num_ranks) + ((1, num_ranks) if name == "zb-v" else ()):
        theirs = object.__new__(known)  # what counts is known without a process group
        theirs.pp_group_size, theirs.num_stages, theirs._n_microbatches = num_ranks, 2 * num_ranks, num_batches
        for rank, ours in enumerate(SCHEDULES[name](num_ranks, num_batches)):
            table = theirs._calculate_single_rank_operations(rank)
            table = [part for action in table if action for part in (action.sub_actions or (action,))]
            rows = [(part.computation_type.value, part.stage_index, part.microbatch_index) for part in table]
            assert [(op.kind, op.chunk, op.batch) for op in ours[:-2]] == rows
            assert [op.kind for op in ours[-2:]] == ["U", "U"]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_every_schedule_does_all_the_work_and_never_sticks(name, num_ranks):
    num_batches, num_chunks = 2 * num_ranks, num_ranks * (2 if name in TWO_CHUNKS else 1)
    schedule = SCHEDULES[name](num_ranks, num_batches)
    for kinds in ("S",) if name == "decoupled" else ("F", "BIR", "BWR"):
        done = sorted((op.chunk, op.batch) for row in schedule for op in row if op.kind in kinds)
        assert done == [(c, m) for c in range(num_chunks) for m in range(num_batches)]
    dealt = [{op.chunk for op in row} for row in schedule]
    assert sum(map(len, dealt)) == num_chunks == len(set().union(*dealt))
    table = timeline(schedule, even(num_chunks, 1.0))
    assert len(table) == sum(map(len, schedule))
    for _, own in table.sort_values("start").groupby("rank"):
        assert (own["start"].to_numpy()[1:] >= own["end"].to_numpy()[:-1] - 1e-12).all(), (
            "a rank did two things at once"
        )


@pytest.mark.parametrize(("schedule", "total"), [(gpipe, 33), (one_f_one_b, 33), (zero_bubble, 27)])
def test_makespan_of_four_ranks_and_eight_micro_batches(schedule, total):
    """F = 1, B = 2: 8·3 of work, and (K-1)(F+B) = 9 idle, or (K-1)(F+I-W) = 3 with zero bubble."""
    costs = Costs(forward=[1] * 4, backward=[2] * 4, update=[0] * 4)
    assert timeline(schedule(4, 8), costs)["end"].max() == total


def test_interleaving_two_chunks_halves_the_bubble():
    costs = Costs(forward=[0.5] * 8, backward=[1] * 8, update=[0] * 8)
    assert timeline(interleaved(4, 8, 2), costs)["end"].max() == 24 + 9 / 2


def test_activations_kept():
    costs = Costs(forward=[1] * 4, backward=[2] * 4, update=[0] * 4)
    assert peak_activations(timeline(gpipe(4, 8), costs)) == [8, 8, 8, 8]
    assert peak_activations(timeline(one_f_one_b(4, 8), costs)) == [4, 3, 2, 1]
    assert peak_activations(timeline(decoupled(4, 8), costs)) == [1, 1, 1, 1]
    assert peak_activations(timeline(SCHEDULES["fdg"](4, 12), costs)) == [7, 5, 3, 1]


def test_a_transfer_delays_but_does_not_slow_a_decoupled_pipeline():
    fast, slow = (Costs(forward=[1, 1], backward=[2, 2], update=[0, 0], transfer=t) for t in (0.0, 0.5))
    assert predict("decoupled", fast, 2)["step_seconds"] == predict("decoupled", slow, 2)["step_seconds"] == 3
    assert predict("gpipe", fast, 2, 2)["step_seconds"] == 4.5
    assert predict("gpipe", slow, 2, 2)["step_seconds"] == 4.5 + 2 * 0.25


def test_latency_is_hidden_where_nothing_comes_back():
    near, far = (Costs(forward=[1, 1], backward=[2, 2], update=[0, 0], latency=t) for t in (0.0, 3.0))
    assert predict("decoupled", near, 2)["step_seconds"] == predict("decoupled", far, 2)["step_seconds"] == 3
    assert predict("fdg", near, 2)["step_seconds"] == 3
    assert predict("fdg", far, 2)["step_seconds"] == 3 + 3, "each tick waits for the neighbours' last"
    assert predict("1f1b", far, 2, 1)["step_seconds"] == 6 + 2 * 3


def test_a_slow_rank_slows_all():
    costs = Costs(forward=[1, 1], backward=[2, 2], update=[0, 0], slowness=(1, 2))
    assert predict("decoupled", costs, 2)["step_seconds"] == predict("fdg", costs, 2)["step_seconds"] == 6


def test_a_link_slower_than_the_blocks_sets_the_pace():
    costs = Costs(forward=[1, 1, 1], backward=[2, 2, 2], update=[0, 0, 0], transfer=5.0)
    assert predict("decoupled", costs, 3)["step_seconds"] == 5


def test_the_slowest_rank_sets_the_pace():
    costs = Costs(forward=[1, 2, 1], backward=[2, 4, 2], update=[0, 0, 0])
    found = predict("decoupled", costs, 3)
    assert found["step_seconds"] == 6
    assert found["bubble"] == pytest.approx(1 - 12 / 18)
    assert found["speedup"] == 2


@pytest.mark.parametrize("name", SCHEDULES)
def test_sixty_four_ranks(name):
    num_chunks = 128 if name in TWO_CHUNKS else 64
    found = predict(name, even(num_chunks, 1.0, update=0.0), 64, 256)
    assert 1 / 64 <= found["step_seconds"] * (1 + 1e-9) < 1 / 45
    assert found["speedup"] == pytest.approx(1 / found["step_seconds"])


def test_bad_numbers():
    with pytest.raises(ValueError, match="num_ranks=0, num_batches=3"):
        gpipe(0, 3)
    with pytest.raises(ValueError, match="takes a multiple of 2 micro-batches"):
        interleaved(2, 3)
    with pytest.raises(ValueError, match="unknown schedule 'gpip': did you mean 'gpipe'"):
        predict("gpip", even(2, 1.0), 2)
    with pytest.raises(ValueError, match="stuck"):
        timeline([gpipe(2, 1)[0], []], even(2, 1.0))
