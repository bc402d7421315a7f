"""Lesson 4: nets that grow, read from their tidy records, and the explorer that scrubs through a training run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import product

import ipywidgets as w
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from scipy import stats
from torch import Tensor

from kit.measure.costs import flops
from lessons import widgets
from lessons.style import Picture, exit_colours, marked_lines, metric_rows, percent, styled, whole_numbers

COLOURS = {"new": "#de8f05", "learning": "#0173b2", "frozen": "0.72", "to come": "white"}


def blocks_by_epoch(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per epoch and block, columns epoch, block, state: new, learning or frozen.

    `table` is a run's record. A block is there when its exit was asked, and learns when it has a loss.
    """
    answers = table[(table["metric"] == "accuracy") & (table["split"] == "val")]
    learning = set(table[table["split"] == "train"][["epoch", "block"]].itertuples(index=False, name=None))
    first = answers.groupby("block")["epoch"].min()
    rows = []
    for epoch, block in answers[["epoch", "block"]].itertuples(index=False, name=None):
        state = "learning" if (epoch, block) in learning else "frozen"
        state = "new" if epoch == first[block] > answers["epoch"].min() else state
        rows.append((epoch, block, state))
    return pd.DataFrame(rows, columns=["epoch", "block", "state"])


def step_flops(net, x: Tensor, y: Tensor) -> int:
    """Return the FLOPs of a training step on inputs `x` (B, …) and labels `y` (B,), counted on a copy of `net`."""
    twin = copy.deepcopy(net).train()
    return flops(lambda: twin.step(x.to(net.device), y.to(net.device)))


class FlopsByEpoch:
    """Counts the training FLOPs of each epoch: `kit.fit(net, data, config, on_epoch=flops)`; `spent` has them by epoch.

    `x` (B, …), `y` (B,) are a batch of the training images, of which an epoch has `num_batches`.
    """

    def __init__(self, x: Tensor, y: Tensor, num_batches: int):
        self.x, self.y, self.num_batches = x, y, num_batches
        self.spent: dict[int, int] = {}

    def __call__(self, epoch: int, net) -> None:
        self.spent[epoch] = step_flops(net, self.x, self.y) * self.num_batches


def phases(costs: Sequence[float], budget: float, tolerance: float = 0.01) -> list[int]:
    """Return whole numbers of epochs for phases whose epochs cost `costs`, which together spend `budget`.

    As even as can be among those within `tolerance` of the budget; if none is, the one that comes nearest.
    """
    most = [range(1, max(2, int(budget / cost)) + 1) for cost in costs]

    def rank(epochs: tuple[int, ...]) -> tuple[float, float, float]:
        off = abs(sum(e * cost for e, cost in zip(epochs, costs, strict=True)) / budget - 1)
        return max(off, tolerance), max(epochs) - min(epochs), off

    return list(min(product(*most), key=rank))


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of a - b over pairs (same seed), and the ends of its Student-t confidence interval.

    Raises ValueError for fewer than two pairs.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"{len(a)} and {len(b)} values, but an interval takes at least 2 pairs: give more seeds")
    low, high = stats.ttest_rel(a, b).confidence_interval(level)
    return float((np.asarray(a) - np.asarray(b)).mean()), float(low), float(high)


@styled
def growing(table: pd.DataFrame, epoch: int | None = None, split: str = "val") -> Picture:
    """Draw the accuracy of every exit up to `epoch` (None: the last), and beside it the net as it then was.

    `table` is the record of one run. Raises ValueError for an epoch that it does not hold.
    """
    states = blocks_by_epoch(table)
    epoch = int(states["epoch"].max()) if epoch is None else epoch
    if epoch not in set(states["epoch"]):
        raise ValueError(f"epoch={epoch}, but the record has {states['epoch'].min()} to {states['epoch'].max()}")
    rows = metric_rows(table, "accuracy", split)
    figure = Picture(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1.3))
    _accuracies(left, rows, epoch)
    left.set_ylabel(f"{split} accuracy")
    _blocks(right, states, epoch)
    return figure


