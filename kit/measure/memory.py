"""What training will take, before anything is allocated: peak bytes and FLOPs of one step, block by block.

    memory.plan(net, (1024, 3, 32, 32)).table  # a net too large for memory is built `with memory.on_paper():`

Blocks take their own `step` on fake tensors, and a dispatch mode adds up the storages that are alive. PyTorch's own
`torch.distributed._tools.mem_tracker` holds gradients too long, and does not see what kernels take (`scratch`).
"""

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import pandas as pd
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from kit.block import Block
from kit.net import Net

KINDS = ("parameters", "buffers", "optimizer", "gradients", "activations")
"""What a byte is for. Inputs, labels and what lives for a moment inside a step count as activations."""

STAYING = KINDS[:3]  # what there is between steps as well

aten = torch.ops.aten
READING = {aten._local_scalar_dense, aten.item, aten.is_nonzero}
UPDATING = {aten._fused_sgd_, aten._fused_adam_, aten._fused_adamw_}  # in place; not all of them have shape rules
COPYING = {aten.convolution, aten.convolution_backward, aten.native_batch_norm_backward, aten.upsample_bilinear2d}
_paper = partial(FakeTensorMode, allow_fallback_kernels=False)  # they would run what has no shape rules on real tensors


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that training takes on batches of one shape, once every block has learned, in each step."""

    blocks: tuple[dict[str, int], ...]
    """For each block its own parameters, buffers and optimizer state, and at the peak of its step its gradients, its
    activations (and those of all blocks that wait for a late gradient), and `peak`: all that is alive then, in all
    blocks. `flops` are those of its step: `costs.flops`."""

    @property
    def peak(self) -> int:
        """The most bytes alive at any time."""
        return max(block["peak"] for block in self.blocks)

    @property
    def flops(self) -> int:
        """The floating-point operations of one step of all blocks, forward and backward."""
        return sum(block["flops"] for block in self.blocks)

    @property
    def staying(self) -> int:
        """The bytes alive between steps: every block's parameters, buffers and optimizer state."""
        return sum(block[kind] for block in self.blocks for kind in STAYING)

    @property
    def table(self) -> pd.DataFrame:
        """One row a block, from 1."""
        return pd.DataFrame(self.blocks, index=pd.RangeIndex(1, len(self.blocks) + 1, name="block"))


@contextmanager
def on_paper() -> Iterator[None]:
    """Build nets larger than memory: tensors made inside have shape, type and device, and no data."""
    with _paper(), _Blind():
        yield


def peaks(stages: Sequence[nn.Module], build: Callable[[Sequence[nn.Module]], Net], example: Tensor) -> list:
    """Return the peak bytes of each block's step in the net `build(stages)` on such batches, less what stays between.

    `build` is given copies without data.
    """
    mode = _paper()
    with FakeCopyMode(mode):
        stages = copy.deepcopy(list(stages))
    with mode, _Blind():
        net = build(stages)
    planned = plan(net, example.shape, example.dtype, settled=False)
    return [block["peak"] - planned.staying for block in planned.blocks]


def plan(net: Net, batch_shape: Sequence[int], dtype: torch.dtype = torch.float32, settled: bool = True) -> MemoryPlan:
    """Predict the peak bytes of training `net` on inputs of `batch_shape` (B, …) and `dtype`.

    `settled=False` plans the very first step, in which optimizers make their state, for half the time.

    `net` may hold data or be built `on_paper`; it is copied, and stays as it is. Nothing of the size of a batch is
    allocated and nothing is computed. What a kernel takes beside arguments and results is known for the CPU only.
    Too little for LSTMs on a GPU, whose kernels keep more. Raises ValueError for a shape that the net does not take.
    """
    first, rows = next(net.parameters()), []
    mode = first.fake_mode if isinstance(first, FakeTensor) else _paper()
    with FakeCopyMode(mode):
        net = copy.deepcopy(net).train()
    net.forget()
    with mode, _Tally() as tally:
        x, y = _first_steps(net, tuple(batch_shape), dtype, settled)  # kept, as training keeps the batch of a step
        signal = net.signal(x, y)
        for block in net:
            tally.keep(block)
        for p in net.parameters():
            p.register_post_accumulate_grad_hook(lambda p: tally.count(p.grad, "gradients"))
        steps = net.steps(signal)
        for block in net:
            own = _Tally()
            own.keep(block)
            tally.start()
            next(steps)
            counted = [*own.alive.values(), *(part for part in tally.at_peak if part[0] not in STAYING)]
            row = {kind: sum(size for of, size, *_ in counted if of == kind) for kind in KINDS}
            rows.append(row | {"peak": tally.peak, "flops": tally.flops})
    return MemoryPlan(tuple(rows))


