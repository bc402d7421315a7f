"""Probes: context managers that hook a module, measure while it trains, and leave nothing behind.

    with gradients(model) as readings:
        …train as ever…
    readings.table  # step, depth, layer, metric, value

A probe reads; it changes no weight, buffer, gradient or random number, and its hooks go when the block ends, however
it ends. Reading 30 layers of 128 units costs 15 to 30 % of a step on the CPU, less of larger layers; `every=10`
reads each tenth step only.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from functools import partial
from itertools import count

import pandas as pd
import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.utils.hooks import RemovableHandle

from kit.errors import unknown

COLUMNS = ("step", "depth", "layer", "metric", "value")

measuring: ContextVar[bool] = ContextVar("measuring", default=False)
"""True while a probe runs the model for a purpose of its own, which the other probes then do not count."""


class Readings:
    """What a probe has read so far. Numbers stay on their device until `table` is asked for."""

    def __init__(self, layers: Sequence[str]):
        self.depths = {layer: depth for depth, layer in enumerate(layers, 1)}
        self.values: dict[tuple[int, str, str], Tensor] = {}

    @property
    def table(self) -> pd.DataFrame:
        """A row per (step, depth, layer, metric): steps from 0, depths from 1 in the order of the layers."""
        numbers = [float(value) for value in self.values.values()]
        rows = [(s, self.depths[layer], layer, m, v) for (s, layer, m), v in zip(self.values, numbers, strict=True)]
        return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["step", "metric", "depth"], ignore_index=True)


@contextmanager
def gradients(model: nn.Module, layers: str | Iterable[str] | None = None, every: int = 1) -> Iterator[Readings]:
    """Read each layer's gradient in every `every`-th backward pass.

    Metrics: `gradient`, the norm of the loss's gradient by the layer's own parameters (weight and bias as one vector);
    `weight`, the norm of those parameters; `ratio`, the first over the second; `output_gradient`, the norm of the
    loss's gradient by the layer's output, for the whole batch. They are autograd's own, before clipping and the step.

    `layers` are names as in `model.named_modules()`, or patterns such as `"*.body.*"`; by default every layer that has
    parameters of its own. A layer named in full may be a container: it has an `output_gradient` only.
    Raises ValueError for a model without parameters and for a name that does not exist, with the nearest one.
    """
    if not any(True for _ in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no parameters, so there is no gradient to read")
    chosen = select(model, layers, lambda module: any(True for _ in module.parameters(recurse=False)))
    readings = Readings(list(chosen))
    live: dict[str, RemovableHandle] = {}
    with ExitStack() as hooks:
        hooks.callback(lambda: [handle.remove() for handle in live.values()])
        for name, module in chosen.items():
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad:
                    reader = _parameter_reader(readings, name, every)
                    hooks.callback(parameter.register_post_accumulate_grad_hook(reader).remove)
            hooks.callback(module.register_forward_hook(_output_reader(readings, name, every, live)).remove)
        yield readings


def _parameter_reader(readings: Readings, layer: str, every: int) -> Callable[[Tensor], None]:
    steps = count()

    def read(parameter: Tensor) -> None:
        if (step := next(steps)) % every:
            return
        values = readings.values
        for metric, tensor in (("gradient", parameter.grad), ("weight", parameter.detach())):
            # In float64: the squares of a vanished gradient are no float32 numbers any more.
            norm, key = vector_norm(tensor, dtype=torch.float64), (step, layer, metric)
            values[key] = torch.hypot(values[key], norm) if key in values else norm
        values[step, layer, "ratio"] = values[step, layer, "gradient"] / values[step, layer, "weight"]

    return read


def _output_reader(readings: Readings, layer: str, every: int, live: dict[str, RemovableHandle]) -> Callable[..., None]:
    steps = count()

    def attach(module: nn.Module, inputs: tuple, output: object) -> None:
        tensor = first_tensor(output)
        if measuring.get() or tensor is None or not tensor.requires_grad:
            return
        if (step := next(steps)) % every == 0:
            live[layer] = tensor.register_hook(partial(keep, step))

    def keep(step: int, gradient: Tensor) -> None:
        readings.values[step, layer, "output_gradient"] = vector_norm(gradient, dtype=torch.float64)

    return attach


def gradient_profile(net: nn.Module, x: Tensor, y: Tensor, layers: str | Iterable[str] = "*.body.*") -> pd.DataFrame:
    """Return depth, layer, metric, value: the norm of every layer's local gradient in a kit net for one batch.

    The same numbers as a `gradients` probe reads in the next step, without taking it. Changes nothing.
    """
    chosen = select(net, layers, lambda module: any(True for _ in module.parameters(recurse=False)))
    own = {name: list(module.parameters(recurse=False)) for name, module in chosen.items()}
    norms, signal = {}, net.signal(x, y)
    with untouched(net):
        for block in net:
            here = {id(parameter) for parameter in block.parameters()}
            names = [name for name, parameters in own.items() if id(parameters[0]) in here]
            h, terms = block.losses(signal)
            found = flat_gradients(weighted(block, terms), [own[name] for name in names])
            norms |= dict(zip(names, (vector_norm(gradient) for gradient in found), strict=True))
            signal = signal.advance(h)
    rows = [(depth, name, "gradient", float(norms[name])) for depth, name in enumerate(chosen, 1)]
    return pd.DataFrame(rows, columns=["depth", "layer", "metric", "value"])


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Let a probe run `net` forward and differentiate: buffers are put back, other probes do not count it."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    token = measuring.set(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        measuring.reset(token)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def weighted(block: nn.Module, terms: Mapping[str, Tensor]) -> Tensor:
    """Return a kit block's local loss: its terms, weighted as its step weights them."""
    return sum(block.objective.weights.get(name, 1.0) * term for name, term in terms.items())


