"""A model's graphs, as torch.fx traces them: on a copy, so that the model stays as it was whatever its forward does."""

import copy
import math
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from kit.measure.costs import copied
from kit.modules import own_feature, takes_mask

WAY_OUT = "Hand over your own list of stages, or use num_blocks=1"


class Traced(NamedTuple):
    """A model's graphs, and the modules that their targets are looked up in."""

    root: nn.Module  # the model's own layers and tensors, and the constants that its forward made while traced
    twin: nn.Module  # the same of a copy; called, it runs the copy. What has to run to become known runs here
    graphs: list[fx.Graph]  # in training and in evaluation mode, or one if they agree
    doubtful: bool = False  # operations stood under torch.no_grad() or autocast, which a graph does not hold
    name: str = ""  # of the model's class


@contextmanager
def same_random_numbers(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and Python inside, and put them back as they were after."""
    gpus = [*range(torch.cuda.device_count())] if torch.cuda.is_initialized() else []
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(gpus):
            # torch.manual_seed would also seed accelerators that are not in use yet, and stay
            (torch.manual_seed if gpus else torch.default_generator.manual_seed)(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


class _Tracer(fx.Tracer):
    """Traces down to torch.nn layers, torchvision.ops and what has a `feature`; `meta["path"]` is a node's place."""

    proxy_buffer_attributes = True  # a buffer is read in the graph, not copied into it as a constant

    def __init__(self):
        super().__init__(autowrap_modules=(math,))
        self.paths, self.around, self.doubtful = set(), _contexts(), False

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        of_torchvision = module.__module__.startswith("torchvision.ops") and not isinstance(module, nn.Sequential)
        return of_torchvision or own_feature(module) is not None or super().is_leaf_module(module, path)

    def create_node(self, kind, target, args, kwargs, name=None, type_expr=None) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        self.doubtful |= kind.startswith("call_") and _contexts() != self.around
        if kind in ("call_module", "get_attr"):
            path = node.target = target.removeprefix("0.")  # as the model calls it
        else:
            word = getattr(target, "__name__", str(target)).strip("_")  # what is called: add, flatten
            path = f"{self.scope.module_path[2:]}.{word}".removeprefix(".")
        names = (f"{path}_{again}" if again else path for again in range(len(self.paths) + 1))
        node.meta = {"path": next(name for name in names if name not in self.paths)}
        self.paths.add(node.meta["path"])
        return node


class _Masked(nn.Sequential):
    """Calls a model with the input and the mask."""

    def forward(self, input: Tensor, mask: Tensor) -> Tensor:
        return self[0](input, mask)


def _contexts() -> tuple:
    """Return what `torch.no_grad()` and autocast switch."""
    kinds = ("cpu", "cuda")
    return torch.is_grad_enabled(), *map(torch.is_autocast_enabled, kinds), *map(torch.get_autocast_dtype, kinds)


@same_random_numbers(0)
def trace(model: nn.Module) -> Traced:
    """Trace a copy of `model`, once in each mode: what depends on `self.training` is fixed in a graph.

    Raises ValueError if torch.fx cannot follow the forward pass, or if that sets attributes or draws random numbers
    outside of layers, which a graph would not do again.
    """
    name, graphs, habits, doubtful = type(model).__name__, [], set(), False
    try:
        alone = copied((_Masked if takes_mask(model) else nn.Sequential)(model), Tensor.clone)
        for mode in (True, False):
            tracer, before, drawn = _Tracer(), _attributes(alone.train(mode)[0]), _random_states()
            graphs.append(tracer.trace(alone))
            after, doubtful = _attributes(alone[0]), doubtful or tracer.doubtful
            habits |= {f"sets {path!r}" for path in before | after if before.get(path) != after.get(path)}
            habits |= {"draws random numbers outside of layers"} if _random_states() != drawn else set()
    except Exception as error:  # whatever the model's own forward raises on symbolic values
        reason = f"torch.fx cannot trace it ({type(error).__name__}: {error}). Keep data-dependent Python out of it"
        raise ValueError(f"{name} cannot be cut: {reason}. {WAY_OUT}") from error
    if habits:
        reason = f"its forward pass {' and '.join(sorted(habits))}, which stages traced from it would not do"
        raise ValueError(f"{name} cannot be cut: {reason}. {WAY_OUT}")
    for graph in graphs:
        order = {node: index for index, node in enumerate(graph.nodes)}
        for node in order:
            if node.op == "get_attr" and node.users:  # read where it is used, or the stage before would have to read it
                min(node.users, key=order.get).prepend(node)
    if str(graphs[0]) == str(graphs[1]):
        graphs.pop()
    made = {name: value for name, value in vars(alone).items() if isinstance(value, Tensor)}
    return Traced(_root(model, made), _root(alone[0], made), graphs, doubtful, name)


def _root(model: nn.Module, made: dict[str, Tensor]) -> nn.Module:
    whole = _Tracer().is_leaf_module(model, "")  # the graph of a single torch.nn layer calls the layer "0"
    root = nn.Sequential(model) if whole else copy.copy(model)
    unsaved = model._non_persistent_buffers_set | made.keys()
    vars(root).update(made, training=model.training, _non_persistent_buffers_set=unsaved)
    return root


def _attributes(model: nn.Module) -> dict[str, list]:
    """Return marks of all that each attribute holds, by its path: of a tensor also how often it was written to."""

    def mark(leaf: object) -> tuple:
        value = leaf if isinstance(leaf, int | float | str) else id(leaf)  # a constant set anew is the same
        return type(leaf), value, leaf._version if isinstance(leaf, Tensor) else 0

    return {
        f"{path}.{name}".removeprefix("."): [mark(leaf) for leaf in tree_leaves(value)]
        for path, module in model.named_modules()
        for name, value in (vars(module) | module._buffers | module._parameters).items()
        if name not in ("_buffers", "_parameters")  # what they hold stands there under its own name
    }


def _random_states() -> bytes:
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))
