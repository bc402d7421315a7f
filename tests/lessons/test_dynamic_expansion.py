"""Lesson 4: what is read off the record of a net that grows, its figures and its explorer."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import kit
from kit.train import build, load_data
from lessons import dynamic_expansion


@pytest.fixture
def table():
    rows = []
    for epoch, blocks in enumerate([2, 2, 3, 4], 1):
        rows += [(epoch, "train", k, "ce", 1.0) for k in range(1 if epoch < 3 else blocks, blocks + 1)]
        rows += [(epoch, "val", k, "accuracy", 0.1 * k + 0.01 * epoch) for k in range(1, blocks + 1)]
    return pd.DataFrame(rows, columns=["epoch", "split", "block", "metric", "value"])


def test_states_are_read_from_the_record(table):
    states = dynamic_expansion.blocks_by_epoch(table).pivot(index="epoch", columns="block", values="state")
    assert states.loc[1].dropna().tolist() == ["learning", "learning"]
    assert states.loc[3].dropna().tolist() == ["frozen", "frozen", "new"]
    assert states.loc[4].tolist() == ["frozen", "frozen", "frozen", "new"]


def test_the_figure_of_an_epoch_shows_no_later_one(table):
    left, right = dynamic_expansion.growing(table, 3).axes
    assert {text.get_text() for text in right.texts} == {
        "block 1\nfrozen", "block 2\nfrozen", "block 3\nnew", "block 4\nto come",
    }  # fmt: skip
    drawn = [line for line in left.lines if line.get_label().startswith("exit")]
    assert [max(line.get_xdata(), default=0) for line in drawn] == [3, 3, 3, 0]
    with pytest.raises(ValueError, match="epoch=9, but the record has 1 to 4"):
        dynamic_expansion.growing(table, 9)


def test_growth_explorer_scrubs(table):
    explorer = dynamic_expansion.growth_explorer({"a": table, "b": table[table["epoch"] < 3]})
    run, epoch = explorer.controls
    assert epoch.value == epoch.max == 4
    before = explorer.still
    epoch.value = 2
    assert explorer.still != before and explorer.message.value == ""
    run.value = "b"
    assert epoch.max == 2 and explorer.message.value == ""


def test_headless_the_first_runs_last_epoch_stands_there(table, monkeypatch):
    monkeypatch.setenv("KIT_HEADLESS", "1")
    _, right = dynamic_expansion.growth_explorer({"a": table}).axes
    assert right.get_title() == "after epoch 4"


def test_phases_spend_the_budget_evenly():
    assert dynamic_expansion.phases([1, 1, 1], 12) == [4, 4, 4]
    spent = np.dot(dynamic_expansion.phases([3, 4, 5], 100), [3, 4, 5])
    assert spent == pytest.approx(100, rel=0.01)


def test_difference_by_hand():
    mean, low, high = dynamic_expansion.paired_difference([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert (mean, high - mean) == pytest.approx((1.0, 4.302653 / 3**0.5), rel=1e-5) and mean - low == pytest.approx(
        high - mean
    )
    with pytest.raises(ValueError, match="at least 2 pairs"):
        dynamic_expansion.paired_difference([1.0], [1.0])


def test_the_flops_of_a_step_are_counted_on_a_copy():
    config = kit.RunConfig(backbone="mlp", method="greedy", num_blocks=2, precision="fp32", output=None)
    data = load_data(config)
    net = build(config, data)
    before = copy.deepcopy(net.state_dict())
    counted = dynamic_expansion.step_flops(net, *next(data.batches("train", 16, epoch=0)))
    weights = sum(layer.weight.numel() for layer in net.modules() if isinstance(layer, nn.Linear))
    assert 2 * 2 * 16 * weights <= counted <= 3 * 2 * 16 * weights, "forward, and one or two products backward"
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(block.num_steps == 0 for block in net)
