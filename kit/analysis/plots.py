"""Figures from tidy tables: pure functions that return a matplotlib `Figure` and touch nothing global.

One style for the whole project: large enough for a lecture hall, colours that the colour-blind can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.2,
    "legend.frameon": False,
}


def styled(figure: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw a figure in the project's style, whatever the style outside."""

    @wraps(figure)
    def drawn(*args: object, **kwargs: object) -> Figure:
        with mpl.rc_context(STYLE), sns.color_palette("colorblind"):
            return figure(*args, **kwargs)

    return drawn


@styled
def accuracy_over_epochs(table: pd.DataFrame, split: str = "test") -> Figure:
    """Draw the accuracy of every exit over the epochs, a panel per method.

    `table` has the columns method, epoch, split, block, metric, value, and optionally seed (then with the 95 %
    confidence band over seeds). Raises ValueError where it holds no accuracy on `split`.
    """
    rows = _accuracies(table, split)
    methods = list(rows["method"].unique())
    figure = Figure(figsize=(4.6 * len(methods) + 1.2, 4.2), layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    exits = sorted(rows["block"].unique())
    colours = dict(zip(exits, sns.color_palette("viridis", len(exits)), strict=True))
    for panel, method in zip(panels, methods, strict=True):
        own = rows[rows["method"] == method]
        sns.lineplot(own, x="epoch", y="value", hue="block", palette=colours, errorbar=_band(own), legend=False, ax=panel)
        panel.set(title=method, xlabel="epoch", ylabel=f"{split} accuracy")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.yaxis.set_major_formatter(PercentFormatter(1))
    handles = [mpl.lines.Line2D([], [], color=colours[k], label=f"exit {k}") for k in exits]
    panels[-1].legend(handles=handles, loc="lower right")
    return figure


@styled
def accuracy_by_exit(table: pd.DataFrame, split: str = "test") -> Figure:
    """Draw the accuracy of every exit in the last epoch against its depth, a line per method.

    `table` as for `accuracy_over_epochs`.
    """
    rows = _accuracies(table, split)
    last = rows[rows["epoch"] == rows.groupby("method")["epoch"].transform("max")]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    panel = figure.subplots()
    sns.lineplot(
        last, x="block", y="value", hue="method", style="method", markers=True, dashes=False, ms=9,
        errorbar=_band(last), ax=panel,
    )  # fmt: skip
    panel.set(xlabel="exit (first to last block)", ylabel=f"{split} accuracy, last epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    panel.legend(title=None)
    return figure


def _accuracies(table: pd.DataFrame, split: str) -> pd.DataFrame:
    rows = table[(table["metric"] == "accuracy") & (table["split"] == split)]
    if rows.empty:
        raise ValueError(f"the table holds no accuracy on the {split!r} split: it has {sorted(set(table['split']))}")
    return rows


def _band(rows: pd.DataFrame) -> tuple[str, int] | None:
    return ("ci", 95) if "seed" in rows and rows["seed"].nunique() > 1 else None
