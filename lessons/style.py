"""The look of every figure: large enough for a lecture hall, in colours that the colour-blind can tell apart.

A figure is a pure function of a table: it returns a `Picture` and touches nothing global.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from functools import wraps

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

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

    def png(self, dpi: float | None = None) -> bytes:
        """Return the figure as a PNG, by default with the dots per inch of notebooks."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi or self.dpi)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


def styled(figure: Callable[..., Picture]) -> Callable[..., Picture]:
    """Draw a figure in the project's style, whatever the style outside."""

    @wraps(figure)
    def drawn(*args: object, **kwargs: object) -> Picture:
        with mpl.rc_context(STYLE), sns.color_palette("colorblind"):
            return figure(*args, **kwargs)

    return drawn


def marked_lines(panel: Axes, rows: pd.DataFrame, x: str, y: str = "value", by: str = "method", **options: object):
    """Draw `y` against `x`, a line with marks of its own for each value of `by`.

    Lines of several rows at one `x` are their means; with several seeds, the band is the 95 % confidence interval of
    the mean. `options` are those of `seaborn.lineplot`.
    """
    own = {"style": by, "markers": True, "dashes": False, "ms": 9, "errorbar": seed_band(rows), "ax": panel}
    sns.lineplot(rows, x=x, y=y, hue=by, **own | options)


def seed_band(rows: pd.DataFrame) -> tuple[str, int] | None:
    """Return seaborn's `errorbar` for `rows`: the 95 % confidence interval where there are several seeds."""
    return ("ci", 95) if "seed" in rows and rows["seed"].nunique() > 1 else None


def exit_colours(exits: Collection[int]) -> dict[int, tuple]:
    """Return a colour for each exit, dark to bright with depth."""
    return dict(zip(sorted(exits), sns.color_palette("viridis", len(exits)), strict=True))


def percent(*axes: Axis, decimals: int | None = None) -> None:
    """Write the numbers of these axes, shares of 1, as per cent."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=decimals))


def whole_numbers(*axes: Axis, most: int = 10) -> None:
    """Put ticks of these axes at whole numbers only, about `most` of them."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(most, integer=True))


def pixels(image: ArrayLike) -> np.ndarray:
    """Return an image (C, H, W) as matplotlib takes it: (H, W) of one channel, (H, W, 3) of three."""
    picture = np.asarray(image).transpose(1, 2, 0)
    return picture.squeeze(2) if picture.shape[2] == 1 else picture


def legend_below(figure: Picture, panel: Axes, **options: object) -> None:
    """Move the legend of `panel` below all panels, in one row unless `options` say otherwise."""
    handles, names = panel.get_legend_handles_labels()
    if panel.get_legend():
        panel.get_legend().remove()
    figure.legend(handles, names, **{"loc": "outside lower center", "ncols": len(names)} | options)


def metric_rows(table: pd.DataFrame, metric: str, split: str | None = None) -> pd.DataFrame:
    """Return the rows of one metric, and of one split where given, with a column `method` in any case.

    `table` has the columns metric and value, and with `split` a column of that name. Raises ValueError where there is
    no such row: an empty figure says nothing.
    """
    rows = table[table["metric"] == metric]
    if split is not None and rows[rows["split"] == split].empty:
        raise ValueError(f"the table holds no {metric} on the {split!r} split: it has {sorted(set(table['split']))}")
    if rows.empty:
        raise ValueError(f"the table holds no {metric!r}: it has {sorted(set(table['metric'])) or 'no rows'}")
    rows = rows if split is None else rows[rows["split"] == split]
    return rows if "method" in rows else rows.assign(method="this network")
