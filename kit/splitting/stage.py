"""A stage: a piece of a traced model that runs by itself on the model's own layers."""

from collections.abc import Iterable, Sequence

from torch import Tensor, fx, nn

from kit.splitting.liveness import Cut, Line
from kit.splitting.tracing import trace


class Stage(nn.Module):
    """A run of a traced model's nodes, (B, …) → (B, …), on the model's own layers under their own names.

    Parameters, buffers and layers are the model's very objects. Where the model does something else in training
    than in evaluation, `train()` and `eval()` choose between the two as in the model itself.
    """

    def __init__(self, root: nn.Module, graphs: dict[bool, fx.Graph]):
        super().__init__()
        for graph in {id(graph): graph for graph in graphs.values()}.values():
            for node in graph.nodes:
                if node.op in ("call_module", "get_attr"):
                    _adopt(self, root, node)
        self._graphs = graphs
        self._compile()

    def forward(self, x: Tensor) -> Tensor:
        """Run the nodes of the current mode on `x` (B, …)."""
        return self._forwards[self.training](self, x)

    def _compile(self) -> None:
        self._forwards = {mode: type(fx.GraphModule(self, graph)).forward for mode, graph in self._graphs.items()}

    def __getstate__(self) -> dict:
        # A generated function cannot be pickled; the graphs can, and give it anew.
        return {name: value for name, value in self.__dict__.items() if name != "_forwards"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._compile()


def _adopt(stage: nn.Module, root: nn.Module, node: fx.Node) -> None:
    """Give `stage` the layer or tensor that `node` refers to in `root`, under its name within the model."""
    *parents, name = node.target.split(".")
    for parent in parents:
        root = root.get_submodule(parent)
        if parent not in stage._modules:
            stage.add_module(parent, nn.Module())
            stage._modules[parent].training = root.training
        stage = stage._modules[parent]
    thing = getattr(root, name)
    if isinstance(thing, nn.Module):
        stage._modules[name] = thing
    elif isinstance(thing, nn.Parameter):
        stage.register_parameter(name, thing)
    elif isinstance(thing, Tensor) and name not in stage._buffers:
        # A tensor that is a plain attribute of the model is a buffer here, to move with the stage, and never saved.
        saved = name in root._buffers and name not in root._non_persistent_buffers_set
        stage.register_buffer(name, thing, persistent=saved)


def segment(nodes: Iterable[fx.Node], entry: fx.Node | None, leave: fx.Node) -> fx.Graph:
    """Copy `nodes` into a graph of their own that reads the value of `entry` as `x` and returns that of `leave`."""
    part = fx.Graph()
    copies = {entry: part.placeholder("x")} if entry is not None else {}
    for node in nodes:
        copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(copies[leave])
    return part


def stages_between(root: nn.Module, lines: dict[bool, Line], cuts: Sequence[Cut]) -> list[Stage]:
    """Return the stages that the `cuts`, in order of execution, make of `root`; each has its training flag."""
    stages = []
    for before, behind in zip([None, *cuts], [*cuts, None], strict=True):
        parts = {}
        for mode, line in lines.items():
            start = before.after[mode] + 1 if before else 0
            end = behind.after[mode] + 1 if behind else len(line.nodes)
            leave = behind.value[mode] if behind else line.result
            parts[mode] = segment(line.nodes[start:end], before and before.value[mode], leave)
        if lines[True] is lines[False]:
            parts[False] = parts[True]
        stages.append(Stage(root, parts))
        stages[-1].training = root.training
    return stages


def split_classifier(stage: nn.Module, num_classes: int) -> tuple[nn.Module, nn.Module | None]:
    """Divide `stage` into trunk (B, …) → (B, D) and classifier (B, D) → (B, num_classes), sharing its tensors.

    The classifier is the Linear with `num_classes` outputs whose result is the stage's result; a Dropout directly
    before it goes along. Without such a Linear, or where the stage cannot be traced faithfully, the answer is
    `(stage, None)`. `stage` itself stays as it is.
    """
    if isinstance(stage, nn.Linear):
        return (nn.Identity(), stage) if stage.out_features == num_classes else (stage, None)
    root, graphs = _graphs(stage)
    tails = {mode: _tail(root, graph, num_classes) for mode, graph in graphs.items()}
    if None in tails.values() or len({tuple(node.target for node in tail) for tail in tails.values()}) != 1:
        return stage, None
    trunk = Stage(root, {mode: _without(graphs[mode], tail) for mode, tail in tails.items()})
    trunk.training = stage.training
    layers = [root.get_submodule(node.target) for node in tails[True]]
    shared = {id(tensor) for tensor in trunk.parameters()} & {id(tensor) for tensor in layers[-1].parameters()}
    return (stage, None) if shared else (trunk, _classifier(layers))


def _graphs(stage: nn.Module) -> tuple[nn.Module, dict[bool, fx.Graph]]:
    """Return the stage's graphs and where to look their targets up; no graphs where a trace would not be the stage."""
    if isinstance(stage, Stage):
        return stage, stage._graphs
    try:
        traced = trace(stage)
    except ValueError:
        return stage, {}
    return traced.root, {} if traced.doubtful else traced.graphs


def _tail(root: nn.Module, graph: fx.Graph, num_classes: int) -> list[fx.Node] | None:
    """Return the nodes of [Dropout,] Linear that end `graph`, or None if it does not end so."""

    def calls(node, kind) -> bool:
        single = isinstance(node, fx.Node) and node.op == "call_module" and len(node.users) == 1
        return single and type(root.get_submodule(node.target)) is kind

    last = graph.output_node().args[0]
    if not calls(last, nn.Linear) or root.get_submodule(last.target).out_features != num_classes:
        return None
    before = last.args[0]
    return [before, last] if calls(before, nn.Dropout) else [last]


def _without(graph: fx.Graph, tail: list[fx.Node]) -> fx.Graph:
    body = [node for node in graph.nodes if node.op != "output" and node not in tail]
    return segment(body, None, tail[0].args[0])


def _classifier(layers: list[nn.Module]) -> nn.Module:
    if len(layers) == 1:
        return layers[0]
    classifier = nn.Sequential(nn.Dropout(layers[0].p), layers[1])  # not in place: other heads read the features too
    classifier.training = classifier[0].training = layers[0].training
    return classifier
