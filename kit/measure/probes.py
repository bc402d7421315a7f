"""Probes: context managers that hook a module, measure while it trains, and leave nothing behind.

    with gradients(model) as readings: …train as ever…
    readings.table  # step, depth, layer, metric, value

A probe changes no weight, buffer, gradient or random number, and its hooks go when the block ends, however it ends.
Reading the gradients of 30 layers of 128 units costs 10 to 40 % of a step on the CPU, less of larger layers; of
activations more, at each step, since every operation is followed to know where channels are.
"""

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import count

import pandas as pd
import torch
from torch import Tensor, nn

from kit.errors import unknown
from kit.net import Net
from kit.shapes import Axes, Shape, channels_first

Layers = str | Iterable[str] | None
"""Names as in `model.named_modules()`, patterns such as `"*.body.*"`, or None: the layers that a probe is made for."""

norm = partial(torch.linalg.vector_norm, dtype=torch.float64)  # squares of vanished gradients are no float32 numbers

measuring: ContextVar[bool] = ContextVar("measuring", default=False)  # whether a probe runs the model for itself


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
        table = pd.DataFrame(rows, columns=["step", "depth", "layer", "metric", "value"])
        return table.sort_values(["step", "metric", "depth"], ignore_index=True)


@contextmanager
def gradients(model: nn.Module, layers: Layers = None, every: int = 1) -> Iterator[Readings]:
    """Read each layer's gradient in every `every`-th backward pass.

    Metrics: `gradient`, the norm of the loss's gradient by the layer's own parameters (weight and bias as one vector);
    `weight`, the norm of those parameters; `ratio`, the first over the second; `output_gradient`, the norm of the
    loss's gradient by the layer's output, for the whole batch. They are autograd's own, before clipping and the step.
    By default every layer that has parameters of its own; a container, named in full, has an `output_gradient` only.
    Raises ValueError for a model without parameters and for a name that does not exist, with the nearest one.
    """
    if not [*model.parameters()]:
        raise ValueError(f"{type(model).__name__} has no parameters, so there is no gradient to read")
    chosen = select(model, layers, lambda module: [*module.parameters(recurse=False)])
    readings, live = Readings(chosen), {}

    def follow(layer: str, step: int, output: Tensor) -> None:
        live[layer] = output.register_hook(lambda grad: readings.keep(layer, step, output_gradient=norm(grad)))

    def read_parameter(layer: str, steps: Iterator[int], parameter: Tensor) -> None:
        if (step := next(steps)) % every:
            return
        values = readings.values
        for metric, tensor in (("gradient", parameter.grad), ("weight", parameter.detach())):
            key, own = (step, layer, metric), norm(tensor)
            values[key] = torch.hypot(values[key], own) if key in values else own
        values[step, layer, "ratio"] = values[step, layer, "gradient"] / values[step, layer, "weight"]

    with ExitStack() as hooks:
        hooks.callback(lambda: [handle.remove() for handle in live.values()])
        _hook_outputs(hooks, chosen, every, lambda module, h: h.requires_grad, follow)
        for name, module in chosen.items():
            for p in filter(lambda p: p.requires_grad, module.parameters(recurse=False)):
                hooks.enter_context(p.register_post_accumulate_grad_hook(partial(read_parameter, name, count())))
        yield readings


def _hook_outputs(hooks: ExitStack, modules: dict, every: int, counts: Callable, read: Callable) -> None:
    """Until `hooks` end, `read(layer, step, output)` at every `every`-th of the forward passes that count."""

    def hook(layer: str, steps: Iterator[int], module: nn.Module, inputs: tuple, output: object) -> None:
        h = output[0] if isinstance(output, tuple | list) and output else output  # LSTMs give their state as well
        if isinstance(h, Tensor) and not measuring.get() and counts(module, h) and (step := next(steps)) % every == 0:
            read(layer, step, h)

    for layer, module in modules.items():
        hooks.enter_context(module.register_forward_hook(partial(hook, layer, count())))


