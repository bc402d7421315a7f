"""Methods side by side: what the committed benchmarks measured, and what trained nets keep of class and image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ipywidgets as w
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike
from torch import Tensor

from lessons.plots import Picture, styled
from lessons.widgets import PictureExplorer

RESULTS = Path(__file__).parents[1] / "benchmarks/results"


@torch.no_grad()
def features(net, x: Tensor) -> list[Tensor]:
    """Return what each block, or stage inside a block, hands on for inputs `x` (B, …), first to last."""
    signal, found = net.eval().signal(x), []
    for block in net:
        with block.autocast(x):
            outputs = block.outputs(signal)
        found += [h.float() for h in outputs]
        signal = block.answered(signal, outputs[-1])
    return found


@styled
def pictures(images: ArrayLike, read: Mapping[tuple[str, int], ArrayLike]) -> Picture:
    """Draw `images` (N, C, H, W) in a row, and below them, for each (name, block), what was read off that block."""
    rows = {"the image": np.asarray(images)} | {f"{name}, block {k}": np.asarray(x) for (name, k), x in read.items()}
    figure = Picture(figsize=(0.95 * len(images) + 2.6, 0.92 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(images), squeeze=False)
    for line, (name, pixels) in zip(panels, rows.items(), strict=True):
        for panel, image in zip(line, pixels, strict=True):
            grey = image.shape[0] == 1
            panel.imshow(image[0] if grey else image.transpose(1, 2, 0).clip(0, 1), cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    return figure


def load(path: Path = RESULTS / "accuracy.csv") -> pd.DataFrame:
    """Return the table of `benchmarks/accuracy.py`: method, num_blocks, context, seed, error, a row a run."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run python benchmarks/accuracy.py, or give another table")
    return pd.read_csv(path, keep_default_na=False)


def summary(table: pd.DataFrame, with_n: bool = False) -> pd.DataFrame:
    """Return mean ± standard deviation over seeds of the test error in per cent: a row for each method.

    `with_n` says of how many seeds each is.
    """

    def shown(e: pd.Series) -> str:
        return f"{100 * e.mean():.1f} ± {100 * e.std():.1f}" + f" (n={len(e)})" * with_n

    cells = table.groupby(["method", "num_blocks", "context"])["error"].agg(shown).unstack(["num_blocks", "context"])
    order = [(k, c) for c in ("none", "E", "R1E") for k in sorted(set(table["num_blocks"]))]
    return cells.reindex(columns=[case for case in order if case in set(cells.columns)])


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


class Comparison(PictureExplorer):
    """Choose method, number of blocks and context; see where the choice stands."""

    def __init__(self, table: pd.DataFrame):
        self.table = table
        choices = {name: list(dict.fromkeys(table[name])) for name in ("method", "num_blocks", "context")}
        self.method = w.Dropdown(options=sorted(choices["method"]), value="greedy", description="method")
        self.blocks = w.Dropdown(options=sorted(choices["num_blocks"]), value=16, description="blocks")
        self.context = w.Dropdown(options=choices["context"], value="none", description="context")
        super().__init__([self.method, self.blocks, self.context])
        self.guarded(self.draw)()

    def figure(self) -> Picture:
        """Return the bars with the choice in colour."""
        return standing(self.table, self.method.value, self.blocks.value, self.context.value)


def explorer(table: pd.DataFrame) -> Comparison:
    """Return the widget over the table of `load`."""
    return Comparison(table)


@styled
def memory_by_blocks(path: Path = RESULTS / "memory.json", model: str = "resnet110") -> Picture:
    """Draw the planned peak memory of `benchmarks/memory.py` against the number of blocks, a line per method.

    In shares of backprop's peak; dashed, backprop that computes its activations anew (gradient checkpointing).
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run python benchmarks/memory.py, or give another table")
    rows = pd.DataFrame(json.loads(path.read_text())["rows"]).query('metric == "share of backprop\'s peak"')
    found = (
        rows["case"].str.extract(rf"^{model} (?P<method>.+) K=(?P<blocks>\d+)$").assign(share=rows["value"]).dropna()
    )
    found["blocks"] = found["blocks"].astype(int)
    figure = Picture(figsize=(8.6, 4.6), layout="constrained")
    panel = figure.subplots()
    for name, line in found[found["blocks"] > 1].sort_values("blocks").groupby("method"):
        checkpointing = name == "checkpointing"
        style = {"color": "0.3", "linestyle": "--"} if checkpointing else {"marker": "o"}
        panel.plot(line["blocks"], line["share"], label=name, **style)
    ticks = sorted(set(found["blocks"]) - {1})
    panel.set(xlabel="number of blocks", ylabel="peak memory, of backprop's", xscale="log", ylim=(0, None))
    panel.set_xticks(ticks, ticks)
    panel.minorticks_off()
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(loc="outside right upper")
    return figure
