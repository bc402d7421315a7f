"""Lesson 3: what is memorised, counted by hand, its figures and its explorer."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import kit
from kit.data import Data, Split
from kit.train import build, load_data
from lessons import label_noise
from lessons.memorisation import Memorisation, answer_shares, training_answers

RNG = np.random.default_rng(0)


class Teller(nn.Module):
    """Answers, at its first exit, the class that the image's only pixel says; at its second, always class 0."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def predict(self, x):
        said = torch.nn.functional.one_hot((x[:, 0, 0, 0] * 255).round().long(), 3).float() * 9
        return [said, torch.tensor([[1.0, 0, 0]]).expand(len(x), 3)]


@pytest.fixture
def told():
    """Six images that say their true class; the labels of the last three are wrong."""
    images = torch.tensor([0, 1, 2, 0, 1, 2], dtype=torch.uint8).view(6, 1, 1, 1)
    true = torch.tensor([0, 1, 2, 0, 1, 2])
    given = torch.tensor([0, 1, 2, 1, 0, 0])
    train = Split(images, given, given != true, true)
    clean = Split(images, true)
    return Data("told", train, clean, clean, (1, 1, 1), ("a", "b", "c"), torch.zeros(1), torch.ones(1))


def test_answers_and_shares_by_hand(told):
    table = training_answers(Teller(), told, batch_size=4)
    first = table[table["block"] == 1].sort_values("image")
    assert first["answer"].tolist() == [0, 1, 2, 0, 1, 2] and first["given"].tolist() == [0, 1, 2, 1, 0, 0]
    assert first["corrupted"].tolist() == [False] * 3 + [True] * 3
    assert first["loss"].iloc[3] == pytest.approx(np.log(np.exp(9) + 2), rel=1e-5)
    counted = answer_shares(table).set_index(["metric", "block"])["value"]
    assert counted["fitted", 1] == 1 and counted["memorised", 1] == 0 and counted["recovered", 1] == 1
    assert counted["fitted", 2] == counted["recovered", 2] == pytest.approx(1 / 3)
    assert counted["memorised", 2] == pytest.approx(2 / 3)
    assert counted["loss_corrupted", 1] > 8 > 0.01 > counted["loss_untouched", 1]


def test_without_noise_there_is_nothing_to_memorise(told):
    from dataclasses import replace

    table = training_answers(Teller(), replace(told, train=told.test))
    assert set(answer_shares(table)["metric"]) == {"fitted", "loss_untouched"}


def test_it_records_while_a_net_trains():
    config = kit.RunConfig(
        backbone="mlp", backbone_options={"depth": 2, "hidden": 16}, num_blocks=2, method="greedy", limit=100, epochs=2,
        noise="symmetric", noise_rate=0.5, output=None,
    )  # fmt: skip
    data = load_data(config)
    recorder = Memorisation(data)
    kit.fit(build(config, data), data, config, on_epoch=recorder)
    assert set(recorder.table["epoch"]) == {1, 2} and set(recorder.table["block"]) == {1, 2}
    assert len(recorder.last) == 2 * len(data.train) and recorder.last["corrupted"].sum() == 2 * data.train.noisy.sum()


@pytest.fixture
def table():
    rows = [
        (method, rate, epoch, split, block, metric, RNG.random())
        for method, exits in (("bp", (1, 2)), ("shallow", (1,)))
        for rate in (0.0, 0.4)
        for epoch in (1, 2, 3)
        for block in exits
        for split, metric in (("test", "accuracy"), ("val", "accuracy"), ("train", "memorised"), ("train", "recovered"))
    ]
    return pd.DataFrame(rows, columns=["method", "noise_rate", "epoch", "split", "block", "metric", "value"])


def value(table, **where):
    return table[(table[list(where)] == pd.Series(where)).all(axis=1)]["value"].tolist()


def test_curves_are_the_tables(table):
    panel = label_noise.over_epochs(table).axes[1]  # first row: bp; second column: rate 0.4
    assert [line.get_ydata().tolist() for line in panel.lines] == [
        value(table, method="bp", noise_rate=0.4, split="test", block=block) for block in (1, 2)
    ]
    path = label_noise.wrong_against_true(table[table["noise_rate"] == 0.4]).axes[0].lines[0]
    assert path.get_ydata().tolist() == value(table, method="bp", noise_rate=0.4, metric="memorised", block=1)
    assert path.get_xdata().tolist() == value(table, method="bp", noise_rate=0.4, metric="recovered", block=1)
    line = label_noise.by_depth(table).axes[1].lines[0]
    assert list(line.get_ydata()) == [
        value(table, method="bp", noise_rate=0.4, metric="memorised", block=block, epoch=3)[0] for block in (1, 2)
    ]


def test_intervals_are_drawn_as_given():
    numbers = pd.DataFrame(
        [("last", "bp", "symmetric", rate, 0.5, 0.4, 0.7) for rate in (0.0, 0.4)]
        + [("last", "bp", "asymmetric", 0.4, 0.3, np.nan, np.nan)],
        columns=["measure", "case", "noise", "noise_rate", "mean", "low", "high"],
    )
    panel = label_noise.by_rate(numbers).axes[0]
    bars = [
        path for bar in panel.containers for path in bar[2][0].get_segments() if len(path) and not np.isnan(path).any()
    ]
    assert [bar[:, 1].tolist() for bar in bars] == [pytest.approx([0.4, 0.7])] * 2


def test_the_gallery_frames_corrupted_mistakes_and_histograms_count(told):
    table = training_answers(Teller(), told)
    figure = label_noise.mistakes(told.train.images.numpy(), table, told.classes, num_images=4)
    framed = [[any(s.get_visible() and s.get_linewidth() == 4 for s in a.spines.values()) for a in row]
              for row in np.reshape(figure.axes, (2, 4))]  # fmt: skip
    titles = [panel.get_title() for panel in figure.axes]
    assert titles[:4] == [""] * 4, "the first exit is right about every image"
    assert sorted(titles[4:]) == ["b → a", "b → a", "c → a", "c → a"] and sum(framed[1]) == 2
    heights = label_noise.loss_histograms(table).axes[0].patches
    assert len(heights) == 2 * 39


def test_explorer_moves_and_stands_still_headless(table, monkeypatch):
    monkeypatch.setenv("KIT_HEADLESS", "1")
    assert "rate 0.4, exit 2, epoch 3" in label_noise.noise_explorer(table).axes[0].get_title()
    monkeypatch.delenv("KIT_HEADLESS")
    explorer = label_noise.noise_explorer(table)
    _, exit_, _ = explorer.controls
    assert explorer.message.value == ""
    before = explorer.still
    exit_.value = 1
    assert explorer.still != before and explorer.message.value == ""
    exit_.value = 2
    assert explorer.still == before
