"""Figures of nets that grow, from their tidy records, and the explorer that scrubs through a training run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import ipywidgets as w
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy import stats

from lessons import plots, widgets

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


def phases(costs: Sequence[float], budget: float, tolerance: float = 0.01) -> list[int]:
    """Return whole numbers of epochs for phases whose epochs cost `costs`, which together spend `budget`.

    As even as can be among those within `tolerance` of the budget; if none is, the one that comes nearest.
    """
    most = [range(1, max(2, int(budget / cost)) + 1) for cost in costs]

    def rank(epochs: tuple[int, ...]) -> tuple[float, float, float]:
        off = abs(sum(e * cost for e, cost in zip(epochs, costs, strict=True)) / budget - 1)
        return max(off, tolerance), max(epochs) - min(epochs), off

    return list(min(product(*most), key=rank))


def difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of a - b over pairs (same seed), and the ends of its Student-t confidence interval.

    Raises ValueError for fewer than two pairs.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"{len(a)} and {len(b)} values, but an interval takes at least 2 pairs: give more seeds")
    gaps = np.asarray(a) - np.asarray(b)
    half = stats.t.ppf((1 + level) / 2, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return float(gaps.mean()), float(gaps.mean() - half), float(gaps.mean() + half)


@plots.styled
def growing(table: pd.DataFrame, epoch: int | None = None, split: str = "val") -> Figure:
    """Draw the accuracy of every exit up to `epoch` (None: the last), and beside it the net as it then was.

    `table` is the record of one run. Raises ValueError for an epoch that it does not hold.
    """
    states = blocks_by_epoch(table)
    epoch = int(states["epoch"].max()) if epoch is None else epoch
    if epoch not in set(states["epoch"]):
        raise ValueError(f"epoch={epoch}, but the record has {states['epoch'].min()} to {states['epoch'].max()}")
    rows = table[(table["metric"] == "accuracy") & (table["split"] == split)]
    figure = plots.Picture(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1.3))
    _accuracies(left, rows, epoch)
    left.set_ylabel(f"{split} accuracy")
    _blocks(right, states, epoch)
    return figure


def _accuracies(panel: Axes, rows: pd.DataFrame, epoch: int) -> None:
    exits = sorted(rows["block"].unique())
    for colour, block in zip(sns.color_palette("viridis", len(exits)), exits, strict=True):
        line = rows[rows["block"] == block].sort_values("epoch")
        past = line[line["epoch"] <= epoch]
        panel.plot(line["epoch"], line["value"], color=colour, alpha=0.15)
        panel.plot(past["epoch"], past["value"], color=colour, marker="o", ms=4, label=f"exit {block}")
        if len(line) and line["epoch"].min() > rows["epoch"].min():
            panel.axvline(line["epoch"].min() - 0.5, color="0.6", ls=":", lw=1.2)
    panel.axvline(epoch, color="0.3", lw=1)
    panel.set(xlabel="epoch (dotted: a block joins)")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.legend(loc="lower right")


def _blocks(panel: Axes, states: pd.DataFrame, epoch: int) -> None:
    most, now = int(states["block"].max()), states[states["epoch"] == epoch].set_index("block")["state"]
    for block in range(1, most + 1):
        state = now.get(block, "to come")
        box = FancyBboxPatch((0.1, block - 0.8), 0.8, 0.6, "round,pad=0.02", fc=COLOURS[state], ec="0.4")
        box.set_linestyle("--" if state == "to come" else "-")
        panel.add_patch(box)
        ink = "black" if state in ("to come", "frozen") else "white"
        panel.text(0.5, block - 0.5, f"block {block}\n{state}", ha="center", va="center", color=ink, fontsize=11)
    panel.set(xlim=(0, 1), ylim=(0, most + 0.1), title=f"after epoch {epoch}")
    panel.axis("off")


@plots.styled
def accuracy_over_flops(table: pd.DataFrame, split: str = "test") -> Figure:
    """Draw the last exit's accuracy over the training's FLOPs so far, a line per `net`, with its range over seeds.

    `table` has the columns net, seed, epoch, split, flops, value: a row per epoch.
    """
    rows = table[table["split"] == split]
    if rows.empty:
        raise ValueError(f"the table holds no {split!r} split: it has {sorted(set(table['split']))}")
    figure = plots.Picture(figsize=(7.2, 4.4), layout="constrained")
    panel = figure.subplots()
    for net, own in rows.groupby("net", sort=False):
        line = own.groupby("epoch").agg(
            flops=("flops", "mean"), mean=("value", "mean"), low=("value", "min"), high=("value", "max")
        )
        (drawn,) = panel.plot(line["flops"], line["mean"], marker="o", ms=5, label=net)
        panel.fill_between(line["flops"], line["low"], line["high"], color=drawn.get_color(), alpha=0.2)
    panel.set(xlabel="FLOPs spent on training", ylabel=f"{split} accuracy of the last exit")
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.legend(loc="best")
    return figure


@plots.styled
def accuracy_by_epoch(table: pd.DataFrame, joined: int | None = None) -> Figure:
    """Draw the last exit's test accuracy by epoch, a line per `net`; `joined` is the epoch after which a block came.

    `table` has the columns net, seed, epoch, test; with several seeds the band is the 95 % confidence interval.
    """
    figure = plots.Picture(figsize=(7.2, 4.2), layout="constrained")
    panel = figure.subplots()
    sns.lineplot(
        table, x="epoch", y="test", hue="net", style="net", markers=True, dashes=False,
        errorbar=plots.band(table), ax=panel,
    )  # fmt: skip
    if joined is not None:
        panel.axvline(joined + 0.5, color="0.5", ls=":", label="a block joins")
    panel.set(ylabel="test accuracy of the last exit")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.legend(title=None)
    return figure


def growth_explorer(tables: dict[str, pd.DataFrame]):
    """Return the explorer for runs' records by name; headless, the static figure of the first in its place."""
    explorer = GrowthExplorer(tables)
    return explorer.figure() if widgets.headless() else explorer


class GrowthExplorer(widgets.PictureExplorer):
    """Scrub through training, and see blocks join, learn and rest."""

    def __init__(self, tables: dict[str, pd.DataFrame]):
        self.tables = tables
        self.run = w.Dropdown(options=list(tables), description="run")
        style = {"description_width": "initial"}
        self.epoch = w.IntSlider(1, min=1, max=1, description="epoch", continuous_update=False, style=style)
        super().__init__([self.run, self.epoch], redrawing=[self.epoch])
        self.run.observe(self.guarded(self.choose), "value")
        self.guarded(self.choose)()

    def choose(self) -> None:
        """Show another run, at its last epoch."""
        last = int(self.tables[self.run.value]["epoch"].max())
        self.epoch.max = last
        self.epoch.value = last
        self.draw()

    def figure(self) -> Figure:
        """Return the figure that is shown."""
        return growing(self.tables[self.run.value], self.epoch.value)