def flat_gradients(loss: Tensor, groups: Sequence[Sequence[nn.Parameter]]) -> list[Tensor]:
    """Return the gradient of `loss` by each group of parameters, as one float64 vector each; `.grad` stays as it is."""
    parameters = [parameter for group in groups for parameter in group]
    found = iter(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
    nothing = torch.zeros(0, dtype=torch.float64)
    return [torch.cat([nothing, *(next(found).flatten().double() for _ in group)]) for group in groups]


@contextmanager
def activations(model: nn.Module, layers: str | Iterable[str] | None = None, every: int = 1) -> Iterator[Readings]:
    """Read each layer's output in every `every`-th forward pass in training mode.

    Metrics: `mean` and `variance` of all numbers in the output; `dead`, the share of units (channels of a map) whose
    output is one and the same number for the whole batch, so that nothing behind them can tell two samples apart.
    `layers` as for `gradients`; by default every layer that holds no others. Raises ValueError for an unknown name.
    """
    chosen = select(model, layers, lambda module: not any(True for _ in module.children()))
    readings = Readings(list(chosen))
    with ExitStack() as hooks:
        for name, module in chosen.items():
            hooks.callback(module.register_forward_hook(_activation_reader(readings, name, every)).remove)
        yield readings


def _activation_reader(readings: Readings, layer: str, every: int) -> Callable[..., None]:
    steps = count()

    def read(module: nn.Module, inputs: tuple, output: object) -> None:
        tensor = first_tensor(output)
        if measuring.get() or tensor is None or not module.training:
            return
        if (step := next(steps)) % every == 0:
            h = tensor.detach().float()
            readings.values[step, layer, "mean"] = h.mean()
            readings.values[step, layer, "variance"] = h.var(correction=0)
            readings.values[step, layer, "dead"] = dead_share(h)

    return read


def dead_share(h: Tensor) -> Tensor:
    """Return the share of units that are constant over the batch, for `h` (B, D), (B, T, D) or (B, C, H, W)."""
    units = h.movedim(1 if h.ndim == 4 else -1, 0).flatten(1)
    return (units.amax(1) == units.amin(1)).float().mean()


def first_tensor(output: object) -> Tensor | None:
    """Return a layer's output where that is a tensor, or the first tensor of a tuple, as LSTMs give."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def select(
    model: nn.Module, layers: str | Iterable[str] | None, default: Callable[[nn.Module], bool]
) -> dict[str, nn.Module]:
    """Return the modules named or matched by `layers`, in the model's order; None and patterns take `default` ones."""
    modules = dict(model.named_modules(remove_duplicate=True))
    usual = [name for name, module in modules.items() if default(module)]
    wanted = ["*"] if layers is None else [layers] if isinstance(layers, str) else list(layers)
    chosen = set()
    for name in wanted:
        matches = [name] if name in modules else [other for other in usual if fnmatchcase(other, name)]
        if not matches:
            near = difflib.get_close_matches(name, [m for m in modules if m], n=5, cutoff=0.0)
            raise unknown(f"layer of {type(model).__name__}", name, near)
        chosen |= set(matches)
    return {name: modules[name] for name in modules if name in chosen}


def stages(net: nn.Module) -> list[str]:
    """Return the names of a kit net's stages, first to last; at the end of each there is an exit."""
    return [f"blocks.{b}.body.{s}" for b, block in enumerate(net) for s in range(len(block.body))]
