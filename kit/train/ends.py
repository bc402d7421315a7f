"""The two ends of a run: where its signals come from, and where they go; and who else takes part.

A run in one process reads a dataset and hands on to nobody. A rank of the pipeline has links for ends (`kit.pipeline`),
a stagewise run reads the finished outputs of earlier blocks (`kit.train.stagewise`).
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from kit.block import Block
from kit.data import Data
from kit.delayed import DelayedBlock, tick
from kit.net import Net
from kit.signal import Signal
from kit.train.config import RunConfig

EVALUATION_BATCH = 512


class Source:
    """Where signals come from."""

    num_turns = 1
    """How often the run's epochs are gone through: once, or once for each block."""

    def signals(self, split: str, epoch: int = 0, start: int = 0) -> Iterator[Signal]:
        """Give the signals of a pass: those of training epoch `epoch` from batch `start` on, else the whole split."""
        raise NotImplementedError

    def turn(self, blocks: Sequence[Block], epoch: int) -> tuple[Sequence[Block], Sequence[Block]]:
        """Return which of this process's blocks learn in that epoch, and which answer after it."""
        return blocks, blocks


class FromData(Source):
    """Batches of a dataset, for the net's first block. `shard` takes this replica's rows of a tensor (B, …)."""

    def __init__(self, net: Net, data: Data, config: RunConfig, shard: Callable[[Tensor], Tensor] | None = None):
        self.net, self.data, self.config, self.shard = net, data, config, shard

    def signals(self, split: str, epoch: int = 0, start: int = 0) -> Iterator[Signal]:
        data, config, device = self.data, self.config, self.net.device
        if split == "train":
            order = {"epoch": epoch, "start": start, "seed": config.seed, "augment": config.augment}
            order |= {"classes_per_batch": config.classes_per_batch}
            batches = data.batches("train", config.batch_size, device=device, **order)
        else:
            batches = data.batches(split, EVALUATION_BATCH, device=device)
        for x, y in batches:
            if self.shard is not None:
                x = {k: self.shard(view) for k, view in x.items()} if isinstance(x, dict) else self.shard(x)
                y = self.shard(y)
            if len(y):  # of a batch smaller than the number of replicas some get nothing
                yield self.net.signal(x, y)


class Nowhere:
    """The end of the last block: nobody reads on."""

    def put(self, signal: Signal) -> None:
        """Hand on a signal."""

    def drain(self) -> None:
        """End a pass: wait until all that was handed on has arrived."""

    def tick(self, blocks: Sequence[DelayedBlock], signal: Signal | None) -> None:
        """Let `blocks`, whose gradients come late, work for one tick, and hand on what leaves them at both ends."""
        tick(blocks, signal)

    def settle(self) -> None:
        """Bring what was handed over in the last tick, so that blocks hold all that is under way."""


class Alone:
    """The only process of a run: what it measured is all there is."""

    is_main = writes = True
    """Whether this process writes the record, and its blocks."""

    def gather(self, value: object, doing: str) -> list:
        """Return what every rank gave (JSON values), by rank; `doing` says what for, should one not answer."""
        return [value]

    def totals(self, rows: list[list], doing: str) -> list[list]:
        """Return the rows [*key, number] of all blocks, first to last; replicas' numbers summed."""
        return rows

    def mean(self, rows: list[list], doing: str) -> list[list]:
        """Return `totals`, divided by the number of replicas."""
        return rows

    def share(self, block: Block) -> None:
        """Make a block that has joined the net one of this rank's, if it is."""

    def settle(self, net: Net) -> None:
        """Bring up to date what others trained and this process answers with or keeps."""


NOWHERE, ALONE = Nowhere(), Alone()
