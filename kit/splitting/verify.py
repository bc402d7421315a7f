"""Stages are compared with their model before anyone trains them: outputs, gradients and buffers, in both modes."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import product

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from kit.measure.costs import held
from kit.modules import apply
from kit.splitting.tracing import WAY_OUT, Traced, same_random_numbers


def check_against_model(traced: Traced, stages: Sequence[nn.Module], example: Tensor) -> None:
    """Raise ValueError unless `stages`, made of `traced.twin`, compute what the model does.

    Both get a few rows of `example`, then of other values. Tensors without data are not compared: for them, what a
    graph does not hold is refused at once.
    """
    name, twin = traced.name, traced.twin
    causes = "draws random numbers, branches on data, keeps a state or has a train() of its own"
    causes = "uses torch.no_grad() or autocast" if traced.doubtful else causes
    why = f"Its forward pass {causes}, which torch.fx does not trace. {WAY_OUT}"
    if any(tensor.is_meta or is_fake(tensor) for tensor in [example, *held(twin)]):
        if traced.doubtful:
            raise ValueError(f"{name} cannot be cut. {why}")
        return
    start = [buffer.clone() for buffer in twin.buffers()]
    for mode, (seed, batches) in product((True, False), _batches(example).items()):
        for x in batches:
            if expected := _results([twin], twin, start, mode, seed, x):
                break
        where = f"in {'training' if mode else 'evaluation'} mode"
        if not expected:
            raise ValueError(f"{name} does not run {where} on batches like the example {tuple(example.shape)}")
        found = _results(stages, twin, start, mode, seed, x)
        if wrong := [what for what, value in expected.items() if not _agree(value, found.get(what))]:
            raise ValueError(f"{name} cannot be cut: {where} its stages do not give the model's {wrong[0]}. {why}")


def _batches(example: Tensor) -> dict[int, list[Tensor]]:
    """Return, for each of two random seeds, the batches to try until the model takes one: as few rows as it can take.

    The second has other values, and another number of rows if it may: a size may have been traced as a constant.
    """
    random = torch.Generator().manual_seed(0)
    own = [example[:2], example, example[[0, 0]]]  # batch norm does not train on a single row
    shapes = [(rows, *example.shape[1:]) for rows in (1, 3, len(own[0]), len(example))]
    if example.is_floating_point():
        others = [torch.randn(shape, generator=random).to(example) for shape in shapes]
    else:  # tokens: other numbers need not be valid
        indices = [torch.randint(example.numel(), shape, generator=random) for shape in shapes]
        others = [example.flatten()[index.to(example.device)] for index in indices]
    return {1: own, 2: others + own}  # tracing drew from seed 0


def _results(
    parts: Sequence[nn.Module], twin: nn.Module, start: list[Tensor], mode: bool, seed: int, x: Tensor
) -> dict:
    """Run `parts` on `x`, from the buffers `start`; return all tensors that come of it, none if they fail on `x`."""
    with torch.no_grad():
        for buffer, value in zip(twin.buffers(), start, strict=True):
            buffer.copy_(value)
    leaf = x.detach().clone().requires_grad_(x.is_floating_point())
    sources = {"gradient of the input": leaf} | {f"gradient of {name!r}": p for name, p in twin.named_parameters()}
    sources = {what: tensor for what, tensor in sources.items() if tensor.requires_grad}
    grads = [None] * len(sources)
    # Gradients cost most: training's are of the other values (examples are often zeros), evaluation's of the example.
    with same_random_numbers(seed), torch.set_grad_enabled(mode == (seed == 2)):
        mask = torch.ones_like(x, dtype=torch.bool)
        mask[..., x.shape[-1] // 2 + 1 :] = False
        h = leaf.clone()  # the first operation may overwrite its input, which a leaf refuses
        try:
            for part in parts:
                part.train(mode)
                h = apply(part, h, mask)
        except Exception:
            return {}
        with suppress(RuntimeError, ValueError):  # nothing has a gradient, or as cuDNN's LSTM not in evaluation
            # The output as its own gradient, that of (h ** 2).sum() / 2: normalisation would turn ones into zeros.
            grads = torch.autograd.grad(h, [*sources.values()], h.detach(), allow_unused=True)
    buffers = {f"buffer {name!r}": buffer.clone() for name, buffer in twin.named_buffers()}
    return {"output": h.detach()} | dict(zip(sources, grads, strict=True)) | buffers


def _agree(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two results are the same, but for the order in which a GPU's kernels add."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
        return a is b
    if torch.equal(a, b):
        return True
    tolerance = max(1e-4, 16 * torch.finfo(a.dtype).eps) if a.is_floating_point() else 0.0
    a, b = a.double(), b.double()
    size = float(a.nan_to_num(0, 0, 0).abs().mean())  # entries near zero are sums of others of this size
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * size, equal_nan=True)
