"""The ranks beside one whose gradients come back late: signals go on and gradients back, tick by tick.

Nobody knows beforehand what a tick brings (nothing, while the pipeline fills and drains), so each message says which of
the layouts told before it has.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import repeat

import torch
import torch.distributed as dist
from torch import Tensor

from kit.delayed import DelayedBlock, tick
from kit.pipeline.exceptions import waiting
from kit.pipeline.transport import Layout, Receiver, Wire, pack, read, unpack, written
from kit.signal import Signal
from kit.train.ends import Nowhere


class Mail(Nowhere):
    """Signals to and from the rank at the other end of `wire`: one each way at a time, or word that there is none.

    What comes from there is of `group`, not of the wire's: what two GPUs do in one group they do one after the other,
    and would both wait for the other one to receive.
    """

    def __init__(self, wire: Wire, device: torch.device, group: dist.ProcessGroup | None = None):
        self.wire, self.device, self.group, self.thread = wire, device, group, ThreadPoolExecutor(1)
        self.coming: deque[Future[Signal | None]] = deque()
        self.told: dict[tuple[Layout, ...], int] = {(): 0}
        self.heard: list[list[Layout]] = [[]]
        self.under_way: list[Callable[[], None]] = []

    def put(self, signal: Signal | None) -> None:
        """Send a signal, when the one before has arrived. Raises PeerLost."""
        self.drain()
        layouts, flat = ([], []) if signal is None else pack(signal)
        text = torch.empty(0, dtype=torch.uint8) if tuple(layouts) in self.told else written(layouts)
        number = self.told.setdefault(tuple(layouts), len(self.told))
        head = torch.tensor([number, len(text)])
        self.under_way.append(self.wire.send([head, *([text] if len(text) else []), *flat]))

    def drain(self) -> None:
        """Wait until what was sent has arrived. Raises PeerLost."""
        while self.under_way:
            self.under_way.pop()()

    def expect(self) -> None:
        """Begin to receive what the other sends next, which arrives while this rank works."""
        self.coming.append(self.thread.submit(self._receive))

    def receive(self) -> Signal | None:
        """Return what the other has sent. Raises PeerLost."""
        if not self.coming:
            self.expect()
        return self.coming.popleft().result()

    def _receive(self) -> Signal | None:
        head, rank = torch.zeros(2, dtype=torch.int64), self.wire.to
        with waiting(f"waited {self.wire.timeout.total_seconds():g} s for a signal or a gradient from rank {rank}"):
            dist.recv(head, rank, self.group)
            if head[1]:
                self.heard.append(read(int(head[1]), rank, self.group))
            layouts = self.heard[int(head[0])]
            flat = [layout.empty(self.device) for layout in layouts]
            for work in [dist.irecv(data, rank, self.group) for data in flat]:
                work.wait(self.wire.timeout)
        return unpack(layouts, flat) if layouts else None


class Neighbours(Nowhere):
    """The ranks before and behind this one, where gradients come back late (`kit.delayed`).

    In each tick signals go on and gradients back, to be found in the next; but signals in the same tick, through
    `sender`, where forward passes are locked. `sender` also takes the signals of evaluation.
    """

    def __init__(self, sender: Nowhere, before: Mail | None, behind: Mail | None, unlocked: bool):
        self.sender, self.before, self.behind, self.unlocked = sender, before, behind, unlocked
        self.awaiting: Sequence[DelayedBlock] = ()

    def put(self, signal: Signal) -> None:
        """Hand on a signal of evaluation."""
        self.sender.put(signal)

    def drain(self) -> None:
        """End a pass: wait until all has arrived, here and there."""
        self.settle()
        self.sender.drain()
        for mail in filter(None, (self.before, self.behind)):
            mail.drain()

    def tick(self, blocks: Sequence[DelayedBlock], signal: Signal | None) -> None:
        """Let `blocks` work for one tick, and hand on what leaves them. Raises PeerLost."""
        if self.unlocked:
            self.settle()
        for mail in filter(None, (self.before if self.unlocked else None, self.behind)):
            mail.expect()
        ahead, back = tick(blocks, signal, partial(self._meet, blocks[-1]))
        if self.before:
            self.before.put(None if back is None else Signal(back))
        if self.behind and self.unlocked:
            self.behind.put(ahead)
        self.awaiting = blocks

    def settle(self) -> None:
        """Put what came of the last tick into the inboxes. Raises PeerLost."""
        blocks, self.awaiting = self.awaiting, ()
        if blocks and self.before and self.unlocked:
            blocks[0].inbox = self.before.receive(), blocks[0].inbox[1]
        if blocks and self.behind:
            gradient = self.behind.receive()
            blocks[-1].inbox = blocks[-1].inbox[0], gradient and gradient.h

    def _meet(self, block: DelayedBlock, ahead: Signal | None) -> Tensor | None:
        """Hand a signal on while this tick's gradient is still awaited, so that the rank behind need not wait too."""
        if ahead is not None:
            self.sender.put(ahead)
        self.settle()
        return block.inbox[1]


class LateReceiver(Receiver):
    """A receiver whose signals of training come tick by tick instead, through `Neighbours`."""

    def signals(self, split: str, epoch: int = 0, start: int = 0) -> Iterator[Signal | None]:
        """Give None for each tick of a training epoch, and the signals of any other pass."""
        if split != "train":
            return super().signals(split, epoch, start)
        return repeat(None, len(self.sizes(split, start)))
