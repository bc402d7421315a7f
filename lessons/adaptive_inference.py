"""Lesson 5: what leaving early saves and costs, and the explorer that moves a threshold along the curve."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from torch import Tensor

from kit import exits
from lessons import widgets
from lessons.style import Picture, percent, pixels, styled


def answers_and_costs(net, data) -> tuple[tuple, tuple, list[float], float]:
    """Return every exit's logits (K, N, C) with the labels (N,), of validation and of test, and what answering costs.

    The costs are FLOPs an image: of leaving at each exit, and of the last one without the heads before it.
    """
    device = next(net.parameters()).device
    val, test = (exits.collect(net, data.batches(split, 512, device=device)) for split in ("val", "test"))
    x = next(data.batches("val", 16))[0].to(device)
    return val, test, exits.exit_costs(net, x), exits.last_cost(net, x)


def savings(name: str, val: tuple, test: tuple, cost: Sequence[float], full: float) -> dict[str, float]:
    """Choose the cheapest threshold that is as right as the last exit on validation; return what it gives on test.

    The arguments are a rule's name and what `answers_and_costs` gives.
    """
    wanted = (val[0][-1].argmax(1) == val[1]).double().mean().item()
    rule = exits.choose(exits.curve(name, *val, cost), accuracy=wanted).rule
    found = exits.measure(rule, *test, cost)
    return {"threshold": rule.threshold, "test accuracy": found.accuracy, "FLOPs saved": 1 - found.cost / full}


def accuracy_of_exits(logits: Tensor, labels: Tensor, cost: Sequence[float]) -> pd.DataFrame:
    """Return cost and accuracy of always taking each exit, from 1, for all exits' `logits` (K, N, C)."""
    right = (logits.argmax(2) == labels).double().mean(1).tolist()
    return pd.DataFrame({"cost": list(cost), "accuracy": right}, index=pd.RangeIndex(1, len(right) + 1, name="exit"))


def points_table(points: Sequence[exits.Point]) -> pd.DataFrame:
    """Return rule, threshold, patience, cost, accuracy, random, one row per point, cheapest first."""
    rows = [(p.rule.name, p.rule.threshold, p.rule.patience, p.cost, p.accuracy, p.random) for p in points]
    columns = ["rule", "threshold", "patience", "cost", "accuracy", "random"]
    return pd.DataFrame(rows, columns=columns).sort_values(["rule", "cost"], ignore_index=True)


