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
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from kit.net import Net
from kit.shapes import Axes, Shape, channels_first

measuring: ContextVar[bool] = ContextVar("measuring", default=False)
"""True while a probe runs the model for a purpose of its own, which the other probes then do not count."""


class Readings:
    """What a probe has read so far. Numbers stay on their device until `table` is asked for."""

    def __init__(self, layers: Iterable[str]):
        self.depths = {layer: depth for depth, layer in enumerate(layers, 1)}
        self.values: dict[tuple[int, str, str], Tensor] = {}

    def keep(self, layer: str, step: int, **metrics: Tensor) -> None:
        """Take down a layer's metrics at a step, scalars by name."""
        self.values |= {(step, layer, metric): value for metric, value in metrics.items()}

    @property
    def table(self) -> pd.DataFrame:
        """A row per (step, depth, layer, metric): steps from 0, depths from 1 in the order of the layers."""
        rows = [(step, self.depths[layer], layer, m, float(v)) for (step, layer, m), v in self.values.items()]
        return pd.DataFrame(rows, columns=["step", "depth", "layer", "metric", "value"]).sort_values(
            ["step", "metric", "depth"], ignore_index=True
        )


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
    if not [*model.parameters()]:
        raise ValueError(f"{type(model).__name__} has no parameters, so there is no gradient to read")
    chosen = select(model, layers, lambda module: [*module.parameters(recurse=False)])
    readings, live = Readings(chosen), {}

    def follow(layer: str, step: int, output: Tensor) -> None:
        live[layer] = output.register_hook(
            lambda gradient: readings.keep(layer, step, output_gradient=vector_norm(gradient, dtype=torch.float64))
        )

    with ExitStack() as hooks:
        hooks.callback(lambda: [handle.remove() for handle in live.values()])
        for name, module in chosen.items():
            for parameter in filter(lambda p: p.requires_grad, module.parameters(recurse=False)):
                read = sampled(every, partial(_read_parameter, readings, name))
                hooks.callback(parameter.register_post_accumulate_grad_hook(read).remove)
            read = sampled(every, partial(follow, name))
            hooks.callback(_on_output(module, lambda module, output: output.requires_grad, read).remove)
        yield readings


def _read_parameter(readings: Readings, layer: str, step: int, parameter: Tensor) -> None:
    values = readings.values
    for metric, tensor in (("gradient", parameter.grad), ("weight", parameter.detach())):
        # In float64: the squares of a vanished gradient are no float32 numbers any more.
        norm, key = vector_norm(tensor, dtype=torch.float64), (step, layer, metric)
        values[key] = torch.hypot(values[key], norm) if key in values else norm
    values[step, layer, "ratio"] = values[step, layer, "gradient"] / values[step, layer, "weight"]


def sampled(every: int, read: Callable[..., None]) -> Callable[..., None]:
    """Return a hook: of its calls, counted from 0, every `every`-th calls `read` with its number and arguments."""
    steps = count()

    def hook(*arguments: object) -> None:
        if (step := next(steps)) % every == 0:
            read(step, *arguments)

    return hook


def _on_output(
    module: nn.Module, counts: Callable[[nn.Module, Tensor], bool], read: Callable[[Tensor], None]
) -> RemovableHandle:
    """Call `read(output)` after every forward pass of `module` that counts."""

    def hook(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, tuple | list) and output:
            output = output[0]  # LSTMs give their state as well
        if isinstance(output, Tensor) and not measuring.get() and counts(module, output):
            read(output)

    return module.register_forward_hook(hook)


@contextmanager
def activations(model: nn.Module, layers: str | Iterable[str] | None = None, every: int = 1) -> Iterator[Readings]:
    """Read each layer's output in every `every`-th forward pass in training mode.

    Metrics: `mean` and `variance` of all numbers in the output; `dead`, the share of units (channels of maps and
    tokens, wherever the model has them) whose output is one and the same number for the whole batch, so that nothing
    behind them can tell two samples apart. `layers` as for `gradients`; by default every layer that holds no others.
    Raises ValueError for an unknown name.
    """
    chosen = select(model, layers, lambda module: not [*module.children()])
    readings = Readings(chosen)

    def note(layer: str, step: int, output: Tensor) -> None:
        h = output.detach().float()
        dead = dead_share(h, axes.shape(output))
        readings.keep(layer, step, mean=h.mean(), variance=h.var(correction=0), dead=dead)

    with ExitStack() as hooks, Axes() as axes:
        for name, module in chosen.items():
            read = sampled(every, partial(note, name))
            hooks.callback(_on_output(module, lambda module, h: module.training and h.ndim > 1, read).remove)
        yield readings


