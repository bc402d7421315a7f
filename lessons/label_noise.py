"""Lesson 3: who memorises wrong labels, at which depth, and which images are got wrong; and the explorer."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as w
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from kit.errors import check_name
from kit.train.record import History
from lessons import widgets
from lessons.method_looks import dashed, label_lines, looks
from lessons.style import (
    Picture,
    exit_colours,
    legend_below,
    marked_lines,
    metric_rows,
    panels,
    percent,
    pixels,
    styled,
    whole_numbers,
)

CORRUPTED, UNTOUCHED = "#d55e00", "0.55"


def block_per_layer(backbone: str, depth: int, **options: object) -> dict[str, object]:
    """Return `RunConfig` settings: the first `depth` layers of `mlp`, or groups of `vgg-paper`, a block each.

    `options` are more of the backbone's.
    """
    parts = {"mlp": ("depth", "layer"), "vgg-paper": ("groups", "block")}
    check_name("backbone of this lesson", backbone, parts)
    count, name = parts[backbone]
    cuts = tuple(f"{name}{k}" for k in range(1, depth))
    return {"backbone_options": {count: depth, **options}, "num_blocks": depth, "cuts": cuts}


def chosen_and_best(history: History) -> tuple[float, float]:
    """Return the last exit's test accuracy at the epoch that validation chooses, and at the best one."""
    val, test = (history.accuracy(split).iloc[:, -1] for split in ("val", "test"))
    return test[val.idxmax()], test.max()


@styled
def by_rate(numbers: pd.DataFrame) -> Picture:
    """Draw means over seeds with their confidence intervals against the noise rate, a panel per measure.

    `numbers` has measure, case, noise, noise_rate, mean, low and high (the interval's ends; NaN for a single seed). A
    noise model with a single rate is drawn as hollow marks beside the lines of the others.
    """
    measures, cases = list(numbers["measure"].unique()), list(numbers["case"].unique())
    figure, axes = panels(len(measures), height=4.6)
    for panel, measure in zip(axes, measures, strict=True):
        for number, (case, look) in enumerate(looks(cases).items()):
            own = numbers[(numbers["measure"] == measure) & (numbers["case"] == case)].sort_values("noise_rate")
            for noise, rows in own.groupby("noise"):
                alone = len(rows) == 1 and len(own) > 1
                shift = 0.012 * (number - (len(cases) - 1) / 2)
                panel.errorbar(
                    rows["noise_rate"] + shift, rows["mean"], [rows["mean"] - rows["low"], rows["high"] - rows["mean"]],
                    color=look.colour, marker=look.marker, capsize=3, linestyle="none" if alone else dashed(look),
                    markerfacecolor="white" if alone else look.colour, label=f"{case}, {noise}" if alone else case,
                )  # fmt: skip
        panel.set(title=measure, xlabel="noise rate", ylabel="share")
        percent(panel.yaxis)
    legend_below(figure, axes[0], ncols=3)
    return figure


@styled
def over_epochs(table: pd.DataFrame, split: str = "test") -> Picture:
    """Draw the accuracy of every exit over the epochs: a row per method, a column per noise rate.

    `table` has method, noise_rate, epoch, split, block, metric, value. Memorisation shows as the fall after the peak.
    """
    rows = metric_rows(table, "accuracy", split)
    methods, rates, exits = (list(dict.fromkeys(rows[key])) for key in ("method", "noise_rate", "block"))
    figure = Picture(figsize=(3.4 * len(rates) + 1.4, 2.2 * len(methods) + 0.6), layout="constrained")
    grid = figure.subplots(len(methods), len(rates), sharex=True, sharey=True, squeeze=False)
    colours = exit_colours(exits)
    for i, method in enumerate(methods):
        for j, rate in enumerate(rates):
            own = rows[(rows["method"] == method) & (rows["noise_rate"] == rate)]
            for block, line in own.groupby("block"):
                grid[i, j].plot(line["epoch"], line["value"], color=colours[block], label=f"exit {block}")
            percent(grid[i, j].yaxis)
            whole_numbers(grid[i, j].xaxis, most=4)
            grid[0, j].set_title(f"rate {rate:g}")
            grid[-1, j].set_xlabel("epoch")
        grid[i, 0].set_ylabel(method.replace(" ", "\n"))
    figure.suptitle(f"{split} accuracy of every exit", fontsize="medium")
    fullest = max(grid.flat, key=lambda panel: len(panel.lines))
    legend_below(figure, fullest)
    return figure


