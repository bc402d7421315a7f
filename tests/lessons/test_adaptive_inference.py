"""Lesson 5: figures and explorer of early exits show what was given."""

import numpy as np
import pytest
import torch

from kit import exits
from lessons import adaptive_inference


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    strength = torch.tensor([0.5, 1.5, 3.0])[:, None, None]
    return torch.eye(3)[labels] * strength + torch.randn(3, 60, 3, generator=generator), labels


def test_exit_explorer_answers_to_every_control(answers):
    explorer = adaptive_inference.exit_explorer(*answers, [1.0, 2.0, 3.0])
    rule, threshold, patience = explorer.controls
    assert patience.disabled and not threshold.disabled
    for control, value in ((threshold, 0.4), (rule, "patience-cosine"), (patience, 2)):
        before = explorer.still
        control.value = value
        assert explorer.message.value == "" and explorer.still != before, control.description
    rule.value = "patience"
    assert threshold.disabled and not patience.disabled and explorer.message.value == ""


def test_the_explorers_figure_rings_the_point(answers, monkeypatch):
    monkeypatch.setenv("KIT_HEADLESS", "1")
    left, right = adaptive_inference.exit_explorer(*answers, [1.0, 2.0, 3.0]).axes
    point = exits.measure(exits.Rule("confidence"), *answers, [1.0, 2.0, 3.0])
    assert [tuple(line.get_xydata()[0]) for line in left.lines][-1] == (point.cost / 3, point.accuracy)
    assert [bar.get_height() for bar in right.patches] == list(point.shares)


def test_savings_choose_on_validation_and_count_on_test(answers):
    found = adaptive_inference.savings("confidence", answers, answers, [1.0, 2.0, 3.0], 3.0)
    logits, labels = answers
    assert found["test accuracy"] >= (logits[-1].argmax(1) == labels).double().mean().item()
    point = exits.measure(exits.Rule("confidence", found["threshold"]), logits, labels, [1.0, 2.0, 3.0])
    assert found["FLOPs saved"] == 1 - point.cost / 3


def test_curve_figure_and_frontier(answers):
    points = exits.curve("confidence", *answers, [1.0, 2.0, 3.0])
    table = adaptive_inference.points_table(points)
    best = adaptive_inference.frontier(table)
    assert best["accuracy"].is_monotonic_increasing and best["cost"].is_monotonic_increasing
    by_exit = adaptive_inference.accuracy_of_exits(*answers, [1.0, 2.0, 3.0])
    assert by_exit["accuracy"].tolist() == [(own.argmax(1) == answers[1]).double().mean().item() for own in answers[0]]
    panel = adaptive_inference.accuracy_cost(table, by_exit, 3.0).axes[0]
    assert panel.lines[0].get_xdata() == pytest.approx(best["cost"] / 3)


def test_rows_of_images_bear_an_empty_row():
    images = np.zeros((3, 1, 4, 4))
    adaptive_inference.image_rows(
        {"easy": (images, ["a", "b", "c"]), "hard": (images[:0], [])}
    ).draw_without_rendering()
    with pytest.raises(ValueError, match="no image"):
        adaptive_inference.image_rows({})
