"""Signals between two ranks: in order, as they are in memory, overlapping with what both compute.

A tensor travels as the flat run of numbers it is in memory and gets its shape and strides back on arrival, so that the
block behind sees what it would have seen in the same process, to the bit. Shapes are told once for each batch size of a
pass, as JSON; after that a signal is nothing but its data, and the next ones are on their way while this one is worked
on. Nothing that arrives is unpickled.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from kit.pipeline.exceptions import waiting
from kit.signal import Signal, dense
from kit.train.ends import Nowhere, Source


@dataclass(frozen=True)
class Layout:
    """One tensor of a signal: its slot there (`kit.signal.Slot`), and how it lies in memory."""

    field: str
    item: int | str | None
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def empty(self, device: torch.device) -> Tensor:
        """Return room for its data, flat."""
        return torch.empty(torch.Size(self.shape).numel(), dtype=getattr(torch, self.dtype), device=device)


def pack(signal: Signal) -> tuple[list[Layout], list[Tensor]]:
    """Return the layouts of the signal's tensors and the tensors, flat. A field that is None does not travel."""
    layouts, flat = [], []
    for slot, tensor in signal.parts().items():
        tensor = dense(tensor)
        dtype = str(tensor.dtype).removeprefix("torch.")
        layouts.append(Layout(*slot, dtype, tuple(tensor.shape), tuple(tensor.stride())))
        flat.append(tensor.as_strided((tensor.numel(),), (1,)))
    return layouts, flat


def unpack(layouts: Sequence[Layout], flat: Sequence[Tensor]) -> Signal:
    """Return the signal that `pack` took apart."""
    pairs = zip(layouts, flat, strict=True)
    return Signal.of({(at.field, at.item): data.as_strided(at.shape, at.stride) for at, data in pairs})


def written(layouts: Sequence[Layout]) -> Tensor:
    """Return the layouts as the bytes that travel."""
    return torch.frombuffer(bytearray(json.dumps([astuple(layout) for layout in layouts]).encode()), dtype=torch.uint8)


def read(size: int, rank: int, group: dist.ProcessGroup | None = None) -> list[Layout]:
    """Return the layouts that `rank` sends, `written` in so many bytes."""
    text = torch.empty(size, dtype=torch.uint8)
    dist.recv(text, rank, group)
    return [Layout(*row[:3], tuple(row[3]), tuple(row[4])) for row in json.loads(text.numpy().tobytes())]


class Wire:
    """Sends tensors to rank `to`, in order. With `delay`, so many seconds late, as a long line would: for teaching."""

    def __init__(self, to: int, timeout: float, delay: float = 0.0, group: dist.ProcessGroup | None = None):
        self.to, self.timeout, self.delay, self.group = to, timedelta(seconds=timeout), delay, group
        self.thread = ThreadPoolExecutor(1) if delay else None

    def send(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        """Begin to send; return what waits until all have arrived. Raises PeerLost if the receiver is gone."""
        if self.thread is None:
            works = self._begin(tensors)
            return lambda: self._finish(works)
        due = time.monotonic() + self.delay
        late = self.thread.submit(self._begin, tensors, due)
        return lambda: self._finish(late.result())

    def _begin(self, tensors: Sequence[Tensor], due: float = 0.0) -> list[dist.Work]:
        if due:
            time.sleep(max(0.0, due - time.monotonic()))
        with waiting(f"sending to rank {self.to}"):
            return [dist.isend(tensor, self.to, self.group) for tensor in tensors]

    def _finish(self, works: Sequence[dist.Work]) -> None:
        for work in works:
            with waiting(f"waited {self.timeout.total_seconds():g} s for rank {self.to} to take a signal"):
                work.wait(self.timeout)


class Sender(Nowhere):
    """Hands signals on. At most `depth` are under way; the next waits until the oldest has arrived."""

    def __init__(self, wire: Wire, depth: int):
        self.wire, self.depth = wire, depth
        self.told: dict[int, list[Layout]] = {}
        self.under_way: deque[Callable[[], None]] = deque()

    def put(self, signal: Signal) -> None:
        """Send a signal. Raises PeerLost if the receiver is gone or silent."""
        layouts, flat = pack(signal)
        known = self.told.setdefault(len(signal.h), layouts)
        if known != layouts:
            raise ValueError(f"signals of one batch size differ, so they cannot travel: {known} and now {layouts}")
        while len(self.under_way) >= self.depth:
            self.under_way.popleft()()
        if known is layouts:
            text = written(layouts)
            flat = [torch.tensor([len(text)]), text, *flat]
        self.under_way.append(self.wire.send(flat))

    def drain(self) -> None:
        """End a pass: wait until everything sent has arrived. The next pass tells its shapes anew."""
        while self.under_way:
            self.under_way.popleft()()
        self.told.clear()


class Receiver(Source):
    """Takes signals from rank `source`, up to `depth` of them already while an earlier one is worked on.

    `sizes(split, start)` says how large the batches of a pass are, from batch `start` of a training epoch on. Where
    signals of one size differ in shape, as texts do, `announced` receives them one by one.
    """

    def __init__(
        self, source: int, depth: int, device: torch.device, timeout: float,
        sizes: Callable[[str, int], Sequence[int]], announced: Callable[[], Signal] | None = None,
    ):  # fmt: skip
        self.source, self.depth, self.device, self.sizes = source, depth, device, sizes
        self.timeout, self.announced = timedelta(seconds=timeout), announced

    def signals(self, split: str, epoch: int = 0, start: int = 0) -> Iterator[Signal]:
        """Give the signals of a pass. Raises PeerLost."""
        if self.announced:
            yield from (self.announced() for _ in self.sizes(split, start))
            return
        told: dict[int, list[Layout]] = {}
        left, ahead = deque(self.sizes(split, start)), deque()
        while left or ahead:
            if not ahead and left[0] not in told:  # shapes come before the first signal of a size, and nothing else can
                told[left[0]] = self._hear()
            while left and left[0] in told and len(ahead) < self.depth:
                ahead.append(self._post(told[left.popleft()]))
            layouts, works, flat = ahead.popleft()
            for work in works:
                with waiting(f"waited {self.timeout.total_seconds():g} s for a signal from rank {self.source}"):
                    work.wait(self.timeout)
            yield unpack(layouts, flat)

    def _hear(self) -> list[Layout]:
        size = torch.zeros(1, dtype=torch.int64)
        with waiting(f"waited for the first signal from rank {self.source}"):
            dist.recv(size, self.source)
            return read(int(size), self.source)

    def _post(self, layouts: list[Layout]) -> tuple[list[Layout], list[dist.Work], list[Tensor]]:
        flat = [layout.empty(self.device) for layout in layouts]
        with waiting(f"receiving from rank {self.source}"):
            return layouts, [dist.irecv(data, self.source) for data in flat], flat
