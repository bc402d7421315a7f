"""A stage: a piece of a traced model that runs by itself on the model's own layers."""

import copy
from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor, fx, nn
from torch.fx.graph_module import _copy_attr

from kit.measure.costs import held
from kit.splitting.liveness import Line
from kit.splitting.tracing import Traced, trace


class Stage(nn.Module):
    """A run of a traced model's nodes, (B, …) → (B, …), on the model's own layers under their own names.

    It reads the mask, if its model does.

    Parameters, buffers and layers are the model's very objects. Where the model does something else in training
    than in evaluation, `train()` and `eval()` choose between the two as in the model itself.
    """

    def __init__(self, root: nn.Module, graphs: Sequence[fx.Graph]):
        super().__init__()
        for node in (node for graph in graphs for node in graph.nodes):
            if node.op in ("call_module", "get_attr"):
                _copy_attr(root, self, node.target)
        for part in self.modules():
            if type(part) is nn.Module:  # made by fx to hold what lies deeper
                part.training = root.training
        self._graphs, self.training = graphs, root.training
        self.takes_mask = any(node.target == "mask" for graph in graphs for node in graph.nodes)
        self._compile()

    def forward(self, x: Tensor, *reads: Tensor) -> Tensor:
        """Run the nodes of the current mode on `x` (B, …), and what else they read: the mask."""
        return self._forwards[0 if self.training else -1](self, x, *reads)

    def _compile(self) -> None:
        self._forwards = [type(fx.GraphModule(self, graph)).forward for graph in self._graphs]

    def __getstate__(self) -> dict:  # functions made of graphs cannot be pickled; graphs can
        return {name: value for name, value in vars(self).items() if name != "_forwards"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._compile()


def stages_between(root: nn.Module, lines: Sequence[Line], cuts: Sequence[str]) -> list[Stage]:
    """Return the stages that `cuts`, in order of execution, make of the model in `root`."""
    return [Stage(root, graphs) for graphs in zip(*(_segments(line, cuts) for line in lines), strict=True)]


def _segments(line: Line, cuts: Sequence[str]) -> Iterator[fx.Graph]:
    """Yield a graph for each stage; all but the first read as `x` the value that the one before returns."""
    start, entry = 0, None
    for cut in [*cuts, None]:
        end = line.index[cut] + 1 if cut else len(line.nodes)
        leave = line.carried[cut] if cut else line.result
        part = fx.Graph()
        copies = {entry: part.placeholder("x")} if entry else {}
        if entry:
            copies |= {node: part.placeholder("mask") for node in line.nodes[1:] if node.op == "placeholder"}
        for node in line.nodes[start:end]:
            _copy(node, part, copies)
        part.output(copies[leave])
        yield part
        start, entry = end, leave


def _copy(node: fx.Node, part: fx.Graph, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    """Copy a node into a stage's graph, and before it what any stage can compute and this one has not yet."""
    if node not in copies:
        copies[node] = part.node_copy(node, partial(_copy, part=part, copies=copies))
    return copies[node]


def split_classifier(stage: nn.Module, num_classes: int, pool: bool = True) -> tuple[nn.Module, nn.Module | None]:
    """Divide `stage` into trunk (B, …) → (B, D) and classifier (B, D) → (B, num_classes), sharing its tensors.

    The classifier is the Linear with `num_classes` outputs whose result is the stage's result; a Dropout used only
    right before it goes along. The trunk runs the stage's own forward without the two. Where a trace shows no such
    Linear, or not all that `stage` does, the answer is `(stage, None)`. `stage` itself stays as it is. Without `pool`
    the trunk leaves out the average pool before the classifier, if there is one: it then ends in the flattened map.
    """
    try:
        traced = Traced(stage, stage, stage._graphs) if isinstance(stage, Stage) else trace(stage)
    except ValueError:
        return stage, None
    tails = [_tail(traced.root, graph) for graph in traced.graphs]
    layers = [traced.root.get_submodule(name) for name in tails[0]]
    if traced.doubtful or not layers or tails[0] != tails[-1] or layers[-1].out_features != num_classes:
        return stage, None
    pools = [] if pool else [m for m in traced.root.modules() if isinstance(m, nn.AdaptiveAvgPool2d)][-1:]
    gone = [*layers, *pools]
    kept = [*held(stage), *(part for part in stage.modules() if not [*part.children()])]
    trunk = copy.deepcopy(stage, {id(part): part for part in kept} | {id(layer): nn.Identity() for layer in gone})
    if {id(tensor) for tensor in trunk.parameters()} & {id(tensor) for tensor in layers[-1].parameters()}:
        return stage, None
    if len(layers) == 1:
        return trunk, layers[0]
    classifier = nn.Sequential(nn.Dropout(layers[0].p), layers[1])  # not in place: other heads read the features too
    classifier.training = classifier[0].training = layers[0].training
    return trunk, classifier


def _tail(root: nn.Module, graph: fx.Graph) -> list[str]:
    """Return the names of the [Dropout,] Linear that end `graph` and are used once."""
    node, names = graph.output_node().args[0], []
    for kind in (nn.Linear, nn.Dropout):
        called = isinstance(node, fx.Node) and node.op == "call_module" and len(node.users) == 1
        uses = called and sum(f"{other.target}.".startswith(f"{node.target}.") for other in graph.nodes)
        if uses != 1 or type(root.get_submodule(node.target)) is not kind:
            break
        names.insert(0, node.target)
        node = (node.all_input_nodes or [None])[0]
    return names