@contextmanager
def activations(model: nn.Module, layers: Layers = None, every: int = 1) -> Iterator[Readings]:
    """Read each layer's output in every `every`-th forward pass in training mode.

    Metrics: `mean` and `variance` of all numbers in the output; `dead`, the share of units (channels, wherever a layer
    has them) whose output is one and the same number for the whole batch, so that nothing behind them can tell two
    samples apart. By default every layer that holds no others. Raises ValueError for an unknown name.
    """
    chosen = select(model, layers, lambda module: not [*module.children()])
    readings = Readings(chosen)

    def read(layer: str, step: int, output: Tensor) -> None:
        h = output.detach().float()
        readings.keep(layer, step, mean=h.mean(), variance=h.var(correction=0), dead=dead_share(h, axes.shape(output)))

    with ExitStack() as hooks, Axes() as axes:
        _hook_outputs(hooks, chosen, every, lambda module, h: module.training and h.ndim > 1, read)
        yield readings


def dead_share(h: Tensor, shape: Shape | None = None) -> Tensor:
    """Return the share of units (channels) that are constant over the batch, for `h` (B, *shape); see `Shape`."""
    units = channels_first(h, shape or Shape(h.shape[1:])).transpose(0, 1).flatten(1)
    return (units.amax(1) == units.amin(1)).float().mean()


def gradient_profile(net: Net, x: Tensor, y: Tensor, layers: Layers = "*.body.*") -> pd.DataFrame:
    """Return depth, layer, metric, value: the norm of every layer's local gradient in a kit net for one batch.

    The same numbers as a `gradients` probe reads in the next step, without taking it. Changes nothing.
    """
    chosen = select(net, layers, lambda module: [*module.parameters(recurse=False)])
    own = {name: [p for p in module.parameters(recurse=False) if p.requires_grad] for name, module in chosen.items()}
    readings = Readings(chosen)
    with untouched(net):
        for visit in net.walk(net.signal(x, y), losses=True):
            weights = [*visit.block.parameters()]
            found = dict(zip(weights, differentiate(visit.block.objective.total(visit.terms), weights), strict=True))
            for name, group in own.items():
                if group and group[0] in found:
                    readings.keep(name, 0, gradient=norm(flat([found[weight] for weight in group])))
    return readings.table.drop(columns="step")


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
        for buffer, before in buffers:
            buffer.copy_(before)


def differentiate(output: Tensor, inputs: list[Tensor], gradient: Tensor | None = None, retain: bool = False) -> list:
    """Return the gradient of `output` (times `gradient`) by each input, zeros where there is none; `.grad` stays."""
    asking = [tensor for tensor in inputs if tensor.requires_grad]
    options = {"retain_graph": retain, "allow_unused": True, "materialize_grads": True}
    found = iter(torch.autograd.grad(output, asking, gradient, **options) if asking else ())
    return [next(found) if tensor.requires_grad else torch.zeros_like(tensor) for tensor in inputs]


def flat(gradients: list[Tensor]) -> Tensor:
    """Return `gradients` as one float64 vector."""
    return torch.cat([gradient.flatten().double() for gradient in gradients] or [torch.zeros(0).double()])


def select(model: nn.Module, layers: Layers, default: Callable[[nn.Module], object]) -> dict[str, nn.Module]:
    """Return the modules named or matched by `layers`, in the model's order; None and patterns take `default` ones."""
    modules = dict(model.named_modules())
    usual = [name for name, module in modules.items() if default(module)]
    chosen = set()
    for name in ["*"] if layers is None else [layers] if isinstance(layers, str) else layers:
        matches = [name] if name in modules else fnmatch.filter(usual, name)
        if not matches:
            near = difflib.get_close_matches(name, filter(None, modules), n=5, cutoff=0.0)
            raise unknown(f"layer of {type(model).__name__}", name, near)
        chosen.update(matches)
    return {name: module for name, module in modules.items() if name in chosen}


def stages(net: Net) -> list[str]:
    """Return the names of a kit net's stages, first to last; at the end of each there is an exit."""
    return [f"blocks.{b}.body.{s}" for b, block in enumerate(net) for s in range(len(block.body))]
