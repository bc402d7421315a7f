"""Lesson 1: the gradient of every layer, how local gradients point beside backprop's, and the explorer of both."""

from __future__ import annotations

from itertools import chain, count
from math import log10

import ipywidgets as w
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.ticker import LogLocator, NullLocator
from torch import nn

from kit import seeds
from kit.backbones import ACTIVATIONS, INITS, NORMS, mlp
from kit.measure.probes import gradient_profile
from kit.methods import decouple, lookup
from lessons import widgets
from lessons.method_looks import LOOKS
from lessons.style import Picture, marked_lines, metric_rows, panels, styled, whole_numbers

SIDES = ("backprop", "decoupled")

LABELS = {
    "gradient": "gradient norm of the weights",
    "ratio": "gradient norm / weight norm",
    "output_gradient": "gradient norm of the output",
}
"""What the metrics of a gradient probe are called on an axis."""

LINEAR = "*.body.*.0"
"""The weight layers of the kit's perceptrons: with norms between them, these alone are what one counts as layers."""


def numbered(table: pd.DataFrame, layers: str = "layer") -> pd.DataFrame:
    """Return the rows of a probe's `table` whose layer's name contains `layers`, numbered from 1 without gaps.

    A probe numbers all that it was asked to watch, the blocks around the layers too.
    """
    rows = table[table["layer"].str.contains(layers)]
    return rows.assign(depth=rows.groupby("method")["depth"].rank(method="dense").astype(int))


@styled
def gradient_heatmap(table: pd.DataFrame, metric: str = "gradient") -> Picture:
    """Draw a gradient probe's `metric` by layer (down) over steps (across), a panel per method, on one scale.

    The scale is logarithmic. `table` is a probe's, with a column `method` where there are several.
    Raises ValueError where it holds no `metric`.
    """
    rows = metric_rows(table, metric)
    methods = list(rows["method"].unique())
    grids = [rows[rows["method"] == m].pivot_table(index="depth", columns="step", values="value") for m in methods]
    values = rows["value"][rows["value"] > 0]
    scale = LogNorm(max(values.min(), values.max() * 1e-12), values.max()) if len(values) else None
    figure, axes = panels(len(methods), sharey=True)
    for panel, method, grid in zip(axes, methods, grids, strict=True):
        edges = (grid.columns.min(), grid.columns.max() + 1, grid.index.max() + 0.5, grid.index.min() - 0.5)
        floor = scale.vmin if scale else None  # a vanished gradient has no logarithm: it gets the darkest colour
        image = panel.imshow(
            grid.clip(lower=floor), norm=scale, cmap="cividis", aspect="auto", extent=edges, interpolation="nearest"
        )
        panel.set(title=method, xlabel="training step")
        panel.grid(False)
    axes[0].set_ylabel("layer (1 is next to the input)")
    figure.colorbar(image, ax=axes, label=LABELS.get(metric, metric))
    return figure


@styled
def gradient_by_depth(table: pd.DataFrame, metric: str = "gradient", statistic: str = "median") -> Picture:
    """Draw a gradient probe's `metric` against depth, a line per method: the median (or mean) over the steps given.

    `table` as for `gradient_heatmap`; with a column `seed`, the band is the 95 % confidence interval over seeds.
    """
    rows = metric_rows(table, metric)
    keys = ["method", "depth", *(["seed"] if "seed" in rows else [])]
    line = rows.groupby(keys, sort=False, as_index=False)["value"].agg(statistic)
    figure = Picture(figsize=(6.8, 4.4), layout="constrained")
    panel = figure.subplots()
    panel.set(yscale="log", xlabel="layer (1 is next to the input)", ylabel=LABELS.get(metric, metric))
    marked_lines(panel, line, "depth", ms=7)
    panel.set(xlabel="layer (1 is next to the input)", ylabel=LABELS.get(metric, metric))
    whole_numbers(panel.xaxis)
    num_steps = rows["step"].nunique()
    panel.set_title(f"{statistic} over {num_steps} steps" if num_steps > 1 else f"step {rows['step'].iloc[0]}")
    return figure


