"""Figures of pipelines: who works when, and what more processors bring."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lessons.plots import styled

KINDS = {
    "F": "forward",
    "B": "backward",
    "I": "backward: input's gradient",
    "W": "backward: weights' gradient",
    "U": "update",
    "S": "step: forward, local loss, backward, update",
}
COLOURS = {"F": 0, "B": 1, "I": 1, "W": 4, "U": 7, "S": 2}  # of seaborn's colour-blind palette


@styled
def gantt(table: pd.DataFrame) -> Figure:
    """Draw which rank does what when, a panel per schedule; a bar carries the number of its (micro-)batch.

    `table` has the columns rank, kind, chunk, batch, start, end and optionally schedule, as
    `kit.pipeline.simulate.timeline` gives it. Later chunks of a rank are hatched.
    """
    table = table if "schedule" in table else table.assign(schedule="")
    names, num_ranks = list(table["schedule"].unique()), table["rank"].max() + 1
    figure = Figure(figsize=(11, 0.7 + len(names) * (0.55 + 0.3 * num_ranks)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    palette, total = sns.color_palette("colorblind"), table["end"].max()
    for panel, name in zip(panels, names, strict=True):
        for op in table[table["schedule"] == name].itertuples():
            length, later = op.end - op.start, op.chunk >= num_ranks
            bar = {"color": palette[COLOURS[op.kind]], "alpha": 0.55 if later else 0.85, "edgecolor": "white"}
            panel.barh(op.rank, length, 0.85, op.start, linewidth=0.5, hatch="//" if later else None, **bar)
            if op.kind != "U" and length > 0.012 * total:
                panel.text(op.start + length / 2, op.rank, op.batch, ha="center", va="center", fontsize=8)
        panel.set(title=name, ylabel="rank")
        panel.yaxis.set_major_locator(MaxNLocator(integer=True))
        panel.invert_yaxis()
        panel.grid(False)
    panels[-1].set_xlabel("time")
    used = [kind for kind in KINDS if kind in set(table["kind"])]
    handles = [mpl.patches.Patch(color=palette[COLOURS[kind]], label=KINDS[kind]) for kind in used if kind != "I"]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=10)
    return figure


@styled
def scaling(table: pd.DataFrame) -> Figure:
    """Draw speed-up, idle share and activations kept against the number of ranks, a line per schedule.

    `table` has the columns schedule, num_ranks, speedup, bubble and peak_activations, a row for each pair.
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    labels = {
        "speedup": "speed-up over one process",
        "bubble": "share of time idle",
        "peak_activations": "batches of activations kept",
    }
    for panel, (column, label) in zip(panels, labels.items(), strict=True):
        sns.lineplot(
            table, x="num_ranks", y=column, hue="schedule", style="schedule", markers=True, dashes=False, ms=8,
            ax=panel, legend=panel is panels[0],
        )  # fmt: skip
        panel.set(xlabel="ranks", ylabel=label, xscale="log", xticks=sorted(table["num_ranks"].unique()))
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    panels[0].legend(title=None, fontsize=10)
    panels[2].set_yscale("log")
    return figure


@styled
def measured_and_predicted(table: pd.DataFrame) -> Figure:
    """Draw measured beside predicted seconds per step. `table` has the columns case, kind and seconds."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    panel = figure.subplots()
    sns.barplot(table, x="seconds", y="case", hue="kind", errorbar=("pi", 100), ax=panel)
    panel.set(xlabel="seconds per step", ylabel="")
    panel.legend(title=None)
    return figure