def frontier(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that no cheaper one reaches in accuracy, by cost."""
    rows = rows.sort_values(["cost", "accuracy"], ascending=[True, False])
    return rows[rows["accuracy"] > rows["accuracy"].cummax().shift(fill_value=-1.0)]


@styled
def accuracy_cost(table: pd.DataFrame, by_exit: pd.DataFrame, full: float) -> Picture:
    """Draw accuracy against cost, a line per rule, with the exits themselves and exits drawn at random beside them.

    `table` as from `points_table`, `by_exit` as from `accuracy_of_exits`; `full` is the cost that counts as 100 %.
    """
    figure = Picture(figsize=(7.6, 4.8), layout="constrained")
    _curves(figure.subplots(), table, by_exit, full)
    return figure


def _curves(panel: Axes, table: pd.DataFrame, by_exit: pd.DataFrame, full: float) -> None:
    marks = dict(zip(exits.RULES, "osD^v", strict=True))
    for colour, (name, own) in zip(sns.color_palette("colorblind"), table.groupby("rule", sort=False), strict=False):
        best = frontier(own)
        panel.plot(best["cost"] / full, best["accuracy"], color=colour, marker=marks[name], ms=4, label=name)
    noise = table.sort_values("cost")
    panel.plot(noise["cost"] / full, noise["random"], ".", color="0.75", ms=3, label="random, same cost", zorder=0)
    panel.plot(by_exit["cost"] / full, by_exit["accuracy"], "*", color="black", ms=11, label="always one exit")
    panel.set(xlabel="cost per image, share of the last exit's", ylabel="accuracy")
    percent(panel.xaxis, decimals=0)
    percent(panel.yaxis)
    panel.legend(loc="lower right", fontsize="small")


@styled
def exit_histogram(shares: pd.DataFrame) -> Picture:
    """Draw where samples leave: columns case, exit (from 1), share; bars of the cases side by side."""
    figure = Picture(figsize=(7.2, 3.8), layout="constrained")
    panel = figure.subplots()
    sns.barplot(shares, x="exit", y="share", hue="case", ax=panel)
    panel.set(xlabel="exit", ylabel="share of the images")
    percent(panel.yaxis)
    panel.legend(title=None)
    return figure


@styled
def image_rows(rows: dict[str, tuple[np.ndarray, Sequence[str]]]) -> Picture:
    """Draw rows of images (N, C, H, W) in [0, 1] with a caption each; the key names the row."""
    most = max((len(images) for images, _ in rows.values()), default=0)
    if not most:
        raise ValueError("there is no image to show: every row is empty")
    figure = Picture(figsize=(1.15 * most, 2 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), squeeze=False)[:, 0]
    for part, (name, (images, captions)) in zip(parts, rows.items(), strict=True):
        part.suptitle(name, x=0.01, ha="left", fontsize="small", fontweight="bold")
        line = part.subplots(1, most, squeeze=False)[0]
        for panel in line:
            panel.axis("off")
        for panel, image, caption in zip(line, images, captions, strict=False):
            panel.imshow(pixels(image), cmap="gray_r", vmin=0, vmax=1)
            panel.set_title(caption, fontsize="x-small")
    return figure


@styled
def chosen_point(point: exits.Point, table: pd.DataFrame, by_exit: pd.DataFrame, full: float) -> Picture:
    """Draw the curves of `accuracy_cost` with one point ringed, and beside them where its samples leave."""
    figure = Picture(figsize=(9.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    _curves(left, table, by_exit, full)
    left.plot(point.cost / full, point.accuracy, "o", ms=16, mfc="none", mec="#b00020", mew=3)
    left.set_title(f"right {point.accuracy:.1%} at {point.cost / full:.0%} of the cost")
    right.bar(range(1, len(point.shares) + 1), point.shares, color="#0173b2")
    right.set(xlabel="exit", ylabel="share of the images", ylim=(0, 1), title="where they leave")
    percent(right.yaxis)
    return figure


def exit_explorer(
    logits: Tensor, labels: Tensor, cost: Sequence[float], full: float | None = None
) -> widgets.Explorer | Picture:
    """Return the explorer for all exits' `logits` (K, N, C), `labels` (N,) and costs: `chosen_point` under sliders.

    Move a rule's threshold, and see the point move along its curve and the samples change their exits. Headless, the
    figure at the first rule's usual threshold in its place.
    """
    full, by_exit = full or cost[-1], accuracy_of_exits(logits, labels, cost)
    names = [name for name in exits.RULES if len(logits) > 1 or not name.startswith("patience")]
    table = points_table([point for name in names for point in exits.curve(name, logits, labels, cost, 40)])
    rule = w.Dropdown(options=names, description="rule")
    threshold = w.FloatSlider(0.9, min=0.0, max=1.0, step=0.01, description="threshold", **widgets.SLIDER)
    patience = w.IntSlider(1, min=1, max=max(1, len(logits) - 1), description="patience", **widgets.SLIDER)

    def fit_ranges(_: object = None) -> None:
        name, usual = rule.value, exits.DEFAULTS[rule.value]
        threshold.min = -1.0 if name == "patience-cosine" else 0.0
        threshold.value = threshold.value if usual is None else usual
        threshold.disabled, patience.disabled = name == "patience", not name.startswith("patience")

    def figure(rule: str, threshold: float, patience: int) -> Picture:
        chosen = exits.Rule(rule, None if rule == "patience" else threshold, patience)
        return chosen_point(exits.measure(chosen, logits, labels, cost), table, by_exit, full)

    fit_ranges()
    rule.observe(fit_ranges, "value")  # before the figure: it is then drawn with what the rule allows
    return widgets.figure_explorer(figure, rule=rule, threshold=threshold, patience=patience)
