"""The run: epochs over the signals of a source, with evaluation, growth, checkpoints and resumption."""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from kit import data
from kit.block import Block
from kit.modules import evaluating
from kit.net import Net
from kit.signal import Signal
from kit.train import checkpoint
from kit.train.config import RunConfig
from kit.train.ends import ALONE, EVALUATION_BATCH, NOWHERE, Alone, Nowhere, Source
from kit.train.progress import Progress
from kit.train.record import History
from kit.walk import walk

OnEpoch = Callable[[int, Net], None] | None


@torch.no_grad()
def count_correct(blocks: Sequence[Block], signals: Iterable[Signal], sink: Nowhere = NOWHERE) -> list[int]:
    """Return how many samples each exit of `blocks` answers right, first to last; signals are handed on to `sink`."""
    correct: list[Tensor | int] = [0 for block in blocks for _ in block.body]
    for signal in signals:
        after = signal
        for k, visit in enumerate(walk(blocks, signal)):
            correct[k] = correct[k] + (visit.logits().argmax(1) == signal.y).sum()
            after = visit.after or after
        sink.put(after)
    sink.drain()
    return [int(count) for count in correct]


def evaluate(net: Net, loaded: data.Data, split: str = "test") -> list[float]:
    """Return the accuracy, in [0, 1], of every exit on a split, first to last."""
    batches = loaded.batches(split, EVALUATION_BATCH, device=net.device)
    with evaluating(net):
        return _shares(count_correct(list(net), (net.signal(x, y) for x, y in batches)), loaded, split)


def _shares(counts: Sequence[int], loaded: data.Data, split: str) -> list[float]:
    return (torch.tensor(counts, dtype=torch.float32) / len(getattr(loaded, split))).tolist()


