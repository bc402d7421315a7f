"""What two ranks run when they are compared: ours, FDG, and PyTorch's own pipelines; over a link with a delay, too.

A case's `flow(steps)` returns the seconds that so many steps took this rank, once the pipeline is full. `delay` is in
seconds, added to each transfer.
"""

import time
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from kit.delayed import tick
from kit.pipeline.neighbours import Mail, Neighbours
from kit.pipeline.schedule import gpipe, one_f_one_b
from kit.pipeline.simulate import Costs
from kit.pipeline.transport import Receiver, Sender, Wire
from kit.splitting.split import split
from kit.train.ends import NOWHERE

CPU, TIMEOUT = torch.device("cpu"), 900.0


class Ours:
    """The decoupled net over two ranks, as a rank runs it; up to `depth` signals are under way."""

    def __init__(self, rank, depth: int = 2, delay: float = 0.0):
        self.rank, self.depth, net = rank, depth, rank.net(rank.settings["method"], rank.cuts["decoupled"])
        self.block = net[rank.rank]
        self.first = net.signal(rank.x, rank.y)
        with torch.no_grad():
            self.mine = self.first if rank.rank == 0 else self.first.advance(net[0](self.first))
            self.handed_on = [net[0](self.first), rank.y]
        self.sender = Sender(Wire(1, TIMEOUT, delay), depth) if rank.rank == 0 else None
        self.receiver = Receiver(0, depth, CPU, TIMEOUT, self.sizes) if rank.rank == 1 else None

    def sizes(self, split: str, start: int) -> list[int]:
        """Return the sizes of the batches of the pass that comes."""
        return [len(self.rank.y)] * self.num_steps

    def flow(self, steps: int) -> float:
        """Step on a stream of signals; the clock runs once as many are under way as may be."""
        self.num_steps = steps + self.depth
        stream = self.receiver.signals("train") if self.receiver else None
        for number in range(self.num_steps):
            if number == self.depth:
                start = time.perf_counter()
            signal = self.block.step(next(stream) if stream else self.first)
            if self.sender:
                self.sender.put(signal)
        seconds = time.perf_counter() - start
        if self.sender:
            self.sender.drain()
        return seconds

    def own_work(self, steps: int) -> float:
        return timed(lambda: self.block.step(self.mine), steps)


class Late:
    """FDG over two ranks, tick by tick as a rank runs it: signals go on, gradients come back."""

    def __init__(self, rank, delay: float = 0.0):
        net = rank.net("fdg", rank.cuts["fdg"])
        self.block, self.full = net[rank.rank], net.num_filling
        self.signal = net.signal(rank.x, rank.y) if rank.rank == 0 else None
        mail = Mail(Wire(1 - rank.rank, TIMEOUT, delay), CPU)
        before, behind = (None, mail) if rank.rank == 0 else (mail, None)
        self.neighbours = Neighbours(NOWHERE, before, behind, self.block.delay.unlocked)

    def tick(self) -> None:
        self.neighbours.tick([self.block], self.signal)

    def flow(self, steps: int) -> float:
        """Let tick follow tick; the clock runs once gradients come back."""
        for _ in range(self.full):
            self.tick()
        seconds = timed(self.tick, steps)
        self.neighbours.drain()
        return seconds

    def own_work(self, steps: int) -> float:
        """Tick on what came last, again and again, and ask for nothing. There has to have been a `flow`."""
        came = self.block.inbox

        def alone() -> None:
            self.block.inbox = came
            tick([self.block], self.signal)

        seconds = timed(alone, steps)
        self.block.inbox = came
        return seconds


class Torchs:
    """Backprop over two ranks, as PyTorch's own pipeline runs it."""

    def __init__(self, rank, name: str, num_micro: int, delay: float = 0.0):
        self.rank, self.num_micro = rank, num_micro
        stages = split(rank.model(), None, rank.x[:2], at=rank.cuts["backprop"])
        with torch.no_grad():
            self.handed_on = [stages[0](rank.x.chunk(num_micro)[0])]
        self.stage = Clocked(stages[rank.rank], rank.rank, 2, CPU)
        self.stage.line = Line(1 - rank.rank, delay) if delay else None
        schedule, operations = {"gpipe": (ScheduleGPipe, gpipe), "1f1b": (Schedule1F1B, one_f_one_b)}[name]
        self.schedule = schedule(self.stage, num_micro, loss_fn=torch.nn.functional.cross_entropy)
        self.operations = operations(2, num_micro)
        self.optimizer = torch.optim.SGD(stages[rank.rank].parameters(), 0.01, 0.9)

    def step(self) -> None:
        if self.rank.rank == 0:
            self.schedule.step(self.rank.x)
        else:
            self.schedule.step(target=self.rank.y)
        with clock(self.stage.spent, "update"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def flow(self, steps: int) -> float:
        seconds = timed(self.step, steps)
        if self.stage.line:
            self.stage.line.drain()
        return seconds

    def costs(self, steps: int) -> Costs:
        """Return what forward and backward of a micro-batch, and the update, take in each rank while both work."""
        self.stage.spent = dict.fromkeys(self.stage.spent, 0.0)
        self.flow(steps)
        seconds = {n: v / steps / (1 if n == "update" else self.num_micro) for n, v in self.stage.spent.items()}
        parts = {name: self.rank.both(value) for name, value in seconds.items()}
        return Costs(**parts, transfer=self.rank.transfer(self.handed_on))


class Clocked(PipelineStage):
    """PyTorch's stage, which waits and sends outside of its operations, and a clock in each of these.

    With a `line`, what it sends goes that way.
    """

    line = None

    def __init__(self, *args):
        super().__init__(*args)
        self.spent = dict.fromkeys(("forward", "backward", "update"), 0.0)

    def forward_one_chunk(self, *args, **options):
        with clock(self.spent, "forward"):
            return super().forward_one_chunk(*args, **options)

    def backward_one_chunk(self, *args, **options):
        with clock(self.spent, "backward"):
            return super().backward_one_chunk(*args, **options)

    def get_fwd_send_ops(self, chunk):
        return self.late(super().get_fwd_send_ops(chunk))

    def get_bwd_send_ops(self, chunk):
        return self.late(super().get_bwd_send_ops(chunk))

    def late(self, ops: list[dist.P2POp]) -> list[dist.P2POp]:
        for op in ops if self.line else ():
            op.op = self.line.isend
        return ops


class Line:
    """A long line to rank `to`, for PyTorch's pipelines. They wait for what they send; of that they are spared here."""

    def __init__(self, to: int, delay: float):
        self.wire, self.under_way = Wire(to, TIMEOUT, delay), []

    def isend(self, tensor: torch.Tensor, **_) -> None:
        """Take the place of `dist.isend`; the caller waits for None, which is to say not at all."""
        self.under_way.append(self.wire.send([tensor]))

    def drain(self) -> None:
        while self.under_way:
            self.under_way.pop(0)()


@contextmanager
def clock(spent: dict[str, float], name: str):
    start = time.perf_counter()
    yield
    spent[name] += time.perf_counter() - start


def timed(step, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - start
