"""Figures from tidy tables: pure functions that return a matplotlib `Figure` and touch nothing global.

One style for the whole project: large enough for a lecture hall, colours that the colour-blind can tell apart.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
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


class Picture(Figure):
    """A matplotlib figure that notebooks show, without pyplot and whatever backend is set."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()


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
    figure = Picture(figsize=(4.6 * len(methods) + 1.2, 4.2), layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    exits = sorted(rows["block"].unique())
    colours = dict(zip(exits, sns.color_palette("viridis", len(exits)), strict=True))
    for panel, method in zip(panels, methods, strict=True):
        own = rows[rows["method"] == method]
        sns.lineplot(
            own, x="epoch", y="value", hue="block", palette=colours, errorbar=band(own), legend=False, ax=panel
        )
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
    figure = Picture(figsize=(6.4, 4.2), layout="constrained")
    panel = figure.subplots()
    sns.lineplot(
        last, x="block", y="value", hue="method", style="method", markers=True, dashes=False, ms=9,
        errorbar=band(last), ax=panel,
    )  # fmt: skip
    panel.set(xlabel="exit (first to last block)", ylabel=f"{split} accuracy, last epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.legend(title=None)
    return figure


@styled
def error_by_blocks(table: pd.DataFrame) -> Figure:
    """Draw the test error against the number of blocks without context, and with 16 blocks (the most) by context.

    `table` is that of `benchmarks/accuracy.py`: method, num_blocks, context, seed, error; whiskers are the standard
    deviation over seeds. Backprop, which has no blocks, is the dashed line.
    """
    local = table[table["method"] != "bp"].assign(error=lambda t: 100 * t["error"])
    most = local["num_blocks"].max()
    figure = Picture(figsize=(12.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 4))
    shared = {"y": "error", "hue": "method", "errorbar": "sd", "hue_order": sorted(local["method"].unique())}
    sns.pointplot(
        local[local["context"] == "none"], x="num_blocks", dodge=0.3, linewidth=2, legend=False, ax=left, **shared
    )
    sns.barplot(local[local["num_blocks"] == most], x="context", order=["none", "E", "R1E"], ax=right, **shared)
    for panel in (left, right):
        panel.axhline(100 * table[table["method"] == "bp"]["error"].mean(), color="0.3", linestyle="--", linewidth=1.5)
    left.set(xlabel="number of blocks, no context", ylabel="test error of the last exit, %")
    right.set(xlabel=f"context, {most} blocks")
    right.plot([], [], color="0.3", linestyle="--", linewidth=1.5, label="backprop")
    right.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@styled
def gradient_heatmap(table: pd.DataFrame, metric: str = "gradient") -> Figure:
    """Draw a gradient probe's `metric` by layer (down) over steps (across), a panel per method, on one scale.

    The scale is logarithmic. `table` is a probe's, with a column `method` where there are several.
    Raises ValueError where it holds no `metric`.
    """
    rows = _of_metric(table, metric)
    methods = list(rows["method"].unique())
    grids = [rows[rows["method"] == m].pivot_table(index="depth", columns="step", values="value") for m in methods]
    values = rows["value"][rows["value"] > 0]
    scale = LogNorm(max(values.min(), values.max() * 1e-12), values.max()) if len(values) else None
    figure = Picture(figsize=(4.4 * len(methods) + 2.0, 4.4), layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for panel, method, grid in zip(panels, methods, grids, strict=True):
        edges = (grid.columns.min(), grid.columns.max() + 1, grid.index.max() + 0.5, grid.index.min() - 0.5)
        floor = scale.vmin if scale else None
        image = panel.imshow(
            grid.clip(lower=floor), norm=scale, cmap="cividis", aspect="auto", extent=edges, interpolation="nearest"
        )
        panel.set(title=method, xlabel="training step")
        panel.grid(False)
    panels[0].set_ylabel("layer (1 is next to the input)")
    figure.colorbar(image, ax=list(panels), label=_NAMES.get(metric, metric))
    return figure


@styled
def gradient_by_depth(table: pd.DataFrame, metric: str = "gradient", statistic: str = "median") -> Figure:
    """Draw a gradient probe's `metric` against depth, a line per method: the median (or mean) over the steps given.

    `table` as for `gradient_heatmap`; with a column `seed`, the band is the 95 % confidence interval over seeds.
    """
    rows = _of_metric(table, metric)
    keys = ["method", "depth", *(["seed"] if "seed" in rows else [])]
    line = rows.groupby(keys, sort=False, as_index=False)["value"].agg(statistic)
    figure = Picture(figsize=(6.8, 4.4), layout="constrained")
    panel = figure.subplots()
    gradient_lines(panel, line, metric)
    num_steps = rows["step"].nunique()
    panel.set_title(f"{statistic} over {num_steps} steps" if num_steps > 1 else f"step {rows['step'].iloc[0]}")
    return figure


def gradient_lines(panel: Axes, line: pd.DataFrame, metric: str = "gradient") -> None:
    """Draw `value` against `depth` into `panel` on a logarithmic scale, a line per `method`."""
    sns.lineplot(
        line, x="depth", y="value", hue="method", style="method", markers=True, dashes=False, ms=7,
        errorbar=band(line), ax=panel,
    )  # fmt: skip
    panel.set(yscale="log", xlabel="layer (1 is next to the input)", ylabel=_NAMES.get(metric, metric))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(title=None)


@styled
def gradient_alignment(table: pd.DataFrame) -> Figure:
    """Draw the cosine between local and end-to-end gradient against depth: the mean over steps (and seeds).

    `table` is an alignment probe's, with a column `method` where there are several. The band covers the middle half
    of the steps.
    """
    rows = _of_metric(table, "alignment")
    figure = Picture(figsize=(6.8, 4.4), layout="constrained")
    panel = figure.subplots()
    sns.lineplot(
        rows, x="depth", y="value", hue="method", style="method", markers=True, dashes=False, ms=9,
        errorbar=("pi", 50), ax=panel,
    )  # fmt: skip
    panel.axhline(0, color="0.4", linewidth=1)
    panel.set(xlabel="block (1 is next to the input)", ylabel="cosine with backprop's gradient")
    panel.set_ylim(min(-0.1, panel.get_ylim()[0]), 1.05)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(title=None)
    return figure


_NAMES = {
    "gradient": "gradient norm of the weights",
    "ratio": "gradient norm / weight norm",
    "output_gradient": "gradient norm of the output",
}


def _of_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    rows = table[table["metric"] == metric]
    if rows.empty:
        raise ValueError(f"the table holds no {metric!r}: it has {sorted(set(table['metric'])) or 'no rows'}")
    return rows if "method" in rows else rows.assign(method="this network")


def _accuracies(table: pd.DataFrame, split: str) -> pd.DataFrame:
    rows = table[(table["metric"] == "accuracy") & (table["split"] == split)]
    if rows.empty:
        raise ValueError(f"the table holds no accuracy on the {split!r} split: it has {sorted(set(table['split']))}")
    return rows


def band(rows: pd.DataFrame) -> tuple[str, int] | None:
    """Return seaborn's `errorbar` for `rows`: the 95 % confidence interval where there are several seeds."""
    return ("ci", 95) if "seed" in rows and rows["seed"].nunique() > 1 else None
