"""The plan of a net: how each of its blocks is built, at once or later, always the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kit import heads, seeds
from kit.block import Block
from kit.compute import amx_layers
from kit.context import Supply, supplied
from kit.extra_views import Side
from kit.methods.objectives import Objective
from kit.modules import evaluating

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where in the net an objective goes."""

    shape: Shape
    """Shape of the features it reads, without the batch."""

    num_classes: int

    widest: int
    """Channels of the net's widest place: auxiliary nets grow up to it."""

    classifier: nn.Module | None
    """The model's own classifier, at its end; None elsewhere."""

    index: int
    """Number of cuts before it."""

    num_places: int

    image: Shape
    """Shape of the network's input, without the batch."""

    pixels: Callable[[Tensor], Tensor] | None
    """Turns the network's input into images in [0, 1]; None where nobody said how."""

    before: tuple[Objective, ...] = ()
    """The objectives of the blocks before it."""


@dataclass(frozen=True, eq=False)
class Plan:
    """All that decides what block k of a net is: it is the same whenever it is built, and whatever is built beside it.

    A net that grows builds its first blocks at the start and the others when their time has come.
    """

    groups: Sequence[Sequence[nn.Module]]
    """The stages of each block; several only where one block is the whole net."""

    classifier: nn.Module | None
    """The model's own classifier, the head behind the last stage."""

    example: Mapping[str, Tensor]
    """Two samples: the network's input by the name `x`, and other views of them by theirs."""

    shapes: Sequence[Shape]
    """Every stage's output shape, without the batch."""

    widest: int
    num_classes: int
    objective: Callable[[Place], nn.Module]
    """Builds the objective of a block."""

    probe: Callable[[Place], nn.Module]
    """Builds the objective whose head watches a cut inside a block."""

    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    supply: Supply
    dtype: torch.dtype | None
    channels_last: bool
    seed: int
    pixels: Callable[[Tensor], Tensor] | None
    end_to_end: bool
    """One block is the whole net; it does not grow."""

    @property
    def image(self) -> Shape:
        """Shape of the network's input, without the batch."""
        return tuple(self.example["x"].shape[1:])

    @property
    def device(self) -> torch.device:
        return self.example["x"].device

    def __len__(self) -> int:
        """Number of blocks that the plan holds."""
        return len(self.groups)

    def block(self, k: int, before: Sequence[Objective], views: Mapping[str, Shape | nn.Module] | None = None) -> Block:
        """Return block k, fresh. `before` are the objectives of the blocks before it, `views` what it sees besides."""
        first = sum(map(len, self.groups[:k]))
        last = first + len(self.groups[k]) - 1
        probes = [self._objective(self._place(i, before), self.probe).head for i in range(first, last)]
        own = self._objective(self._place(last, before), self.objective)
        inputs = [self.image, *self.shapes[:-1]][: first + 1]
        return self._block(k, self.groups[k], own, probes, inputs, views)

    def behind(
        self,
        inputs: Sequence[Shape],
        before: Sequence[Objective],
        stage: nn.Module,
        views: Mapping[str, Shape | nn.Module] | None = None,
    ) -> Block:
        """Return a block that is not of the plan: `stage`, trained as the others are.

        `inputs` are the input shapes of all blocks before it and of itself, first to last.
        """
        stage, index = heads.on(self.device, stage), len(inputs) - 1
        shape = output_shapes([stage], torch.zeros(2, *inputs[-1], device=self.device))[0]
        place = Place(
            shape, self.num_classes, self.widest, None, index, index + 1, self.image, self.pixels, tuple(before)
        )
        return self._block(index, [stage], self._objective(place, self.objective), [], inputs, views)

    def _place(self, stage: int, before: Sequence[Objective]) -> Place:
        last = stage == len(self.shapes) - 1
        own = self.classifier if last else None
        shape, total = self.shapes[stage], len(self.shapes)
        return Place(shape, self.num_classes, self.widest, own, stage, total, self.image, self.pixels, tuple(before))

    def _objective(self, place: Place, build: Callable[[Place], nn.Module]) -> nn.Module:
        with seeds.seeded(self.seed, "head", place.index):
            return heads.on(self.device, build(place))

    def _block(
        self, index, stages, objective, probes, inputs: Sequence[Shape], views: Mapping[str, Shape | nn.Module] | None
    ):
        with seeds.seeded(self.seed, "context", index):
            extra = supplied(self.supply, index, inputs, self.example["x"])
            extra = extra and heads.on(self.device, extra)
        for name, view in (views or {}).items():
            with seeds.seeded(self.seed, "side", index, name):
                extra = heads.on(self.device, Side(name, inputs[index], view, extra))
        parts = nn.ModuleList([m for m in (*stages, objective, *probes, extra) if m])
        if self.channels_last:
            parts.to(memory_format=torch.channels_last)
        if self.dtype == torch.bfloat16:
            amx_layers.lay_out(parts)
        own = {"autocast": self.dtype, "index": index, "seed": self.seed, "shape": inputs[index]}
        return Block(stages, objective, self.make_optimizer, probes, extra, **own)


@torch.no_grad()
def output_shapes(stages: Sequence[nn.Module], example: Tensor) -> list[Shape]:
    """Return each stage's output shape without the batch, found by one forward in evaluation mode."""
    h, shapes = example, []
    for stage in stages:
        with evaluating(stage):
            h = stage(h)
        shapes.append(tuple(h.shape[1:]))
    return shapes


def widest(stages: Sequence[nn.Module], shapes: Sequence[Shape]) -> int:
    """Return the channels of the widest convolution, or of the widest output where there is none."""
    convs = [m.out_channels for stage in stages for m in stage.modules() if isinstance(m, nn.Conv2d)]
    return max(convs or [heads.num_channels(shape) for shape in shapes])
