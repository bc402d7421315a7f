"""Lesson 6: what trained blocks keep of class and image, what the benchmarks measured, and the explorer of that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ipywidgets as w
import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from kit.measure import representations
from kit.modules import evaluating
from lessons import widgets
from lessons.method_looks import LOOKS, dashed, label_lines, looks
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
    figure = Picture(figsize=(0.95 * len(images) + 2.6, 0.62 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(images), squeeze=False)
    for line, (name, pictures) in zip(panels, rows.items(), strict=True):
        for panel, image in zip(line, pictures, strict=True):
            panel.imshow(pixels(image).clip(0, 1), cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
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
    backprop = 100 * table[table["method"] == "bp"]["error"].mean()
    figure = Picture(figsize=(9.6, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    alone, supplied = local[local["context"] == "none"], local[local["num_blocks"] == most]
    for panel, rows, x, places in (
        (left, alone, "num_blocks", sorted(set(local["num_blocks"]))),
        (right, supplied, "context", ["none", "E", "R1E"]),
    ):
        drawn = looks(sorted(local["method"].unique()))
        for number, (method, look) in enumerate(drawn.items()):
            errors = rows[rows["method"] == method].groupby(x)["error"].agg(["mean", "std"]).reindex(places)
            at = np.arange(len(places)) + 0.04 * (number - len(drawn) / 2)
            panel.errorbar(at, errors["mean"], errors["std"], color=look.colour, marker=look.marker, capsize=2)
            panel.plot(at, errors["mean"], color=look.colour, linestyle=dashed(look), label=method)
        panel.plot(np.arange(len(places)), [backprop] * len(places), "--", color=LOOKS["bp"].colour, label="backprop")
        panel.set_xticks(range(len(places)), places)
        panel.margins(x=0.08)
        label_lines(panel, drawn | looks(["backprop"]))
    left.set(xlabel="number of blocks, no context", ylabel="test error of the last exit, %")
    right.set(xlabel=f"context, {most} blocks")
    return figure


@styled
def standing(table: pd.DataFrame, method: str, num_blocks: int, context: str) -> Picture:
    """Draw the mean error of every method with so many blocks and that context, smallest first, one method in colour.

    Beside them backprop, which has neither. Raises ValueError for a case that `table` does not hold.
    """
    same = (table["num_blocks"] == num_blocks) & (table["context"] == context) | (table["method"] == "bp")
    errors = 100 * table[same].groupby("method")["error"].mean().sort_values(ascending=False)
    if method not in errors:
        raise ValueError(f"{method} with {num_blocks} blocks and context {context} was not measured")
    figure = Picture(figsize=(8.4, 0.42 * len(errors) + 1.3), layout="constrained")
    panel = figure.subplots()
    colours = [LOOKS[name].colour if name == method else "0.8" for name in errors.index]
    bars = panel.barh(errors.index.str.replace("bp", "backprop"), errors, color=colours)
    panel.bar_label(bars, fmt="%.1f", padding=4, fontsize="small")
    panel.set(
        xlabel="test error of the last exit, %", xlim=(0, 108 * table["error"].groupby(table["method"]).mean().max())
    )
    panel.grid(False)
    place = list(errors.index[::-1]).index(method) + 1
    panel.set_title(f"{method}: {errors[method]:.1f} %, number {place} of {len(errors)}")
    return figure


def comparison_explorer(table: pd.DataFrame) -> widgets.Explorer | Picture:
    """Return the explorer over the table of `read_accuracy`: `standing` under menus of method and of what was measured.

    Headless, the figure of greedy with the most blocks and no context in its place.
    """
    local = table[table["method"] != "bp"]
    cases = sorted(set(zip(local["num_blocks"].tolist(), local["context"], strict=True)))
    names = {f"{k} blocks" + f", context {context}" * (context != "none"): (k, context) for k, context in cases}
    most = max(k for k, _ in cases)
    return widgets.figure_explorer(
        lambda method, case: standing(table, method, *case),
        method=w.Dropdown(options=sorted(set(local["method"])), value="greedy", description="method"),
        case=w.Dropdown(options=names, value=(most, "none"), description="with"),
    )


@styled
def memory_by_blocks(table: pd.DataFrame) -> Picture:
    """Draw the planned peak memory against the number of blocks, a line per method, in shares of backprop's peak.

    `table` is that of `read_memory`. Dashed is backprop that computes its activations anew (gradient checkpointing).
    """
    figure = Picture(figsize=(8.6, 4.6), layout="constrained")
    panel = figure.subplots()
    drawn = looks(sorted(set(table["method"])))
    for name, line in table.groupby("method"):
        look = drawn[name]
        style = {"linestyle": "--"} if name == "checkpointing" else {"marker": look.marker}
        panel.plot(line["num_blocks"], line["share"], color=look.colour, label=name, **style)
    ticks = sorted(set(table["num_blocks"]))
    panel.set(xlabel="number of blocks", ylabel="peak memory, of backprop's", xscale="log", ylim=(0, None))
    panel.set_xticks(ticks, ticks)
    panel.minorticks_off()
    percent(panel.yaxis)
    label_lines(panel, drawn)
    return figure
