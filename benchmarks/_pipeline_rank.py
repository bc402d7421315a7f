"""One of the two processes of `pipeline.py`: its part of every case, and the clock."""

import json
import statistics
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

from kit.backbones import backbone
from kit.methods import decouple
from kit.pipeline.options import Options
from kit.pipeline.placement import step_seconds_by_block
from kit.pipeline.ranks import all_gather
from kit.pipeline.rendezvous import joined
from kit.pipeline.schedule import gpipe, one_f_one_b
from kit.pipeline.simulate import Costs, predict, timeline
from kit.pipeline.transport import Receiver, Sender
from kit.splitting.split import choose_cuts, cut_points, split

MICRO = (2, 4, 8, 16)


def main(settings: Path) -> None:
    """Measure with the settings of this file, and let rank 0 write `measured.json` beside it."""
    torch.set_num_threads(1)
    with joined(torch.device("cpu"), Options(timeout=300.0)):
        measured = Rank(json.loads(settings.read_text())).measure()
        if dist.get_rank() == 0:
            settings.with_name("measured.json").write_text(json.dumps(measured))
        dist.barrier()


class Rank:
    """One process: its part of every case, and the clock."""

    def __init__(self, settings: dict):
        self.settings, self.rank = settings, dist.get_rank()
        noise = torch.Generator().manual_seed(0)
        self.x = torch.randn(settings["batch"], *settings["image"], generator=noise)
        self.y = torch.randint(settings["num_classes"], (settings["batch"],), generator=noise)
        self.cuts = self.agree({"backprop": self.backprop_cut, "decoupled": self.decoupled_cut})

    def agree(self, choices: dict) -> dict:
        """Let rank 0 choose, while the other one is idle, and tell."""
        chosen = {name: choose() for name, choose in choices.items()} if self.rank == 0 else None
        return all_gather(chosen, "choosing cuts")[0]

    def model(self):
        torch.manual_seed(0)
        s = self.settings
        return backbone(s["backbone"], s["image"][0], s["num_classes"], s["width"], s["image"][1])

    def net(self, method: str, at: list[str]):
        stages = split(self.model(), None, self.x[:2], at=at)
        return decouple(stages, method, self.settings["num_classes"], self.x[:2], optimizer="sgd", lr=0.01)

    def backprop_cut(self) -> list[str]:
        return choose_cuts(self.model(), 2, self.x, "time")

    def decoupled_cut(self) -> list[str]:
        """Return, of the ends of layers about that place, the one whose slower block is fastest, with its head."""
        names = cut_points(self.model(), self.x[:2])
        ends = [name for name in names if "." not in name or int(name.split(".")[1]) % 3 == 2]  # conv, norm, ReLU
        here, slowest = names.index(self.backprop_cut()[0]), {}
        for place in sorted(ends, key=lambda name: abs(names.index(name) - here))[:4]:
            net = self.net(self.settings["method"], [place])
            slowest[place] = max(step_seconds_by_block(net, net.signal(self.x, self.y), 3))
        return [min(slowest, key=slowest.get)]

    def measure(self) -> dict:
        """Find the best numbers of micro-batches, then measure all cases in turn."""
        steps, windows = self.settings["steps"], self.settings["windows"]
        ours, one = Ours(self), self.net(self.settings["method"], self.cuts["decoupled"])
        backprop = self.net("bp", [])
        micro, theirs = {}, {}
        for name in ("gpipe", "1f1b"):
            tried = {m: Torchs(self, name, m) for m in MICRO if self.settings["batch"] % m == 0}
            looks = {m: min(self.window(case.flow, 2) for _ in range(2)) for m, case in tried.items()}
            micro[name] = min(looks, key=looks.get)
            theirs[name] = tried[micro[name]]
        cases = {
            "backprop, one process": self.alone(lambda: backprop.step(self.x, self.y)),
            "decoupled, one process": self.alone(lambda: one.step(self.x, self.y)),
            "ours": ours.flow,
            "own work, slowest rank": ours.own_work,
            **{name: case.flow for name, case in theirs.items()},
            "data parallel": self.data_parallel(),
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        predicted: dict[str, list[float]] = {"ours": [], "gpipe": [], "1f1b": []}
        for number in range(windows + 1):
            for name, run in cases.items():
                value = self.window(run, steps if number else 1)
                seconds[name] += [value] if number else []  # the first round only warms up
            for name, value in self.predictions(ours, theirs).items():
                predicted[name] += [value] if number else []
        return {"windows": seconds, "micro": micro, "cuts": self.cuts, "predicted": predicted}

    def window(self, run, steps: int) -> float:
        """Return the seconds per step of `run(steps)`, which gives its own duration; of the slower rank."""
        dist.barrier()
        return max(self.both(run(steps))) / steps

    def alone(self, step):
        """Return a case that rank 0 runs while rank 1 is idle."""
        return lambda steps: timed(step, steps) if self.rank == 0 else 0.0

    def data_parallel(self):
        model = DistributedDataParallel(self.model())
        optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
        x, y = self.x.tensor_split(2)[self.rank], self.y.tensor_split(2)[self.rank]

        def step() -> None:
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return lambda steps: timed(step, steps)

    def predictions(self, ours: "Ours", theirs: dict[str, "Torchs"]) -> dict[str, float]:
        """Return the cost model's step time for ours, GPipe and 1F1B, from what operations take at this moment."""
        work, zero = self.both(ours.own_work(3) / 3), [0.0, 0.0]
        costs = Costs(forward=work, backward=zero, update=zero, transfer=self.transfer(ours.handed_on))
        found = {"ours": predict("decoupled", costs, 2)["step_seconds"]}
        for name, case in theirs.items():
            found[name] = float(timeline(case.operations, case.costs(3))["end"].max())
        return found

    def both(self, mine: float) -> list[float]:
        return all_gather(mine, "comparing times")

    def transfer(self, tensors: list) -> float:
        """Return the seconds that tensors like these take from one rank to the other."""
        seconds = []
        for _ in range(5):
            dist.barrier()
            start = time.perf_counter()
            for tensor in tensors:
                for source in (0, 1):  # there and back
                    if self.rank == source:
                        dist.send(tensor.contiguous(), 1 - source)
                    else:
                        dist.recv(torch.empty_like(tensor).contiguous(), source)
            seconds.append((time.perf_counter() - start) / 2)
        return max(self.both(statistics.median(seconds)))


class Ours:
    """The decoupled net over two ranks, as a rank runs it."""

    def __init__(self, rank: Rank):
        self.rank, net = rank, rank.net(rank.settings["method"], rank.cuts["decoupled"])
        self.block = net[rank.rank]
        self.first = net.signal(rank.x, rank.y)
        with torch.no_grad():
            self.mine = self.first if rank.rank == 0 else self.first.advance(net[0](self.first))
            self.handed_on = [net[0](self.first), rank.y]
        self.sender = Sender(1, 2, 300.0) if rank.rank == 0 else None
        self.receiver = Receiver(0, 2, torch.device("cpu"), 300.0, self.sizes) if rank.rank == 1 else None

    def sizes(self, split: str, start: int) -> list[int]:
        """Return the sizes of the batches of the pass that comes."""
        return [len(self.rank.y)] * self.num_steps

    def flow(self, steps: int) -> float:
        """Step on a stream of signals; the clock runs once the pipeline is full."""
        full = 2
        self.num_steps = steps + full
        stream = self.receiver.signals("train") if self.receiver else None
        for number in range(steps + full):
            if number == full:
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


class Torchs:
    """Backprop over two ranks, as PyTorch's own pipeline runs it."""

    def __init__(self, rank: Rank, name: str, num_micro: int):
        self.rank, self.num_micro = rank, num_micro
        stages = split(rank.model(), None, rank.x[:2], at=rank.cuts["backprop"])
        with torch.no_grad():
            self.handed_on = [stages[0](rank.x.chunk(num_micro)[0])]
        self.stage = Clocked(stages[rank.rank], rank.rank, 2, torch.device("cpu"))
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
        return timed(self.step, steps)

    def costs(self, steps: int) -> Costs:
        """Return what forward and backward of a micro-batch, and the update, take in each rank while both work."""
        self.stage.spent = dict.fromkeys(self.stage.spent, 0.0)
        self.flow(steps)
        seconds = {n: v / steps / (1 if n == "update" else self.num_micro) for n, v in self.stage.spent.items()}
        parts = {name: self.rank.both(value) for name, value in seconds.items()}
        return Costs(**parts, transfer=self.rank.transfer(self.handed_on))


class Clocked(PipelineStage):
    """PyTorch's stage, which waits and sends outside of its operations, and a clock in each of these."""

    def __init__(self, *args):
        super().__init__(*args)
        self.spent = dict.fromkeys(("forward", "backward", "update"), 0.0)

    def forward_one_chunk(self, *args, **options):
        with clock(self.spent, "forward"):
            return super().forward_one_chunk(*args, **options)

    def backward_one_chunk(self, *args, **options):
        with clock(self.spent, "backward"):
            return super().backward_one_chunk(*args, **options)


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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
