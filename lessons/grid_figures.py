"""The figure of a batch's report: any grid, drawn by its factors."""

from __future__ import annotations

import pandas as pd
from pandas.api.types import is_numeric_dtype

from lessons.method_looks import dashed, looks
from lessons.style import Picture, legend_below, panels, styled

APART = ("measure", "case", "mean", "std", "median", "low", "high", "n", "of")
"""Columns of a summary that are no factors of the grid."""


def across(numbers: pd.DataFrame) -> tuple[str | None, list[str]]:
    """Return the factor of a grid that makes the best axis, and the others: numbers first, then the most values.

    `numbers` is `workflow.results.summary`'s table. None where the grid has no factor of several values.
    """
    factors = [name for name in numbers.columns if name not in APART and numbers[name].nunique() > 1]
    if not factors:
        return None, []
    best = max(factors, key=lambda name: (is_numeric_dtype(numbers[name]), numbers[name].nunique()))
    return best, [name for name in factors if name != best]


@styled
def by_factors(numbers: pd.DataFrame, most: int = 3) -> Picture:
    """Draw means over seeds with their confidence intervals, a panel for each of the first `most` measures.

    `numbers` has measure, case, mean, low, high (NaN for a single seed) and a column for each factor of the grid. One
    factor goes across; every combination of a case and the other factors' values is a line. Raises ValueError for an
    empty table: an empty figure says nothing.
    """
    if numbers.empty:
        raise ValueError("there are no numbers to draw: no cell of the grid has finished")
    x, others = across(numbers)
    measures = list(dict.fromkeys(numbers["measure"]))[:most]
    named = numbers["case"].astype(str).str.cat([f", {name} " + numbers[name].astype(str) for name in others])
    drawn = looks(named)
    places = sorted(set(numbers[x])) if x else [""]
    figure, axes = panels(len(measures), height=4.8)
    for panel, measure in zip(axes, measures, strict=True):
        for number, (name, look) in enumerate(drawn.items()):
            own = numbers[(numbers["measure"] == measure) & (named == name)]
            own = own.sort_values(x) if x else own
            at = [places.index(value) for value in own[x]] if x else [0] * len(own)
            shifted = [place + 0.3 * (number + 0.5 - len(drawn) / 2) / len(drawn) for place in at]
            ends = [own["mean"] - own["low"], own["high"] - own["mean"]]
            panel.errorbar(shifted, own["mean"], ends, color=look.colour, marker=look.marker, capsize=3,
                           linestyle=dashed(look), label=name)  # fmt: skip
        panel.set(title=measure, xlabel=x or "")
        panel.set_xticks(range(len(places)), [f"{p:g}" if isinstance(p, float) else str(p) for p in places])
        panel.margins(x=0.1)
    legend_below(figure, axes[0], ncols=max(1, min(3, len(drawn))))
    return figure