class Run:
    """One run: where it stands, and what it has recorded.

    Signals come from `source`, pass the blocks of `net` that are this process's (`own` by number, None: all), and go to
    `sink`; `ranks` brings together what several processes measured. `identity` says what is trained.
    """

    def __init__(
        self, net: Net, loaded: data.Data, config: RunConfig, identity: dict, source: Source, *,
        sink: Nowhere = NOWHERE, ranks: Alone = ALONE, own: range | None = None, on_epoch: OnEpoch = None,
    ):  # fmt: skip
        self.net, self.data, self.config, self.identity, self.on_epoch = net, loaded, config, identity, on_epoch
        self.source, self.sink, self.ranks, self.own = source, sink, ranks, own
        self.device = net.device
        self.history = History(identity, noise=loaded.realised_noise())
        self.epoch, self.batch, self.best = 0, 0, -1.0
        self.sums: dict[int, dict[str, tuple[Tensor, int]]] = {}
        self.num_epochs = config.epochs * source.num_turns
        self.num_batches = loaded.num_batches("train", config.batch_size)
        self._schedule_new()

    @property
    def blocks(self) -> list[Block]:
        """This process's blocks."""
        return [block for block in self.net if self.own is None or block.index in self.own]

    def run(self) -> History:
        self._resume()
        done, quiet = self.epoch * self.num_batches + self.batch, not self.ranks.is_main
        with Progress(self.config.label, self.num_epochs, self.num_batches, done, quiet) as progress:
            while self.epoch < self.num_epochs:
                self._grow()
                self._train_epoch(progress)
                self._evaluate_epoch(progress)
                if self.on_epoch:
                    self.on_epoch(self.epoch, self.net)
                    self._schedule_new()
                self._checkpoint()  # with what on_epoch did to the net
        self._save_record()
        return self.history

    def _grow(self) -> None:
        """Add the blocks that are due; this follows from the record alone, so a run that goes on grows alike."""
        growth = self.config.growth
        while growth and len(self.net) < growth.num_blocks(self.history.last_exit("val")):
            self._add_block()
            if growth.freeze == "earlier":
                self.net.freeze(len(self.net) - 1)
        self._schedule_new()

    def _add_block(self) -> None:
        self.net.grow(self.config.growth and self.config.growth.view(len(self.net)))
        self.ranks.share(self.net[-1])

    def _schedule_new(self) -> None:
        """Let the learning rate of blocks that have joined run from its top, from now to the end of the run."""
        steps = (self.config.epochs - self.epoch) * self.num_batches
        warmup = min(steps, round(self.config.warmup_epochs * self.num_batches))
        for block in self.blocks:
            if block.scheduler is None:
                block.set_schedule(self.config.schedule, steps, warmup, **self.config.shape(self.num_batches))

    def _train_epoch(self, progress: Progress) -> None:
        begin, first, every = time.perf_counter(), self.batch, self.config.checkpoint_steps
        learning, _ = self.source.turn(self.blocks, self.epoch)
        for block in self.net:
            block.train(block in learning)
            block.last_terms = {}
        for signal in self.source.signals("train", self.epoch, self.batch):
            self._step(learning, signal)
            self.batch += 1
            progress.step(self.epoch, self.batch)
            if every and self.batch % every == 0 and self.batch < self.num_batches:  # the end has its own
                self._checkpoint()
        self._flush(learning)
        self.sink.drain()
        self.ranks.gather(None, "ending an epoch")  # it is over when it is over for all
        self._check_finite()
        if steps := self.batch - first:
            seconds = time.perf_counter() - begin
            rows = [("train_seconds", seconds), ("step_seconds", seconds / steps)]
            self.history.cost_rows += [(self.epoch, name, value, "s") for name, value in rows]

    def _flush(self, learning: Sequence[Block]) -> None:
        """Let blocks whose gradients come late learn from all that is under way, if it is time."""
        flush = self.net.late[0].delay.flush if self.net.late else "never"
        if flush == "epoch" or (flush == "end" and self.epoch + 1 == self.num_epochs):
            for _ in range(self.net[0].ticks):
                self._step(learning, None)

    def _step(self, learning: Sequence[Block], signal: Signal | None) -> None:
        with self.net.one_step():
            if self.net.late:
                self.sink.tick(learning, signal)
                learning = [block for block in learning if block.last_terms]
            else:
                self.sink.put(self._walk(learning, signal))
        for block in learning:
            sums = self.sums.setdefault(block.index, {})
            for name, term in block.last_terms.items():
                total, count = sums.get(name, (0.0, 0))
                sums[name] = total + term, count + 1
        # On the processor a look costs nothing; on a GPU it would wait for the queue, so it is taken now and then.
        if self.device.type == "cpu" or self.batch % 50 == 0:
            self._check_finite()

    def _walk(self, learning: Sequence[Block], signal: Signal) -> Signal:
        for block in learning:
            try:
                signal = block.step(signal)
            except Exception as error:
                error.add_note(f"block {block.index + 1}, epoch {self.epoch + 1}, step {self.batch + 1}")
                raise
        return signal

    def _check_finite(self) -> None:
        for index, sums in self.sums.items():
            for name, (total, _) in sums.items():
                if not torch.isfinite(total):
                    raise self._not_finite(index, name, total.item())

    def _not_finite(self, index: int, term: str, value: float) -> FloatingPointError:
        folder = self.config.folder
        kept = f" The last good checkpoint is kept in {folder}." if folder and checkpoint.latest(folder) else ""
        return FloatingPointError(
            f"block {index + 1}: its loss term {term!r} became {value} in epoch {self.epoch + 1}, step "
            f"{self.batch + 1}.{kept} Try a smaller lr (now {self.config.lr:g}), warm-up or "
            + ("a smaller beta: gradients come late" if self.net.late else "fp32")
        )

    def _evaluate_epoch(self, progress: Progress) -> None:
        step, epoch, rows = (self.epoch + 1) * self.num_batches, self.epoch + 1, self.history.rows
        sums = [(k + 1, name, *sum) for k, own in sorted(self.sums.items()) for name, sum in own.items()]
        means = [[k, name, float(total) / count] for k, name, total, count in sums]
        rows += [(step, epoch, "train", *row) for row in self.ranks.mean(means, "gathering losses")]
        accuracy = {split: self._accuracy(split) for split in ("val", "test")}
        for split, values in accuracy.items():
            rows += [(step, epoch, split, k, "accuracy", value) for k, value in enumerate(values, 1)]
        self.epoch, self.batch, self.sums = epoch, 0, {}
        progress.epoch(epoch, accuracy)
        if self.config.folder and max(accuracy["val"]) > self.best:
            self._save(f"best-{epoch:08}", lambda block: {"module": block.state_dict()}, {"epoch": epoch})
        self.best = max(self.best, *accuracy["val"])
        self._save_record()

    def _accuracy(self, split: str) -> list[float]:
        """Return the accuracy, in [0, 1], of every exit on a split, first to last."""
        self.ranks.settle(self.net)
        _, answering = self.source.turn(self.blocks, self.epoch)
        with evaluating(self.net):
            counts = count_correct(answering, self.source.signals(split), self.sink)
        totals = self.ranks.totals([[count] for count in counts], "evaluating")
        return _shares([count for (count,) in totals], self.data, split)

    def _checkpoint(self) -> None:
        """Write all that `_resume` needs to go on from here."""
        if self.config.folder:
            self._check_finite()
            self.sink.settle()
            step = self.epoch * self.num_batches + self.batch
            own = {"position": [self.epoch, self.batch], "best": self.best, "random_state": torch.get_rng_state()}
            own |= {"rows": self.history.rows, "cost_rows": self.history.cost_rows, "computed": self._computed()}
            sums = self.sums
            self._save(f"step-{step:08}", lambda b: b.training_state() | {"sums": sums.get(b.index, {})}, own)

    def _save(self, name: str, state: Callable[[Block], dict], own: dict) -> None:
        self.ranks.settle(self.net)
        states = {f"block{block.index}": state(block) for block in self.blocks} if self.ranks.writes else {}
        if self.ranks.is_main:
            states["run"] = own | {"identity": self.identity, "num_blocks": len(self.net), "cuts": self.net.cuts}
        checkpoint.save(self.config.folder, name, states, self.ranks)

    def _save_record(self) -> None:
        if self.config.folder and self.ranks.is_main:
            self.history.save(self.config.folder)

    def _resume(self) -> None:
        """Go on from the folder's checkpoint, if it holds one."""
        if self.config.folder and self.ranks.is_main:
            checkpoint.sweep_drafts(self.config.folder)
        path = self.config.folder and checkpoint.latest(self.config.folder)
        (name, *_) = self.ranks.gather(path and path.name, "going on from a checkpoint")  # all ranks from the same
        if not name:
            return
        path = self.config.folder / "checkpoint" / name
        (state,) = checkpoint.load(path, ["run"])
        checkpoint.check_identity(path, self.identity, state["identity"])
        self._check_computed(path, state["computed"])
        if len(self.net) > state["num_blocks"]:
            raise ValueError(f"{path} holds {state['num_blocks']} blocks, the net {len(self.net)}: begin with fewer")
        while len(self.net) < state["num_blocks"]:
            self._add_block()
        blocks = checkpoint.load(path, [f"block{block.index}" for block in self.blocks], self.device)
        for block, own in zip(self.blocks, blocks, strict=True):
            block.load_training_state(own)
            self.sums[block.index] = own["sums"]
        torch.set_rng_state(state["random_state"])
        (self.epoch, self.batch), self.best = state["position"], state["best"]
        self.history.rows = [tuple(row) for row in state["rows"]]
        self.history.cost_rows = [tuple(row) for row in state["cost_rows"]]

    def _computed(self) -> dict:
        """Return what decides the bits beside the settings: what "auto" became, and into how many parts sums fall."""
        dtype = next((block.autocast_dtype for block in self.net), None)
        return {"precision": "bf16" if dtype == torch.bfloat16 else "fp32", "threads": torch.get_num_threads()}

    def _check_computed(self, path, before: dict) -> None:
        now = self._computed()
        if now["precision"] != before["precision"]:
            raise ValueError(
                f"{path} was computed in {before['precision']}, and precision={self.config.precision!r} is "
                f"{now['precision']} on this machine: give precision={before['precision']!r}, or another output folder"
            )
        if now["threads"] != before["threads"] and self.device.type == "cpu":
            warnings.warn(
                f"{path} was computed with {before['threads']} threads, and goes on with {now['threads']}: sums are "
                "rounded otherwise, so the end will not be bit for bit that of a run never stopped",
                stacklevel=2,
            )
