"""Signals between two ranks: in order, as they are in memory, overlapping with what both compute.

A tensor travels as the flat run of numbers it is in memory and gets its shape and strides back on arrival, so that the
block behind sees what it would have seen in the same process, to the bit. Shapes are told once per (kind of pass,
batch size); after that a signal is nothing but its data, and the next one is on its way while this one is worked on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from kit.pipeline.exceptions import waiting
from kit.signal import Signal, dense

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Layout:
    """One tensor of a signal: its place there (`kit.signal.Place`), and how it lies in memory."""

    field: str
    item: int | str | None
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def pack(signal: Signal) -> tuple[list[Layout], list[Tensor]]:
    """Return the layouts of the signal's tensors and the tensors, flat. A field that is None does not travel."""
    layouts, flat = [], []
    for place, tensor in signal.parts().items():
        tensor = dense(tensor)
        layouts.append(Layout(*place, tensor.dtype, tuple(tensor.shape), tensor.stride()))
        flat.append(tensor.as_strided((tensor.numel(),), (1,)))
    return layouts, flat


def unpack(layouts: Sequence[Layout], flat: Sequence[Tensor]) -> Signal:
    """Return the signal that `pack` took apart."""
    pairs = zip(layouts, flat, strict=True)
    tensors = {(layout.field, layout.item): data.as_strided(layout.shape, layout.stride) for layout, data in pairs}
    return Signal.of(tensors)


class Sender:
    """Hands signals to rank `to`. At most `depth` are under way; the next waits until the oldest has arrived."""

    def __init__(self, to: int, depth: int, timeout: float):
        self.to, self.depth, self.timeout = to, depth, timedelta(seconds=timeout)
        self.layouts: dict[tuple[str, int], list[Layout]] = {}
        self.under_way: deque[tuple[list[dist.Work], list[Tensor]]] = deque()

    def send(self, signal: Signal, kind: str) -> None:
        """Send the signal of a pass called `kind`. Raises PeerLost if the receiver is gone or silent."""
        layouts, flat = pack(signal)
        key = (kind, len(signal.y))
        known = self.layouts.setdefault(key, layouts)
        if known != layouts:
            raise ValueError(f"signals of one batch size differ, so they cannot travel: {known} and now {layouts}")
        while len(self.under_way) >= self.depth:
            self._await_oldest()
        with waiting(f"sending to rank {self.to}"):
            if known is layouts:
                dist.send_object_list([layouts], self.to, device=CPU)
            self.under_way.append(([dist.isend(data, self.to) for data in flat], flat))

    def drain(self) -> None:
        """Wait until everything sent has arrived."""
        while self.under_way:
            self._await_oldest()

    def _await_oldest(self) -> None:
        works, _ = self.under_way[0]
        for work in works:
            with waiting(f"waited {self.timeout.total_seconds():g} s for rank {self.to} to take a signal"):
                work.wait(self.timeout)
        self.under_way.popleft()


class Receiver:
    """Takes signals from rank `source`, the next one already while the last is worked on."""

    def __init__(self, source: int, device: torch.device, timeout: float):
        self.source, self.device, self.timeout = source, device, timedelta(seconds=timeout)
        self.layouts: dict[tuple[str, int], list[Layout]] = {}

    def signals(self, kind: str, sizes: Sequence[int]) -> Iterator[Signal]:
        """Give the signals of a pass called `kind`, whose batches have these sizes. Raises PeerLost."""
        ahead = None
        for size, following in zip(sizes, [*sizes[1:], None], strict=True):
            layouts = self._layouts(kind, size)
            works, flat = ahead or self._post(layouts)
            for work in works:
                with waiting(f"waited {self.timeout.total_seconds():g} s for a signal from rank {self.source}"):
                    work.wait(self.timeout)
            ahead = self._post(self.layouts[kind, following]) if (kind, following) in self.layouts else None
            yield unpack(layouts, flat)

    def _layouts(self, kind: str, size: int) -> list[Layout]:
        if (kind, size) not in self.layouts:
            told: list = [None]
            with waiting(f"waited for the first signal from rank {self.source}"):
                dist.recv_object_list(told, self.source, device=CPU)
            self.layouts[kind, size] = told[0]
        return self.layouts[kind, size]

    def _post(self, layouts: Sequence[Layout]) -> tuple[list[dist.Work], list[Tensor]]:
        flat = [torch.empty(_numel(layout), dtype=layout.dtype, device=self.device) for layout in layouts]
        with waiting(f"receiving from rank {self.source}"):
            return [dist.irecv(data, self.source) for data in flat], flat


def _numel(layout: Layout) -> int:
    return torch.Size(layout.shape).numel()
