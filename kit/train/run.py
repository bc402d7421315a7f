"""The loop: epochs over the data, with evaluation, checkpoints and resumption."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from kit import data
from kit.block import Block
from kit.net import Net
from kit.train import checkpoint
from kit.train.checks import not_finite
from kit.train.config import RunConfig
from kit.train.progress import Progress
from kit.train.record import History

EVALUATION_BATCH = 512
OnEpoch = Callable[[int, Net], None] | None


@torch.no_grad()
def evaluate(net: Net, loaded: data.Data, split: str = "test") -> list[float]:
    """Return the accuracy, in [0, 1], of every exit on a split, first to last."""
    device = next(net.parameters()).device
    correct = torch.zeros(net.num_exits, device=device)
    for x, y in loaded.batches(split, EVALUATION_BATCH, device=device):
        correct += torch.stack([(logits.argmax(1) == y).sum() for logits in net.predict(x)])
    return (correct / len(getattr(loaded, split))).tolist()


class Fit:
    """One call of `fit`: the position in the run, the sums of the epoch, the record.

    A rank of the pipeline is the same run over some of the `whole` net's blocks (`kit.pipeline.stage`): it replaces
    where signals come from, what is gathered from other ranks, and where the state is kept.
    """

    quiet = False

    def __init__(
        self, net: Net, loaded: data.Data, config: RunConfig, on_epoch: OnEpoch = None, whole: Net | None = None
    ):
        self.net, self.data, self.config, self.on_epoch = net, loaded, config, on_epoch
        self.whole = net if whole is None else whole
        self.device = next(self.whole.parameters()).device
        self.identity = config.identity()
        self.history = History(self.identity, noise=loaded.realised_noise())
        self.epoch, self.batch = 0, 0
        self.sums: list[dict[str, Tensor]] = [{} for _ in net]
        self.best = -1.0
        self.num_epochs, self.num_batches = config.epochs, loaded.num_batches("train", config.batch_size)
        self._schedule(net)

    def _schedule(self, blocks: Iterable[Block]) -> None:
        """Let the learning rate of these blocks run from its top, from now to the end of the run."""
        steps = (self.config.epochs - self.epoch) * self.num_batches
        warmup = min(steps, round(self.config.warmup_epochs * self.num_batches))
        for block in blocks:
            block.set_schedule(self.config.schedule, steps, warmup)

    def run(self) -> History:
        self.resume()
        with Progress(self.config.method, self.num_epochs, self.num_batches, self.quiet) as progress:
            while self.epoch < self.num_epochs:
                self._grow()
                self._train_epoch(progress)
                self._evaluate_epoch(progress)
                if self.on_epoch:
                    self.on_epoch(self.epoch, self.net)
                    self._take_in()
                self._checkpoint()  # with what on_epoch did to the net
        self.save_record()
        return self.history

    def _grow(self) -> None:
        """Add the blocks that are due; this follows from the record alone, so a run that goes on grows alike."""
        growth = self.config.growth
        while growth and len(self.whole) < growth.num_blocks(self.history.last_exit("val")):
            self.add_block()
            if growth.freeze == "earlier":
                self.whole.freeze(len(self.whole) - 1)
        self._take_in()

    def _take_in(self) -> None:
        """Start the schedules of blocks that have joined."""
        new = [block for block in self.net if block.scheduler is None]
        self._schedule(new)
        self.sums += [{} for _ in new]

    def add_block(self) -> None:
        """Let the whole net grow by the next block of its plan."""
        self.whole.grow(self.config.growth and self.config.growth.view(len(self.whole)))

    def _train_epoch(self, progress: Progress) -> None:
        begin, first, every = time.perf_counter(), self.batch, self.config.checkpoint_steps
        self.net.train()
        for _ in self.steps():
            self._add_terms()
            self.batch += 1
            progress.step(self.epoch, self.batch)
            if every and self.batch % every == 0 and self.batch < self.num_batches:  # the end has its own
                self._checkpoint()
        self._check_finite()
        seconds = time.perf_counter() - begin
        if steps := self.batch - first:
            self.history.cost_rows += [
                (self.epoch, "train_seconds", seconds, "s"),
                (self.epoch, "step_seconds", seconds / steps, "s"),
            ]

    def steps(self) -> Iterator[None]:
        """Train on the rest of the epoch's batches, one at each turn."""
        for x, y in self.batches():
            self.net.step(x, y)
            yield

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the rest of the epoch's training batches (x, y)."""
        config = self.config
        options = {"seed": config.seed, "augment": config.augment, "device": self.device}
        return self.data.batches("train", config.batch_size, epoch=self.epoch, start=self.batch, **options)

    def _add_terms(self) -> None:
        for sums, block in zip(self.sums, self.net, strict=True):
            for name, term in block.last_terms.items():
                sums[name] = sums[name] + term if name in sums else term
        # On the processor a look costs nothing; on a GPU it would wait for the queue, so it is taken now and then.
        if self.device.type == "cpu" or self.batch % 50 == 0:
            self._check_finite()

    def _check_finite(self) -> None:
        for block, sums in zip(self.net, self.sums, strict=True):
            for name, total in sums.items():
                if not torch.isfinite(total):
                    raise not_finite(block.index, name, total.item(), self.config, self.epoch, self.batch)

    def _evaluate_epoch(self, progress: Progress) -> None:
        step = (self.epoch + 1) * self.num_batches
        rows, epoch = self.history.rows, self.epoch + 1
        rows += [(step, epoch, "train", k, name, value) for k, name, value in self.mean_terms()]
        accuracy = {part: self.accuracy(part) for part in ("val", "test")}
        for part, values in accuracy.items():
            rows += [(step, epoch, part, k, "accuracy", value) for k, value in enumerate(values, 1)]
        self.epoch, self.batch, self.sums = epoch, 0, [{} for _ in self.net]
        progress.epoch(epoch, accuracy)
        if self.config.folder:
            if max(accuracy["val"]) > self.best:
                self.save_best()
            self.best = max(self.best, *accuracy["val"])
        self.save_record()

    def mean_terms(self) -> list[tuple[int, str, float]]:
        """Return the block (from 1), name and mean over the epoch of every loss term."""
        terms = [(b.index + 1, *term) for b, sums in zip(self.net, self.sums, strict=True) for term in sums.items()]
        return [(k, name, total.item() / self.num_batches) for k, name, total in terms]

    def accuracy(self, split: str) -> list[float]:
        """Return the accuracy, in [0, 1], of every exit on a split, first to last."""
        return evaluate(self.net, self.data, split)

    def _checkpoint(self) -> None:
        if self.config.folder:
            self._check_finite()
            self.save()

    def save(self) -> None:
        """Write all that `resume` needs to go on from here."""
        state = {"blocks": [block.training_state() for block in self.net], "random_state": torch.get_rng_state()}
        state |= {"sums": self.sums, **self.state()}
        checkpoint.save(self.config.folder / checkpoint.LATEST, self.identity, state)

    def save_best(self) -> None:
        """Keep the weights as they are now as those of the best epoch."""
        weights = {"epoch": self.epoch, "net": self.net.state_dict()}
        checkpoint.save(self.config.folder / checkpoint.BEST, self.identity, weights)

    def save_record(self) -> None:
        """Write the record so far into the folder."""
        if self.config.folder:
            self.history.save(self.config.folder)

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it holds one."""
        path = self.config.folder and self.config.folder / checkpoint.LATEST
        if not path or not path.exists():
            return
        state = checkpoint.load(path, self.identity, self.device)
        self.grow_to(len(state["blocks"]))
        for block in self.net:
            block.load_training_state(state["blocks"][block.index])
        self.sums = [state["sums"][block.index] for block in self.net]
        torch.set_rng_state(state["random_state"].cpu())
        self.load_state(state)

    def grow_to(self, num_blocks: int) -> None:
        """Give the net as many blocks as a checkpoint holds. ValueError if it has more, or cannot get as many."""
        if len(self.whole) > num_blocks:
            raise ValueError(f"the checkpoint holds {num_blocks} blocks, the net {len(self.whole)}: begin with fewer")
        while len(self.whole) < num_blocks:
            self.add_block()
        self.sums = [{} for _ in self.net]

    def state(self) -> dict:
        """Return where the run stands and what it recorded; not what its blocks hold."""
        return {
            "position": {"epoch": self.epoch, "batch": self.batch},
            "best": self.best,
            "rows": self.history.rows,
            "cost_rows": self.history.cost_rows,
        }

    def load_state(self, state: dict) -> None:
        """Take over what `state` gave."""
        self.epoch, self.batch = state["position"]["epoch"], state["position"]["batch"]
        self.best = state["best"]
        self.history.rows = [tuple(row) for row in state["rows"]]
        self.history.cost_rows = [tuple(row) for row in state["cost_rows"]]
