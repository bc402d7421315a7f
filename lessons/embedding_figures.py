"""Figures of representations: what a block's features look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike
from scipy.special import softmax

from kit.errors import check_name, unknown
from kit.measure.representations import PROJECTIONS, spectrum
from lessons.style import Picture, marked_lines, panels, percent, pixels, styled, whole_numbers

COLOURINGS = ("class", "prediction", "corrupted")
MAP = (6.2, 5.0)
"""Inches of a map."""
AXES = {"pca": "principal component", "tsne": "t-SNE axis"}


@styled
def spectra(features: Mapping[str, Sequence[ArrayLike]], num_values: int = 40) -> Picture:
    """Draw the singular values of every block's features (N, D), largest = 1, a panel per method.

    `features` is method → one array per block, first to last.
    """
    figure, axes = panels(len(features), sharey=True)
    most = max(len(blocks) for blocks in features.values())
    colours = sns.color_palette("viridis", most)
    for panel, (method, blocks) in zip(axes, features.items(), strict=True):
        for colour, z in zip(colours, blocks, strict=False):
            values = spectrum(z)[:num_values]
            panel.plot(range(1, len(values) + 1), values / max(values[0], 1e-30), color=colour)
        panel.set(title=method, xlabel="direction, strongest first", yscale="log", ylim=(1e-4, 1.6))
        whole_numbers(panel.xaxis)
    axes[0].set_ylabel("singular value / largest")
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0.5, most + 0.5), mpl.colors.ListedColormap(colours))
    bar = figure.colorbar(scale, ax=axes, label="block")
    whole_numbers(bar.ax.yaxis, most=min(most, 10))
    bar.ax.grid(False)
    return figure


@styled
def cka_maps(matrices: Mapping[str, ArrayLike]) -> Picture:
    """Draw CKA matrices as heat maps with their numbers, a panel each.

    `matrices` is title → matrix; a title `A / B` names the rows A and the columns B.
    """
    figure, axes = panels(len(matrices), height=4.6, columns=2)
    for panel, (title, matrix) in zip(axes, matrices.items(), strict=True):
        matrix = np.asarray(matrix)
        rows, _, columns = title.partition(" / ")
        image = panel.imshow(matrix, vmin=0, vmax=1, cmap="cividis", origin="lower")
        for (i, j), value in np.ndenumerate(matrix) if matrix.size <= 144 else ():
            ink = "black" if value > 0.6 else "white"
            panel.text(j, i, f"{value:.2f}".removeprefix("0"), ha="center", va="center", color=ink, fontsize="x-small")
        panel.set(title=title, xlabel=f"block of {columns or rows}", ylabel=f"block of {rows}")
        panel.set_xticks(range(matrix.shape[1]), range(1, matrix.shape[1] + 1), fontsize="small")
        panel.set_yticks(range(matrix.shape[0]), range(1, matrix.shape[0] + 1), fontsize="small")
        panel.grid(False)
    figure.colorbar(image, ax=axes, label="CKA (1 = same up to rotation)", shrink=0.85)
    return figure


@styled
def by_block(table: pd.DataFrame, metrics: Mapping[str, str]) -> Picture:
    """Draw what was measured of every block in the last epoch, a panel per metric and a line per method.

    `table` has epoch, block, metric, value and optionally method; `metrics` is metric → label of its axis.
    """
    rows = table if "method" in table else table.assign(method="this network")
    last = rows[rows["epoch"] == rows.groupby("method")["epoch"].transform("max")]
    figure, axes = panels(len(metrics), height=5.0 if len(metrics) > 2 else 4.2)
    for panel, (metric, label) in zip(axes, metrics.items(), strict=True):
        own = last[last["metric"] == metric]
        if own.empty:
            raise unknown("metric", metric, sorted(set(last["metric"])))
        shares = metric in ("accuracy", "linear_probe")
        panel.set_ylim(min(0, own["value"].min()), 1.03 if shares else 1.05 * max(own["value"].max(), 1e-9))
        marked_lines(panel, own, "block", ms=7, named=panel is axes[-1])
        panel.set(xlabel="block (first to last)", ylabel="", title=label)
        whole_numbers(panel.xaxis, most=6)
        if shares:
            percent(panel.yaxis)
    return figure


@styled
def embedding_map(
    points: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    predictions: ArrayLike | None = None,
    noisy: ArrayLike | None = None,
    colour: str = "class",
    projection: str = "pca",
    title: str = "",
) -> Picture:
    """Draw a map (N, 2) of a block's features.

    `colour` is `class` (the label), `prediction` (what the block answers), or `corrupted` (whether the label was);
    wrong answers are crossed out where `predictions` are given. Raises ValueError for another colouring, or one whose
    data is not given.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    check_name("colouring", colour, COLOURINGS)
    check_name("projection", projection, PROJECTIONS)
    needed = {"prediction": predictions, "corrupted": noisy, "class": labels}[colour]
    if needed is None or len(points) != len(labels) or len(points) == 0:
        raise ValueError(f"{len(points)} points and {len(labels)} labels: a map by {colour} takes one {colour} each")
    figure = Picture(figsize=MAP)  # laid out by hand, like `exit_probabilities`: explorers draw at every move
    figure.subplots_adjust(left=0.17, right=0.97, bottom=0.21, top=0.93)
    panel = figure.subplots()
    _by_class(panel, points, labels if colour == "corrupted" else np.asarray(needed), classes)
    if colour == "corrupted":
        _ring(panel, points[np.asarray(noisy, dtype=bool)])
    if predictions is not None:
        wrong = np.asarray(predictions) != labels
        panel.scatter(*points[wrong].T, marker="x", s=30, color="black", linewidth=1.2, label="wrong answer")
    axis = AXES[projection]
    panel.set(title=title, xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    panel.margins(0.06)
    handles = panel.get_legend_handles_labels()[0]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=3, fontsize="small")
    return figure