@styled
def wrong_against_true(table: pd.DataFrame) -> Picture:
    """Draw, epoch by epoch, the share of corrupted images answered with their wrong label against their true one.

    A panel per method, a line per exit, the last epoch a dot; `table` has method, epoch, block, metric (memorised,
    recovered), value. Up and to the left is memorising; down and to the right is seeing through the noise.
    """
    rows = table[table["metric"].isin(["memorised", "recovered"])]
    wide = rows.pivot_table(index=["method", "block", "epoch"], columns="metric", values="value", sort=False)
    methods = list(dict.fromkeys(rows["method"]))
    figure, axes = panels(len(methods), height=4.2 if len(methods) < 3 else 2.9, columns=2, sharex=True, sharey=True)
    colours = exit_colours(set(rows["block"]))
    for panel, method in zip(axes, methods, strict=True):
        for block, line in wide.loc[method].groupby(level="block"):
            line = line.sort_index()
            panel.plot(line["recovered"], line["memorised"], color=colours[block], label=f"exit {block}")
            panel.plot(line["recovered"].iloc[-1], line["memorised"].iloc[-1], "o", ms=9, color=colours[block])
        panel.set(title=method, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        percent(panel.xaxis, panel.yaxis)
    figure.supxlabel("corrupted images answered with their true label", fontsize="medium")
    figure.supylabel("with their wrong label", fontsize="medium")
    axes[-1].legend(loc="upper right", fontsize="small")
    return figure


@styled
def by_depth(table: pd.DataFrame, metric: str = "memorised") -> Picture:
    """Draw a share (memorised, recovered, fitted) in the last epoch against depth: a line per method, a panel per rate.

    `table` has method, noise_rate, epoch, block, metric, value.
    """
    rows = metric_rows(table, metric)
    rows = rows[rows["epoch"] == rows["epoch"].max()]
    rates = sorted(rows["noise_rate"].unique())
    figure, axes = panels(len(rates), sharey=True)
    for panel, rate in zip(axes, rates, strict=True):
        own = rows[rows["noise_rate"] == rate]
        marked_lines(panel, own, "block", named=False)
        panel.set(title=f"rate {rate:g}", xlabel="exit (first to last)", ylabel=f"{metric}, last epoch")
        percent(panel.yaxis)
        whole_numbers(panel.xaxis)
    label_lines(axes[-1], looks(rows["method"]))
    return figure


@styled
def loss_histograms(answers: pd.DataFrame, title: str = "") -> Picture:
    """Draw the losses of untouched and corrupted training images, a panel per block.

    `answers` has block, loss, corrupted: see `lessons.memorisation.training_answers`. The further apart the two are,
    the easier a wrong label is found out; where they lie over each other, all has been memorised.
    """
    blocks = sorted(answers["block"].unique())
    figure, axes = panels(len(blocks), height=2.9 if len(blocks) > 2 else 3.8, columns=2, sharex=True, sharey=True)
    edges = np.linspace(0, float(np.quantile(answers["loss"], 0.99)) or 1.0, 40)
    for panel, block in zip(axes, blocks, strict=True):
        own = answers[answers["block"] == block]
        for corrupted, colour, name in ((False, UNTOUCHED, "untouched"), (True, CORRUPTED, "corrupted")):
            losses = own.loc[own["corrupted"] == corrupted, "loss"].clip(upper=edges[-1])
            panel.hist(losses, edges, density=len(losses) > 0, color=colour, alpha=0.65, label=name)
        panel.set_title(f"block {block}")
    figure.supxlabel("loss with the label given", fontsize="medium")
    figure.supylabel("density", fontsize="medium")
    axes[-1].legend(fontsize="small")
    figure.suptitle(title)
    return figure


@styled
def mistakes(images: ArrayLike, answers: pd.DataFrame, classes: Sequence[str], num_images: int = 8) -> Picture:
    """Show training images that each exit answers with another class than they truly show, a row per exit.

    First corrupted ones, framed, the best memorised leading; then untouched ones, the grossest mistakes first.

    `images` are (N, C, H, W) in [0, 1] or uint8; `answers` as for `loss_histograms`, with image, true and answer.
    Above each: what it is, and what the exit says.
    """
    images, blocks = np.asarray(images), sorted(answers["block"].unique())
    figure = Picture(figsize=(1.55 * num_images, 2.15 * len(blocks)), layout="constrained")
    for row, block in zip(figure.subplots(len(blocks), num_images, squeeze=False), blocks, strict=True):
        own = answers[(answers["block"] == block) & (answers["answer"] != answers["true"])]
        memorised = own[own["corrupted"]].sort_values("loss").head(num_images // 2)
        untouched = own[~own["corrupted"]].sort_values("loss", ascending=False).head(num_images - len(memorised))
        shown = list(pd.concat([memorised, untouched]).itertuples())
        for panel in row:
            panel.set(xticks=[], yticks=[])
            panel.grid(False)
        for panel, wrong in zip(row, shown, strict=False):
            panel.imshow(pixels(images[wrong.image]), cmap="gray_r")
            panel.set_title(f"{classes[wrong.true]} → {classes[wrong.answer]}", fontsize="x-small")
            for side in panel.spines.values():
                side.set(visible=wrong.corrupted, color=CORRUPTED, linewidth=4)
        row[0].set_ylabel(f"exit {block}")
    return figure


@styled
def at_epoch(table: pd.DataFrame, rate: float, exit_: int, epoch: int) -> Picture:
    """Draw one rate and exit: test accuracy over the epochs with `epoch` marked, and who answers what at that epoch.

    `table` has method, noise_rate, epoch, split, block, metric, value, with the accuracies on test and the shares
    memorised and recovered. A method without that exit is shown at its last one.
    """
    rows = table[table["noise_rate"] == rate]
    tests = table.loc[(table["metric"] == "accuracy") & (table["split"] == "test"), "value"]
    figure = Picture(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    left.set_ylim(max(0.0, tests.min() - 0.03), min(1.0, tests.max() + 0.03))  # of all rates: a slider moves no axis
    drawn = looks(rows["method"])
    for number, (method, look) in enumerate(drawn.items()):
        own = rows[rows["method"] == method]
        own = own[own["block"] == min(exit_, own["block"].max())]
        curve = own[(own["metric"] == "accuracy") & (own["split"] == "test")].set_index("epoch")["value"]
        left.plot(curve.index, curve, color=look.colour, linestyle=dashed(look), label=method)
        left.plot(epoch, curve.get(epoch, np.nan), look.marker, ms=10, color=look.colour)
        now, bottom = own[own["epoch"] == epoch], 0.0
        for metric, hatch in (("recovered", ""), ("memorised", "//")):
            height = now.loc[now["metric"] == metric, "value"].sum()
            right.bar(number, height, bottom=bottom, color=look.colour, hatch=hatch, edgecolor="white", alpha=0.9)
            bottom += height
    left.set(title=f"rate {rate:g}, exit {exit_}, epoch {epoch}", xlabel="epoch", ylabel="test accuracy")
    label_lines(left, drawn)
    right.set_xticks(range(len(drawn)), [name.replace(" ", "\n") for name in drawn], fontsize="small")
    right.set(title="corrupted images: true, wrong (hatched)", ylim=(0, 1.03))
    right.title.set_fontsize("small")
    percent(left.yaxis, right.yaxis)
    return figure


def noise_explorer(table: pd.DataFrame) -> widgets.Explorer | Picture:
    """Return the explorer of `table` (see `at_epoch`): `at_epoch` under sliders for noise rate, exit and epoch.

    It begins at the middle rate, the last exit and the last epoch; headless, the figure there in its place.
    """
    rates, exits, epochs = (sorted(set(table[key].tolist())) for key in ("noise_rate", "block", "epoch"))
    return widgets.figure_explorer(
        lambda rate, exit_, epoch: at_epoch(table, rate, exit_, epoch),
        rate=w.SelectionSlider(options=rates, value=rates[len(rates) // 2], description="rate"),
        exit_=w.SelectionSlider(options=exits, value=exits[-1], description="exit"),
        epoch=w.SelectionSlider(options=epochs, value=epochs[-1], description="epoch"),
    )
