"""A stage: a piece of a traced model that runs by itself on the model's own layers."""

import math
from collections import Counter
from collections.abc import Iterable

from torch import Tensor, fx, nn

Graphs = dict[bool, fx.Graph]
"""The graph that runs in training mode (True) and the one that runs in evaluation mode (False)."""


class _Alone(nn.Module):
    """Calls the model with its input alone, so that optional arguments of its `forward` keep their defaults."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _Tracer(fx.Tracer):
    """Traces down to torch.nn layers and torchvision.ops, and notes in `meta["path"]` where each node comes from."""

    proxy_buffer_attributes = True  # a buffer is read in the graph, not copied into it as a constant

    def __init__(self):
        super().__init__(autowrap_modules=(math,))
        self.calls = Counter()

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        of_torchvision = module.__module__.startswith("torchvision.ops") and not isinstance(module, nn.Sequential)
        return of_torchvision or super().is_leaf_module(module, path)

    def create_node(self, kind, target, args, kwargs, name=None, type_expr=None) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        inside = self.scope.module_path.removeprefix("model").removeprefix(".")
        if kind in ("call_module", "get_attr"):
            path = target.removeprefix("model.")
        else:
            path = f"{inside}.{_word(target)}".removeprefix(".")
        self.calls[path] += 1
        node.meta = {"path": path if self.calls[path] == 1 else f"{path}_{self.calls[path] - 1}"}
        return node


def _word(target) -> str:
    """Return the bare name of what a node calls: `add`, `flatten`, `x`."""
    return str(getattr(target, "__name__", target)).strip("_")


def trace(model: nn.Module) -> tuple[nn.Module, Graphs]:
    """Trace `model` in training and in evaluation mode; its training flags stay as they were.

    Returns the module that the graphs' targets are looked up in, and the graphs: one object twice where both modes
    run the same. Raises ValueError if torch.fx cannot follow the forward pass.
    """
    alone, flags = _Alone(model), {module: module.training for module in model.modules()}
    try:
        graphs = {mode: _graph(alone.train(mode)) for mode in (True, False)}
    except Exception as error:  # whatever the model's own forward raises on symbolic values
        raise ValueError(
            f"{type(model).__name__} cannot be cut: torch.fx cannot trace it ({type(error).__name__}: {error}). Keep "
            "data-dependent Python out of forward, hand over your own list of stages, or use num_blocks=1"
        ) from error
    finally:
        for module, training in flags.items():
            module.training = training
    same = str(graphs[True]) == str(graphs[False])
    return _stand_in(alone, graphs[True]), {True: graphs[True], False: graphs[True] if same else graphs[False]}


def _graph(alone: _Alone) -> fx.Graph:
    graph = _Tracer().trace(alone)
    for node in list(graph.nodes):
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("model.")
        if node.op == "get_attr" and node.users:  # read a parameter where it is used, not before
            place = {other: index for index, other in enumerate(graph.nodes)}
            min(node.users, key=place.get).prepend(node)
    return graph


def _stand_in(alone: _Alone, graph: fx.Graph) -> nn.Module:
    """Return a module with all that the model holds, and as buffers the tensors it only made while being traced."""
    model, root = alone.model, nn.Module()
    if any(node.target == "model" for node in graph.nodes):  # the whole model is one torch.nn layer
        root.add_module("model", model)
    root._modules.update(model._modules)
    root._parameters.update(model._parameters)
    root._buffers.update(model._buffers)
    root._non_persistent_buffers_set.update(model._non_persistent_buffers_set)
    for name, value in [*vars(model).items(), *vars(alone).items()]:
        if isinstance(value, Tensor):
            root.register_buffer(name, value, persistent=False)
    return root


class Stage(nn.Module):
    """A run of a traced model's nodes, (B, …) → (B, …), on the model's own layers under their own names.

    Parameters, buffers and layers are the model's very objects. Where the model does something else in training
    than in evaluation, `train()` and `eval()` choose between the two as in the model itself.
    """

    def __init__(self, root: nn.Module, graphs: Graphs):
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
        stage.register_buffer(name, thing, persistent=name not in root._non_persistent_buffers_set)


def segment(nodes: Iterable[fx.Node], entry: fx.Node | None, leave: fx.Node) -> fx.Graph:
    """Copy `nodes` into a graph of their own that reads the value of `entry` as `x` and returns that of `leave`."""
    part = fx.Graph()
    copies = {entry: part.placeholder("x")} if entry is not None else {}
    for node in nodes:
        copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(copies[leave])
    return part


def split_classifier(stage: nn.Module, num_classes: int) -> tuple[nn.Module, nn.Module | None]:
    """Divide `stage` into trunk (B, …) → (B, D) and classifier (B, D) → (B, num_classes), sharing its tensors.

    The classifier is the Linear with `num_classes` outputs whose result is the stage's result; a Dropout directly
    before it goes along. Without such a Linear the answer is `(stage, None)`. `stage` itself stays as it is.
    """
    if isinstance(stage, nn.Linear):
        return (nn.Identity(), stage) if stage.out_features == num_classes else (stage, None)
    try:
        root, graphs = (stage, stage._graphs) if isinstance(stage, Stage) else trace(stage)
    except ValueError:
        return stage, None
    tails = {mode: _tail(root, graph, num_classes) for mode, graph in graphs.items()}
    if None in tails.values() or len({tuple(node.target for node in tail) for tail in tails.values()}) > 1:
        return stage, None
    trunk = Stage(root, {mode: _without(graphs[mode], tail) for mode, tail in tails.items()})
    trunk.training = stage.training
    layers = [root.get_submodule(node.target) for node in tails[True]]
    shared = {id(tensor) for tensor in trunk.parameters()} & {id(tensor) for tensor in layers[-1].parameters()}
    return (stage, None) if shared else (trunk, _classifier(layers))


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
