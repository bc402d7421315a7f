"""A block: a part of the network that learns by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit import seeds
from kit.blocks import optim
from kit.blocks.signal import Signal


class Block(nn.Module):
    """Consecutive stages, the objective that trains them, and the optimizer and scheduler of both.

    `stages` usually hold one module. Where they hold several, `probes` (one per stage but the last) watch the outputs
    in between: classifiers on detached features, trained beside the block, whose gradient never reaches it.
    `index` and `seed` say where the block's randomness comes from: (seed, index, number of its steps), so a block
    draws the same numbers in whatever process and beside whatever other blocks it runs.
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
    ):
        super().__init__()
        self.body = nn.Sequential(*stages)
        self.objective = objective
        self.probes = nn.ModuleList(probes)
        self.context = context
        self.keep_x, self.depth = False, 0  # what blocks behind this one ask for: see `Signal.advance`
        self.autocast_dtype = autocast
        self.index, self.seed, self.num_steps = index, seed, 0
        self.optimizer = make_optimizer(self.parameters())
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
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

    def hand_on(self, signal: Signal, h: Tensor) -> Signal:
        """Return the signal for the next block, with the block's output `h` and what later blocks ask for."""
        return signal.advance(h, self.keep_x, self.depth, self.objective.encode(signal))

    def readout(self, h: Tensor) -> Tensor:
        """Return the logits (B, C) that this block alone would answer for its output `h`."""
        return self.objective.readout(h)

    def exits(self, signal: Signal) -> tuple[list[Tensor], Signal]:
        """Return the logits (B, C) of every exit of the block, in fp32, and the signal for the next block."""
        with self.autocast(signal.h):
            *inner, h = self.outputs(signal)
            logits = [probe(feature) for probe, feature in zip(self.probes, inner, strict=True)]
            logits.append(self.readout(h))
        return [logit.float() for logit in logits], signal.advance(h, self.keep_x, self.depth)

    def autocast(self, h: Tensor) -> AbstractContextManager:
        """Return the context in which this block computes."""
        return torch.autocast(h.device.type, self.autocast_dtype or torch.bfloat16, self.autocast_dtype is not None)

    def set_schedule(self, schedule: str, total_steps: int, warmup_steps: int = 0) -> None:
        """Follow a learning-rate schedule over `total_steps` steps from now on."""
        self.scheduler = optim.scheduler(self.optimizer, schedule, total_steps, warmup_steps)

    def training_state(self) -> dict:
        """Return all that a checkpoint needs to go on: weights and buffers, optimizer, scheduler, step count."""
        return {
            "module": self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "num_steps": self.num_steps,
        }

    def load_training_state(self, state: dict) -> None:
        """Take over what `training_state` gave."""
        self.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler and state["scheduler"]:
            self.scheduler.load_state_dict(state["scheduler"])
        self.num_steps = state["num_steps"]
