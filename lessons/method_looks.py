"""One look for each method in every lesson: its colour, its mark, and its name at the end of its line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke


class Look(NamedTuple):
    """How a line is drawn. Variants of one method share its colour and mark, and differ in their dashes."""

    colour: str
    marker: str
    dash: str | tuple = ""


LOOKS = {
    "bp": Look("#0173b2", "o"),
    "deinforeg": Look("#de8f05", "s"),
    "greedy": Look("#00735c", "^"),
    "infopro": Look("#b5489f", "D"),
    "dgl": Look("#56b4e9", "v"),
    "predsim": Look("#d55e00", "X"),
    "scpl": Look("#4b2e83", "P"),
    "al": Look("#8c7000", "*"),
    "fdg": Look("#7f7f7f", "<"),
    "ddg": Look("#262626", ">"),
    "fr": Look("#a05a2c", "p"),
    "pipedream": Look("#999933", "h"),
}
"""The looks of the kit's methods. A name counts as the method that it names first: `greedy + E` as greedy."""

OTHERS = (Look("0.35", "d"), Look("#882255", "H"), Look("#44aa99", "8"), Look("#332288", "<"), Look("#aa4499", ">"))
DASHES = ("", (4, 1.6), (1.2, 1.2), (6, 1.5, 1.2, 1.5), (2.5, 1, 2.5, 1, 1, 1))


def method_of(name: str) -> str | None:
    """Return the kit's method that a line's name tells of, or None."""
    words = re.findall(r"[a-z0-9]+", name.lower().replace("backpropagation", "bp").replace("backprop", "bp"))
    return next((word for word in words if word in LOOKS), None)


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return the look of each name, in the order given: no two are the same."""
    found: dict[str, Look] = {}
    for name in dict.fromkeys(map(str, names)):
        method = method_of(name)
        base = LOOKS[method] if method else OTHERS[sum(method_of(other) is None for other in found) % len(OTHERS)]
        twins = sum(look.colour == base.colour for look in found.values())
        found[name] = base._replace(dash=DASHES[twins % len(DASHES)])
    return found


def dashed(look: Look) -> str | tuple:
    """Return the look's dashes as matplotlib's `linestyle`."""
    return (0, look.dash) if look.dash else "-"


def label_lines(panel: Axes, names: dict[str, Look]) -> None:
    """Write each line's name at its right end, in its colour, and take the legend away.

    Names that would lie on each other are moved apart, so that nobody has to tell colours apart to read a figure.
    """
    ends = {}
    for line in panel.lines:
        name, y = line.get_label(), np.asarray(line.get_ydata(), dtype=float)
        if name in names and np.isfinite(y).any():
            ends[name] = y[np.isfinite(y)][-1]
    if panel.get_legend():
        panel.get_legend().remove()
    to_axes = panel.transData + panel.transAxes.inverted()
    panel.get_ylim()  # settles the limits that the heights below are taken from
    heights = {name: float(to_axes.transform((panel.get_xlim()[0], y))[1]) for name, y in ends.items()}
    height = 72 * panel.figure.get_size_inches()[1] * panel.get_position().height
    places = spread(heights, 1.15 * rcParams["font.size"] / height)
    for name, height in places.items():
        panel.annotate(
            name, (1, height), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points", va="center",
            color=names[name].colour, fontsize="small", annotation_clip=False,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def spread(heights: dict[str, float], gap: float) -> dict[str, float]:
    """Return the heights moved as little as it takes to lie at least `gap` apart, within 0 and 1 where they fit."""
    names = sorted(heights, key=heights.__getitem__)
    placed: list[float] = []
    for name in names:
        low = placed[-1] + gap if placed else -np.inf
        placed.append(max(min(max(heights[name], 0.0), 1.0), low))
    for k in reversed(range(len(placed))):
        top = placed[k + 1] - gap if k + 1 < len(placed) else 1.0
        placed[k] = min(placed[k], top)
    return dict(zip(names, placed, strict=True))
