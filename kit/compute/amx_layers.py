"""Layers laid out in memory for a processor's bf16 matrix units (Intel AMX): same weights, same arithmetic, less wait.

Four of PyTorch's kernels leave those units idle most of the time, each because of how its numbers lie in memory:
- the weight gradient of a convolution multiplies 32 numbers of a row at a time, and small maps have rows of 8 or 4;
- a Linear whose samples lie a multiple of 32 KiB apart finds them all in the same few lines of the cache;
- the weight gradient of a Linear reads the gradient of its output across the rows;
- maximum pooling of channels-last maps, handed a gradient that is not, copies everything there and back.
`benchmarks/step_time.py` measures what that costs, `tests/compute/test_amx_layers.py` that the numbers stay the same.
"""

from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kit.compute.precision import has_amx

WIDEST, TOGETHER = 8, 16
"""Maps up to `WIDEST` numbers wide are laid side by side, up to so many; wider ones gain nothing."""
SAME_LINES = 32 * 1024
"""Bytes from one sample to the next, or a multiple, that put both into the same lines of the cache."""
LEAST_WEIGHTS, LEAST_CHANNELS = 2**20, 64
"""Below, a layer takes no time that is worth saving."""


def lay_out(module: nn.Module) -> None:
    """Replace the layers in `module` that gain from it by those below, with the same weights; none without units."""
    replaced: dict[nn.Module, nn.Module | None] = {}
    for parent in [*module.modules()] if has_amx() else ():
        for name, layer in parent.named_children():
            new = replaced.setdefault(layer, _laid_out(layer))  # a layer used in two places stays one
            if new is not None:
                parent.add_module(name, new)


def _laid_out(layer: nn.Module) -> nn.Module | None:
    """Return the layer that stands for `layer`, or None where it stays."""
    if type(layer) is nn.Linear and layer.weight.numel() >= LEAST_WEIGHTS:
        new = Linear(layer.in_features, layer.out_features, device="meta")
    elif type(layer) is nn.Conv2d and _is_usual(layer) and min(layer.weight.shape[:2]) >= LEAST_CHANNELS:
        new = Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, device="meta")
    elif type(layer) is nn.MaxPool2d:
        sizes = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        return MaxPool2d(*sizes, layer.return_indices, layer.ceil_mode).train(layer.training)
    else:
        return None
    new.weight, new.bias = layer.weight, layer.bias
    return new.train(layer.training)


class Linear(nn.Linear):
    """`nn.Linear` whose products of bf16 matrices keep the matrix units busy; any other input is computed as usual."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or not _in_bf16(x):
            return super().forward(x)
        bias = None if self.bias is None else self.bias.bfloat16()
        return _Product.apply(x.bfloat16(), self.weight.bfloat16(), bias)


class Conv2d(nn.Conv2d):
    """A 3×3 `nn.Conv2d` that sees small bf16 maps side by side, a column of zeros between: (B, C, H, W) as usual."""

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        together = gcd(batch, TOGETHER) if width <= WIDEST else 1
        if together == 1 or not _in_bf16(x):
            return super().forward(x)
        maps = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 1)).unflatten(0, (-1, together))
        maps = maps.transpose(1, 2).flatten(2, 3).permute(0, 3, 1, 2)  # (B / together, C, H, together · (W + 1))
        maps = super().forward(maps).permute(0, 2, 3, 1).unflatten(2, (together, width + 1))[..., :width, :]
        return maps.transpose(1, 2).flatten(0, 1).permute(0, 3, 1, 2)


class MaxPool2d(nn.MaxPool2d):
    """`nn.MaxPool2d` that has the gradient of channels-last bf16 maps laid out as they are."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if _in_bf16(x) and y.requires_grad and y.is_contiguous(memory_format=torch.channels_last):
            y.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
        return y


class _Product(torch.autograd.Function):
    """`F.linear` of x (B, N), weight (M, N) and bias (M,): (B, M)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.shape[1] * x.element_size() % SAME_LINES == 0:
            x = F.pad(x, (0, 32))[:, : x.shape[1]]
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (for_x, for_weight, for_bias) = ctx.saved_tensors, ctx.needs_input_grad
        by_x = grad @ weight if for_x else None
        by_weight = grad.t().contiguous() @ x if for_weight else None
        return by_x, by_weight, grad.sum(0) if for_bias else None


def _is_usual(conv: nn.Conv2d) -> bool:
    """Say whether `conv` is 3×3 and keeps the size of a map, by one row of zeros around it."""
    sizes = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    return sizes == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def _in_bf16(x: Tensor) -> bool:
    on = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return on and torch.get_autocast_dtype("cpu") == torch.bfloat16
