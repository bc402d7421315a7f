"""Lesson 2: what every exit answers, and how far a loss's gradient reaches."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import seaborn as sns
import torch
from torch import Tensor, nn

from lessons.style import (
    Picture,
    exit_colours,
    marked_lines,
    metric_rows,
    panels,
    percent,
    seed_band,
    styled,
    whole_numbers,
)


def gradient_on(loss: Tensor, module: nn.Module) -> str:
    """Say how long the gradient is that `loss` puts on the weights of `module`: its norm, or none at all."""
    gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    found = [g for g in gradients if g is not None]
    return f"norm {torch.cat([g.flatten() for g in found]).norm():.2g}" if found else "none at all"


@styled
def accuracy_over_epochs(table: pd.DataFrame, split: str = "test") -> Picture:
    """Draw the accuracy of every exit over the epochs, a panel per method.

    `table` has the columns epoch, split, block, metric, value, and optionally method and seed (with several seeds, the
    95 % confidence band). Raises ValueError where it holds no accuracy on `split`.
    """
    rows = metric_rows(table, "accuracy", split)
    methods = list(rows["method"].unique())
    figure, axes = panels(len(methods), sharey=True)
    colours = exit_colours(set(rows["block"]))
    for panel, method in zip(axes, methods, strict=True):
        own = rows[rows["method"] == method]
        sns.lineplot(
            own, x="epoch", y="value", hue="block", palette=colours, errorbar=seed_band(own), legend=False, ax=panel
        )
        panel.set(title=method, xlabel="epoch", ylabel=f"{split} accuracy")
        whole_numbers(panel.xaxis)
        percent(panel.yaxis)
    handles = [mpl.lines.Line2D([], [], color=colour, label=f"exit {k}") for k, colour in colours.items()]
    axes[-1].legend(handles=handles, loc="lower right", fontsize="small")
    return figure


@styled
def accuracy_by_exit(table: pd.DataFrame, split: str = "test") -> Picture:
    """Draw the accuracy of every exit in the last epoch against its depth, a line per method.

    `table` as for `accuracy_over_epochs`.
    """
    rows = metric_rows(table, "accuracy", split)
    last = rows[rows["epoch"] == rows.groupby("method")["epoch"].transform("max")]
    figure = Picture(figsize=(6.4, 4.2), layout="constrained")
    panel = figure.subplots()
    marked_lines(panel, last, "block")
    panel.set(xlabel="exit (first to last block)", ylabel=f"{split} accuracy, last epoch")
    whole_numbers(panel.xaxis)
    percent(panel.yaxis)
    return figure
