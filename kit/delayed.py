"""Blocks that take a late gradient: FDG, DDG and FR keep backprop's gradient, and let it arrive ticks later.

One walk over the net is one tick. K blocks, k one of them from 0; t the tick; d the ticks that a gradient takes:

    FDG    block k: back on batch t-k-d, update, forward on batch t-k       d = 2(K-1-k); the last updates a tick later
    DDG    batch t forward through all; block k: back on batch t-d, update  d = K-1-k; the last at once

What leaves a block in one tick (a signal forwards, the gradient of its input backwards) is read by its neighbours in
the next; in DDG and FR the signal in the same. Sources: FDG (Zhuang et al., arXiv 1906.09108), DDG (Huo et al., ICML
2018), FR (Huo et al., NeurIPS 2018), PipeDream (Harlap et al. 2018), SpecTrain (Chen et al. 2018).
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from kit import seeds
from kit.block import Block
from kit.settings import Positive, check
from kit.signal import Signal

Meet = Callable[[Signal | None], Tensor | None]
Ends = tuple[Signal | None, Tensor | None]

WEIGHTS = {
    "mixed": "activations of the batch's forward, today's weights in the backward formulas: FDG, DDG as published",
    "stashed": "the exact gradient at the weights of the batch's own forward (PipeDream)",
    "replayed": "forward again at today's weights (FR); running statistics then move twice a batch",
    "predicted": "forward at the weights expected when the gradient comes, by SGD's momentum (SpecTrain)",
}
"""Which weights a late gradient meets: name -> meaning."""


@dataclass(frozen=True, kw_only=True)
class Delay:
    """How gradients come late."""

    unlocked: bool
    """Whether forward passes wait for nobody either (FDG): each block works on a batch of its own."""
    weights: Literal["mixed", "stashed", "replayed", "predicted"]
    beta: float = 1.0
    """Factor of the gradient at each boundary that it crosses, in (0, 1]; 1 shrinks nothing."""
    delay_lr: Sequence[Positive] = ()
    """Factors of the blocks' learning rates, first to last; 1 for those not named."""
    flush: Literal["never", "epoch", "end"] = "never"
    """When all that is under way is learned from before the next batch comes, or the run ends without."""

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.beta <= 1:
            raise ValueError(f"beta={self.beta!r}, but gradients are shrunk by a factor in (0, 1]; 1 shrinks nothing")

    def ticks(self, index: int, num_blocks: int) -> int:
        """Return how many ticks block `index` waits for the gradient of a batch."""
        return (2 if self.unlocked else 1) * (num_blocks - 1 - index)

    def turn(self, tick: int, index: int, num_blocks: int) -> tuple[int, int]:
        """Return which batch block `index` takes forward at a tick, and which back; those below 0 are not there."""
        forward = tick - index if self.unlocked else tick
        return forward, forward - self.ticks(index, num_blocks)


@dataclass
class Flight:
    """A batch whose gradient has not come yet."""

    signal: Signal
    number: int
    """Of the block's forward passes: says which random numbers it drew."""
    h: Tensor | None = None
    """The block's output with its graph; None where the forward is replayed."""
    features: Tensor | None = None
    """The output as it was, for the head that watches."""
    saved: list[Any] = field(default_factory=list)
    """What the graph keeps, in the order in which autograd saved it: a tensor, or (number of a parameter, view)."""


