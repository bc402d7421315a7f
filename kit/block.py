"""A block: a part of the network that learns by itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.hooks import RemovableHandle

from kit import losses, seeds
from kit.compute import optimizers
from kit.context import Needs
from kit.modules import Feature, apply, takes_mask
from kit.objective import Objective
from kit.settings import typed
from kit.shapes import Shape
from kit.signal import Signal


class Block(nn.Module):
    """Consecutive stages, the objective that trains them, and the optimizer and scheduler of both.

    `stages` usually hold one module. Where they hold several, `probes` (one per stage but the last) watch the outputs
    in between: classifiers on detached features, trained beside the block, whose gradient never reaches it.
    `index` and `seed` say where the block's randomness comes from: (seed, index, number of its steps), so a block
    draws the same numbers in whatever process and beside whatever other blocks it runs. `shapes` are those of its input
    and of each stage's output, where they are known. `pools`, one a stage, make of outputs (B, T, ·) and the mask what
    heads read, (B, D); None leaves an output as it is. A `frozen` block runs forward only, in evaluation mode: `step`
    leaves it as it is, and no graph is stored.
    """

    @typed
    def __init__(
        self,
        stages: Sequence[nn.Module],
        objective: Objective,
        make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        probes: Sequence[nn.Module] = (),
        context: nn.Module | None = None,
        autocast: torch.dtype | None = None,
        index: int = 0,
        seed: int = 0,
        shapes: Sequence[Shape] = (),
        pools: Sequence[Feature | None] = (),
    ):
        super().__init__()
        if len(stages) != len(probes) + 1:
            raise ValueError(
                f"{len(stages)} stages with {len(probes)} probes: there is one behind each stage but the last"
            )
        self.body = nn.Sequential(*stages)
        self.objective = objective
        self.probes = nn.ModuleList(probes)
        self.context = context
        self.shapes, self.frozen = tuple(shapes), False
        self.pools = tuple(pools) or (None,) * len(stages)
        self.keep_x = self.keep_entered = False  # what later blocks ask, and their views: see `Signal.advance`
        self.depth, self.keep_views = 0, frozenset[str]()
        self.entered: Tensor | None = None
        self.autocast_dtype = autocast
        self.index, self.seed, self.num_steps = index, seed, 0
        apart = {objective.get_submodule(name): factor for name, factor in objective.lr_factors.items()}
        self.optimizer = optimizers.with_own_rates(make_optimizer, self, apart)
        self.scheduler: LambdaLR | None = None
        self.schedule: tuple[str, int, int, dict[str, Any]] | None = None
        self.last_terms: dict[str, Tensor] = {}
        self.replicas: Callable[[Signal], tuple[Tensor, dict[str, Tensor]]] | None = None
        # where several processes train the block: `losses`, on all their shards
        self._step_pre_hooks: OrderedDict[int, Callable[[Block, Signal], None]] = OrderedDict()

    def forward(self, signal: Signal) -> Tensor:
        """Return the block's output (B, …) for the signal; computes, and changes nothing."""
        *_, h = self.outputs(signal)
        return h

    def enter(self, signal: Signal) -> Tensor:
        """Return what the first stage reads: the activations, with whatever context adds to them."""
        self._check_kind(signal)
        if self.context is None:
            return signal.h
        h: Tensor = self.context(signal)
        self.entered = h.detach() if self.keep_entered else None
        return h

    def outputs(self, signal: Signal) -> Iterator[Tensor]:
        """Give every stage's output, first to last."""
        h = self.enter(signal)
        for stage in self.body:
            h = apply(stage, h, signal.views.get("mask"))
            yield h

    def feature(self, h: Tensor, signal: Signal, stage: int = -1) -> Tensor:
        """Return what a head reads of the output `h` of a stage: of texts (B, D), else the output as it is."""
        pool = self.pools[stage]
        return h if pool is None else pool(h, signal.views["mask"])

    def losses(self, signal: Signal) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the block's output and its loss terms, unweighted, with the block's precision and randomness.

        Raises ValueError for a signal without labels, and for a single sample where the loss compares samples.
        """
        y = self._labels(signal)
        if self.objective.batch_statistics and len(y) < 2:
            raise ValueError(
                f"block {self.index + 1} got a batch of {len(y)} sample, but its loss compares samples: give at "
                "least 2, or use a method without batch statistics such as greedy"
            )
        with seeds.seeded(self.seed, self.index, self.num_steps, device=signal.h.device), self.computing(signal):
            *inner, h = self.outputs(signal)
            terms = self.objective.loss(self.feature(h, signal), signal)
            for k, (probe, output) in enumerate(zip(self.probes, inner, strict=True)):
                terms[f"probe{k}"] = losses.cross_entropy(probe(self.feature(output.detach(), signal, k)), y)
        return h, terms

    def step(self, signal: Signal) -> Signal:
        """Train on one batch: forward, local loss, backward, optimizer step. Return the detached signal for the next.

        The graph, and with it every activation, is freed before this returns. The loss terms stay in `last_terms`.
        """
        for hook in self._step_pre_hooks.values():
            hook(self, signal)
        if self.frozen:
            return self.pass_through(signal)
        self.check_learns(signal)
        h, terms = (self.replicas or self.losses)(signal)
        after = self.next_signal(signal, h)  # before the step: label codes are those of the weights that made h
        self.objective.total(terms).backward()
        self._update()
        self.last_terms = {name: term.detach() for name, term in terms.items()}
        return after

    def _update(self) -> None:
        """Let optimizer and schedule take a step, on the gradients that are there, and clear these."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()
        self.num_steps += 1

    @torch.no_grad()
    def pass_through(self, signal: Signal) -> Signal:
        """Return the signal for the next block as `step` does, but learn nothing and store no graph."""
        self.last_terms = {}
        with self.computing(signal):
            h = self(signal)
        return self.next_signal(signal, h)

    def next_signal(self, signal: Signal, h: Tensor) -> Signal:
        """Return the signal for the next block, with the block's output `h` and what later blocks ask for."""
        target = None if signal.y is None else self.objective.encode(signal)
        entered, self.entered = self.entered, None
        return signal.advance(h, self.keep_x, self.depth, target, self.keep_views, entered)

    def register_step_pre_hook(self, hook: Callable[[Block, Signal], None]) -> RemovableHandle:
        """Call `hook(block, signal)` before every step; the handle's `remove()` ends that."""
        handle = RemovableHandle(self._step_pre_hooks)
        self._step_pre_hooks[handle.id] = hook
        return handle

    @property
    def needs(self) -> Needs:
        """What the block asks of those before it."""
        own = cast(Needs, self.context.needs) if self.context is not None else Needs()
        masked = any(self.pools) or any(map(takes_mask, self.body))
        return replace(own, x=own.x or self.objective.needs_x, views=own.views | {"mask"} if masked else own.views)

    def freeze(self) -> None:
        """Stop learning: forward only, in evaluation mode, until `thaw`. Optimizer and schedule rest as they are."""
        self.frozen = True
        self.eval()

    def thaw(self) -> None:
        """Learn again, from where the block stopped."""
        self.frozen = False

    def train(self, mode: bool = True) -> Block:
        """Switch to training, unless the block is frozen, or to evaluation."""
        return super().train(mode and not self.frozen)

    def readout(self, h: Tensor) -> Tensor:
        """Return the logits (B, C) that this block alone would answer for what a head reads of its output."""
        return self.objective.readout(h)

    def autocast(self, h: Tensor) -> torch.autocast:
        """Return the context in which this block computes."""
        return torch.autocast(h.device.type, self.autocast_dtype or torch.bfloat16, self.autocast_dtype is not None)

    @contextmanager
    def computing(self, signal: Signal) -> Iterator[None]:
        """Compute in the block's precision. Raises ValueError, in the block's words, where the signal is not for it."""
        self._check_kind(signal)
        try:
            with self.autocast(signal.h):
                yield
        except (RuntimeError, ValueError, IndexError) as error:
            if why := self._misfit(signal, error):
                raise ValueError(f"block {self.index + 1} got {why} ({str(error).splitlines()[0]})") from error
            raise

    def _check_kind(self, signal: Signal) -> None:
        if not isinstance(signal, Signal):
            kind = type(signal).__name__
            raise TypeError(f"block {self.index + 1} takes a signal, but got a {kind}: net.signal(x, y) makes one")

    def _labels(self, signal: Signal) -> Tensor:
        self._check_kind(signal)
        if signal.y is None:
            raise ValueError(f"block {self.index + 1} got a signal without labels to learn from: net.signal(x, y)")
        return signal.y

    def check_learns(self, signal: Signal) -> None:
        """Raise ValueError or TypeError for a signal without labels, and for a block in evaluation mode."""
        self._labels(signal)
        if not self.training:
            raise ValueError(
                f"block {self.index + 1} is in evaluation mode, where a step would move its weights but not its batch "
                "statistics: call net.train() before, or freeze() the block to leave it as it is"
            )

    def _misfit(self, signal: Signal, error: Exception) -> str | None:
        """Return what is wrong with a signal that the block failed on, or None where that has another cause."""
        h, weight = signal.h, next(self.parameters(), signal.h)
        if self.shapes and "mask" not in signal.views and tuple(h.shape[1:]) != self.shapes[0]:
            made = ", ".join(map(str, self.shapes[0]))
            return (
                f"activations of shape {tuple(h.shape)}, but was made for (B, {made}): give inputs of the example's "
                "shape, and to each block the signal that the one before returned"
            )
        given, own = (f"{tensor.dtype} on {tensor.device}" for tensor in (h, weight))
        if given != own and h.dtype != torch.int64:  # of tokens, int64 is right
            return f"activations of {given}, but has weights of {own}: bring one to the other by to()"
        one = "Expected more than 1 value per channel" in str(error)
        return "a batch of 1 sample, but batch norm takes at least 2 to train on" if one else None

    def set_schedule(self, schedule: str, total_steps: int, warmup_steps: int = 0, **shape: Any) -> None:
        """Follow a learning-rate schedule over `total_steps` steps from now on; `shape` as for `optimizers.factor`."""
        self.schedule = schedule, total_steps, warmup_steps, shape
        factor = partial(optimizers.factor, schedule, total=total_steps, warmup=warmup_steps, **shape)
        self.scheduler = LambdaLR(self.optimizer, factor)

    def training_state(self) -> dict[str, Any]:
        """Return all that a checkpoint needs to go on: weights and buffers, optimizer, scheduler, step count."""
        return {
            "module": self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "schedule": self.schedule,
            "num_steps": self.num_steps,
            "frozen": self.frozen,
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what `training_state` gave."""
        self.load_state_dict(state["module"])
        if state["schedule"]:  # a block added later has one of its own
            *schedule, shape = state["schedule"]
            self.set_schedule(*schedule, **shape)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler and state["scheduler"]:
            self.scheduler.load_state_dict(state["scheduler"])
        self.num_steps, self.frozen = state["num_steps"], state["frozen"]
        self.train(self.training)