def _first_steps(net: Net, batch_shape: tuple[int, ...], dtype: torch.dtype, settled: bool) -> tuple[Tensor, Tensor]:
    """Take the steps that make optimizer states, and fill queues; if it is to be `settled`; return their batch."""
    try:
        x = torch.empty(batch_shape, dtype=dtype, device=net.device)
        y = torch.empty(len(x), dtype=torch.int64, device=net.device)
        for _ in range(net.num_filling if settled else 0):
            net.step(x, y)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        advice = "Give the whole shape, batch first, of inputs as the net takes them"
        given = f"batch_shape={batch_shape} and {dtype}, but the net does not train on such a batch"
        raise ValueError(f"{given}: {reason}. {advice}") from error
    return x, y


class _Blind(TorchDispatchMode):
    """Answers 0.5, 0 or False where code asks for a value that only data could tell: memory does not depend on it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._overloadpacket in READING and isinstance(args[0], FakeTensor):
            return 0.5 if args[0].dtype.is_floating_point else False if args[0].dtype == torch.bool else 0
        if func._overloadpacket in UPDATING and isinstance(args[0][0], FakeTensor):
            return None
        return func(*args, **(kwargs or {}))


class _Tally(_Blind):
    """Bytes of the storages alive, by kind, and of those that were alive when there was most."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, list] = {}  # by address: kind, bytes, and the reference that hears of its end
        self.level = 0
        self.start()

    def start(self) -> None:
        """Look for the peak and count operations from now on."""
        self.peak, self.at_peak, self.flops = self.level, [*self.alive.values()], 0

    def keep(self, block: Block) -> None:
        """Count what the block holds between steps."""
        held = [*block.parameters()], [*block.buffers()], [*block.optimizer.state.values()]
        for kind, tensors in zip(STAYING, held, strict=True):
            tree_map_only(Tensor, partial(self.count, kind=kind), tensors)

    def count(self, tensor: Tensor, kind: str = "activations") -> None:
        """Count the tensor's storage until it is freed; one that is counted already moves to `kind`."""
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if place not in self.alive:
            self.alive[place] = [kind, size, weakref.ref(storage, lambda _: self._freed(place))]
            self.level += size
        elif kind != "activations":
            self.alive[place][0] = kind

    def _freed(self, place: int) -> None:
        self.level -= self.alive.pop(place)[1]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func._overloadpacket is aten.mkldnn_rnn_layer:  # whose shape rule knows nothing of its workspace
            result = *result[:3], result[0].new_empty(lstm_workspace(*args[0].shape, args[10]), dtype=torch.uint8)
        tree_map_only(Tensor, self.count, result)
        if self.level + (extra := scratch(func, args, result)) > self.peak:
            self.peak, self.at_peak = self.level + extra, [*self.alive.values(), ("activations", extra)]
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


@cache
def lstm_workspace(length: int, rows: int, width: int, hidden: int) -> int:
    """Return the bytes that oneDNN's LSTM keeps of (length, rows, width) for its backward pass: told by a few rows."""
    few, gates = min(8, rows), 4 * hidden
    sizes = (length, few, width), (gates, width), (gates, hidden), gates, gates, (few, hidden), (few, hidden)
    with unset_fake_temporarily():  # below: forwards, no packed batches, LSTM, one layer with biases, one way, training
        *_, kept = aten.mkldnn_rnn_layer(*map(torch.zeros, sizes), False, [], 2, hidden, 1, True, False, False, True)
    return kept.numel() * rows // few


def scratch(func, args: Sequence, result) -> int:
    """Return the bytes that an operation's CPU kernel takes beside its arguments and results, and gives back.

    oneDNN copies contiguous maps into a layout of its own: convolution forward the input and the weight, or the
    result; backward the input and the gradient. Batch norm's backward and bilinear upsampling work on copies, too.
    Found with `kit.measure.costs.peak_bytes` around single operations, PyTorch 2.14, AVX-512, fp32, 16 channels up.
    """
    kernel, first = func._overloadpacket, args[0] if args else None
    if kernel is aten.mkldnn_rnn_layer_backward:
        return 4 * args[7].nbytes  # the gradients of the gates, of which there are four for each output
    if kernel not in COPYING or first.device.type != "cpu" or not first.is_contiguous():
        return 0
    if kernel is aten.convolution:
        (x, weight), stride = args[:2], args[3]
        pointwise = weight[0, 0].numel() == 1 and set(stride) == {1}
        return 0 if pointwise else max(x.nbytes + weight.nbytes, result.nbytes)
    if kernel is aten.convolution_backward:
        gradient, x, weight = args[:3]
        pointwise = weight[0, 0].numel() == 1 and x.shape[2:] == gradient.shape[2:]
        return 0 if pointwise else gradient.nbytes + x.nbytes
    return first.nbytes + (result.nbytes if kernel is aten.upsample_bilinear2d else 0)
