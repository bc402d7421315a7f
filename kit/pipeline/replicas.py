"""Replicas of a block that share a batch: averaged gradients, and batch statistics over one shard or over all."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kit import seeds
from kit.block import Block
from kit.objective import Objective
from kit.signal import Signal


def sync_buffers(blocks: Iterable[Block], group: dist.ProcessGroup) -> None:
    """Give every replica the buffers (running statistics) of the first."""
    for block in blocks:
        for buffer in block.buffers():
            dist.broadcast(buffer, group=group, group_src=0)


class Replicas:
    """The replicas of this rank's blocks: each steps on its shard, and all make the same step.

    The average is the gradient of the mean over all samples, whatever the shards' sizes. With `statistics="global"`
    batch norms and batch-wise losses see the whole batch, so that the step is that of one process on all of it (but
    for dropout, which every replica draws for itself).
    """

    def __init__(self, group: dist.ProcessGroup, statistics: str):
        self.group, self.statistics = group, statistics

    def join(self, block: Block) -> None:
        """Make `block` one of the replicas."""
        if self.statistics == "global":
            for part in block.objective.modules():  # an objective may hold another
                if isinstance(part, Objective):
                    part.gather = self.gather
            _replace_batch_norms(block, self.group)
        if dist.get_rank(self.group):
            block.seed = seeds.derive(block.seed, "replica", dist.get_rank(self.group))
        # The call alone: the module itself, which holds the block, would become a part of it.
        block.replicas = DistributedDataParallel(_Losses(block, self.group), process_group=self.group).__call__

    def gather(self, rows: Tensor) -> Tensor:
        """Return the replicas' rows (B_r, …), one after the other, as (B, …): a differentiable all-gather.

        Each replica adds its rows to zeros: PyTorch's own differentiable all-gather fails on gloo in any but the whole
        group, and takes equal shapes only.
        """
        sizes = torch.zeros(dist.get_world_size(self.group), dtype=torch.int64, device=rows.device)
        sizes[dist.get_rank(self.group)] = len(rows)
        dist.all_reduce(sizes, group=self.group)
        before, total = int(sizes[: dist.get_rank(self.group)].sum()), int(sizes.sum())
        around = [rows.new_zeros(count, *rows.shape[1:]) for count in (before, total - before - len(rows))]
        return dist_nn.all_reduce(torch.cat([around[0], rows, around[1]]), group=self.group)


class _Losses(nn.Module):
    """The block's losses, scaled so that their mean over replicas is the mean over samples."""

    def __init__(self, block: Block, group: dist.ProcessGroup):
        super().__init__()
        self.block, self.group = block, group

    def forward(self, signal: Signal) -> tuple[Tensor, dict[str, Tensor]]:
        h, terms = self.block.losses(signal)
        total = torch.tensor(float(len(signal.y)), device=h.device)
        dist.all_reduce(total, group=self.group)
        share = len(signal.y) * dist.get_world_size(self.group) / total
        return h, {name: term * share for name, term in terms.items()}


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
        self.train(norm.training)

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
        mean = dist_nn.all_reduce(x.sum(dims), group=self.group) / count
        var = dist_nn.all_reduce((x - mean.view(shape)).square().sum(dims), group=self.group) / count
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
            module.add_module(name, GlobalBatchNorm(child, group))
        else:
            _replace_batch_norms(child, group)