class DelayedBlock(Block):
    """One of `num_blocks` modules of a net that one loss at its end trains, whose gradient arrives late.

    The objective of any but the last only watches: its classifier is trained on the detached output of the batch whose
    gradient has come.
    """

    pending: bool  # whether the last block's gradient waits for the next tick

    def __init__(self, *args: Any, delay: Delay, num_blocks: int, **more: Any):
        super().__init__(*args, **more)
        if len(delay.delay_lr) > num_blocks:
            raise ValueError(f"delay_lr={list(delay.delay_lr)}, but there are {num_blocks} blocks: one factor for each")
        self.delay, self.is_last = delay, self.index == num_blocks - 1
        self.ticks = delay.ticks(self.index, num_blocks)
        self.num_forwards = 0
        self.forget()
        for group in self.optimizer.param_groups:
            group["lr"] *= delay.delay_lr[self.index] if self.index < len(delay.delay_lr) else 1.0

    def tick(self, signal: Signal | None, meet: Meet | None = None) -> Ends:
        """Work on a batch forwards and on an earlier one backwards; return the next signal and the input's gradient.

        None stands for nothing come, or nothing to hand on: while the pipeline fills and drains. Where forward passes
        are locked, `meet` hands the next signal on, and returns the gradient that has come; None: it is in the inbox.
        """
        self.last_terms = {}
        if signal is not None:
            self.check_learns(signal)
        if self.is_last:
            return self._tick_last(signal)
        if self.delay.unlocked:
            back = self._back(self.inbox[1])
            return self._ahead(signal), back
        after = self._ahead(signal)
        return after, self._back(meet(after) if meet else self.inbox[1])

    def _tick_last(self, signal: Signal | None) -> tuple[None, Tensor | None]:
        if self.pending:
            self._update()
        if signal is None:
            return None, None
        signal = replace(signal, h=signal.h.detach())
        signal.h.requires_grad_()
        _, terms = self.losses(signal)
        self.objective.total(terms).backward()
        self.last_terms, self.pending = {name: term.detach() for name, term in terms.items()}, True
        if not self.delay.unlocked:
            self._update()
        return None, signal.h.grad

    def _ahead(self, signal: Signal | None) -> Signal | None:
        """Go forward on a batch, and remember what its gradient will need."""
        if signal is None:
            return None
        flight = Flight(replace(signal, h=signal.h.detach()), self.num_forwards)
        flight.signal.h.requires_grad_(self.index > 0)
        self.num_forwards += 1
        if self.delay.weights == "replayed":
            with torch.no_grad():
                h = self._compute(flight)
        else:
            with self._predicted(), self._keeping(flight.saved):
                h = flight.h = self._compute(flight)
            flight.features = h.detach()
        self.flights.append(flight)
        return self.next_signal(signal, h)

    def _compute(self, flight: Flight) -> Tensor:
        signal = flight.signal
        with seeds.seeded(self.seed, self.index, flight.number, device=signal.h.device), self.autocast(signal.h):
            return cast(Tensor, self(signal))

    def _back(self, gradient: Tensor | None) -> Tensor | None:
        """Learn from the gradient of the oldest batch under way; return its gradient by the block's input."""
        if gradient is None:
            return None
        flight = self.flights.popleft()
        h = self._compute(flight) if flight.h is None else flight.h
        output = h.detach() if flight.features is None else flight.features
        terms = self.objective.loss(self.feature(output, flight.signal), flight.signal)
        torch.autograd.backward([h, self.objective.total(terms)], [gradient * self.delay.beta, None])
        self.last_terms = {name: term.detach() for name, term in terms.items()}
        self._update()
        return flight.signal.h.grad

    def _update(self) -> None:
        super()._update()
        self.pending = False

    @contextmanager
    def _predicted(self) -> Iterator[None]:
        """Let the parameters be those expected when the gradient comes: so many of SGD's momentum steps ahead."""
        ahead = self.ticks - 1 if self.delay.unlocked else self.ticks
        if self.delay.weights != "predicted" or not ahead:
            yield
            return
        before = [(p, p.detach().clone()) for p in self.body.parameters()]
        with torch.no_grad():
            for group in self.optimizer.param_groups:
                for p in group["params"]:
                    if (velocity := self.optimizer.state[p].get("momentum_buffer")) is not None:
                        p.sub_(velocity, alpha=ahead * group["lr"])
        yield
        with torch.no_grad():
            for p, value in before:
                p.copy_(value)

    def forget(self) -> None:
        """Let go of all that is under way."""
        self.flights: deque[Flight] = deque()
        self.inbox: Ends = (None, None)
        self.pending = False

    def step(self, signal: Signal) -> Signal:
        """Refuse: such a block learns by ticks."""
        raise TypeError(f"block {self.index + 1} learns by a gradient that comes late: use net.step(x, y), or its tick")

    def training_state(self) -> dict[str, Any]:
        """Return all that a checkpoint needs to go on, batches and gradients under way included."""
        flights = [vars(flight) | {"signal": flight.signal.parts(), "h": None} for flight in self.flights]
        signal, gradient = self.inbox
        pending = [p.grad for p in self.parameters()] if self.pending else None
        late = {"flights": flights, "inbox": (signal and signal.parts(), gradient), "pending": pending}
        return super().training_state() | late | {"num_forwards": self.num_forwards}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what `training_state` gave; graphs are built anew, around what they had kept."""
        super().load_training_state(state)
        signal, gradient = state["inbox"]
        self.inbox, self.num_forwards = (signal and Signal.of(signal), gradient), state["num_forwards"]
        self.pending = state["pending"] is not None
        for p, grad in zip(self.parameters(), state["pending"] or (), strict=False):
            p.grad = grad
        buffers, training = {name: buffer.clone() for name, buffer in self.named_buffers()}, self.training
        self.train()  # the graphs are those of training
        self.flights.clear()
        for kept in state["flights"]:
            flight = Flight(**kept | {"signal": Signal.of(kept["signal"])})
            flight.signal.h.requires_grad_(self.index > 0)
            if self.delay.weights != "replayed":
                with self._keeping([], flight.saved):
                    flight.h = self._compute(flight)
            self.flights.append(flight)
        self.load_state_dict(buffers, strict=False)
        self.train(training)

    def _keeping(self, saved: list[Any], before: list[Any] | None = None) -> saved_tensors_hooks:
        """Return the hooks that keep in `saved` parameters by reference ("mixed") or by a copy, the rest as it is.

        With `before`, what an earlier graph of the same forward pass had saved takes the place of what this one would.
        """
        parameters = list(self.body.parameters())
        numbers = {p.untyped_storage()._cdata: number for number, p in enumerate(parameters)}
        copies: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> int:
            if before is not None:
                saved.append(before[len(saved)])
                return len(saved) - 1
            number = numbers.get(tensor.untyped_storage()._cdata)
            view = tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
            if number is None:
                saved.append(tensor.detach())
            elif self.delay.weights == "mixed":
                saved.append((number, *view))
            else:  # one copy of a parameter, however often it is used
                saved.append(copies.setdefault(number, parameters[number].detach().clone()).as_strided(*view))
            return len(saved) - 1

        def unpack(place: int) -> Tensor:
            kept = saved[place]
            return kept if isinstance(kept, Tensor) else parameters[kept[0]].detach().as_strided(*kept[1:])

        return saved_tensors_hooks(pack, unpack)


def ticking(
    blocks: Sequence[DelayedBlock], signal: Signal | None, meet: Meet | None = None
) -> Generator[DelayedBlock, None, Ends]:
    """Let consecutive blocks work for one tick, and give each when it is done.

    `signal` enters the first (None: what lies in its inbox, if anything). The rest comes from the block before and the
    one behind, as these left it a tick before, but a signal in the same tick where forward passes are locked. Returns
    what leaves the last block forwards and the first backwards; whoever is there has to put into the inboxes at the two
    ends what these shall find in the next tick. `meet` is the last block's, see `DelayedBlock.tick`.
    """
    left, incoming = [], blocks[0].inbox[0] if signal is None else signal
    for k, block in enumerate(blocks):
        if k and block.delay.unlocked:
            incoming = block.inbox[0]
        incoming, back = block.tick(incoming, meet if k == len(blocks) - 1 else None)
        left.append((incoming, back))
        yield block
    for k, block in enumerate(blocks):
        ahead = left[k - 1][0] if k and block.delay.unlocked else None
        block.inbox = ahead, left[k + 1][1] if k + 1 < len(blocks) else None
    return left[-1][0], left[0][1]


def tick(blocks: Sequence[DelayedBlock], signal: Signal | None, meet: Meet | None = None) -> Ends:
    """Let consecutive blocks work for one tick: `ticking` at one go."""
    work = ticking(blocks, signal, meet)
    while True:
        try:
            next(work)
        except StopIteration as done:
            return cast(Ends, done.value)
