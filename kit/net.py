"""A network of blocks."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from kit import exits, growth
from kit.block import Block
from kit.delayed import DelayedBlock, tick, ticking
from kit.errors import check_name
from kit.losses import check_class_numbers
from kit.modules import evaluating
from kit.plan import Plan, Views
from kit.settings import typed
from kit.signal import Signal
from kit.walk import Visit, walk

Input = Tensor | Mapping[str, Tensor]
"""Inputs (B, …), or several views of the same samples by name, of which `x` enters the first block."""


class Net(nn.Module):
    """Blocks in order. Training is a walk over them: `for block in net: signal = block.step(signal)`.

    Between two steps a net may grow: by the next block of its `plan` (`grow`), or by blocks of one's own.
    """

    def __init__(
        self, blocks: Iterable[Block], method: str, num_classes: int, channels_last: bool = False,
        plan: Plan | None = None,
    ):  # fmt: skip
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        growth.check_disjoint(self)
        self.method, self.num_classes, self.channels_last = method, num_classes, channels_last
        self.plan, self.num_planned = plan, len(self.blocks)
        self.stepping = False
        self.cuts: list[str] | None = None  # where the model was cut, if `kit.train.build` did it
        self.origin: dict[str, Any] | None = None  # the settings and fingerprint it began with: see kit.train.identity
        self.fingerprint: str | None = None  # at the start of its first run
        self._known_costs: dict[tuple[object, ...], list[float]] = {}

    def __iter__(self) -> Iterator[Block]:
        return iter(cast(Iterable[Block], self.blocks))

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, k: int) -> Block:
        return cast(Block, self.blocks[k])

    def forward(self, *inputs: object) -> None:
        """Raise TypeError: a net of blocks has as many answers as exits."""
        raise TypeError("a net is not called: net.predict(x) answers at every exit, net.step(x, y) trains on a batch")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def late(self) -> list[DelayedBlock]:
        """The blocks whose gradients come late: all, or none."""
        return [block for block in self if isinstance(block, DelayedBlock)]

    @property
    def num_filling(self) -> int:
        """Steps after which every block has learned: 1, or more where gradients come late."""
        return self.late[0].ticks + 2 if self.late else 1

    @property
    def num_exits(self) -> int:
        """Number of places where the net can answer: one per block, and one per probe inside a block."""
        return sum(len(block.probes) + 1 for block in self)

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether training needs at least two samples in a batch."""
        norm = nn.modules.batchnorm._BatchNorm
        return any(isinstance(m, norm) for m in self.modules()) or any(b.objective.batch_statistics for b in self)

    @property
    def views(self) -> frozenset[str]:
        """Names of the views that blocks ask for beside the net's input."""
        return frozenset().union(*(block.needs.views for block in self))

    def signal(self, x: Input, y: Tensor | None = None) -> Signal:
        """Return the signal that enters the first block, for inputs `x` (B, …) and labels `y` (B,).

        Of texts, the view `mask`, bool (B, T), says which words are real: those whose number is not 0, if not given.

        Raises ValueError or TypeError for what is no batch, labels that are no class numbers, and where a view is
        missing that a block asks for.
        """
        given = dict(x) if isinstance(x, Mapping) else {"x": x}
        asked = {"x", *self.views}
        if "mask" in asked and isinstance(given.get("x"), Tensor) and not given["x"].is_floating_point():
            given.setdefault("mask", given["x"] != 0)
        for name in asked - given.keys():
            check_name("view", name, given)
        if self.channels_last:
            layout = torch.channels_last
            maps = {k: v for k, v in given.items() if isinstance(v, Tensor) and v.ndim == 4}
            given |= {k: v.contiguous(memory_format=layout) for k, v in maps.items()}
        x = given.pop("x")
        signal = Signal(x, y, x, views=given)
        if y is not None:
            check_class_numbers(y, len(x), self.num_classes)
        if self.plan is not None and x.ndim == len(sizes := self.plan.shapes[0]):
            raise ValueError(
                f"input of shape {tuple(x.shape)}, but the net takes batches (B, {', '.join(map(str, sizes))}): "
                "x[None] makes one of a single sample"
            )
        return signal

    def step(self, x: Input, y: Tensor) -> None:
        """Train every block on one batch, first to last; one tick where gradients come late (`kit.delayed`)."""
        with self.one_step():
            for _ in self.steps(self.signal(x, y)):
                pass

    def drain(self) -> None:
        """Let the blocks learn from all that is under way (`kit.delayed`), and take in nothing new."""
        for _ in range(self.late[0].ticks if self.late else 0):
            tick(self.late, None)

    def forget(self) -> None:
        """Let go of all that is under way (`kit.delayed`), as if the pipeline had never been filled."""
        for block in self.late:
            block.forget()

    def steps(self, signal: Signal) -> Iterator[Block]:
        """Train on one batch, block by block, and give each block when it has had its turn."""
        if self.late:
            yield from ticking(self.late, signal)
            return
        for block in self:
            signal = block.step(signal)
            yield block

    @contextmanager
    def one_step(self) -> Iterator[None]:
        """Keep the net from growing while a batch is on its way through it."""
        self.stepping = True
        try:
            yield
        finally:
            self.stepping = False

    def walk(self, signal: Signal, losses: bool = False) -> Generator[Visit, Tensor | None, None]:
        """Visit every stage of every block, learning nothing: `kit.walk.walk`."""
        return walk(self, signal, losses)

    @torch.no_grad()
    def predict(self, x: Input) -> list[Tensor]:
        """Return the logits (B, C) of every exit for inputs `x` (B, …), first to last, in evaluation mode."""
        with evaluating(self):
            return [visit.logits() for visit in self.walk(self.signal(x))]

    def adaptive(
        self, x: Input, rule: exits.Rule | str = "confidence", threshold: float | None = None, patience: int = 1,
        cost: Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Let each sample of `x` (B, …) leave at the first exit where `rule` lets it go; in evaluation mode.

        Returns its logits (B, C), the number of the exit it left at (B,), from 0, and what it cost (B,): FLOPs, or
        whatever unit `cost`, one number per exit, is in. `rule` is an `exits.Rule`, or a name of `exits.RULES` with its
        `threshold` and `patience`; `exits.calibrate` chooses them on validation data.
        """
        rule = rule if isinstance(rule, exits.Rule) else exits.Rule(rule, threshold, patience)
        return exits.adaptive(self, x, rule, self._costs(x) if cost is None else cost)

    def _costs(self, x: Input) -> list[float]:
        """Return the FLOPs of each exit, counted once for each shape of the input."""
        one = {name: view[:1] for name, view in x.items()} if isinstance(x, Mapping) else x[:1]
        first = one["x"] if isinstance(one, dict) else one
        key = (tuple(first.shape), tuple(id(block) for block in self))
        if key not in self._known_costs:
            self._known_costs = {key: exits.exit_costs(self, one)}
        return self._known_costs[key]

    def append(self, block: Block) -> None:
        """Add a block at the end. Raises ValueError if it does not fit: see `kit.growth.insert`."""
        self.insert(len(self), block)

    @typed
    def insert(self, k: int, block: nn.Module) -> None:
        """Add a block before block k, so that it becomes block k; those behind it see another input from now on."""
        self._check_may_grow()
        growth.insert(self.blocks, k, block, None if self.plan is None else self.signal(self.plan.example))

    def grow(self, side: str | None = None) -> Block:
        """Add the next block of the plan and return it. `side` names a view that it sees besides."""
        self._check_may_grow()
        if self.plan is None or self.num_planned == len(self.plan):
            most = len(self) if self.plan is None else len(self.plan)
            raise ValueError(
                f"the net has all blocks of its plan (max_blocks={most}): cut the model into more, or append a block "
                "of your own with net.append(net.new_block(module))"
            )
        block = self.plan.block(self.num_planned, [block.objective for block in self], self._sides(side, self.plan))
        self.append(block)
        self.num_planned += 1
        return block

    @typed
    def new_block(self, module: nn.Module, side: str | Mapping[str, nn.Module] | None = None) -> Block:
        """Return a block to append: `module` behind the net's output, with the net's method and optimizer.

        `side` names a view that the block sees besides, joined with what it gets (`kit.context.ExtraView`), or gives an
        encoder for it: `{name: module}`, from the view to the shape of the net's output.
        """
        self._check_may_grow()
        if self.plan is None:
            raise ValueError("the net has no plan to make blocks by: kit.decouple gives it one")
        inputs = growth.trial(list(self), self.signal(self.plan.example))
        return self.plan.behind(inputs, [block.objective for block in self], module, self._sides(side, self.plan))

    def freeze(self, upto: int | None = None) -> None:
        """Freeze the first `upto` blocks (None: all): they only run forward, in evaluation mode, until `thaw`."""
        for block in growth.upto(list(self), upto):
            block.freeze()

    def thaw(self, upto: int | None = None) -> None:
        """Let the first `upto` blocks (None: all) learn again, with the optimizer state they were frozen with."""
        for block in growth.upto(list(self), upto):
            block.thaw()
            block.train(self.training)

    def _check_may_grow(self) -> None:
        if self.plan is not None and self.plan.one_loss:
            raise ValueError(
                f"a {self.method} net does not grow: one loss at its end trains it as a whole, so a new end would ask "
                "other work of every layer. Choose a method that trains blocks by themselves, such as greedy or dgl"
            )
        if self.stepping:
            raise RuntimeError(
                "the net is in the middle of a step: a new block would see a part of a batch. Grow between two steps, "
                "best between two epochs (on_epoch=, or grow= in the config)"
            )

    def _sides(self, side: str | Mapping[str, nn.Module] | None, plan: Plan) -> Views:
        sides = dict(side) if isinstance(side, Mapping) else {side: None} if side else {}
        known = {name: plan.shape(name) for name in plan.example if name != "x"}
        for name in sides:
            check_name("view", name, known)
        return {name: known[name] if encoder is None else encoder for name, encoder in sides.items()}
