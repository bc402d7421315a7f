"""Lesson 7: backprop's gradient, ticks late. Which batch it is of, how far it points from the fresh one, what it costs.

Modules are the blocks of a net that one loss at its end trains, counted from 1; steps count batches, from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import ipywidgets as w
import pandas as pd
import seaborn as sns
import torch.nn.functional as F
from torch import Tensor

from kit.block import Block
from kit.data import Data
from kit.delayed import WEIGHTS
from kit.measure.probes import Readings, differentiate, flat, untouched
from kit.methods import REGISTRY
from kit.net import Net
from kit.pipeline.placement import block_seconds
from kit.pipeline.schedule import SCHEDULES
from kit.pipeline.simulate import Costs, predict
from kit.train import RunConfig, build
from kit.train.run import evaluate
from lessons import widgets
from lessons.style import Picture, marked_lines, percent, styled, whole_numbers


def turns(name: str, num_blocks: int, num_ticks: int) -> pd.DataFrame:
    """Return module, tick, forward, back: which batches a late method takes; <NA> where there is none yet."""
    delay, rows = REGISTRY[name].delay, []
    for k in range(num_blocks):
        rows += [(k + 1, tick, *delay.turn(tick, k, num_blocks)) for tick in range(num_ticks)]
    table = pd.DataFrame(rows, columns=["module", "tick", "forward", "back"])
    numbers = table[["forward", "back"]].astype("Int64")
    return table.assign(**numbers.where(numbers >= 0))


def staleness(name: str, num_blocks: int) -> pd.DataFrame:
    """Return, by module, `ticks`, that a batch's gradient is late, and `missed`, the updates made in between.

    Counted in `SCHEDULES[name]`: an update between a batch's forward pass and its own is one that its gradient has
    not heard of.
    """
    batch, rows = 4 * num_blocks, []
    for k, row in enumerate(SCHEDULES[name](num_blocks, 2 * batch)):
        place = {op.kind: i for i, op in enumerate(row) if op.batch == batch}
        missed = sum(op.kind == "U" for op in row[place["F"] : place["U"]])
        rows.append((k + 1, REGISTRY[name].delay.ticks(k, num_blocks), missed))
    return pd.DataFrame(rows, columns=["module", "ticks", "missed"]).set_index("module")


def training_batches(config: RunConfig, data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the batches of all epochs, as `kit.fit` takes them."""
    for epoch in range(config.epochs):
        yield from data.batches("train", config.batch_size, epoch=epoch, seed=config.seed, augment=config.augment)


def ready(config: RunConfig, data: Data) -> Net:
    """Return the config's net with its learning rates scheduled, about to train."""
    net, epoch = build(config, data), data.num_batches("train", config.batch_size)
    for block in net:
        block.set_schedule(config.schedule, config.epochs * epoch, round(config.warmup_epochs * epoch))
    return net.train()


def follow(config: RunConfig, data: Data, every: int | None = None) -> tuple[pd.DataFrame, float]:
    """Train the config's net; return what was read of its gradients, and its last exit's accuracy on test, in [0, 1].

    The table has step, depth, layer, metric, value, and rows for every `every`-th batch of every module: `late`, the
    norm of the gradient that it learns from; `fresh`, that of backprop's on the same batch, at the weights of all
    modules as they are when the late one comes; `cosine`, that of the angle between the two. Training is not changed.
    """
    net, given = ready(config, data), []
    readings = Readings([f"module {block.index + 1}" for block in net])
    with ExitStack() as hooks:
        for block in net if every else ():
            read = partial(_read, net, block, given, readings, every)
            hooks.enter_context(block.optimizer.register_step_pre_hook(read))
        for x, y in training_batches(config, data):
            given.append((x, y))
            net.step(x, y)
    return readings.table, evaluate(net, data)[-1]


def _read(net: Net, block: Block, given: list, readings: Readings, every: int, *_: object) -> None:
    step = block.num_steps  # each module learns from each batch once, in order: this one's number as well
    if step % every == 0:
        late = flat([p.grad for p in block.body.parameters()])
        fresh = fresh_gradient(net, block, *given[step])
        cosine = F.cosine_similarity(late, fresh, dim=0)
        readings.keep(f"module {block.index + 1}", step, late=late.norm(), fresh=fresh.norm(), cosine=cosine)


def fresh_gradient(net: Net, block: Block, x: Tensor, y: Tensor) -> Tensor:
    """Return backprop's gradient (P,) by the weights of the block's body, at today's weights. Changes nothing."""
    with untouched(net):
        h = x
        for module in net:
            h = module.body(h)
        return flat(differentiate(F.cross_entropy(net[-1].readout(h), y), [*block.body.parameters()]))


