"""Replicas of a block that share a batch: averaged gradients, and batch statistics over one shard or over all."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kit import seeds
from kit.block import Block
from kit.net import Net
from kit.signal import Signal


def sync_buffers(net: Net, group: dist.ProcessGroup) -> None:
    """Give every replica the buffers (running statistics) of the first."""
    for buffer in net.buffers():
        dist.broadcast(buffer, group=group, group_src=0)


def share(block: Block, group: dist.ProcessGroup, statistics: str) -> None:
    """Make `block` one of several replicas: each steps on its shard, and all make the same step.

    The average is the gradient of the mean over all samples, whatever the shards' sizes. With `statistics="global"`
    batch norms and batch-wise losses see the whole batch, so that the step is that of one process on all of it (but
    for dropout, which every replica draws for itself). Raises ValueError for an objective that cannot be gathered.
    """
    if statistics == "global":
        gathering = [m for m in block.objective.modules() if hasattr(m, "gather")]  # or an objective inside it
        if block.objective.batch_statistics and not gathering:
            raise ValueError(f"{type(block.objective).__name__} cannot take global statistics; choose 'local'")
        for objective in gathering:
            objective.gather = lambda rows: gather(rows, group)
        _replace_batch_norms(block, group)
    if dist.get_rank(group):
        block.seed = seeds.derive(block.seed, "replica", dist.get_rank(group))
    shared = DistributedDataParallel(_Shared(block, group), process_group=group)
    block.losses = lambda signal: shared(signal)  # what `step` calls; as a function it is no submodule of the block


class _Shared(nn.Module):
    """The block's losses, scaled so that their mean over replicas is the mean over samples."""

    def __init__(self, block: Block, group: dist.ProcessGroup):
        super().__init__()
        self.block, self.group = block, group

    def forward(self, signal: Signal) -> tuple[Tensor, dict[str, Tensor]]:
        h, terms = Block.losses(self.block, signal)
        total = torch.tensor(float(len(signal.y)), device=h.device)
        dist.all_reduce(total, group=self.group)
        share = len(signal.y) * dist.get_world_size(self.group) / total
        return h, {name: term * share for name, term in terms.items()}


def gather(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the replicas' rows (B_r, …), one after the other, as (B, …); gradients find their way back."""
    sizes = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=rows.device)
    sizes[dist.get_rank(group)] = len(rows)
    dist.all_reduce(sizes, group=group)
    return _Gather.apply(rows.contiguous(), sizes.tolist(), group)


class _Gather(torch.autograd.Function):
    """All shards in order of rank; backward, every replica's gradient for this shard, summed."""

    @staticmethod
    def forward(ctx, rows: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # gloo gathers equal shapes only
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total.split(ctx.sizes)[dist.get_rank(ctx.group)], None, None


class _Sum(torch.autograd.Function):
    """The sum over replicas; so is its gradient."""

    @staticmethod
    def forward(ctx, value: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor):
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


class GlobalBatchNorm(nn.Module):
    """A batch norm over all replicas' samples; `nn.SyncBatchNorm` is the same for GPUs only.

    It holds the parameters and buffers of the norm it stands for, under the same names.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, group: dist.ProcessGroup):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.eps, self.momentum, self.group = norm.eps, norm.momentum, group

    def forward(self, x: Tensor) -> Tensor:
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        if self.training or self.running_mean is None:
            mean, var = self._statistics(x.float(), dims, shape)
        else:
            mean, var = self.running_mean, self.running_var
        scale = torch.rsqrt(var + self.eps) * (1 if self.weight is None else self.weight)
        shift = -mean * scale + (0 if self.bias is None else self.bias)
        return (x.float() * scale.view(shape) + shift.view(shape)).to(x.dtype)

    def _statistics(self, x: Tensor, dims: list[int], shape: list[int]) -> tuple[Tensor, Tensor]:
        count = x.new_tensor([x.numel() / x.shape[1]])
        dist.all_reduce(count, group=self.group)
        mean = _Sum.apply(x.sum(dims), self.group) / count
        var = _Sum.apply((x - mean.view(shape)).square().sum(dims), self.group) / count
        if self.training and self.running_mean is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * (count / (count - 1)), momentum)
        return mean, var


def _replace_batch_norms(module: nn.Module, group: dist.ProcessGroup) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            norm = GlobalBatchNorm(child, group)
            norm.training = child.training
            module.register_module(name, norm)
        else:
            _replace_batch_norms(child, group)