def _by_class(panel: Axes, points: np.ndarray, groups: np.ndarray, classes: Sequence[str]) -> None:
    """Colour by group, and write each group's name on it: ten colours are too many for anybody's eyes."""
    colours = sns.color_palette("colorblind" if len(classes) <= 10 else "husl", len(classes))
    panel.scatter(*points.T, c=[colours[g] for g in groups], s=26, alpha=0.85, linewidth=0)
    for group in np.unique(groups):
        middle = np.median(points[groups == group], axis=0)
        halo = [withStroke(linewidth=4, foreground="white"), withStroke(linewidth=0.8, foreground="black")]
        panel.text(*middle, classes[group], color=colours[group], fontsize="xx-large", weight="bold", ha="center",
                   va="center", path_effects=halo, zorder=5)  # fmt: skip


def _ring(panel: Axes, corrupted: np.ndarray) -> None:
    """Ring the points whose label was corrupted: the colour inside is that of the class that it now claims."""
    name = f"label corrupted ({len(corrupted)}), coloured as it claims"
    panel.scatter(*corrupted.T, s=90, facecolor="none", edgecolor="black", marker="^", linewidth=1.3, label=name)


@styled
def exit_probabilities(
    image: ArrayLike, logits: Sequence[ArrayLike], label: int, classes: Sequence[str], noisy: bool = False
) -> Picture:
    """Draw one image (C, H, W) in [0, 1] and every exit's answer to it, as probabilities (softmax of `logits` (C,))."""
    short = len("".join(classes)) < 15
    shares = softmax(np.stack([np.asarray(row, dtype=float) for row in logits]), axis=1)
    figure = Picture(figsize=(6.6, (2.8 if short else 3.6) + 0.1 * len(shares)))
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.4))
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.19 if short else 0.42, top=0.84, wspace=0.18)
    left.imshow(pixels(image), cmap="gray_r", vmin=0, vmax=1)
    left.set_title(f"label {classes[label]}" + ("\n(corrupted)" if noisy else ""), fontsize="medium")
    left.set_axis_off()
    right.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for row, share in enumerate(shares):
        right.text(share.argmax(), row, classes[share.argmax()], ha="center", va="center", weight="bold",
                   fontsize="x-small", color="black" if share.max() > 0.6 else "white")  # fmt: skip
    step = max(1, len(shares) // 5)
    right.set_yticks(range(0, len(shares), step), range(1, len(shares) + 1, step))
    right.set_xticks(range(len(classes)), classes, rotation=0 if short else 90, fontsize="small")
    right.set(ylabel="exit", xlabel="class answered (yellow: sure)")
    right.grid(False)
    return figure
