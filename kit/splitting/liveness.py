"""Where a traced model can be cut: the points at which one batched tensor is all that later layers still need."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn

from kit.measure.costs import Saved, saved_bytes
from kit.splitting.tracing import Traced, copied, held


@dataclass(frozen=True)
class Cut:
    """A cut point: behind node number `after[mode]` of each mode's line, where `value[mode]` is all that is live."""

    name: str
    after: dict[bool, int]
    value: dict[bool, fx.Node]

    @property
    def depth(self) -> int:
        """How deep in the model's hierarchy it lies: 1 between two of the model's own children."""
        return self.name.count(".") + 1


class _Watch(fx.Interpreter):
    """Runs a graph and keeps every node's value, its version when made, and the bytes autograd kept for it."""

    def __init__(self, root: nn.Module, graph: fx.Graph, saved: Saved):
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.saved = saved
        self.versions: dict[fx.Node, int] = {}
        self.bytes: dict[fx.Node, int] = {}

    def run_node(self, node: fx.Node) -> Any:
        before = self.saved.total
        value = super().run_node(node)
        self.versions[node] = value._version if isinstance(value, Tensor) else 0
        self.bytes[node] = self.saved.total - before
        return value

    def carries(self, node: fx.Node, batch: int) -> bool:
        """Whether the node's value can be handed on: a floating (B, …) tensor that nothing overwrites later."""
        value = self.env[node]
        fits = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch and value.is_floating_point()
        return fits and value._version == self.versions[node]


def _watch(twin: nn.Module, graph: fx.Graph, example: Tensor) -> _Watch:
    """Run `graph` on a tensor like `example` without data; with data only where PyTorch cannot tell the shapes.

    Raises ValueError if the model does not take the example.
    """
    try:
        return _watched(copied(twin, _meta), graph, _meta(example))
    except Exception:  # an operation without a meta kernel, a shape that depends on values, or a wrong example
        pass
    try:
        return _watched(twin, graph, example)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the model does not run on the example of shape {tuple(example.shape)} and {example.dtype}: {reason}. "
            "Give one batch as the model takes it in training"
        ) from error


def _meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)


def _watched(root: nn.Module, graph: fx.Graph, example: Tensor) -> _Watch:
    with saved_bytes() as saved:
        saved.ignore(held(root))
        watch = _Watch(root.eval(), graph, saved)  # in evaluation, batch norm takes batches of one
        watch.run(example)
    return watch


class Line:
    """One mode's nodes in order of execution, where its modules end, and the one value that is live behind a node."""

    def __init__(self, twin: nn.Module, graph: fx.Graph, example: Tensor):
        self.nodes = [node for node in graph.nodes if node.op != "output"]
        self.result = graph.output_node().args[0]
        self.watch = _watch(twin, graph, example)
        self.ends = {name: index for index, node in enumerate(self.nodes) for name in _enclosing(node)}
        self.ends.update({node.meta["path"]: index for index, node in enumerate(self.nodes)})
        live = ((index, values[0]) for index, values in enumerate(self._live()) if len(values) == 1)
        self.single = {
            index: value
            for index, value in live
            if value.op != "placeholder" and self.watch.carries(value, len(example))
        }

    def _live(self) -> Iterator[list[fx.Node]]:
        """Yield, for each node but the last, the values made up to it that a later node or the output still reads."""
        index_of = {node: index for index, node in enumerate(self.nodes)}
        last = {node: max((index_of.get(user, len(index_of)) for user in node.users), default=-1) for node in index_of}
        live = []
        for index, node in enumerate(self.nodes[:-1]):
            made = [node] if node.op != "get_attr" else []  # every stage that uses a parameter reads it by itself
            live = [value for value in live + made if last[value] > index]
            yield live

    def name(self, index: int) -> str:
        """Return the outermost module that is finished behind node number `index`, else the node's own name."""
        return next(name for name in _enclosing(self.nodes[index]) if self.ends[name] == index)


def _enclosing(node: fx.Node) -> list[str]:
    """Return the names of the modules around the node, the outermost first, and its own."""
    return list(accumulate(node.meta["path"].split("."), "{}.{}".format))


def tensors(root: nn.Module, node: fx.Node) -> list[Tensor]:
    """Return the parameters and buffers that the node itself reads."""
    if node.op == "call_module":
        module = root.get_submodule(node.target)
        return [*module.parameters(), *module.buffers()]
    if node.op == "get_attr":
        parent, _, name = node.target.rpartition(".")
        return [getattr(root.get_submodule(parent), name)]
    return []


def find_cuts(traced: Traced, example: Tensor) -> tuple[dict[bool, Line], list[Cut]]:
    """Return both modes' lines and every point that cuts both of them, in order of execution.

    At such a point one floating tensor (B, …) is live, later layers do not overwrite it, and no parameter or buffer
    is used on both sides. Raises ValueError for a model that does not take `example` or returns anything else than
    one tensor.
    """
    graphs = traced.graphs
    train = Line(traced.twin, graphs[True], example)
    lines = {
        True: train,
        False: train if graphs[True] is graphs[False] else Line(traced.twin, graphs[False], example),
    }
    for line in lines.values():
        if not isinstance(line.result, fx.Node) or not isinstance(line.watch.env[line.result], Tensor):
            raise ValueError(
                "the model returns several values, expected one tensor. Switch its auxiliary outputs off, or wrap it "
                "in a module that returns the one to learn from"
            )
    cuts = _common(lines)
    shared = _shared(traced.root, lines, cuts)
    return lines, [cut for index, cut in enumerate(cuts) if index not in shared]


def _common(lines: dict[bool, Line]) -> list[Cut]:
    """Return the points, in order, that cut the line of training as well as that of evaluation."""
    train, other = lines[True], lines[False]
    same = {node.meta["path"]: index for index, node in enumerate(other.nodes)}
    cuts = []
    for index, value in train.single.items():
        there = same.get(train.nodes[index].meta["path"], -1)
        if there in other.single and (not cuts or there > cuts[-1].after[False]):
            after, values = {True: index, False: there}, {True: value, False: other.single[there]}
            cuts.append(Cut(train.name(index), after, values))
    return cuts


def _shared(root: nn.Module, lines: dict[bool, Line], cuts: list[Cut]) -> set[int]:
    """Return the indices of cuts with a parameter or buffer that is used before and behind them."""
    sides = defaultdict(set)
    for mode, line in lines.items():
        bounds = [cut.after[mode] for cut in cuts]
        side = {node: bisect_left(bounds, index) for index, node in enumerate(line.nodes)}
        for node in line.nodes:
            readers = node.users if node.op == "get_attr" else [node]
            for tensor in tensors(root, node):
                sides[id(tensor)].update(side.get(reader, len(cuts)) for reader in readers)
    return {cut for parts in sides.values() for cut in range(min(parts), max(parts))}
