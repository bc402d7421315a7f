"""Lesson 8: figures of pipelines are pure functions of their tables."""

import pandas as pd
import pytest

from kit.pipeline.schedule import SCHEDULES, TWO_CHUNKS
from kit.pipeline.simulate import even, predict, timeline
from lessons import pipeline_throughput
from lessons.style import Picture


def chunks(name):
    return 4 if name in TWO_CHUNKS else 2


def test_gantt_has_a_bar_for_every_operation():
    tables = [timeline(s(2, 4), even(chunks(n), 1.0)).assign(schedule=n) for n, s in SCHEDULES.items()]
    table = pd.concat(tables)
    before = table.copy()
    figure = pipeline_throughput.gantt(table)
    assert [panel.get_title().split(":")[0] for panel in figure.axes] == list(SCHEDULES)
    assert figure.axes[-1].get_xlabel() == "seconds"
    for panel, name in zip(figure.axes, SCHEDULES, strict=True):
        own = table[table["schedule"] == name]
        assert len(panel.patches) == len(own)
        assert sorted(bar.get_x() for bar in panel.patches) == pytest.approx(sorted(own["start"]))
    pd.testing.assert_frame_equal(table, before)


def test_schedules_are_drawn_for_the_same_work():
    table = pipeline_throughput.same_work(4, 8)
    steps = table[table["kind"] != "U"].assign(seconds=lambda t: t["end"] - t["start"])
    steps.loc[steps["kind"] == "S", "seconds"] -= 0.1  # its update
    assert steps.groupby(["schedule", "rank"])["seconds"].sum().to_numpy() == pytest.approx(48.0)
    ends = table.groupby("schedule")["end"].max()
    assert ends["decoupled"] < ends["1f1b"] == ends["gpipe"]
    assert ends["decoupled"] == pytest.approx((16 + 3) * 3.1), "filled once, then a step after the other"


def test_scaling_has_a_line_for_every_schedule():
    rows = [
        {"schedule": n, "num_ranks": k} | predict(n, even(k * chunks(n) // 2, 1.0), k, 2 * k)
        for n in SCHEDULES
        for k in (2, 4)
    ]
    figure = pipeline_throughput.scaling(pd.DataFrame(rows))
    assert len(figure.axes) == 3
    assert all(
        len([line for line in panel.lines if len(line.get_xdata()) == 2]) == len(SCHEDULES) for panel in figure.axes
    )


def test_measured_and_predicted_side_by_side():
    table = pd.DataFrame({"case": ["a", "a", "b"], "kind": ["measured", "predicted", "measured"], "seconds": [1, 2, 3]})
    panel = pipeline_throughput.measured_and_predicted(table).axes[0]
    assert sorted(round(bar.get_width(), 6) for bar in panel.patches if bar.get_height()) == [1, 2, 3]


def test_predictions_ask_interleaving_for_whole_rounds():
    table = pipeline_throughput.predictions(1.0, (2, 4), num_micro=3)
    assert len(table) == 2 * len(pipeline_throughput.COMPARED)
    decoupled = table[table["schedule"] == "decoupled"].set_index("num_ranks")
    assert decoupled["speedup"].to_dict() == pytest.approx({2: 2.0, 4: 4.0})
    expected = predict("interleaved", even(8, 1.0), 4, 4)
    assert table[(table["schedule"] == "interleaved") & (table["num_ranks"] == 4)].iloc[0][2:].to_dict() == expected


def test_scaling_explorer_moves_and_stands_still_headless(monkeypatch):
    explorer = pipeline_throughput.scaling_explorer(1.0, 4)
    ranks, slowest, *_ = explorer.controls
    for control, value in ((ranks, 4), (slowest, 2.0)):
        before = explorer.still
        control.value = value
        assert explorer.still != before and explorer.message.value == ""
    monkeypatch.setenv("KIT_HEADLESS", "1")
    assert isinstance(pipeline_throughput.scaling_explorer(1.0, 4), Picture)


def test_jupyter_shows_them_as_pictures():
    table = pd.DataFrame({"case": ["a", "a"], "kind": ["measured", "predicted"], "seconds": [1, 2]})
    assert pipeline_throughput.measured_and_predicted(table)._repr_png_().startswith(b"\x89PNG")
