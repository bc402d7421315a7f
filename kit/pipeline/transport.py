"""Signals between two ranks: in order, as they are in memory, overlapping with what both compute.

A tensor travels as the flat run of numbers it is in memory and gets its shape and strides back on arrival, so that the
block behind sees what it would have seen in the same process, to the bit. Shapes are told once for each batch size of a
pass, as JSON; after that a signal is nothing but its data, and the next ones are on their way while this one is worked
on. Nothing that arrives is unpickled.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
    return Signal.of(
        {(layout.field, layout.item): data.as_strided(layout.shape, layout.stride) for layout, data in pairs}
    )


class Sender(Nowhere):
    """Hands signals to rank `to`. At most `depth` are under way; the next waits until the oldest has arrived."""

    def __init__(self, to: int, depth: int, timeout: float):
        self.to, self.depth, self.timeout = to, depth, timedelta(seconds=timeout)
        self.told: dict[int, list[Layout]] = {}
        self.under_way: deque[tuple[list[dist.Work], list[Tensor]]] = deque()

    def put(self, signal: Signal) -> None:
        """Send a signal. Raises PeerLost if the receiver is gone or silent."""
        layouts, flat = pack(signal)
        known = self.told.setdefault(len(signal.h), layouts)
        if known != layouts:
            raise ValueError(f"signals of one batch size differ, so they cannot travel: {known} and now {layouts}")
        while len(self.under_way) >= self.depth:
            self._await_oldest()
        with waiting(f"sending to rank {self.to}"):
            if known is layouts:
                self._tell(layouts)
            self.under_way.append(([dist.isend(data, self.to) for data in flat], flat))

    def drain(self) -> None:
        """End a pass: wait until everything sent has arrived. The next pass tells its shapes anew."""
        while self.under_way:
            self._await_oldest()
        self.told.clear()

    def _tell(self, layouts: Sequence[Layout]) -> None:
        text = torch.frombuffer(
            bytearray(json.dumps([astuple(layout) for layout in layouts]).encode()), dtype=torch.uint8
        )
        dist.send(torch.tensor([len(text)]), self.to)
        dist.send(text, self.to)

    def _await_oldest(self) -> None:
        works, _ = self.under_way[0]
        for work in works:
            with waiting(f"waited {self.timeout.total_seconds():g} s for rank {self.to} to take a signal"):
                work.wait(self.timeout)
        self.under_way.popleft()


class Receiver(Source):
    """Takes signals from rank `source`, up to `depth` of them already while an earlier one is worked on.

    `sizes(split, start)` says how large the batches of a pass are, from batch `start` of a training epoch on.
    """

    def __init__(
        self, source: int, depth: int, device: torch.device, timeout: float,
        sizes: Callable[[str, int], Sequence[int]],
    ):  # fmt: skip
        self.source, self.depth, self.device, self.sizes = source, depth, device, sizes
        self.timeout = timedelta(seconds=timeout)

    def signals(self, split: str, epoch: int = 0, start: int = 0) -> Iterator[Signal]:
        """Give the signals of a pass. Raises PeerLost."""
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
            text = torch.empty(int(size), dtype=torch.uint8)
            dist.recv(text, self.source)
        rows = json.loads(text.numpy().tobytes())
        return [Layout(*row[:3], tuple(row[3]), tuple(row[4])) for row in rows]

    def _post(self, layouts: list[Layout]) -> tuple[list[Layout], list[dist.Work], list[Tensor]]:
        flat = [layout.empty(self.device) for layout in layouts]
        with waiting(f"receiving from rank {self.source}"):
            return layouts, [dist.irecv(data, self.source) for data in flat], flat
