"""The plan of a net: how each of its blocks is built, at once or later, always the same."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kit import seeds
from kit.block import Block
from kit.compute import amx_layers
from kit.context import Encoding, ExtraView, Needs, supplied
from kit.modules import Feature, on, own_feature
from kit.objective import HeadSpec, Objective
from kit.shapes import Shape, output_shapes, real_mean

Views = Mapping[str, Shape | nn.Module]
"""What a block sees besides, by name: a view's shape, or an encoder for it."""


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
    """Of the network's input and of every stage's output."""
    widest: int
    num_classes: int
    objective: Callable[[HeadSpec], Objective]
    """Builds the objective of a block."""
    probe: Callable[[HeadSpec], Objective]
    """Builds the objective whose head watches a cut inside a block."""
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    supply: Needs
    encoding: Encoding
    dtype: torch.dtype | None
    channels_last: bool
    """Whether maps lie in memory with their channels last, whatever the order of their dimensions."""
    seed: int
    pixels: Callable[[Tensor], Tensor] | None
    one_loss: bool
    """Whether one loss at the end trains the whole net; it does not grow then."""
    make_block: Callable[..., Block] = Block
    pools: Sequence[Feature | None] = ()
    """What makes of each stage's output for words the feature that heads read; None where there are no words."""

    def shape(self, view: str) -> Shape:
        """Return the shape of a view: numbers of the same words as the net's input, or numbers."""
        example = self.example[view]
        return Shape(example.shape[1:], words=0 if example.is_floating_point() else self.shapes[0].words)

    @property
    def device(self) -> torch.device:
        return self.example["x"].device

    def __len__(self) -> int:
        """Number of blocks that the plan holds."""
        return len(self.groups)

    def block(self, k: int, before: Sequence[Objective], views: Views | None = None) -> Block:
        """Return block k, fresh. `before` are the objectives of the blocks before it, `views` what it sees besides."""
        first = sum(map(len, self.groups[:k]))
        last = first + len(self.groups[k]) - 1
        probes = [self._objective(self._spec(i, before), self.probe).head for i in range(first, last)]
        own = self._objective(self._spec(last, before), self.objective)
        pools = self.pools[first : last + 1]
        return self._block(k, self.groups[k], own, probes, self.shapes[: last + 2], views, pools)

    def behind(
        self, inputs: Sequence[Shape], before: Sequence[Objective], stage: nn.Module, views: Views | None = None
    ) -> Block:
        """Return a block that is not of the plan: `stage`, trained as the others are.

        `inputs` are the input shapes of all blocks before it and of itself, first to last.
        """
        stage, index = on(self.device, stage), len(inputs) - 1
        (shape,) = output_shapes([stage], torch.zeros(2, *inputs[-1], device=self.device), inputs[-1])
        pool = pooling(stage, shape) if any(self.pools) else None
        spec = HeadSpec(
            pooled(shape, pool), self.num_classes, self.widest, None, index, index + 1, self.shapes[0], self.pixels,
            tuple(before), Shape(inputs[-1]), pool is not None,
        )  # fmt: skip
        return self._block(index, [stage], self._objective(spec, self.objective), [], [*inputs, shape], views, [pool])

    def _spec(self, stage: int, before: Sequence[Objective]) -> HeadSpec:
        total = len(self.shapes) - 1
        classifier = self.classifier if stage == total - 1 else None
        shape, image = pooled(self.shapes[stage + 1], self.pools[stage]), self.shapes[0]
        return HeadSpec(
            shape, self.num_classes, self.widest, classifier, stage, total, image, self.pixels, tuple(before),
            self.shapes[stage], any(self.pools),
        )  # fmt: skip

    def _objective(self, spec: HeadSpec, build: Callable[[HeadSpec], Objective]) -> Objective:
        with seeds.seeded(self.seed, "head", spec.index):
            return on(self.device, build(spec))

    def _block(
        self, index: int, stages: Sequence[nn.Module], objective: Objective, probes: Sequence[nn.Module],
        shapes: Sequence[Shape], views: Views | None, pools: Sequence[Feature | None],
    ) -> Block:  # fmt: skip
        """Return the block, laid out for the hardware; `shapes` are those from the net's input to its own output."""
        at = len(shapes) - len(stages) - 1
        with seeds.seeded(self.seed, "context", index):
            context: nn.Module | None = supplied(self.supply, index, shapes[: at + 1], self.example["x"], self.encoding)
        for name, view in (views or {}).items():
            with seeds.seeded(self.seed, "side", index, name):
                context = ExtraView(name, shapes[at], view, context)
        parts = nn.ModuleList([*stages, objective, *probes])
        if context is not None:
            parts.append(on(self.device, context))
        if self.channels_last:
            parts.to(memory_format=torch.channels_last)
        if self.dtype == torch.bfloat16:
            amx_layers.lay_out(parts)
        stages, probes = [*parts[: len(stages)]], [*parts[len(stages) + 1 :][: len(probes)]]
        own = {"autocast": self.dtype, "index": index, "seed": self.seed, "shapes": shapes[at:], "pools": pools}
        return self.make_block(stages, objective, self.make_optimizer, probes, context, **own)


def pooling(stage: nn.Module, shape: Shape) -> Feature | None:
    """Return what makes features of a stage's output (B, T, D): its last layer's own, or the mean of real words.

    A layer says so by a method `feature(h, mask)`.
    """
    own = [feature for part in stage.modules() if (feature := own_feature(part))]
    return (own or [real_mean])[-1] if len(shape) == 2 else None


def pooled(shape: Shape, pool: Feature | None) -> Shape:
    """Return the shape of the feature that `pool` makes of an output."""
    return shape if pool is None else Shape(pool(torch.zeros(1, *shape), torch.ones(1, shape[0]).bool()).shape[1:])


def widest(stages: Sequence[nn.Module], shapes: Sequence[Shape]) -> int:
    """Return the channels of the widest convolution, or of the widest output where there is none."""
    convs = [m.out_channels for stage in stages for m in stage.modules() if isinstance(m, nn.Conv2d)]
    return max(convs or [shape.channels for shape in shapes])
