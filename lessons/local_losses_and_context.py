"""Lesson 6: what trained blocks keep of class and image, what the benchmarks measured, and the explorer of that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ipywidgets as w
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from kit.measure import representations
from kit.modules import evaluating
from lessons import widgets
from lessons.style import Picture, percent, pixels, styled


@torch.no_grad()
def stage_outputs(net, x: Tensor) -> list[Tensor]:
    """Return what each block, or stage inside a block, hands on for inputs `x` (B, …), first to last, in fp32.

    In evaluation mode; the net stays as it is.
    """
    with evaluating(net):
        return [visit.h.float() for visit in net.walk(net.signal(x))]


def read_linearly(net, x: Tensor, y: Tensor, images: ArrayLike, blocks: Mapping[str, int]) -> dict[str, float]:
    """Return what linear maps read off blocks' outputs: `class, NAME`, an accuracy, and `image, NAME`, a share.

    `blocks` are numbers from 1 by name; `x` (B, …), `y` (B,) and `images` (B, C, H, W) are the same samples. See
    `kit.measure.representations`: `linear_probe` and `linear_reconstruction`.
    """
    outputs, found = stage_outputs(net, x), {}
    for name, number in blocks.items():
        z = outputs[number - 1].flatten(1).numpy()
        found[f"class, {name}"] = representations.linear_probe(z, y.numpy())
        found[f"image, {name}"], _ = representations.linear_reconstruction(z, images)
    return found


@styled
def images_read(images: ArrayLike, read: Mapping[tuple[str, int], ArrayLike]) -> Picture:
    """Draw `images` (N, C, H, W) in a row, and below them, for each (name, block), what was read off that block."""
    rows = {"the image": np.asarray(images)} | {f"{name}, block {k}": np.asarray(x) for (name, k), x in read.items()}
    figure = Picture(figsize=(0.95 * len(images) + 2.6, 0.92 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(images), squeeze=False)
    for line, (name, pictures) in zip(panels, rows.items(), strict=True):
        for panel, image in zip(line, pictures, strict=True):
            panel.imshow(pixels(image).clip(0, 1), cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    return figure


def read_accuracy(path: str | Path) -> pd.DataFrame:
    """Return the table of `benchmarks/accuracy.py`: method, num_blocks, context, seed, error, a row a run.

    Raises FileNotFoundError where there is none at `path`.
    """
    return pd.read_csv(_existing(path, "benchmarks/accuracy.py"), keep_default_na=False)


def read_memory(path: str | Path, model: str = "resnet110") -> pd.DataFrame:
    """Return method, num_blocks, share of `benchmarks/memory.py`: the planned peak in shares of backprop's.

    Raises FileNotFoundError where there is no such JSON at `path`.
    """
    rows = pd.DataFrame(json.loads(_existing(path, "benchmarks/memory.py").read_text())["rows"])
    rows = rows[rows["metric"] == "share of backprop's peak"]
    cases = rows["case"].str.extract(rf"^{model} (?P<method>.+) K=(?P<num_blocks>\d+)$").assign(share=rows["value"])
    cases = cases.dropna().astype({"num_blocks": int})
    return cases[cases["num_blocks"] > 1].sort_values("num_blocks", ignore_index=True)


def _existing(path: str | Path, script: str) -> Path:
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} is not there: run python {script}, or give another table")
    return Path(path)


def error_summary(table: pd.DataFrame, with_n: bool = False) -> pd.DataFrame:
    """Return mean ± standard deviation over seeds of the test error in per cent: a row for each method.

    `with_n` says of how many seeds each is.
    """

    def shown(e: pd.Series) -> str:
        return f"{100 * e.mean():.1f} ± {100 * e.std():.1f}" + f" (n={len(e)})" * with_n

    cells = table.groupby(["method", "num_blocks", "context"])["error"].agg(shown).unstack(["num_blocks", "context"])
    order = [(k, c) for c in ("none", "E", "R1E") for k in sorted(set(table["num_blocks"]))]
    return cells.reindex(columns=[case for case in order if case in set(cells.columns)])


@styled
def error_by_blocks(table: pd.DataFrame) -> Picture:
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
def standing(table: pd.DataFrame, method: str, num_blocks: int, context: str) -> Picture:
    """Draw the mean error of all that was measured as bars, smallest first, the given choice in colour."""
    keys = ["method", "num_blocks", "context"]
    means = 100 * table.groupby(keys)["error"].mean().sort_values()
    chosen = [key == (method, num_blocks, context) for key in means.index]
    figure = Picture(figsize=(10, 3.4), layout="constrained")
    panel = figure.subplots()
    colours = sns.color_palette("colorblind")
    panel.bar(range(len(means)), means, color=[colours[1] if own else "0.8" for own in chosen])
    panel.set(xticks=[], xlabel="all that was measured, smallest error first", ylabel="test error, %")
    if any(chosen):
        place = chosen.index(True)
        panel.set_title(f"{method}, K = {num_blocks}, context {context}: {means.iloc[place]:.1f} %")
    else:
        panel.set_title(f"{method}, K = {num_blocks}, context {context}: not measured")
    return figure


def comparison_explorer(table: pd.DataFrame) -> widgets.Explorer | Picture:
    """Return the explorer over the table of `read_accuracy`: `standing` under menus of method, blocks and context.

    Headless, the figure of greedy with the most blocks and no context in its place.
    """
    blocks = sorted(set(table["num_blocks"].tolist()))
    contexts = list(dict.fromkeys(table["context"]))
    return widgets.figure_explorer(
        lambda method, num_blocks, context: standing(table, method, num_blocks, context),
        method=w.Dropdown(options=sorted(set(table["method"])), value="greedy", description="method"),
        num_blocks=w.Dropdown(options=blocks, value=blocks[-1], description="blocks"),
        context=w.Dropdown(options=contexts, value="none", description="context"),
    )


@styled
def memory_by_blocks(table: pd.DataFrame) -> Picture:
    """Draw the planned peak memory against the number of blocks, a line per method, in shares of backprop's peak.

    `table` is that of `read_memory`. Dashed is backprop that computes its activations anew (gradient checkpointing).
    """
    figure = Picture(figsize=(8.6, 4.6), layout="constrained")
    panel = figure.subplots()
    for name, line in table.groupby("method"):
        checkpointing = name == "checkpointing"
        style = {"color": "0.3", "linestyle": "--"} if checkpointing else {"marker": "o"}
        panel.plot(line["num_blocks"], line["share"], label=name, **style)
    ticks = sorted(set(table["num_blocks"]))
    panel.set(xlabel="number of blocks", ylabel="peak memory, of backprop's", xscale="log", ylim=(0, None))
    panel.set_xticks(ticks, ticks)
    panel.minorticks_off()
    percent(panel.yaxis)
    figure.legend(loc="outside right upper")
    return figure