def _accuracies(panel: Axes, rows: pd.DataFrame, epoch: int) -> None:
    for block, colour in exit_colours(set(rows["block"])).items():
        line = rows[rows["block"] == block].sort_values("epoch")
        past = line[line["epoch"] <= epoch]
        panel.plot(line["epoch"], line["value"], color=colour, alpha=0.15)
        panel.plot(past["epoch"], past["value"], color=colour, marker="o", ms=4, label=f"exit {block}")
        if len(line) and line["epoch"].min() > rows["epoch"].min():
            panel.axvline(line["epoch"].min() - 0.5, color="0.6", ls=":", lw=1.2)
    panel.axvline(epoch, color="0.3", lw=1)
    panel.set(xlabel="epoch (dotted: a block joins)")
    whole_numbers(panel.xaxis)
    percent(panel.yaxis)
    panel.legend(loc="lower right")


def _blocks(panel: Axes, states: pd.DataFrame, epoch: int) -> None:
    most, now = int(states["block"].max()), states[states["epoch"] == epoch].set_index("block")["state"]
    for block in range(1, most + 1):
        state = now.get(block, "to come")
        box = FancyBboxPatch((0.1, block - 0.8), 0.8, 0.6, "round,pad=0.02", fc=COLOURS[state], ec="0.4")
        box.set_linestyle("--" if state == "to come" else "-")
        panel.add_patch(box)
        ink = "black" if state in ("to come", "frozen") else "white"
        panel.text(0.5, block - 0.5, f"block {block}\n{state}", ha="center", va="center", color=ink, fontsize="small")
    panel.set(xlim=(0, 1), ylim=(0, most + 0.1), title=f"after epoch {epoch}")
    panel.axis("off")


@styled
def accuracy_over_flops(table: pd.DataFrame, split: str = "test") -> Picture:
    """Draw the last exit's accuracy over the training's FLOPs so far, a line per `net`, with its range over seeds.

    `table` has the columns net, seed, epoch, split, flops, value: a row per epoch.
    """
    rows = table[table["split"] == split]
    if rows.empty:
        raise ValueError(f"the table holds no {split!r} split: it has {sorted(set(table['split']))}")
    figure = Picture(figsize=(7.2, 4.4), layout="constrained")
    panel = figure.subplots()
    for net, own in rows.groupby("net", sort=False):
        line = own.groupby("epoch").agg(
            flops=("flops", "mean"), mean=("value", "mean"), low=("value", "min"), high=("value", "max")
        )
        (drawn,) = panel.plot(line["flops"], line["mean"], marker="o", ms=5, label=net)
        panel.fill_between(line["flops"], line["low"], line["high"], color=drawn.get_color(), alpha=0.2)
    panel.set(xlabel="FLOPs spent on training", ylabel=f"{split} accuracy of the last exit")
    percent(panel.yaxis)
    panel.legend(loc="best")
    return figure


@styled
def accuracy_by_epoch(table: pd.DataFrame, joined: int | None = None) -> Picture:
    """Draw the last exit's test accuracy by epoch, a line per `net`; `joined` is the epoch after which a block came.

    `table` has the columns net, seed, epoch, test; with several seeds the band is the 95 % confidence interval.
    """
    figure = Picture(figsize=(7.2, 4.2), layout="constrained")
    panel = figure.subplots()
    marked_lines(panel, table, "epoch", "test", by="net", ms=None)
    if joined is not None:
        panel.axvline(joined + 0.5, color="0.5", ls=":")
        panel.text(joined + 0.5, 0.02, " a block joins", transform=panel.get_xaxis_transform(), fontsize="small")
    panel.set(ylabel="test accuracy of the last exit")
    whole_numbers(panel.xaxis)
    percent(panel.yaxis)
    return figure


def growth_explorer(tables: dict[str, pd.DataFrame]) -> widgets.Explorer | Picture:
    """Return the explorer for runs' records by name: scrub through training, and see blocks join, learn and rest.

    Headless, the first run's last epoch in its place.
    """
    run = w.Dropdown(options=list(tables), description="run")
    epoch = w.IntSlider(1, min=1, max=1, description="epoch", **widgets.SLIDER)

    def show_end(_: object = None) -> None:
        last = int(tables[run.value]["epoch"].max())
        epoch.max, epoch.value = last, last

    show_end()
    run.observe(show_end, "value")  # before the figure: it is then drawn with an epoch that the run has
    return widgets.figure_explorer(lambda run, epoch: growing(tables[run], epoch), run=run, epoch=epoch)