def drift(config: RunConfig, data: Data, every: int = 10) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train the same net with each mode of WEIGHTS; return weights, step, value, and the accuracies on test by mode.

    The value is the distance from the net with stashed weights, whose late gradient is exact, as a share of the way
    that one has come from the first weights.
    """
    nets = {mode: ready(replace(config, options={**config.options, "weights": mode}), data) for mode in WEIGHTS}
    first, rows = _weights(nets["stashed"]), []
    for step, (x, y) in enumerate(training_batches(config, data), 1):
        for net in nets.values():
            net.step(x, y)
        if step % every == 0:
            now = {mode: _weights(net) for mode, net in nets.items()}
            way = (now["stashed"] - first).norm()
            rows += [(mode, step, float((at - now["stashed"]).norm() / way)) for mode, at in now.items()]
    table = pd.DataFrame(rows, columns=["weights", "step", "value"])
    return table, {mode: evaluate(net, data)[-1] for mode, net in nets.items()}


def _weights(net: Net) -> Tensor:
    return flat([p.detach() for block in net for p in block.body.parameters()])


def accuracies(configs: dict[str, RunConfig], data: Data, seeds: Sequence[int]) -> pd.DataFrame:
    """Train each config with each seed; return case, seed, accuracy on test."""
    rows = []
    for case, config in configs.items():
        rows += [(case, seed, follow(replace(config, seed=seed), data)[1]) for seed in seeds]
    return pd.DataFrame(rows, columns=["case", "seed", "accuracy"])


def steps_per_second(config: RunConfig, data: Data, methods: Sequence[str], repeats: int, num_micro: int = 4):
    """Return method, kind, value: batches per second, `measured` in one process and `predicted` for one per module.

    Measured is what the modules take one after the other (medians of `repeats`). The prediction deals these seconds out
    as twice as many for a backward pass as for a forward one. Backprop is to be 1F1B with `num_micro` micro-batches
    free of overhead, its seconds divided among the modules as FDG's are.
    """
    nets = {name: build(replace(config, method=name), data) for name in {*methods, "fdg"}}
    seconds = {name: block_seconds(net, data, config.batch_size, repeats) for name, net in nets.items()}
    rows = []
    for name in methods:
        own, whole = seconds[name], sum(seconds[name])
        if len(own) == 1:
            own = [whole * part / sum(seconds["fdg"]) for part in seconds["fdg"]]
        delay = REGISTRY[name].delay
        again = bool(delay) and delay.weights == "replayed"
        forward = [part / (4 if again and k < len(own) - 1 else 3) for k, part in enumerate(own)]
        costs = Costs(forward=forward, backward=[2 * part for part in forward], update=[0.0] * len(own))
        schedule = "1f1b" if REGISTRY[name].end_to_end else name if delay else "decoupled"
        best = predict(schedule, costs, len(own), num_micro)["step_seconds"]
        rows += [(name, "one process, measured", 1 / whole), (name, f"{len(own)} processes, predicted", 1 / best)]
    return pd.DataFrame(rows, columns=["method", "kind", "value"])


@styled
def tick_by_tick(table: pd.DataFrame, tick: int) -> Picture:
    """Draw which batch each module takes forward (above) and back (below), up to `tick`; later ones are pale.

    `table` as from `turns`.
    """
    num_blocks, num_ticks = table["module"].max(), table["tick"].max() + 1
    figure = Picture(figsize=(9.6, min(5.9, 1.4 + 0.62 * num_blocks)), layout="constrained")
    panel, palette = figure.subplots(), sns.color_palette("colorblind")
    for row in table.itertuples():
        for batch, colour, low in ((row.forward, palette[0], 0.02), (row.back, palette[1], -0.4)):
            if not pd.isna(batch):
                shown = 1.0 if row.tick == tick else 0.5 if row.tick < tick else 0.1
                panel.bar(row.tick, 0.38, 0.9, row.module - low - 0.38, color=colour, alpha=shown)
                weight = "bold" if row.tick == tick else "normal"
                if row.tick <= tick:
                    place = row.tick, row.module - low - 0.19
                    panel.text(*place, batch, ha="center", va="center", fontsize=10, fontweight=weight)
    panel.set(xlim=(-0.6, num_ticks - 0.4), ylim=(num_blocks + 0.5, 0.5), xlabel="tick", ylabel="module")
    panel.set_title(f"tick {tick}: batch forward (blue), back (orange)")
    whole_numbers(panel.xaxis, most=20)
    whole_numbers(panel.yaxis)
    panel.grid(False)
    return figure


@styled
def cosines(tables: dict[str, pd.DataFrame]) -> Picture:
    """Draw the cosine of late and fresh gradient over training, a line per module, a panel per method.

    The tables are those of `follow`, by what they are of; neighbouring readings are averaged.
    """
    figure = Picture(figsize=(9.6, 4.4), layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for panel, (name, table) in zip(panels, tables.items(), strict=True):
        rows = table[table["metric"] == "cosine"].rename(columns={"layer": "module"})
        width = (rows["step"].max() + 1) / 8
        rows = rows.assign(step=(rows["step"] // width + 0.5) * width)
        panel.axhline(0, color="0.5", lw=1)
        panel.set(ylim=(-0.3, 1.05), title=name)
        marked_lines(panel, rows, "step", by="module", errorbar=None)
        panel.set(xlabel="batch", ylabel="cosine to the fresh gradient")
    return figure


@styled
def shrinking(norms: pd.DataFrame, right: pd.DataFrame, backprop: float) -> Picture:
    """Draw what the factor β does: the norm of each module's gradient (left), and the accuracy (right).

    `norms` has β (a name), module, value; `right` beta (a number), seed, accuracy; `backprop` is backprop's accuracy.
    """
    figure = Picture(figsize=(9.6, 4.4), layout="constrained")
    left, panel = figure.subplots(1, 2, width_ratios=(1.4, 1))
    marked_lines(left, norms, "module", by="β")
    left.set(yscale="log", xlabel="module", ylabel="norm of the late gradient", xticks=sorted(norms["module"].unique()))
    marked_lines(panel, right.assign(method="fdg"), "beta", "accuracy")
    panel.axhline(backprop, color="0.3", ls="--")
    panel.set(xlabel="β", ylabel="accuracy (dashed: backprop)", xticks=sorted(right["beta"].unique()))
    percent(panel.yaxis)
    return figure


@styled
def drifting(table: pd.DataFrame) -> Picture:
    """Draw how far the modes of WEIGHTS drift from stashed weights, as a share of the way come. Table as of `drift`."""
    figure = Picture(figsize=(8.4, 4.4), layout="constrained")
    panel = figure.subplots()
    marked_lines(panel, table[table["weights"] != "stashed"], "step", by="weights")
    panel.set(xlabel="batch", ylabel="distance from stashed, share of the way")
    percent(panel.yaxis, decimals=0)
    return figure


@styled
def suffering(table: pd.DataFrame) -> Picture:
    """Draw accuracy against the first module's delay, a line per optimizer: columns optimizer, delay, accuracy."""
    figure = Picture(figsize=(8.4, 4.4), layout="constrained")
    panel = figure.subplots()
    marked_lines(panel, table, "delay", "accuracy", by="optimizer")
    delays = sorted(table["delay"].unique())
    panel.set(xlabel="delay of the first module's gradient, ticks", ylabel="accuracy on test", xticks=delays)
    percent(panel.yaxis)
    return figure


