"""Stages are compared with their model before anyone trains them: outputs, gradients and buffers, in both modes."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from kit.splitting.tracing import WAY_OUT, Traced, held, same_random_numbers

UNTRACED = "uses torch.no_grad() or autocast"


def verify(name: str, traced: Traced, stages: Sequence[nn.Module], example: Tensor) -> None:
    """Raise ValueError unless the `stages`, made of `traced.twin`, compute what the model called `name` computes.

    Both run on rows of `example` and on other values, in training and in evaluation mode, with the same random
    numbers. Tensors without data are not compared; then what a graph cannot hold is refused unseen.
    """
    twin = traced.twin
    if any(tensor.is_meta or is_fake(tensor) for tensor in [example, *held(twin)]):
        if traced.doubtful:
            raise ValueError(f"{name} cannot be cut: its forward pass {UNTRACED}, which stages would not. {WAY_OUT}")
        return
    start = [buffer.clone() for buffer in twin.buffers()]
    for mode in (True, False):
        for seed, batches in enumerate(_batches(example), start=1):  # tracing had seed 0: what it froze is not drawn again
            for x in batches:
                if expected := _results([twin], twin, start, x, mode, seed):
                    break
            found = _results(stages, twin, start, x, mode, seed)
            wrong = [what for what, value in expected.items() if not _agree(value, found.get(what))]
            if wrong:
                causes = UNTRACED if traced.doubtful else "draws random numbers, branches on data or keeps a state"
                raise ValueError(
                    f"{name} cannot be cut: in {'training' if mode else 'evaluation'} mode its stages do not give the "
                    f"model's {wrong[0]}. Probably its forward pass {causes}, which torch.fx does not trace. {WAY_OUT}"
                )


def _batches(example: Tensor) -> Iterator[Iterator[Tensor]]:
    """Yield two batches, each as the tensors to try: few rows of `example`, and as many as the model needs.

    The second has other values, and another number of rows if the model takes it: a size may be frozen as well.
    """
    generator = torch.Generator().manual_seed(0)
    rows = example[:2]
    yield iter([rows, example])
    yield (_like(example, count, generator) for count in (3, len(rows), len(example)))


def _like(example: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` rows of other values; integers are drawn from those of `example`, as not all may be valid."""
    shape = (count, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(shape, generator=generator).to(example)
    return example.flatten()[torch.randint(example.numel(), shape, generator=generator).to(example.device)]


def _results(
    parts: Sequence[nn.Module], twin: nn.Module, start: list[Tensor], x: Tensor, mode: bool, seed: int
) -> dict[str, Tensor | None]:
    """Run `parts` one after another from the buffers `start`; return all that comes of it, {} if they do not take `x`."""
    with torch.no_grad():
        for buffer, value in zip(twin.buffers(), start, strict=True):
            buffer.copy_(value)
    leaf = x.detach().clone().requires_grad_(x.is_floating_point())
    sources = {"gradient of the input": leaf} | {f"gradient of {name!r}": p for name, p in twin.named_parameters()}
    sources = {what: tensor for what, tensor in sources.items() if tensor.requires_grad}
    with same_random_numbers(seed), torch.enable_grad():
        h = leaf.clone()  # the first operation may overwrite its input, which a leaf refuses
        try:
            for part in parts:
                part.train(mode)
                h = part(h)
            # As its own gradient the output is that of (h ** 2).sum() / 2, which no normalisation turns into zeros.
            taught = h.requires_grad and bool(sources)
            grads = torch.autograd.grad(h, list(sources.values()), h.detach(), allow_unused=True) if taught else ()
        except Exception:
            return {}
    found = {"output": h.detach()} | dict.fromkeys(sources) | dict(zip(sources, grads, strict=False))
    return found | {f"buffer {name!r}": buffer.clone() for name, buffer in twin.named_buffers()}


def _agree(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two results are the same, to the precision of their format: kernels on GPUs need not add in one order."""
    if a is None or b is None:
        return a is b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    tolerance = max(1e-4, 16 * torch.finfo(a.dtype).eps) if a.is_floating_point() else 0.0
    a, b = a.double(), b.double()
    size = a.nan_to_num(0, 0, 0).square().mean().sqrt()  # of the whole tensor: entries near zero carry no more digits
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(size), equal_nan=True)