@styled
def gradient_alignment(table: pd.DataFrame) -> Picture:
    """Draw the cosine between local and end-to-end gradient against depth: the mean over steps (and seeds).

    `table` is an alignment probe's, with a column `method` where there are several. The band covers the middle half
    of the steps.
    """
    rows = metric_rows(table, "alignment")
    figure = Picture(figsize=(6.8, 4.4), layout="constrained")
    panel = figure.subplots()
    panel.set_ylim(min(-0.1, rows["value"].min()), 1.05)
    marked_lines(panel, rows, "depth", errorbar=("pi", 50))
    panel.axhline(0, color="0.4", linewidth=1)
    panel.set(xlabel="block (1 is next to the input)", ylabel="cosine with backprop's gradient")
    whole_numbers(panel.xaxis)
    return figure


def gradient_explorer(data, method: str = "deinforeg", depth: int = 30, num_blocks: int = 10, **settings: object):
    """Return the explorer for plain networks on `data` (kit.Data); headless, the static figure in its place.

    `method` trains the decoupled side, `settings` are `decouple`'s (optimizer, lr, the method's options). Networks are
    built and measured anew with every slider; nothing is trained before the button asks for it.
    """
    explorer = GradientExplorer(data, method, depth, num_blocks, **settings)
    return explorer.figure() if widgets.headless() else explorer


