"""Figures in words: what a figure shows, read off it, for those who do not see it."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MOST = 12
"""Lines and bars of a panel that are told one by one."""


def in_words(figure: Figure, about: str = "") -> str:
    """Return what `figure` shows: `about`, and of each panel its title, its axes and where its lines and bars go."""
    title = figure.get_suptitle()
    told = [_panel(panel) for panel in figure.axes]
    return " ".join([part.rstrip(".") + "." for part in (about, title, *told) if part.strip()])


def _panel(panel: Axes) -> str:
    title, x, y = (text.replace("\n", " ") for text in (panel.get_title(), panel.get_xlabel(), panel.get_ylabel()))
    axes = f"{y or 'values'} against {x}" if x else y
    parts = [*_images(panel), *_lines(panel), *_bars(panel)]
    return ": ".join(filter(None, (title, axes, "; ".join(parts)))) if panel.axison or parts else title


def _images(panel: Axes) -> list[str]:
    shapes = ["×".join(map(str, image.get_array().shape[:2])) for image in panel.images]
    return [f"a map of {shape} values" for shape in shapes if panel.get_xlabel() or panel.get_ylabel()]


def _lines(panel: Axes) -> list[str]:
    told = []
    for line in panel.lines:
        x, y = (np.asarray(values, dtype=float) for values in line.get_data())
        if line.get_label().startswith("_") or len(y) < 2 or not np.isfinite(y).any():
            continue
        y = y[np.isfinite(y)]
        told.append(f"{line.get_label()} goes from {y[0]:.3g} to {y[-1]:.3g}, between {y.min():.3g} and {y.max():.3g}")
    return told[:MOST] + ([f"and {len(told) - MOST} more lines"] if len(told) > MOST else [])


def _bars(panel: Axes) -> list[str]:
    told = []
    for bars in panel.containers:
        name = bars.get_label()
        values = [bar.get_height() for bar in bars] if hasattr(bars, "patches") else []
        if values and not name.startswith("_") and len(values) <= MOST:
            told.append(f"{name}: bars of {', '.join(f'{value:.3g}' for value in values)}")
    return told[:MOST]
