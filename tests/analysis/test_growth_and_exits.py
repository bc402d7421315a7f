"""Figures and explorers of growth and of early exits: what they show is what was given."""

import numpy as np
import pandas as pd
import pytest
import torch

from kit import calibrate
from lessons import adaptive_inference, dynamic_expansion


@pytest.fixture
def table():
    rows = []
    for epoch, blocks in enumerate([2, 2, 3, 4], 1):
        rows += [(epoch, "train", k, "ce", 1.0) for k in range(1 if epoch < 3 else blocks, blocks + 1)]
        rows += [(epoch, "val", k, "accuracy", 0.1 * k + 0.01 * epoch) for k in range(1, blocks + 1)]
    return pd.DataFrame(rows, columns=["epoch", "split", "block", "metric", "value"])


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    strength = torch.tensor([0.5, 1.5, 3.0])[:, None, None]
    return torch.eye(3)[labels] * strength + torch.randn(3, 60, 3, generator=generator), labels


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
    explorer = dynamic_expansion.GrowthExplorer({"a": table, "b": table[table["epoch"] < 3]})
    before = explorer.picture.value
    explorer.epoch.value = 2
    assert explorer.picture.value != before and explorer.message.value == ""
    explorer.run.value = "b"
    assert explorer.epoch.max == 2 and explorer.message.value == ""


def test_phases_spend_the_budget_evenly():
    assert dynamic_expansion.phases([1, 1, 1], 12) == [4, 4, 4]
    spent = np.dot(dynamic_expansion.phases([3, 4, 5], 100), [3, 4, 5])
    assert spent == pytest.approx(100, rel=0.01)


def test_difference_by_hand():
    mean, low, high = dynamic_expansion.difference([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert (mean, high - mean) == pytest.approx((1.0, 4.302653 / 3**0.5), rel=1e-5) and mean - low == high - mean
    with pytest.raises(ValueError, match="at least 2 pairs"):
        dynamic_expansion.difference([1.0], [1.0])


def test_exit_explorer_answers_to_every_control(answers):
    explorer = adaptive_inference.ExitExplorer(*answers, [1.0, 2.0, 3.0])
    for name, value in {"threshold": 0.4, "rule": "patience-cosine", "patience": 2}.items():
        before = explorer.picture.value
        getattr(explorer, name).value = value
        assert explorer.message.value == "" and explorer.picture.value != before, name
    explorer.rule.value = "patience"
    assert explorer.threshold.disabled and explorer.point().rule.patience == 2 and explorer.message.value == ""


def test_curve_figure_and_frontier(answers):
    points = calibrate.curve("confidence", *answers, [1.0, 2.0, 3.0])
    table = adaptive_inference.points_table(points)
    best = adaptive_inference.frontier(table)
    assert best["accuracy"].is_monotonic_increasing and best["cost"].is_monotonic_increasing
    by_exit = pd.DataFrame({"cost": [1.0, 2.0, 3.0], "accuracy": [0.5, 0.6, 0.7]})
    panel = adaptive_inference.accuracy_cost(table, by_exit, 3.0).axes[0]
    assert panel.lines[0].get_xdata() == pytest.approx(best["cost"] / 3)


def test_gallery_bears_an_empty_row():
    images = np.zeros((3, 1, 4, 4))
    adaptive_inference.gallery({"easy": (images, ["a", "b", "c"]), "hard": (images[:0], [])}).draw_without_rendering()
    with pytest.raises(ValueError, match="no image"):
        adaptive_inference.gallery({})
