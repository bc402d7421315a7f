"""Where a traced model can be cut: the points at which one batched tensor is all that later layers still need."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from kit.measure.costs import Saved, on_meta, saved_bytes
from kit.splitting.tracing import Graphs


@dataclass(frozen=True)
class Cut:
    """A place to cut: behind node number `after[mode]` of each mode's line, where `value[mode]` is all that is live."""

    name: str
    after: dict[bool, int]
    value: dict[bool, fx.Node]

    @property
    def depth(self) -> int:
        """How deep in the model's hierarchy the place lies: 1 between two of its own children."""
        return self.name.count(".") + 1


class Watch(fx.Interpreter):
    """Runs a graph and keeps every node's value, its version when made, and the bytes autograd kept for it."""

    def __init__(self, root: nn.Module, graph: fx.Graph, saved: Saved):
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.saved = saved
        self.made: dict[fx.Node, tuple[Any, int]] = {}
        self.bytes: dict[fx.Node, int] = {}

    def run_node(self, node: fx.Node) -> Any:
        before = self.saved.total
        value = super().run_node(node)
        self.made[node] = value, value._version if isinstance(value, Tensor) else 0
        self.bytes[node] = self.saved.total - before
        return value

    def carries(self, node: fx.Node, batch: int) -> bool:
        """Whether the node's value can be handed on: a floating (B, …) tensor that nothing overwrites later."""
        value, version = self.made[node]
        fits = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch and value.is_floating_point()
        return fits and value._version == version


class _Watched(nn.Module):
    """A graph on its root as a module, so that `functional_call` can put meta tensors under it."""

    def __init__(self, root: nn.Module, graph: fx.Graph, saved: Saved):
        super().__init__()
        self.root, self.graph, self.saved = root, graph, saved

    def forward(self, x: Tensor) -> Watch:
        watch = Watch(self.root, self.graph, self.saved)
        watch.run(x)
        return watch


@contextmanager
def evaluating(root: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation, so that no buffer changes, and back on leaving."""
    flags = {module: module.training for module in root.modules()}
    try:
        root.eval()
        yield
    finally:
        for module, training in flags.items():
            module.training = training


def watch(root: nn.Module, graph: fx.Graph, example: Tensor) -> Watch:
    """Run `graph` on a tensor like `example` without data; with data only where PyTorch cannot tell the shapes.

    Raises ValueError if the model does not take the example.
    """
    try:
        with evaluating(root), saved_bytes() as saved:
            watched = _Watched(root, graph, saved)
            state, inputs = on_meta(watched, [example])
            saved.ignore(state.values())
            return torch.func.functional_call(watched, state, inputs)
    except Exception:  # an operation without a meta kernel, a shape that depends on values, or a wrong example
        return _watch_real(root, graph, example)


def _watch_real(root: nn.Module, graph: fx.Graph, example: Tensor) -> Watch:
    try:
        with evaluating(root), saved_bytes() as saved:
            saved.ignore([*root.parameters(), *root.buffers()])
            return _Watched(root, graph, saved)(example)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the model does not run on the example of shape {tuple(example.shape)} and {example.dtype}: {reason}. "
            "Give one batch as the model takes it in training"
        ) from error


class Line:
    """A graph's nodes in order of execution, the names of its places, and what is live behind each node."""

    def __init__(self, root: nn.Module, graph: fx.Graph, example: Tensor):
        self.nodes = [node for node in graph.nodes if node.op != "output"]
        self.result = graph.output_node().args[0]
        self.watch = watch(root, graph, example)
        self.ends: dict[str, int] = {}
        for place, node in enumerate(self.nodes):
            parts = node.meta["path"].split(".")
            self.ends.update({".".join(parts[: depth + 1]): place for depth in range(len(parts))})
        self.ends.update({node.meta["path"]: place for place, node in enumerate(self.nodes)})
        self.live = self._live()
        self.single = {
            place: live[0]
            for place, live in enumerate(self.live)
            if len(live) == 1 and live[0].op != "placeholder" and self.watch.carries(live[0], len(example))
        }

    def _live(self) -> list[list[fx.Node]]:
        """Return, for each node, the values made up to it that a later node or the output still reads."""
        place = {node: index for index, node in enumerate(self.nodes)}
        last = {node: max((place.get(user, len(place)) for user in node.users), default=-1) for node in place}
        live, behind = [], []
        for index, node in enumerate(self.nodes):
            made = [node] if node.op != "get_attr" else []  # a parameter is read wherever it is used
            live = [value for value in live + made if last[value] > index]
            behind.append(live)
        return behind[:-1]

    def name(self, place: int) -> str:
        """Return the outermost module that is finished behind node number `place`, else the node's own name."""
        parts = self.nodes[place].meta["path"].split(".")
        names = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
        return next(name for name in names if self.ends[name] == place)


def tensors(root: nn.Module, node: fx.Node) -> list[Tensor]:
    """Return the parameters and buffers that the node itself reads."""
    if node.op == "call_module":
        module = root.get_submodule(node.target)
        return [*module.parameters(), *module.buffers()]
    if node.op == "get_attr":
        parent, _, name = node.target.rpartition(".")
        return [getattr(root.get_submodule(parent), name)]
    return []


def find_cuts(root: nn.Module, graphs: Graphs, example: Tensor) -> tuple[dict[bool, Line], list[Cut]]:
    """Return both modes' lines and every place that cuts both of them, in order of execution.

    At such a place one floating tensor (B, …) is live, later layers do not overwrite it, and no parameter or buffer
    is used on both sides. Raises ValueError for a model that does not take `example` or returns anything else than
    one tensor.
    """
    train = Line(root, graphs[True], example)
    lines = {True: train, False: train if graphs[True] is graphs[False] else Line(root, graphs[False], example)}
    for line in lines.values():
        if not isinstance(line.result, fx.Node) or not isinstance(line.watch.made[line.result][0], Tensor):
            raise ValueError(
                "the model returns several values, expected one tensor. Switch its auxiliary outputs off, or wrap it "
                "in a module that returns the one to learn from"
            )
    cuts = _common(lines)
    shared = _shared(root, lines, cuts)
    return lines, [cut for index, cut in enumerate(cuts) if index not in shared]


def _common(lines: dict[bool, Line]) -> list[Cut]:
    """Return the places, in order, that cut the line of training as well as that of evaluation."""
    train, other = lines[True], lines[False]
    same = {node.meta["path"]: place for place, node in enumerate(other.nodes)}
    cuts = []
    for place, value in train.single.items():
        there = same.get(train.nodes[place].meta["path"], -1)
        if there in other.single and (not cuts or there > cuts[-1].after[False]):
            after, values = {True: place, False: there}, {True: value, False: other.single[there]}
            cuts.append(Cut(train.name(place), after, values))
    return cuts


def _shared(root: nn.Module, lines: dict[bool, Line], cuts: list[Cut]) -> set[int]:
    """Return the indices of cuts with a parameter or buffer that is used before and behind them."""
    sides = defaultdict(set)
    for mode, line in lines.items():
        places = [cut.after[mode] for cut in cuts]
        side = {node: bisect_left(places, index) for index, node in enumerate(line.nodes)}
        for node in line.nodes:
            readers = node.users if node.op == "get_attr" else [node]
            for tensor in tensors(root, node):
                sides[id(tensor)].update(side.get(reader, len(cuts)) for reader in readers)
    return {cut for parts in sides.values() for cut in range(min(parts), max(parts))}
