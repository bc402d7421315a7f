"""Schedules against literal lists, and the cost model against what is known on paper."""

import pytest

from kit.pipeline.schedule import SCHEDULES, decoupled, delayed, gpipe, interleaved, one_f_one_b, zero_bubble
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


def test_delayed():
    assert text(delayed(2, 3)) == ["F0 F1 F2 B0 U0 B1 U1 B2 U2", "F0 B0 U0 F1 B1 U1 F2 B2 U2"]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_every_schedule_does_all_the_work_and_never_sticks(name, num_ranks):
    num_batches, num_chunks = 2 * num_ranks, num_ranks * (2 if name == "interleaved" else 1)
    schedule = SCHEDULES[name](num_ranks, num_batches)
    for kind in {op.kind for row in schedule for op in row} - {"U"}:
        done = sorted((op.chunk, op.batch) for row in schedule for op in row if op.kind == kind)
        assert done == [(c, m) for c in range(num_chunks) for m in range(num_batches)]
    assert all(op.chunk % num_ranks == k for k, row in enumerate(schedule) for op in row)
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
    assert peak_activations(timeline(delayed(4, 12), costs)) == [7, 5, 3, 1]


def test_a_transfer_delays_but_does_not_slow_a_decoupled_pipeline():
    fast, slow = (Costs(forward=[1, 1], backward=[2, 2], update=[0, 0], transfer=t) for t in (0.0, 0.5))
    assert predict("decoupled", fast, 2)["step_seconds"] == predict("decoupled", slow, 2)["step_seconds"] == 3
    assert predict("gpipe", fast, 2, 2)["step_seconds"] == 4.5
    assert predict("gpipe", slow, 2, 2)["step_seconds"] == 4.5 + 2 * 0.25


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
    num_chunks = 128 if name == "interleaved" else 64
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
