"""Lesson 2: how far a gradient reaches, and figures that show the accuracies given."""

import pandas as pd
import pytest
import torch
from torch import nn

from lessons import per_block_accuracy


@pytest.fixture
def table():
    rows = [
        (method, epoch, split, block, "accuracy", 0.1 * block + 0.01 * epoch)
        for method, epochs in (("bp", 2), ("greedy", 3))
        for epoch in range(1, epochs + 1)
        for split in ("val", "test")
        for block in (1, 2)
    ]
    return pd.DataFrame(rows, columns=["method", "epoch", "split", "block", "metric", "value"])


def test_a_gradient_reaches_as_far_as_the_graph():
    first, second = nn.Linear(2, 2), nn.Linear(2, 1, bias=False)
    h = first(torch.ones(1, 2))
    loss = second(h.detach()).sum()
    assert per_block_accuracy.gradient_on(loss, second) == f"norm {h.norm():.2g}"
    assert per_block_accuracy.gradient_on(loss, first) == "none at all"


def test_accuracies_are_drawn_as_given(table):
    left, right = per_block_accuracy.accuracy_over_epochs(table).axes
    assert [panel.get_title() for panel in (left, right)] == ["bp", "greedy"]
    assert [line.get_ydata().tolist() for line in left.lines] == [
        pytest.approx([0.11, 0.12]),
        pytest.approx([0.21, 0.22]),
    ]
    by_exit = per_block_accuracy.accuracy_by_exit(table).axes[0]
    drawn = [line.get_ydata().tolist() for line in by_exit.lines if len(line.get_ydata())]
    assert drawn == [pytest.approx([0.12, 0.22]), pytest.approx([0.13, 0.23])], "of each method's last epoch"


def test_a_split_without_accuracies(table):
    with pytest.raises(ValueError, match=r"no accuracy on the 'train' split: it has \['test', 'val'\]"):
        per_block_accuracy.accuracy_over_epochs(table, "train")