@styled
def side_by_side(right: pd.DataFrame, speed: pd.DataFrame) -> Picture:
    """Draw accuracy by method, a dot per seed, beside batches per second, measured and predicted.

    `right` as from `accuracies`, `speed` as from `steps_per_second`.
    """
    figure = Picture(figsize=(9.6, 4.4), layout="constrained")
    left, panel = figure.subplots(1, 2)
    order = list(right["case"].unique())
    sns.stripplot(right, x="accuracy", y="case", order=order, color="0.2", size=8, jitter=False, ax=left)
    left.set(xlabel="accuracy on test, a dot per seed", ylabel="")
    percent(left.xaxis)
    sns.barplot(speed, x="value", y="method", hue="kind", ax=panel)
    panel.set(xlabel="batches per second", ylabel="")
    sns.move_legend(panel, "lower center", bbox_to_anchor=(0.5, 1.0), title=None, fontsize="small")
    return figure


def schedule_explorer() -> widgets.Explorer | Picture:
    """Return the explorer that steps through a schedule: modules, method, tick. Headless, FDG at tick 8 of K = 4."""

    def figure(method: str, modules: int, tick: int) -> Picture:
        return tick_by_tick(turns(method, modules, 20), tick)

    return widgets.figure_explorer(
        figure,
        method=w.Dropdown(options=[name for name, own in REGISTRY.items() if own.delay], description="method"),
        modules=w.IntSlider(4, min=2, max=6, description="modules", **widgets.SLIDER),
        tick=w.IntSlider(8, min=0, max=19, description="tick", **widgets.SLIDER),
    )


def delay_explorer(config: RunConfig, data: Data) -> widgets.Explorer | Picture:
    """Return the explorer of K, β and delay: each setting is trained when it is asked for, which takes seconds.

    A delay of 0 ticks a module is backprop, of 1 DDG, of 2 FDG. Headless, FDG of four modules, β = 1.
    """

    def figure(modules: int, beta: float, delay: str) -> Picture:
        options = {} if delay == "bp" else {"beta": beta}
        own = replace(config, method=delay, num_blocks=modules, options=options)
        table, right = follow(own, data, every=4)
        return cosines({f"accuracy on test {right:.1%}": table})

    return widgets.figure_explorer(
        figure,
        modules=w.IntSlider(4, min=1, max=6, description="modules", **widgets.SLIDER),
        beta=w.SelectionSlider(options=[0.2, 0.35, 0.5, 0.65, 0.8, 1.0], value=1.0, description="β"),
        delay=w.SelectionSlider(options=[("0", "bp"), ("1", "ddg"), ("2", "fdg")], value="fdg", description="delay"),
    )