def dead_share(h: Tensor, shape: Shape | None = None) -> Tensor:
    """Return the share of units, channels for maps and tokens, that are constant over the batch, for `h` (B, *shape).

    Without `shape`, channels are where PyTorch has them by convention: (B, D), (B, T, D) or (B, C, H, W).
    """
    units = channels_first(h, Shape(h.shape[1:]) if shape is None else shape).transpose(0, 1).flatten(1)
    return (units.amax(1) == units.amin(1)).float().mean()


def gradient_profile(net: Net, x: Tensor, y: Tensor, layers: str | Iterable[str] = "*.body.*") -> pd.DataFrame:
    """Return depth, layer, metric, value: the norm of every layer's local gradient in a kit net for one batch.

    The same numbers as a `gradients` probe reads in the next step, without taking it. Changes nothing.
    """
    chosen = select(net, layers, lambda module: [*module.parameters(recurse=False)])
    own = {name: [p for p in module.parameters(recurse=False) if p.requires_grad] for name, module in chosen.items()}
    norms = {}
    with untouched(net):
        for visit in net.walk(net.signal(x, y), losses=True):
            here, total = {*visit.block.parameters()}, visit.block.objective.total(visit.terms)
            groups = {name: weights for name, weights in own.items() if weights and weights[0] in here}
            found = iter(differentiate(total, [weight for group in groups.values() for weight in group]))
            norms |= {name: vector_norm(flat([next(found) for _ in group])) for name, group in groups.items()}
    rows = [(depth, name, "gradient", float(norms[name])) for depth, name in enumerate(chosen, 1) if name in norms]
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


def differentiate(
    output: Tensor, inputs: Sequence[Tensor], gradient: Tensor | None = None, keep_graph: bool = False
) -> list[Tensor]:
    """Return the gradient of `output`, weighted by `gradient`, by each of `inputs`; `.grad` stays as it is.

    Zeros for what `output` does not depend on, or what asks for no gradient.
    """
    asking = [tensor for tensor in inputs if tensor.requires_grad]
    options = {"retain_graph": keep_graph, "allow_unused": True, "materialize_grads": True}
    found = iter(torch.autograd.grad(output, asking, gradient, **options) if asking else ())
    return [next(found) if tensor.requires_grad else torch.zeros_like(tensor) for tensor in inputs]


def flat(gradients: Sequence[Tensor]) -> Tensor:
    """Return `gradients` as one float64 vector."""
    return torch.cat([gradient.flatten().double() for gradient in gradients] or [torch.zeros(0).double()])


def select(
    model: nn.Module, layers: str | Iterable[str] | None, default: Callable[[nn.Module], object]
) -> dict[str, nn.Module]:
    """Return the modules named or matched by `layers`, in the model's order; None and patterns take `default` ones."""
    modules = dict(model.named_modules())
    usual = [name for name, module in modules.items() if default(module)]
    chosen = set()
    for name in ["*"] if layers is None else [layers] if isinstance(layers, str) else layers:
        matches = [name] if name in modules else [other for other in usual if fnmatchcase(other, name)]
        if not matches:
            near = difflib.get_close_matches(name, [m for m in modules if m], n=5, cutoff=0.0)
            raise unknown(f"layer of {type(model).__name__}", name, near)
        chosen |= set(matches)
    return {name: module for name, module in modules.items() if name in chosen}


def stages(net: Net) -> list[str]:
    """Return the names of a kit net's stages, first to last; at the end of each there is an exit."""
    return [f"blocks.{b}.body.{s}" for b, block in enumerate(net) for s in range(len(block.body))]
