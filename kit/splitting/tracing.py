"""A model's graphs, as torch.fx traces them: on a copy, so that the model stays as it was whatever its forward does."""

import copy
import math
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

WAY_OUT = "Hand over your own list of stages, or use num_blocks=1"


@dataclass(frozen=True)
class Traced:
    """A model's graphs, and the modules that their targets are looked up in."""

    root: nn.Module
    """Holds the model's own layers and tensors, and the constants that its forward pass made while traced."""

    twin: nn.Module
    """The same with a copy of the model; called, it runs the copy. Whatever has to run to be known runs here."""

    graphs: dict[bool, fx.Graph]
    """The graph of training mode (True) and that of evaluation mode (False): one object if they are the same."""

    doubtful: bool
    """Whether operations stood under `torch.no_grad()` or autocast, which a graph does not hold."""


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
        self.paths: set[str] = set()
        self.around, self.doubtful = _contexts(), False

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        of_torchvision = module.__module__.startswith("torchvision.ops") and not isinstance(module, nn.Sequential)
        return of_torchvision or super().is_leaf_module(module, path)

    def create_node(self, kind, target, args, kwargs, name=None, type_expr=None) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        self.doubtful |= kind.startswith("call_") and _contexts() != self.around
        inside = self.scope.module_path.removeprefix("model").removeprefix(".")
        word = getattr(target, "__name__", str(target)).strip("_")  # what is called: add, flatten, x
        named = kind in ("call_module", "get_attr")
        path = target.removeprefix("model.") if named else f"{inside}.{word}".removeprefix(".")
        names = (f"{path}_{again}" if again else path for again in range(len(self.paths) + 1))
        node.meta = {"path": next(name for name in names if name not in self.paths)}
        self.paths.add(node.meta["path"])
        return node


def _contexts() -> tuple:
    """Return what `torch.no_grad()` and autocast switch."""
    kinds = ("cpu", "cuda")
    return torch.is_grad_enabled(), *map(torch.is_autocast_enabled, kinds), *map(torch.get_autocast_dtype, kinds)


def trace(model: nn.Module) -> Traced:
    """Trace a copy of `model` in training and in evaluation mode.

    Raises ValueError if torch.fx cannot follow the forward pass, or if that sets attributes or draws random numbers
    outside of layers, which a graph would not do again.
    """
    found, doubtful = {}, False
    try:
        alone = copied(_Alone(model), _clone)
        for mode in (True, False):  # dropout called as a function, for one, stands in the graph with the mode's value
            tracer, before = _Tracer(), _attributes(alone.train(mode).model)
            with same_random_numbers(0) as drawn:
                found[mode] = tracer.trace(alone), _habits(before, _attributes(alone.model), drawn())
            doubtful |= tracer.doubtful
    except Exception as error:  # whatever the model's own forward raises on symbolic values
        raise ValueError(
            f"{type(model).__name__} cannot be cut: torch.fx cannot trace it ({type(error).__name__}: {error}). Keep "
            f"data-dependent Python out of forward. {WAY_OUT}"
        ) from error
    if habits := found[True][1] | found[False][1]:
        raise ValueError(
            f"{type(model).__name__} cannot be cut: its forward pass {' and '.join(sorted(habits))}, which stages "
            f"traced from it would not do. {WAY_OUT}"
        )
    graphs = {mode: _tidy(graph) for mode, (graph, _) in found.items()}
    if str(graphs[True]) == str(graphs[False]):
        graphs[False] = graphs[True]
    made = {name: value for name, value in vars(alone).items() if isinstance(value, Tensor)}
    return Traced(_root(model, made), _root(alone.model, made), graphs, doubtful)


def _tidy(graph: fx.Graph) -> fx.Graph:
    """Name targets as the model does, and read a tensor where it is first used: read early, it would be live longer."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("model.")
        if node.op == "get_attr" and node.users:
            min(node.users, key=order.get).prepend(node)
    return graph


def _root(model: nn.Module, made: dict[str, Tensor]) -> nn.Module:
    """Return a module with all that the model holds and the tensors `made` while it was traced."""
    whole = _Tracer().is_leaf_module(model, "")  # one torch.nn layer: its graph calls "model" itself
    root = _Alone(model) if whole else copy.copy(model)
    vars(root).update(made)
    return root


def held(module: nn.Module) -> list[Tensor]:
    """Return the tensors that `module` holds: parameters, buffers, and plain attributes or items of lists in them."""
    every = [leaf for part in module.modules() for leaf in tree_leaves(vars(part)) if isinstance(leaf, Tensor)]
    return list({id(tensor): tensor for tensor in every}.values())


def copied(module: nn.Module, swap: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a deep copy of `module` that holds `swap(tensor)` for each tensor; tensors used twice still are."""
    return copy.deepcopy(module, {id(tensor): swap(tensor) for tensor in held(module)})


def _clone(tensor: Tensor) -> Tensor:
    own = tensor.detach().clone()
    return nn.Parameter(own, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else own


def _attributes(model: nn.Module) -> dict[str, list]:
    """Return the values in each attribute by its path, and how often each was written to if it is a tensor."""
    found = {}
    for path, module in model.named_modules():
        tensors = module._buffers | module._parameters  # by their own names, not as parts of these two dicts
        values = {name: value for name, value in vars(module).items() if name not in ("_buffers", "_parameters")}
        for name, value in (values | tensors).items():
            leaves = [(leaf, getattr(leaf, "_version", 0)) for leaf in tree_leaves(value)]
            found[f"{path}.{name}".removeprefix(".")] = leaves
    return found


def _habits(before: dict[str, list], after: dict[str, list], drew: bool) -> set[str]:
    """Say what a forward pass did besides computing, from the model's attributes `before` and `after` it."""

    def same(old: tuple, new: tuple) -> bool:  # numbers and words are compared by value: a constant set anew is the same
        by_value = type(old[0]) is type(new[0]) and isinstance(old[0], int | float | str)
        return old[1] == new[1] and (old[0] == new[0] if by_value else old[0] is new[0])

    def changed(name: str) -> bool:
        old, new = before.get(name, []), after.get(name, [])
        return len(old) != len(new) or not all(map(same, old, new))

    habits = {f"sets {name!r}" for name in before | after if changed(name)}
    return habits | ({"draws random numbers outside of layers"} if drew else set())


@contextmanager
def same_random_numbers(seed: int) -> Iterator[Callable[[], bool]]:
    """Seed torch, NumPy and Python inside, and put them back as they were after.

    Gives a function that tells whether random numbers were drawn since then.
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(gpus):
            for generator in (torch.default_generator, *(torch.cuda.default_generators[gpu] for gpu in gpus)):
                generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            first = _drawn()
            yield lambda: _drawn() != first
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _drawn() -> bytes:
    return pickle.dumps((torch.get_rng_state().numpy(), np.random.get_state(), random.getstate()))
