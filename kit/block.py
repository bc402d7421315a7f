"""A block: a part of the network that learns by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit import seeds
from kit.compute import optimizers
from kit.context import Needs
from kit.signal import Signal


class Block(nn.Module):
    """Consecutive stages, the objective that trains them, and the optimizer and scheduler of both.

    `stages` usually hold one module. Where they hold several, `probes` (one per stage but the last) watch the outputs
    in between: classifiers on detached features, trained beside the block, whose gradient never reaches it.
    `index` and `seed` say where the block's randomness comes from: (seed, index, number of its steps), so a block
    draws the same numbers in whatever process and beside whatever other blocks it runs. `shape` is that of its input,
    without the batch, where it was made for one. A `frozen` block runs forward only, in evaluation mode: `step` leaves
    it as it is, and no graph is stored.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        objective: nn.Module,
        make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        probes: Sequence[nn.Module] = (),
        context: nn.Module | None = None,
        autocast: torch.dtype | None = None,
        index: int = 0,
        seed: int = 0,
        shape: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.body = nn.Sequential(*stages)
        self.objective = objective
        self.probes = nn.ModuleList(probes)
        self.context = context
        self.shape, self.frozen = shape, False
        self.keep_x, self.depth, self.keep_views = False, 0, frozenset()  # what later blocks ask: see `Signal.advance`
        self.autocast_dtype = autocast
        self.index, self.seed, self.num_steps = index, seed, 0
        self.optimizer = make_optimizer(self.parameters())
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self.schedule: tuple[str, int, int] | None = None
        self.last_terms: dict[str, Tensor] = {}

    def forward(self, signal: Signal) -> Tensor:
        """Return the block's output (B, …) for the signal; computes, and changes nothing."""
        return self.outputs(signal)[-1]

    def outputs(self, signal: Signal) -> list[Tensor]:
        """Return every stage's output, first to last."""
        h = signal.h if self.context is None else self.context(signal)
        outputs = []
        for stage in self.body:
            h = stage(h)
            outputs.append(h)
        return outputs

    def losses(self, signal: Signal) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the block's output and its loss terms, unweighted, with the block's precision and randomness."""
        if self.objective.batch_statistics and len(signal.y) < 2:
            raise ValueError(
                f"block {self.index + 1} got a batch of {len(signal.y)} sample, but its loss compares samples: give at "
                "least 2, or use a method without batch statistics such as greedy"
            )
        with seeds.seeded(self.seed, self.index, self.num_steps, device=signal.h.device), self.autocast(signal.h):
            *inner, h = self.outputs(signal)
            terms = self.objective.loss(h, signal)
            for k, (probe, feature) in enumerate(zip(self.probes, inner, strict=True)):
                terms[f"probe{k}"] = F.cross_entropy(probe(feature.detach()).float(), signal.y)
        return h, terms

    def step(self, signal: Signal) -> Signal:
        """Train on one batch: forward, local loss, backward, optimizer step. Return the detached signal for the next.

        The graph, and with it every activation, is freed before this returns. The loss terms stay in `last_terms`.
        """
        if self.frozen:
            return self.pass_through(signal)
        h, terms = self.losses(signal)
        handed_on = self.hand_on(signal, h)
        weights = self.objective.weights
        sum(weights.get(name, 1.0) * term for name, term in terms.items()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()
        self.num_steps += 1
        self.last_terms = {name: term.detach() for name, term in terms.items()}
        return handed_on

    @torch.no_grad()
    def pass_through(self, signal: Signal) -> Signal:
        """Return the signal for the next block as `step` does, but learn nothing and store no graph."""
        self.last_terms = {}
        with self.autocast(signal.h):
            h = self(signal)
        return self.hand_on(signal, h)

    def hand_on(self, signal: Signal, h: Tensor) -> Signal:
        """Return the signal for the next block, with the block's output `h` and what later blocks ask for."""
        return signal.advance(h, self.keep_x, self.depth, self.objective.encode(signal), self.keep_views)

    def answered(self, signal: Signal, h: Tensor) -> Signal:
        """Return the signal for the next block where only answers are asked, and labels are not known."""
        return signal.advance(h, self.keep_x, self.depth, views=self.keep_views)

    @property
    def needs(self) -> Needs:
        """What the block asks of those before it."""
        own = self.context.needs if self.context is not None else Needs()
        return replace(own, x=own.x or self.objective.needs_x)

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
        """Return the logits (B, C) that this block alone would answer for its output `h`."""
        return self.objective.readout(h)

    def exits(self, signal: Signal) -> tuple[list[Tensor], Signal]:
        """Return the logits (B, C) of every exit of the block, in fp32, and the signal for the next block."""
        with self.autocast(signal.h):
            *inner, h = self.outputs(signal)
            logits = [probe(feature) for probe, feature in zip(self.probes, inner, strict=True)]
            logits.append(self.readout(h))
        return [logit.float() for logit in logits], self.answered(signal, h)

    def autocast(self, h: Tensor) -> AbstractContextManager:
        """Return the context in which this block computes."""
        return torch.autocast(h.device.type, self.autocast_dtype or torch.bfloat16, self.autocast_dtype is not None)

    def set_schedule(self, schedule: str, total_steps: int, warmup_steps: int = 0) -> None:
        """Follow a learning-rate schedule over `total_steps` steps from now on."""
        self.schedule = schedule, total_steps, warmup_steps
        self.scheduler = optimizers.scheduler(self.optimizer, schedule, total_steps, warmup_steps)

    def training_state(self) -> dict:
        """Return all that a checkpoint needs to go on: weights and buffers, optimizer, scheduler, step count."""
        return {
            "module": self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "schedule": self.schedule,
            "num_steps": self.num_steps,
            "frozen": self.frozen,
        }

    def load_training_state(self, state: dict) -> None:
        """Take over what `training_state` gave."""
        self.load_state_dict(state["module"])
        if state.get("schedule"):  # a block added later has one of its own
            self.set_schedule(*state["schedule"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler and state["scheduler"]:
            self.scheduler.load_state_dict(state["scheduler"])
        self.num_steps = state["num_steps"]
        self.frozen = state.get("frozen", False)
        self.train(self.training)
