"""Asynchronous training: blocks one after another, each on the finished outputs of the one before (InfoPro, IJCV 2024).

The walk over the blocks is the same; only the order of the loops differs: all epochs of a block, then the next block.
Without augmentation, what a block is fed is the same in every epoch. It is then computed once and kept: in memory, or
where that is too small in files of the run's folder, which go when the run is over.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from kit import data, seeds
from kit.blocks.block import Block
from kit.blocks.net import Net
from kit.blocks.signal import Signal
from kit.config import RunConfig
from kit.loop import EVALUATION_BATCH, Fit, evaluate
from kit.records import History


class Stagewise(Fit):
    """A run whose epochs go to one block after another; an exit has accuracies from its own first epoch on."""

    def __init__(self, net: Net, loaded: data.Data, config: RunConfig, on_epoch=None):
        super().__init__(net, loaded, config, on_epoch)
        self.num_epochs = config.epochs * len(net)
        self.inputs: Outputs | None = None
        self.keeps = (config.augment or loaded.augmentation) == "none"

    @property
    def stage(self) -> int:
        """The block that learns, from 0."""
        return min(self.epoch // self.config.epochs, len(self.net) - 1)

    def run(self) -> History:
        for left in self.config.folder.glob("outputs-*") if self.config.folder else ():
            shutil.rmtree(left)  # of a run that was killed; this one holds the folder's lock
        with tempfile.TemporaryDirectory(prefix="outputs-", dir=self.config.folder) as folder:
            self.folder = Path(folder)
            return super().run()

    def steps(self) -> Iterator[None]:
        block = self.net[self.stage]
        for other in self.net:
            other.train(other is block)
            other.last_terms = {}
        for signal in self._signals():
            block.step(signal)
            yield

    def accuracy(self, split: str) -> list[float]:
        learned = Net(self.net.blocks[: self.stage + 1], self.net.method, self.net.num_classes, self.net.channels_last)
        return evaluate(learned, self.data, split)

    def _signals(self) -> Iterator[Signal]:
        """Give what is left of the epoch's signals for the block that learns."""
        before, config = self.net.blocks[: self.stage], self.config
        if not before or not self.keeps:
            options = {"seed": config.seed, "augment": config.augment, "device": self.device}
            batches = self.data.batches("train", config.batch_size, epoch=self.epoch, start=self.batch, **options)
            yield from (through(before, self.net.signal(x, y)) for x, y in batches)
            return
        if self.inputs is None or self.inputs.stage != self.stage:
            self.inputs = Outputs(self.stage, self._finished(), len(self.data.train), self.folder)
        order = torch.randperm(len(self.data.train), generator=seeds.generator(config.seed, "order", self.epoch))
        for rows in order.split(config.batch_size)[self.batch : self.num_batches]:
            yield self.inputs.take(rows, self.device)

    def _finished(self) -> Iterator[Signal]:
        for x, y in self.data.batches(self.data.train, EVALUATION_BATCH, device=self.device):
            yield through(self.net.blocks[: self.stage], self.net.signal(x, y))


@torch.no_grad()
def through(blocks: list[Block], signal: Signal) -> Signal:
    """Return the signal behind `blocks`, which have finished: in evaluation mode, and nothing learns."""
    for block in blocks:
        with block.autocast(signal.h):
            h = block(signal)
        signal = block.hand_on(signal, h)
    return signal


class Outputs:
    """All signals for the block of one stage, sample by sample."""

    def __init__(self, stage: int, signals: Iterator[Signal], count: int, folder: Path):
        self.stage, self.parts, begin = stage, {}, 0
        for signal in signals:
            values = dict(_tensors(signal))
            if not self.parts:
                self.parts = _room(values, count, folder)
            for name, value in values.items():
                self.parts[name][begin : begin + len(value)] = value.cpu()
            begin += len(signal.y)

    def take(self, rows: Tensor, device: torch.device) -> Signal:
        """Return the signal of these samples, in this order."""
        values = {name: part[rows].to(device) for name, part in self.parts.items()}
        context = tuple(values.pop(name) for name in sorted(values) if name.startswith("context"))
        views = {name.removeprefix("view-"): values.pop(name) for name in list(values) if name.startswith("view-")}
        return Signal(**values, context=context, views=views)


def _tensors(signal: Signal) -> Iterator[tuple[str, Tensor]]:
    for field in fields(signal):
        value = getattr(signal, field.name)
        if isinstance(value, tuple):
            yield from ((f"{field.name}{i:03}", item) for i, item in enumerate(value))
        elif isinstance(value, Mapping):
            yield from ((f"view-{name}", item) for name, item in value.items())
        elif value is not None:
            yield field.name, value


def _room(example: dict[str, Tensor], count: int, folder: Path) -> dict[str, Tensor]:
    """Return empty tensors for `count` samples like those of `example`: in memory, or in files of `folder`.

    Raises ValueError where neither has room.
    """
    needed = {name: count * value[0].numel() * value.element_size() for name, value in example.items()}
    shapes = {name: (count, *value.shape[1:]) for name, value in example.items()}
    total = sum(needed.values())
    if total < memory_left() / 2:
        return {name: torch.empty(shapes[name], dtype=value.dtype) for name, value in example.items()}
    free = shutil.disk_usage(folder).free
    if total > free:
        raise ValueError(
            f"one block's outputs for {count} images take {total / 2**30:.1f} GiB, but memory has no room and "
            f"{folder} has {free / 2**30:.1f} GiB left: choose an output folder on a larger disk, a smaller limit, or "
            "an augmentation, with which outputs are computed anew at each step"
        )
    room = {}
    for name, value in example.items():
        size = needed[name] // value.element_size()
        file = torch.from_file(str(folder / name), shared=True, size=size, dtype=value.dtype)
        room[name] = file.view(shapes[name])
    return room


def memory_left() -> int:
    """Return the bytes of memory that are free; 0 where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
