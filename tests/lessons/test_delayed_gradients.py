"""Lesson 7: the schedule that is drawn is the one that runs, and reading a late gradient leaves it as it is."""

from dataclasses import replace

import pytest
import torch

import kit
from kit.measure.probes import flat
from kit.pipeline.schedule import SCHEDULES
from kit.train import build, load_data
from lessons import delayed_gradients as views

CONFIG = kit.RunConfig(
    limit=200, backbone="mlp", backbone_options={"depth": 4, "hidden": 12}, method="fdg", num_blocks=4, epochs=2,
    batch_size=16, optimizer="sgd", lr=0.02, precision="fp32", augment="none", output=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return load_data(CONFIG)


@pytest.mark.parametrize("method", ["fdg", "ddg", "fr", "pipedream"])
def test_turns_are_those_of_the_schedule(method):
    table = views.turns(method, 3, 12)
    for k, row in enumerate(SCHEDULES[method](3, 40)):
        own = table[table["module"] == k + 1]
        for kinds, column in (("F", "forward"), ("BR", "back")):
            found = own[column].dropna().tolist()
            assert found == [op.batch for op in row if op.kind in kinds][: len(found)] and found


def test_turns_by_hand():
    first = views.turns("fdg", 3, 6).query("module == 1")
    assert first["forward"].tolist() == [0, 1, 2, 3, 4, 5]
    assert first["back"].dropna().tolist() == [0, 1] and first["back"].isna().sum() == 4


def test_staleness_by_hand():
    assert views.staleness("fdg", 4).to_numpy().tolist() == [[6, 5], [4, 3], [2, 1], [0, 0]]
    assert views.staleness("ddg", 4).to_numpy().tolist() == [[3, 3], [2, 2], [1, 1], [0, 0]]


@pytest.mark.parametrize("weights", ["mixed", "stashed", "replayed", "predicted"])
def test_a_net_that_stands_still_gets_fresh_gradients_late(data, weights):
    """Cosine 1, and β for each boundary in the norm: whose batch it is, and whose weights, is right."""
    config = replace(CONFIG, lr=1e-30, options={"beta": 0.5, "weights": weights})
    table, _ = views.follow(config, data, every=3)
    wide = table.pivot_table(index=["depth", "step"], columns="metric", values="value")
    assert wide["cosine"].to_numpy() == pytest.approx(1, abs=1e-5)
    for depth, own in wide.groupby("depth"):
        assert (own["late"] / own["fresh"]).to_numpy() == pytest.approx(0.5 ** (4 - depth), rel=1e-4)


@pytest.mark.parametrize("method", ["bp", "fdg"])
def test_one_module_is_never_late(data, method):
    table, _ = views.follow(replace(CONFIG, method=method, num_blocks=1), data, every=3)
    assert table[table["metric"] == "cosine"]["value"].to_numpy() == pytest.approx(1, abs=1e-5)


def test_a_moving_net_gets_stale_ones(data):
    table, _ = views.follow(replace(CONFIG, lr=0.1), data, every=3)
    cosine = table[table["metric"] == "cosine"].groupby("depth")["value"].min()
    assert cosine[1] < 0.95 and cosine[4] < 0.9999, "what enters the last module has come through older weights"


def test_reading_changes_nothing(data, monkeypatch):
    config = replace(CONFIG, backbone_options={**CONFIG.backbone_options, "norm": "batch"})
    kept = []
    monkeypatch.setattr(views, "evaluate", lambda net, data: kept.append(net) or [0.0])
    for every in (None, 2):
        views.follow(config, data, every)
    for mine, theirs in zip(*(net.state_dict().values() for net in kept), strict=True):
        assert torch.equal(mine, theirs)


def test_drift_is_measured_from_stashed_weights(data):
    table, right = views.drift(CONFIG, data, every=5)
    ends = table.groupby("weights")["value"].last()
    assert ends["stashed"] == 0 and (ends.drop("stashed") > 0).all() and set(right) == set(ends.index)
    one = views.ready(replace(CONFIG, options={"weights": "mixed"}), data)
    assert torch.equal(flat([p for block in one for p in block.body.parameters()]),
                       flat([p for block in build(CONFIG, data) for p in block.body.parameters()]))  # fmt: skip


def test_predicted_speed_is_the_cost_models(data, monkeypatch):
    monkeypatch.setattr(views, "block_seconds", lambda net, *_: [1.0] * len(net) if len(net) > 1 else [4.0])
    table = views.steps_per_second(CONFIG, data, ("bp", "fdg", "dgl"), 1).pivot(
        index="method", columns="kind", values="value"
    )
    assert (table["one process, measured"] == 0.25).all()
    assert table["4 processes, predicted"][["fdg", "dgl"]].tolist() == pytest.approx([1, 1])
    assert table["4 processes, predicted"]["bp"] == pytest.approx(4 / 7)  # 1F1B: M + K - 1 parts of a quarter


def test_the_schedules_figure_shows_what_is_under_way():
    panel = views.tick_by_tick(views.turns("fdg", 4, 20), 8).axes[0]
    bold = [text.get_text() for text in panel.texts if text.get_fontweight() == "bold"]
    assert bold == ["8", "2", "7", "3", "6", "4", "5", "5"]


def test_explorers_answer_to_every_control(data):
    asked = [
        (views.schedule_explorer(), ("ddg", 3, 5)),
        (views.delay_explorer(replace(CONFIG, epochs=1), data), (3, 0.5, "ddg")),
    ]
    for explorer, values in asked:
        for control, value in zip(explorer.controls, values, strict=True):
            before = explorer.still
            control.value = value
            assert explorer.message.value == "" and explorer.still != before, control.description
