"""Lesson 8: who works when in a pipeline, what more processors bring, and the explorer of the cost model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import ipywidgets as w
import matplotlib as mpl
import pandas as pd
import seaborn as sns

from kit.pipeline.schedule import FLOWING, SCHEDULES, TWO_CHUNKS
from kit.pipeline.simulate import Costs, even, predict, timeline
from lessons import widgets
from lessons.style import Picture, legend_below, marked_lines, styled, whole_numbers

KINDS = {
    "F": "forward",
    "B": "backward",
    "I": "backward: input's gradient",
    "W": "backward: weights' gradient",
    "U": "update",
    "R": "forward again, for a late gradient",
    "S": "step: forward, local loss, backward, update",
}
COLOURS = {"F": 0, "B": 1, "I": 1, "W": 4, "U": 7, "S": 2, "R": 9}  # of seaborn's colour-blind palette
RANKS = (2, 4, 8, 16, 32, 64)
COMPARED = ("decoupled", "gpipe", "1f1b", "interleaved", "zero-bubble", "pipedream")
"""The schedules that the lesson compares; the cost model knows more."""


def same_work(num_ranks: int = 4, num_parts: int = 8, num_batches: int = 2) -> pd.DataFrame:
    """Return the timelines of COMPARED for the same images: `num_batches` of `num_parts` equal parts, equal chunks.

    Where backpropagation waits for the whole batch the parts are its micro-batches, and the next batch starts when it
    is done; where nothing is flushed each part is a batch of its own. The unit of time is the forward pass of one part
    through one rank; a backward takes two, an update a tenth.
    """
    drawn = []
    for name in COMPARED:
        schedule = SCHEDULES[name]
        chunks = 2 * num_ranks if name in TWO_CHUNKS else num_ranks
        share = num_ranks / chunks
        costs = Costs(forward=[share] * chunks, backward=[2 * share] * chunks, update=[0.1 * share] * chunks)
        if name in FLOWING:
            drawn.append(timeline(schedule(num_ranks, num_parts * num_batches), costs).assign(schedule=name))
            continue
        one = timeline(schedule(num_ranks, num_parts), costs).assign(schedule=name)
        for k in range(num_batches):
            later = k * one["end"].max()
            moved = {"start": one["start"] + later, "end": one["end"] + later, "batch": one["batch"] + k * num_parts}
            drawn.append(one.assign(**moved))
    return pd.concat(drawn, ignore_index=True)


@styled
def gantt(table: pd.DataFrame, unit: str = "seconds") -> Picture:
    """Draw which rank does what when, a panel per schedule; a bar carries the number of its (micro-)batch.

    `table` has the columns rank, kind, chunk, batch, start, end and optionally schedule, as
    `kit.pipeline.simulate.timeline` gives it; `unit` is that of its times. Later chunks of a rank are hatched.
    """
    table = table if "schedule" in table else table.assign(schedule="")
    names, num_ranks = list(table["schedule"].unique()), table["rank"].max() + 1
    figure = Picture(figsize=(9.6, 0.9 + len(names) * (0.5 + 0.24 * num_ranks)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    palette, total = sns.color_palette("colorblind"), table["end"].max()
    for panel, name in zip(panels, names, strict=True):
        for op in table[table["schedule"] == name].itertuples():
            length, later = op.end - op.start, op.chunk >= num_ranks
            bar = {"color": palette[COLOURS[op.kind]], "alpha": 0.55 if later else 0.85, "edgecolor": "white"}
            panel.barh(op.rank, length, 0.85, op.start, linewidth=0.5, hatch="//" if later else None, **bar)
            if op.kind != "U" and length > 0.012 * total:
                panel.text(op.start + length / 2, op.rank, op.batch, ha="center", va="center", fontsize="xx-small")
        own = table[table["schedule"] == name]
        idle = 1 - (own["end"] - own["start"]).sum() / (own["end"].max() * num_ranks)
        panel.set_title(f"{name}: done at {own['end'].max():.3g}, idle {idle:.0%}", fontsize="small")
        panel.set_ylabel("rank")
        whole_numbers(panel.yaxis)
        panel.invert_yaxis()
        panel.grid(False)
    panels[-1].set_xlabel(unit)
    used = [kind for kind in KINDS if kind in set(table["kind"])]
    handles = [mpl.patches.Patch(color=palette[COLOURS[kind]], label=KINDS[kind]) for kind in used if kind != "I"]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize="small")
    return figure


def predictions(
    seconds: float, ranks: Iterable[int], num_micro: int, slowest: float = 1.0, transfer: float = 0.0
) -> pd.DataFrame:
    """Return what the cost model says of COMPARED on so many ranks each: a row for each pair.

    Columns: schedule, num_ranks, and those of `kit.pipeline.simulate.predict`. A step takes `seconds` in one process,
    the slowest part `slowest` times as long as the others, and a transfer `transfer` seconds. Batches are cut into
    `num_micro` micro-batches or a few more: interleaving asks for a multiple of the ranks.
    """
    rows = []
    for name in COMPARED:
        for k in ranks:
            costs = replace(even(2 * k if name in TWO_CHUNKS else k, seconds, slowest=slowest), transfer=transfer)
            micro = -(-max(num_micro, k) // k) * k
            rows.append({"schedule": name, "num_ranks": k} | predict(name, costs, k, micro))
    return pd.DataFrame(rows)


@styled
def scaling(table: pd.DataFrame) -> Picture:
    """Draw speed-up, idle share and activations kept against the number of ranks, a line per schedule.

    `table` has the columns schedule, num_ranks, speedup, bubble and peak_activations, a row for each pair.
    """
    figure = Picture(figsize=(9.6, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    labels = {
        "speedup": "speed-up over one process",
        "bubble": "share of time idle",
        "peak_activations": "batches of activations kept",
    }
    for panel, (column, label) in zip(panels, labels.items(), strict=True):
        marked_lines(panel, table, "num_ranks", column, by="schedule", named=False)
        panel.set(xlabel="ranks", ylabel="", title=label, xscale="log", xticks=sorted(table["num_ranks"].unique()))
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        panel.title.set_fontsize("small")
    panels[2].set_yscale("log")
    legend_below(figure, panels[0], ncols=3)
    return figure


@styled
def measured_and_predicted(table: pd.DataFrame) -> Picture:
    """Draw measured beside predicted seconds per step. `table` has the columns case, kind and seconds."""
    figure = Picture(figsize=(7, 3.8), layout="constrained")
    panel = figure.subplots()
    sns.barplot(table, x="seconds", y="case", hue="kind", errorbar=("pi", 100), ax=panel)
    panel.set(xlabel="seconds per step", ylabel="")
    panel.legend(title=None)
    return figure


def scaling_explorer(seconds: float, num_micro: int) -> widgets.Explorer | Picture:
    """Return the explorer of `scaling` for a step of `seconds`: ranks, the slowest part, and what is sent how fast.

    Headless, the figure for 16 ranks in its place.
    """

    def figure(ranks: int, slowest: float, megabytes: float, gigabytes_per_second: float) -> Picture:
        upto = [k for k in RANKS if k <= ranks]
        return scaling(predictions(seconds, upto, num_micro, slowest, megabytes / 1000 / gigabytes_per_second))

    return widgets.figure_explorer(
        figure,
        ranks=w.SelectionSlider(options=RANKS[1:], value=16, description="ranks"),
        slowest=w.FloatSlider(1.0, min=1.0, max=3.0, step=0.1, description="slowest ×", **widgets.SLIDER),
        megabytes=w.FloatSlider(8.0, min=0.0, max=200.0, description="signal, MB", **widgets.SLIDER),
        gigabytes_per_second=w.FloatLogSlider(10, min=-1, max=2.5, description="link, GB/s", **widgets.SLIDER),
    )
