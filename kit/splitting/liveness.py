"""Where a traced model can be cut: the points at which one batched tensor is all that later layers still need."""

from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn

from kit.measure.costs import SavedBytes, copied, held, meta
from kit.splitting.tracing import Traced, same_random_numbers


class Line(fx.Interpreter):
    """One mode's nodes in order of execution, run once; by a node's path in the model, which both modes share."""

    def __init__(self, root: nn.Module, graph: fx.Graph, example: Tensor):
        super().__init__(root.eval(), garbage_collect_values=False, graph=graph)  # batch norm takes one row in eval
        self.versions, self.bytes, self.saved = {}, {}, SavedBytes(held(root))
        masks = sum(node.op == "placeholder" for node in graph.nodes) - 1
        with torch.enable_grad(), self.saved:
            self.run(example, *[torch.ones_like(example, dtype=torch.bool)] * masks)
        self.nodes = [node for node in graph.nodes if node.op != "output"]
        self.anywhere = self._anywhere()
        self.result = graph.output_node().args[0]
        self.index = {node.meta["path"]: index for index, node in enumerate(self.nodes)}
        self.ends = {name: index for index, node in enumerate(self.nodes) for name in _enclosing(node)} | self.index
        self.carried = self._carried(len(example))

    def run_node(self, node: fx.Node) -> Any:
        before = self.saved.total
        value = super().run_node(node)
        self.versions[node] = value._version if isinstance(value, Tensor) else 0
        self.bytes[node] = self.saved.total - before
        return value

    def _anywhere(self) -> set[fx.Node]:
        """Return the nodes that any stage can compute: parameters, the mask, and what follows from the mask alone."""
        found, (entry, *_) = set(), self.nodes
        for node in self.nodes:
            sources = node.all_input_nodes
            free = node.op == "get_attr" or (node.op == "placeholder" and node is not entry)
            if free or (sources and all(source in found and source.op != "get_attr" for source in sources)):
                found.add(node)
        return found

    def _carried(self, batch: int) -> dict[str, fx.Node]:
        """Return, by the path of a node, the only value still needed behind it, wherever that can be handed on."""
        order = {node: index for index, node in enumerate(self.nodes)}
        last = {node: max((order.get(user, len(order)) for user in node.users), default=-1) for node in order}
        live, carried = [], {}
        for index, node in enumerate(self.nodes[:-1]):
            made = [] if node in self.anywhere else [node]
            live = [value for value in live + made if last[value] > index]
            value = self.env[live[0]] if len(live) == 1 and live[0].op != "placeholder" else None
            batched = isinstance(value, Tensor) and value.shape[:1] == (batch,) and value.is_floating_point()
            if batched and value._version == self.versions[live[0]]:  # nothing overwrites it later
                carried[node.meta["path"]] = live[0]
        return carried

    def tensors(self, node: fx.Node) -> list[Tensor]:
        """Return the parameters and buffers that the node itself reads."""
        if node.op == "call_module":
            layer = self.fetch_attr(node.target)
            return [*layer.parameters(), *layer.buffers()]
        return [self.fetch_attr(node.target)] if node.op == "get_attr" else []

    def name_of(self, path: str) -> str:
        """Return the outermost module that ends with the node at `path`, else `path`."""
        index = self.index[path]
        return next(name for name in _enclosing(self.nodes[index]) if self.ends[name] == index)


def _enclosing(node: fx.Node) -> list[str]:
    """Return the names of the modules around the node, the outermost first, and its own."""
    return list(accumulate(node.meta["path"].split("."), "{}.{}".format))


def _lines(traced: Traced, example: Tensor) -> list[Line]:
    try:
        try:  # shapes tell it all, and cost no time
            root = copied(traced.twin, meta)
            return [Line(root, graph, meta(example)) for graph in traced.graphs]
        except Exception:  # an operation without a meta kernel, a shape that depends on values, or a wrong example
            return [Line(traced.twin, graph, example.clone()) for graph in traced.graphs]  # which it may overwrite
    except Exception as error:
        given = f"the example of shape {tuple(example.shape)} and {example.dtype}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice = "Give one batch as the model takes it in training"
        raise ValueError(f"the traced model does not run on {given}: {reason}. {advice}") from error


@same_random_numbers(0)
def find_cuts(traced: Traced, example: Tensor) -> tuple[list[Line], list[str]]:
    """Return a line for each of the graphs, and the paths of the nodes behind which both modes can be cut, in order.

    There one floating tensor (B, …) is live, later layers do not overwrite it, and no parameter or buffer is used on
    both sides. Raises ValueError for a model that does not take `example` or returns anything else than one tensor.
    """
    if not isinstance(example, Tensor) or example.ndim == 0 or len(example) == 0:
        given = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ValueError(f"example={given}, expected one batch as a tensor (B, …) with B ≥ 1")
    lines = _lines(traced, example)
    for line in lines:
        if not isinstance(line.result, fx.Node) or not isinstance(line.env[line.result], Tensor):
            way_out = "Switch its auxiliary outputs off, or wrap it in a module that returns the one to learn from"
            raise ValueError(f"the model returns several values, expected one tensor. {way_out}")
    training, evaluation = lines[0], lines[-1]
    cuts, reached = [], -1
    for path in training.carried:
        if path in evaluation.carried and evaluation.index[path] > reached:  # both modes pass the cuts in one order
            cuts.append(path)
            reached = evaluation.index[path]
    shared = _shared(lines, cuts)
    return lines, [cut for number, cut in enumerate(cuts) if number not in shared]


def _shared(lines: list[Line], cuts: list[str]) -> set[int]:
    """Return the numbers of cuts with a parameter or buffer that is used before and behind them."""
    sides = defaultdict(set)
    for line in lines:
        bounds = [line.index[cut] for cut in cuts]
        side = {node: bisect_left(bounds, index) for index, node in enumerate(line.nodes)}
        for node in line.nodes:
            readers = node.users if node.op == "get_attr" else [node]
            for tensor in line.tensors(node):
                sides[id(tensor)].update(side.get(reader, len(cuts)) for reader in readers)
    return {cut for parts in sides.values() for cut in range(min(parts), max(parts))}
