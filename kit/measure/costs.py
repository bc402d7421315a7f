"""What a part of a network costs: parameters, bytes kept for the backward pass, seconds, peak bytes."""

import copy
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.autograd.profiler import profile, record_function
from torch.utils._pytree import tree_leaves

from kit.devices import available
from kit.settings import Count, typed

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler announces itself on stderr otherwise


def parameters(module: nn.Module) -> int:
    """Return the number of parameters of `module`; one used twice counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def flops(fn: Callable[[], object]) -> int:
    """Return the FLOPs of `fn()`, which is run, by PyTorch's counter: products and convolutions, 2 a multiply-add."""
    with counting() as counter:
        fn()
    return counter.get_total_flops()


@contextmanager
def counting() -> Iterator[Any]:
    """Give PyTorch's counter of operations: `with counting() as counter`, then `counter.get_total_flops()`.

    Fused LSTM, Transformer and attention kernels, which it does not know, are computed piece by piece meanwhile.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        pieces = torch.backends.mkldnn.flags(enabled=False, allow_tf32=None), sdpa_kernel(SDPBackend.MATH)
        with pieces[0], pieces[1], FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts in `total` the bytes that autograd keeps of what runs inside: a storage once, those of `ignored` never."""

    def __init__(self, ignored: Iterable[Tensor]):
        super().__init__(self._keep, lambda tensor: tensor)
        self.total = 0
        self._known = {tensor.untyped_storage()._cdata: tensor for tensor in ignored}

    def _keep(self, tensor: Tensor) -> Tensor:
        kept, storage = tensor.detach(), tensor.untyped_storage()
        if storage._cdata not in self._known:
            self.total += storage.nbytes()
            self._known[storage._cdata] = kept  # held on to, or the address might be used again
        return kept


def held(module: nn.Module) -> list[Tensor]:
    """Return the tensors in `module`, each once: parameters, buffers, and others in attributes or lists of them."""
    leaves = [leaf for part in module.modules() for leaf in tree_leaves(vars(part))]
    return list({id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}.values())


def copied(module: nn.Module, new: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a deep copy of `module` that holds `new(tensor)` for each tensor; one used twice still is."""
    tensors = {}  # deepcopy itself would copy gradients too, and refuse what was computed, as weight norm's
    for old in held(module):
        own = new(old.detach())
        tensors[id(old)] = nn.Parameter(own, old.requires_grad) if isinstance(old, nn.Parameter) else own
    return copy.deepcopy(module, tensors)


def meta(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape and type on PyTorch's meta device, where nothing is computed."""
    return torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)


@typed
def step_seconds(fn: Callable[[], object], repeats: Count = 5) -> float:
    """Return the median seconds of `fn()` over `repeats` calls after one warm-up, when the GPU has done them, too."""
    seconds = []
    for _ in range(repeats + 1):
        start = clock()
        fn()
        seconds.append(clock() - start)
    return statistics.median(seconds[1:])


def clock() -> float:
    """Return the seconds now, when all that was asked of the GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes(fn: Callable[[], object], device: torch.device | str | None = None, warm_up: int = 0) -> int:
    """Return the peak of tensor memory, in bytes, while `fn()` runs, over the level at its start.

    On CUDA the caching allocator's own peak (`torch.cuda.max_memory_allocated`), on the CPU (None) the running sum of
    every allocation and release that PyTorch's profiler records: exact, and independent of what malloc keeps. `fn` is
    called `warm_up` times before: the CPU's profiler misses the release of what was there before the first call, so a
    step, which frees the last one's gradients, takes 1. Not inside another profiler. ValueError for other devices.
    """
    device = available(device or "cpu")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={str(device)!r}: peak_bytes measures 'cpu' and 'cuda' only")
    with profile(profile_memory=True, enabled=device.type == "cpu") as recorded:
        for _ in range(warm_up):
            fn()
        if device.type == "cuda":
            return _peak_cuda(fn, device)
        with record_function("peak_bytes"):
            fn()
    events = recorded.kineto_results.events()
    start = next(event.start_ns() for event in events if event.name() == "peak_bytes")
    memory = [e for e in events if e.name() == "[memory]" and e.device_type() == DeviceType.CPU]
    changes = [e.nbytes() for e in sorted(memory, key=lambda e: e.start_ns()) if e.start_ns() >= start]
    return max(accumulate(changes, initial=0))


def _peak_cuda(fn: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    start = torch.cuda.memory_allocated(device)
    fn()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - start
