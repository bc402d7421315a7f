"""Asynchronous training: blocks one after another, each on the finished outputs of the one before (InfoPro, IJCV 2024).

The walk over the blocks is the same; only the order of the loops differs: all epochs of a block, then the next block.
Without augmentation, what a block is fed is the same in every epoch. It is then computed once and kept: in memory, or
where that is too small in files on the disk of the run's folder, which go with the process.
"""

import mmap
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import torch
from torch import Tensor

from kit import seeds
from kit.block import Block
from kit.data import Data
from kit.net import Net
from kit.signal import Signal, Slot
from kit.train.config import RunConfig
from kit.train.ends import FromData


class FromFinished(FromData):
    """Signals for the block whose turn it is, behind those that have finished."""

    def __init__(self, net: Net, data: Data, config: RunConfig):
        super().__init__(net, data, config)
        self.num_turns, self.outputs = len(net), None
        self.keeps = (config.augment or data.augmentation) == "none"

    def turn(self, blocks: Sequence[Block], epoch: int) -> tuple[Sequence[Block], Sequence[Block]]:
        """Return the block that learns in that epoch; up to it, blocks answer: an exit from its own first epoch on."""
        k = min(epoch // self.config.epochs, len(blocks) - 1)
        return blocks[k : k + 1], blocks[: k + 1]

    def signals(self, split: str, epoch: int = 0, start: int = 0) -> Iterator[Signal]:
        (learning,), (*finished, _) = self.turn(list(self.net), epoch)
        before = finished if split == "train" else []
        if not before or not self.keeps:
            yield from (through(before, signal) for signal in super().signals(split, epoch, start))
            return
        if self.outputs is None or self.outputs.block is not learning:
            self.outputs = None  # gives back what the block before was fed with
            folder = self.config.folder or Path(tempfile.gettempdir())
            everything = (through(before, signal) for signal in super().signals(self.data.train))  # in its own order
            self.outputs = Outputs(learning, everything, len(self.data.train), folder)
        config, count = self.config, self.data.num_batches("train", self.config.batch_size)
        order = torch.randperm(len(self.data.train), generator=seeds.generator(config.seed, "order", epoch))
        for rows in order.split(config.batch_size)[start:count]:
            yield self.outputs.take(rows, self.net.device)


def through(blocks: Sequence[Block], signal: Signal) -> Signal:
    """Return the signal behind `blocks`, which have finished: in evaluation mode, and nothing learns."""
    for block in blocks:
        signal = block.pass_through(signal)
    return signal


class Outputs:
    """All signals for one block, sample by sample."""

    def __init__(self, block: Block, signals: Iterator[Signal], count: int, folder: Path):
        self.block, self.parts, begin = block, {}, 0
        for signal in signals:
            values = signal.parts()
            if not self.parts:
                self.parts = _room(values, count, folder)
            for slot, value in values.items():
                self.parts[slot][begin : begin + len(value)] = value.cpu()
            begin += len(signal.h)

    def take(self, rows: Tensor, device: torch.device) -> Signal:
        """Return the signal of these samples, in this order."""
        return Signal.of({slot: part[rows].to(device) for slot, part in self.parts.items()})


def _room(example: dict[Slot, Tensor], count: int, folder: Path) -> dict[Slot, Tensor]:
    """Return empty tensors for `count` samples like those of `example`: in memory, or in files on the disk of `folder`.

    Raises ValueError where neither has room.
    """
    total = sum(count * value[:1].nbytes for value in example.values())
    fits = total < psutil.virtual_memory().available / 2
    if not fits and total > (free := shutil.disk_usage(folder).free):
        raise ValueError(
            f"one block's outputs for {count} images take {total / 2**30:.1f} GiB, but memory has no room and "
            f"{folder} has {free / 2**30:.1f} GiB left: choose an output folder on a larger disk, a smaller limit, or "
            "an augmentation, with which outputs are computed anew at each step"
        )
    room = {}
    for slot, value in example.items():
        size, dtype = count * value[0].numel(), value.dtype
        if fits:
            numbers = torch.empty(size, dtype=dtype)
        else:
            with tempfile.TemporaryFile(dir=folder) as file:  # has no name, so it goes however the process ends
                file.truncate(size * dtype.itemsize)
                numbers = torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=dtype)
        room[slot] = numbers.view(count, *value.shape[1:])
    return room