class GradientExplorer(widgets.Explorer):
    """Two networks of the same first weights, one trained whole and one in blocks, and their gradients by layer."""

    def __init__(self, data, method: str, depth: int, num_blocks: int, batch_size: int = 64, **settings: object):
        self.data, self.method, self.settings, self.batch_size = data, method, settings, batch_size
        self.quiet = False
        self.probe_batch = next(data.batches("train", batch_size, epoch=0))
        self.eval_batch = next(data.batches("val", 512))
        self.depth = w.IntSlider(depth, min=1, max=max(40, depth), description="layers", **widgets.SLIDER)
        self.blocks = w.IntSlider(num_blocks, min=1, max=min(10, depth), description="blocks", **widgets.SLIDER)
        self.wanted = num_blocks
        self.activation = w.Dropdown(options=list(ACTIVATIONS), value="tanh", description="activation")
        self.init = w.Dropdown(
            options=list(INITS), value="default", description="first weights", style=widgets.SLIDER["style"]
        )
        self.norm = w.Dropdown(options=["none", *(name for name in NORMS if name)], description="norm")
        self.residual = w.Checkbox(False, description="residual", indent=False, layout=w.Layout(width="90px"))
        self.steps = w.IntSlider(20, min=5, max=100, step=5, description="steps", **widgets.SLIDER)
        self.train_button = w.Button(description="Train", button_style="primary", icon="play")
        self.reset_button = w.Button(description="Start anew", icon="undo")
        shape = [self.depth, self.blocks, self.activation, self.init, self.norm, self.residual]
        self.picture = widgets.picture_box()
        super().__init__([*shape, self.steps, self.train_button, self.reset_button], [self.picture])
        self.depth.observe(self.guarded(self.follow), "value")
        for control in shape[1:]:
            control.observe(self.guarded(self.rebuild), "value")
        self.reset_button.on_click(self.guarded(self.rebuild))
        self.train_button.on_click(self.guarded(self.train))
        self.guarded(self.rebuild)()

    def follow(self) -> None:
        """Let the number of blocks follow that of the layers: as many as were wanted, but a layer each at the least."""
        wanted, self.quiet = self.wanted, True
        self.blocks.max = min(10, self.depth.value)
        self.blocks.value = min(wanted, self.blocks.max)
        self.quiet = False
        self.rebuild()
        self.wanted = wanted

    def rebuild(self) -> None:
        """Build both networks as the controls say, and measure them untrained."""
        if self.quiet:
            return
        self.wanted = self.blocks.value
        self.nets = dict(zip(SIDES, (self.build("bp"), self.build(self.method)), strict=True))
        epochs = (self.data.batches("train", self.batch_size, epoch=epoch) for epoch in count())
        self.batches, self.num_steps = chain.from_iterable(epochs), 0
        self.first = self.measure()
        self.draw()

    def build(self, method: str) -> nn.Module:
        """Return the network that the controls describe, cut into equal blocks and trained by `method`."""
        channels, _, side = self.data.shape
        with seeds.seeded(0, "explorer"):
            model = mlp(
                channels, self.data.num_classes, 1.0, side,
                depth=self.depth.value, activation=self.activation.value, init=self.init.value,
                norm=None if self.norm.value == "none" else self.norm.value, residual=self.residual.value,
            )  # fmt: skip
        flatten, *layers, classifier = model
        ends = [round(k * len(layers) / self.blocks.value) for k in range(self.blocks.value + 1)]
        stages = [nn.Sequential(*layers[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        stages[0].insert(0, flatten)
        stages[-1].append(classifier)
        known = lookup(self.method).options
        settings = {k: v for k, v in self.settings.items() if method == self.method or k not in known}
        return decouple(stages, method, self.data.num_classes, self.eval_batch[0][:2], **settings)

    def measure(self) -> pd.DataFrame:
        """Return depth, method, value: the gradient norm of every layer of both networks, on one fixed batch."""
        tables = [
            gradient_profile(net, *self.probe_batch, LINEAR).assign(method=side) for side, net in self.nets.items()
        ]
        return pd.concat(tables, ignore_index=True)

    def train(self) -> None:
        """Train both networks some steps, and show how the gradients move."""
        total = self.steps.value
        with self.busy(f"training {total} steps …") as bar:
            for step in range(1, total + 1):
                x, y = next(self.batches)
                for net in self.nets.values():
                    net.step(x, y)
                self.num_steps, bar.value = self.num_steps + 1, step / total
                if step % 5 == 0 or step == total:
                    self.draw()

    def draw(self) -> None:
        """Show the figure of the networks as they are."""
        self.picture.value = self.still = self.figure().png(widgets.DPI)

    @styled
    def figure(self) -> Picture:
        """Draw gradient norm by layer, backprop left and decoupled right: now, and before training."""
        now = self.measure() if self.num_steps else self.first
        figure = Picture(figsize=(9.6, 4.2))  # laid out by hand and with few ticks: drawn in a third of the time
        left, right = figure.subplots(1, 2, sharey=True)
        figure.subplots_adjust(left=0.1, right=0.99, bottom=0.16, top=0.82, wspace=0.04)
        for panel, side, look in zip((left, right), SIDES, (LOOKS["bp"], LOOKS[self.method]), strict=True):
            for table, style in ((self.first, {"color": "0.6", "ls": "--", "label": "before training"}),
                                 (now, {"color": look.colour, "marker": look.marker, "label": "now"})):  # fmt: skip
                line = table[table["method"] == side]
                if style["label"] == "now" or self.num_steps:
                    panel.plot(line["depth"], line["value"].clip(lower=1e-16), **style)
            panel.set(yscale="log", xlabel="layer (1 is next to the input)", title=self.title(side))
            whole_numbers(panel.xaxis)
            if self.num_steps:
                panel.legend()
        low, high = left.get_ylim()
        left.set_ylim(min(low, 1e-3), max(high, 1))
        left.set_ylabel("gradient norm of the weights")
        left.yaxis.set_major_locator(LogLocator(numticks=8))
        left.yaxis.set_minor_locator(NullLocator())
        left.yaxis.set_major_formatter(lambda value, _: f"1e{round(log10(value))}")
        figure.suptitle(f"after {self.num_steps} training steps" if self.num_steps else "before training", fontsize=13)
        return figure

    def title(self, side: str) -> str:
        """Say what the network is and how often it is right on validation images."""
        x, y = self.eval_batch
        right = [float((logits.argmax(1) == y).float().mean()) for logits in self.nets[side].predict(x)]
        if side == "backprop":
            return f"backprop: right {right[-1]:.0%}"
        if len(right) == 1:
            return f"one block: no cut, only another loss\n{self.method}: right {right[-1]:.0%}"
        return f"{self.method}, {len(right)} blocks:\nbest exit {max(right):.0%}, last {right[-1]:.0%}"
