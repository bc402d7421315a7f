"""Figures of early exits from plain tables, and the explorer that moves a threshold along the curve."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kit import calibrate
from kit.exits import DEFAULTS, RULES, Rule
from lessons import plots, widgets


def points_table(points: Sequence[calibrate.Point]) -> pd.DataFrame:
    """Return rule, threshold, patience, cost, accuracy, random, one row per point, cheapest first."""
    rows = [(p.rule.name, p.rule.threshold, p.rule.patience, p.cost, p.accuracy, p.random) for p in points]
    columns = ["rule", "threshold", "patience", "cost", "accuracy", "random"]
    return pd.DataFrame(rows, columns=columns).sort_values(["rule", "cost"], ignore_index=True)


def frontier(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that no cheaper one reaches in accuracy, by cost."""
    rows = rows.sort_values(["cost", "accuracy"], ascending=[True, False])
    return rows[rows["accuracy"] > rows["accuracy"].cummax().shift(fill_value=-1.0)]


@plots.styled
def accuracy_cost(table: pd.DataFrame, exits: pd.DataFrame, full: float) -> Figure:
    """Draw accuracy against cost, a line per rule, with the exits themselves and exits drawn at random beside them.

    `table` as from `points_table`; `exits` has cost and accuracy of always taking each exit, first to last; `full` is
    the cost that counts as 100 %.
    """
    figure = plots.Picture(figsize=(7.6, 4.8), layout="constrained")
    accuracy_cost_lines(figure.subplots(), table, exits, full)
    return figure


def accuracy_cost_lines(panel: Axes, table: pd.DataFrame, exits: pd.DataFrame, full: float) -> None:
    """Draw `accuracy_cost` into `panel`."""
    marks = dict(zip(RULES, "osD^v", strict=True))
    for colour, (name, own) in zip(sns.color_palette("colorblind"), table.groupby("rule", sort=False), strict=False):
        best = frontier(own)
        panel.plot(best["cost"] / full, best["accuracy"], color=colour, marker=marks[name], ms=4, label=name)
    noise = table.sort_values("cost")
    panel.plot(noise["cost"] / full, noise["random"], ".", color="0.75", ms=3, label="random, same cost", zorder=0)
    panel.plot(exits["cost"] / full, exits["accuracy"], "*", color="black", ms=11, label="always one exit")
    panel.set(xlabel="cost per image, share of the last exit's", ylabel="accuracy")
    panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.legend(loc="best", fontsize=11)


@plots.styled
def exit_histogram(shares: pd.DataFrame) -> Figure:
    """Draw where samples leave: columns case, exit (from 1), share; bars of the cases side by side."""
    figure = plots.Picture(figsize=(7.2, 3.8), layout="constrained")
    panel = figure.subplots()
    sns.barplot(shares, x="exit", y="share", hue="case", ax=panel)
    panel.set(xlabel="exit", ylabel="share of the images")
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.legend(title=None)
    return figure


@plots.styled
def gallery(rows: dict[str, tuple[np.ndarray, Sequence[str]]]) -> Figure:
    """Draw rows of images (N, C, H, W) in [0, 1] with a caption each; the key names the row."""
    if not rows or not max(len(images) for images, _ in rows.values()):
        raise ValueError("there is no image to show")
    most = max(len(images) for images, _ in rows.values())
    figure = plots.Picture(figsize=(1.15 * most, 2 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), squeeze=False)[:, 0]
    for part, (name, (images, captions)) in zip(parts, rows.items(), strict=True):
        part.suptitle(name, x=0.01, ha="left", fontsize=11, fontweight="bold")
        line = part.subplots(1, most, squeeze=False)[0]
        for panel in line:
            panel.axis("off")
        for panel, image, caption in zip(line, images, captions, strict=False):
            panel.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray_r", vmin=0, vmax=1)
            panel.set_title(caption, fontsize=8)
    return figure


def exit_explorer(logits, labels, cost: Sequence[float], full: float | None = None):
    """Return the explorer for all exits' `logits` (K, N, C), `labels` (N,) and costs; headless, its first figure."""
    explorer = ExitExplorer(logits, labels, cost, full)
    return explorer.figure() if widgets.headless() else explorer


class ExitExplorer(widgets.PictureExplorer):
    """Move a rule's threshold, and see the point move along its curve and the samples change their exits."""

    def __init__(self, logits, labels, cost: Sequence[float], full: float | None = None):
        self.logits, self.labels, self.cost, self.full = logits, labels, list(cost), full or cost[-1]
        right = (logits.argmax(2) == labels).double().mean(1).tolist()
        self.exits = pd.DataFrame({"cost": self.cost, "accuracy": right})
        names = [name for name in RULES if len(logits) > 1 or not name.startswith("patience")]
        points = [point for name in names for point in calibrate.curve(name, logits, labels, cost, 40)]
        self.table = points_table(points)
        style = {"description_width": "initial"}
        self.rule = w.Dropdown(options=names, description="rule")
        self.threshold = w.FloatSlider(
            0.9, min=0.0, max=1.0, step=0.01, description="threshold", continuous_update=False, style=style
        )
        self.patience = w.IntSlider(1, min=1, max=max(1, len(logits) - 1), description="patience",
                                    continuous_update=False, style=style)  # fmt: skip
        super().__init__([self.rule, self.threshold, self.patience], redrawing=[self.threshold, self.patience])
        self.rule.observe(self.guarded(self.change_rule), "value")
        self.guarded(self.change_rule)()

    def change_rule(self) -> None:
        """Give the controls the range of the chosen rule."""
        name = self.rule.value
        self.threshold.min = -1.0 if name == "patience-cosine" else 0.0
        self.threshold.value = DEFAULTS[name] if DEFAULTS[name] is not None else self.threshold.value
        self.threshold.disabled = name == "patience"
        self.patience.disabled = not name.startswith("patience")
        self.draw()

    def point(self) -> calibrate.Point:
        """Return what the rule does as the controls stand."""
        name = self.rule.value
        threshold = None if name == "patience" else self.threshold.value
        return calibrate.measure(Rule(name, threshold, self.patience.value), self.logits, self.labels, self.cost)

    @plots.styled
    def figure(self) -> Figure:
        """Draw the curves with the chosen point, and where the samples leave."""
        point = self.point()
        figure = plots.Picture(figsize=(11.5, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
        accuracy_cost_lines(left, self.table, self.exits, self.full)
        left.plot(point.cost / self.full, point.accuracy, "o", ms=16, mfc="none", mec="#b00020", mew=3)
        left.set_title(f"right {point.accuracy:.1%} at {point.cost / self.full:.0%} of the cost")
        right.bar(range(1, len(point.shares) + 1), point.shares, color="#0173b2")
        right.set(xlabel="exit", ylabel="share of the images", ylim=(0, 1), title="where they leave")
        right.yaxis.set_major_formatter(PercentFormatter(1))
        return figure
