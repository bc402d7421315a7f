"""The look of every figure: large enough for a lecture hall, small enough for its screen, and put into words as well.

A figure is a pure function of a table: it returns a `Picture` and touches nothing global. Its letters are as large as
`KIT_FONT_SIZE` in the environment says, 13 points unless set: `make lab FONT_SIZE=17` for a large room.
"""

from __future__ import annotations

import io
import os
from base64 import b64encode
from collections.abc import Callable, Collection
from functools import wraps
from html import escape

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from lessons.alt_text import in_words
from lessons.method_looks import label_lines, looks

SCREEN = (9.6, 5.9)
"""Inches of the largest figure: at 100 dots each, what JupyterLab shows at once on a screen of 1280×800 pixels."""

STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "axes.titlesize": "medium",
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.2,
    "legend.frameon": False,
}


class Picture(Figure):
    """A matplotlib figure that notebooks show, without pyplot and whatever backend is set; never larger than SCREEN."""

    about = ""
    """What the figure shows, in a line: the beginning of its alternative text."""

    def __init__(self, figsize: tuple[float, float] = (6.4, 4.4), **options: object):
        super().__init__(figsize=tuple(map(min, figsize, SCREEN)), **options)

    @property
    def alt(self) -> str:
        """The figure in words, for those who do not see it."""
        return in_words(self, self.about)

    def png(self, dpi: float | None = None) -> bytes:
        """Return the figure as a PNG, by default with the dots per inch of notebooks."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi or self.dpi, metadata={"Description": self.alt})
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict, dict]:
        """Give notebooks the PNG, and an element that holds it with its text: JupyterLab drops what is beside a PNG."""
        image, width = b64encode(self.png()).decode(), round(self.bbox.width)
        element = f'<img src="data:image/png;base64,{image}" width="{width}" alt="{escape(self.alt)}">'
        return {"image/png": image, "text/html": element}, {"image/png": {"alt": self.alt, "width": width}}


def styled(figure: Callable[..., Picture]) -> Callable[..., Picture]:
    """Draw a figure in the project's style, whatever the style outside; its docstring says what is seen."""

    @wraps(figure)
    def drawn(*args: object, **kwargs: object) -> Picture:
        with mpl.rc_context(STYLE | {"font.size": font_size()}), sns.color_palette("colorblind"):
            picture = figure(*args, **kwargs)
        lines = (figure.__doc__ or "").strip().splitlines()
        picture.about = picture.about or (lines[0].removeprefix("Draw ").replace("`", "") if lines else "")
        return picture

    return drawn


def font_size() -> float:
    """Return the points of a figure's letters. Raises ValueError for a KIT_FONT_SIZE that is none, or unreadable."""
    given = os.environ.get("KIT_FONT_SIZE", "13")
    try:
        size = float(given)
    except ValueError:
        size = 0.0
    if not 8 <= size <= 24:
        raise ValueError(f"KIT_FONT_SIZE={given!r}, but it has to be a number of points from 8 to 24, such as 17")
    return size


def panels(count: int, height: float = 4.2, columns: int = 3, **shared: object) -> tuple[Picture, list[Axes]]:
    """Return a picture with `count` panels in rows of up to `columns`, each about `height` inches high.

    `shared` are those of `Figure.subplots`. What is left over of the last row shows nothing.
    """
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Picture(figsize=(min(SCREEN[0], 4.4 * columns + 2.2), height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def marked_lines(
    panel: Axes, rows: pd.DataFrame, x: str, y: str = "value", by: str = "method", named: bool = True, **options: object
) -> None:
    """Draw `y` against `x`, a line for each value of `by` with the look of its method, and its name at its end.

    Lines of several rows at one `x` are their means; with several seeds, the band is the 95 % confidence interval of
    the mean. `named=False` leaves the names out; `options` are those of `seaborn.lineplot`.
    """
    drawn = looks(rows[by])
    own = {
        "hue_order": list(drawn), "palette": {name: look.colour for name, look in drawn.items()},
        "style": by, "style_order": list(drawn), "markers": {name: look.marker for name, look in drawn.items()},
        "dashes": {name: look.dash for name, look in drawn.items()}, "ms": 8, "errorbar": seed_band(rows), "ax": panel,
    }  # fmt: skip
    before = len(panel.lines)
    sns.lineplot(rows, x=x, y=y, hue=by, legend=False, **own | options)
    for name, line in zip(drawn, panel.lines[before:], strict=True):
        line.set_label(name)
    if named:
        label_lines(panel, drawn)


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
    figure.legend(handles, names, **{"loc": "outside lower center", "ncols": len(names), "fontsize": "small"} | options)


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
