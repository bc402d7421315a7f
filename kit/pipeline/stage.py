"""One rank's part of a run: `kit.train.run` over its own blocks, between two links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor

from kit.block import Block
from kit.data import Data, Split
from kit.net import Net
from kit.pipeline import replicas, saved
from kit.pipeline.exceptions import waiting
from kit.pipeline.options import Options, Place
from kit.pipeline.transport import Receiver, Sender
from kit.signal import Signal
from kit.train import checkpoint
from kit.train.config import RunConfig
from kit.train.run import EVALUATION_BATCH, Fit


def hollow(loaded: Data) -> Data:
    """Return what the other ranks know of a dataset: shapes and sizes, but no image and no label."""

    def empty(split: Split) -> Split:
        images = torch.empty(len(split), *loaded.shape, dtype=torch.uint8, device="meta")
        return Split(images, torch.empty(len(split), dtype=torch.int64, device="meta"))

    return replace(loaded, train=empty(loaded.train), val=empty(loaded.val), test=empty(loaded.test))


class Stage(Fit):
    """A rank's blocks in training: receive a signal, step the blocks, send the signal on; never wait for a gradient.

    Every rank keeps the whole record, gathered at the end of each epoch, so that all decide alike; rank 0 writes it.
    """

    cuts: str | tuple[str, ...] = "auto"

    def __init__(
        self, whole: Net, own: range, loaded: Data, config: RunConfig, place: Place, options: Options, data_group
    ):
        part = Net([], whole.method, whole.num_classes, whole.channels_last)
        super().__init__(part, loaded, config, whole=whole)
        self.place, self.data_group, self.quiet = place, data_group, place.rank != 0
        self.own, self.statistics = own, options.statistics
        if data_group:
            self.identity |= {"num_replicas": options.num_replicas, "statistics": options.statistics}
        self.receiver = None if place.is_first else Receiver(place.rank - 1, self.device, options.timeout)
        self.sender = None if place.is_last else Sender(place.rank + 1, options.depth, options.timeout)
        for block in whole:
            self._take(block)
        self._take_in()

    def add_block(self) -> None:
        super().add_block()
        self._take(self.whole[-1])
        for link in filter(None, (self.receiver, self.sender)):
            link.layouts.clear()  # the new block may ask for more to be sent

    def _take(self, block: Block) -> None:
        """Make the block one of this rank's, if it is."""
        if block.index in self.own:
            self.net.blocks.append(block)
            if self.data_group:
                replicas.share(block, self.data_group, self.statistics)

    def steps(self) -> Iterator[None]:
        with self.whole.one_step():  # other ranks work on other batches: no growth before the epoch is over for all
            for signal in self._signals("train"):
                for block in self.net:
                    signal = _step(block, signal)
                self._pass_on(signal, "train")
                yield
        if self.sender:
            self.sender.drain()
        self.everyone(None)  # the epoch is over when it is over for all

    @torch.no_grad()
    def accuracy(self, split: str) -> list[float]:
        if self.data_group:
            replicas.sync_buffers(self.net, self.data_group)
        self._share_decoders()
        self.net.eval()
        correct = torch.zeros(self.net.num_exits, device=self.device)
        for signal in self._signals(split):
            labels, exits = signal.y, []
            for block in self.net:
                answers, signal = block.exits(signal)
                exits += answers
            correct += torch.tensor([float((logits.argmax(1) == labels).sum()) for logits in exits], device=self.device)
            self._pass_on(signal, split)
        counts, length = self.everyone(correct.tolist()), self.place.num_stages
        by_replica = [
            sum(counts[i : i + length], []) for i in range(0, len(counts), length)
        ]  # each: first exit to last
        return (torch.tensor(by_replica).sum(0) / len(getattr(self.data, split))).tolist()

    def _share_decoders(self) -> None:
        """Bring up to date the decoders that this rank answers with and others train (AL)."""
        if self.net.method != "al":
            return
        own = {b.index: {n: t.cpu() for n, t in b.objective.decoder.state_dict().items()} for b in self.net}
        states = {index: state for given in self.everyone(own) for index, state in given.items()}
        for block in self.net:
            for index, decoder in enumerate(block.objective.earlier):
                decoder.load_state_dict(states[index])

    def mean_terms(self) -> list[tuple[int, str, float]]:
        parts = self.everyone(super().mean_terms())
        num_stages, num_replicas = self.place.num_stages, self.place.num_replicas
        rows = []
        for stage in range(num_stages):
            for same in zip(*parts[stage::num_stages], strict=True):  # one term, as every replica saw it
                rows.append((*same[0][:2], sum(value for *_, value in same) / num_replicas))
        return rows

    def save(self) -> None:
        if self.data_group:
            replicas.sync_buffers(self.net, self.data_group)
        states = {f"block{b.index}": (b.training_state(), s) for b, s in zip(self.net, self.sums, strict=True)}
        if self.place.rank == 0:
            states["run"] = {"config": self.identity, "cuts": self.cuts, "num_blocks": len(self.whole), **self.state()}
        step = self.epoch * self.num_batches + self.batch
        saved.save(self.config.folder / saved.FOLDER, f"step-{step:08}", states, self.place.rank == 0)

    def save_best(self) -> None:
        states = {f"block{block.index}": block.state_dict() for block in self.net}
        if self.place.rank == 0:
            states["run"] = {"config": self.identity, "epoch": self.epoch, "num_blocks": len(self.whole)}
        saved.save(self.config.folder / saved.FOLDER, f"best-{self.epoch:08}", states, self.place.rank == 0)

    def save_record(self) -> None:
        if self.place.rank == 0:
            super().save_record()

    def resume(self) -> None:
        folder = self.config.folder
        path = folder and saved.latest(folder / saved.FOLDER, "step")
        if not path:
            return super().resume()  # one process may have begun this run, or ended it
        run = saved.load(path, ["run"])["run"]
        checkpoint.check_settings(path, self.identity, run["config"])
        self.grow_to(run["num_blocks"])
        state = saved.load(path, [f"block{block.index}" for block in self.net])
        for k, block in enumerate(self.net):
            training, self.sums[k] = state[f"block{block.index}"]
            block.load_training_state(training)
        self.load_state(run)

    def export(self) -> None:
        """Write `checkpoint.pt` and `best.pt` as a run in one process does, and drop the parts they are made of."""
        folder = self.config.folder
        path = folder and saved.latest(folder / saved.FOLDER, "step")
        if path and self.place.rank == 0:
            keys = [f"block{k}" for k in range(len(self.whole))]
            parts = saved.load(path, ["run", *keys])
            blocks, sums = zip(*(parts[key] for key in keys), strict=True)
            state = {"blocks": list(blocks), "sums": list(sums), "random_state": torch.get_rng_state()}
            checkpoint.save(folder / checkpoint.LATEST, self.identity, state | self.state())
            best = saved.latest(folder / saved.FOLDER, "best")
            keys = keys[: saved.load(best, ["run"])["run"]["num_blocks"]]
            best = saved.load(best, ["run", *keys])
            weights = {f"blocks.{k}.{n}": t for k, key in enumerate(keys) for n, t in best[key].items()}
            weights = {"epoch": best["run"]["epoch"], "net": weights}
            checkpoint.save(folder / checkpoint.BEST, self.identity, weights)
            saved.remove(folder)

    def everyone(self, mine: object) -> list:
        """Return what every rank gave, by rank."""
        given: list = [None] * dist.get_world_size()
        with waiting("waiting for all ranks"):
            dist.all_gather_object(given, mine)
        return given

    def _signals(self, kind: str) -> Iterator[Signal]:
        """Give the signals of a pass: training from where the epoch stands, else the whole split."""
        training = kind == "train"
        batch_size, start = (self.config.batch_size, self.batch) if training else (EVALUATION_BATCH, 0)
        shards = shard_sizes(self.data, kind, batch_size, self.place.num_replicas)
        sizes = [shard[self.place.replica] for shard in shards[start:]]
        if self.receiver:
            yield from self.receiver.signals(kind, [size for size in sizes if size])
            return
        batches = self.batches() if training else self.data.batches(kind, batch_size, device=self.device)
        for (x, y), size in zip(batches, sizes, strict=True):
            if size:
                yield self.whole.signal(self._shard(x), self._shard(y))

    def _shard(self, batch: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        if isinstance(batch, dict):
            return {name: self._shard(view) for name, view in batch.items()}
        return batch.tensor_split(self.place.num_replicas)[self.place.replica]

    def _pass_on(self, signal: Signal, kind: str) -> None:
        if self.sender:
            self.sender.send(signal, kind)


def _step(block: Block, signal: Signal) -> Signal:
    try:
        return block.step(signal)
    except Exception as error:
        raise RuntimeError(f"block {block.index + 1}: {type(error).__name__}: {error}") from error


def shard_sizes(loaded: Data, split: str, batch_size: int, num_replicas: int) -> list[list[int]]:
    """Return how many samples of each batch go to each replica; batches as `Data.batches` makes them."""
    count, num_batches = len(getattr(loaded, split)), loaded.num_batches(split, batch_size)
    sizes = [min(batch_size, count - start) for start in islice(range(0, count, batch_size), num_batches)]
    return [[size // num_replicas + (r < size % num_replicas) for r in range(num_replicas)] for size in sizes]
