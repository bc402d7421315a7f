"""Asynchronous training: blocks one after another, each on the finished outputs of the one before (InfoPro, IJCV 2024).

The walk over the blocks is the same; only the order of the loops differs: all epochs of a block, then the next block.
Without augmentation, what a block is fed is the same in every epoch. It is then computed once and kept: in memory, or
where that is too small in files of the run's folder, which go when the run is over.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from kit import data, seeds
from kit.block import Block
from kit.net import Net
from kit.signal import Place, Signal
from kit.train.config import RunConfig
from kit.train.record import History
from kit.train.run import EVALUATION_BATCH, Fit, evaluate


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
            yield from (through(before, self.net.signal(x, y)) for x, y in self.batches())
            return
        if self.inputs is None or self.inputs.stage != self.stage:
            self.inputs = Outputs(self.stage, self._finished(), len(self.data.train), self.folder)
        order = torch.randperm(len(self.data.train), generator=seeds.generator(config.seed, "order", self.epoch))
        for rows in order.split(config.batch_size)[self.batch : self.num_batches]:
            yield self.inputs.take(rows, self.device)

    def _finished(self) -> Iterator[Signal]:
        for x, y in self.data.batches(self.data.train, EVALUATION_BATCH, device=self.device):
            yield through(self.net.blocks[: self.stage], self.net.signal(x, y))


def through(blocks: list[Block], signal: Signal) -> Signal:
    """Return the signal behind `blocks`, which have finished: in evaluation mode, and nothing learns."""
    for block in blocks:
        signal = block.pass_through(signal)
    return signal


class Outputs:
    """All signals for the block of one stage, sample by sample."""

    def __init__(self, stage: int, signals: Iterator[Signal], count: int, folder: Path):
        self.stage, self.parts, begin = stage, {}, 0
        for signal in signals:
            values = signal.parts()
            if not self.parts:
                self.parts = _room(values, count, folder)
            for place, value in values.items():
                self.parts[place][begin : begin + len(value)] = value.cpu()
            begin += len(signal.y)

    def take(self, rows: Tensor, device: torch.device) -> Signal:
        """Return the signal of these samples, in this order."""
        return Signal.of({place: part[rows].to(device) for place, part in self.parts.items()})


def _room(example: dict[Place, Tensor], count: int, folder: Path) -> dict[Place, Tensor]:
    """Return empty tensors for `count` samples like those of `example`: in memory, or in files of `folder`.

    Raises ValueError where neither has room.
    """
    shapes = {place: torch.Size([count, *value.shape[1:]]) for place, value in example.items()}
    total = sum(shapes[place].numel() * value.element_size() for place, value in example.items())
    if total < memory_left() / 2:
        return {place: torch.empty(shapes[place], dtype=value.dtype) for place, value in example.items()}
    free = shutil.disk_usage(folder).free
    if total > free:
        raise ValueError(
            f"one block's outputs for {count} images take {total / 2**30:.1f} GiB, but memory has no room and "
            f"{folder} has {free / 2**30:.1f} GiB left: choose an output folder on a larger disk, a smaller limit, or "
            "an augmentation, with which outputs are computed anew at each step"
        )
    room = {}
    for number, (place, value) in enumerate(example.items()):
        path, size = str(folder / str(number)), shapes[place].numel()
        room[place] = torch.from_file(path, shared=True, size=size, dtype=value.dtype).view(shapes[place])
    return room


def memory_left() -> int:
    """Return the bytes of memory that are free; 0 where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
