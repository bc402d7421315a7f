"""One of the two processes of `pipeline.py` and `link_delay.py`: its part of every case, and the clock."""

import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from _pipeline_cases import Late, Ours, Torchs, timed
from torch.nn.parallel import DistributedDataParallel

from kit.backbones import backbone
from kit.methods import decouple
from kit.pipeline.options import Options
from kit.pipeline.placement import step_seconds_by_block
from kit.pipeline.ranks import all_gather
from kit.pipeline.rendezvous import joined
from kit.pipeline.simulate import Costs, predict, timeline
from kit.splitting.split import choose_cuts, cut_points, split

MICRO = (2, 4, 8, 16)


def main(settings: Path) -> None:
    """Measure with the settings of this file, and let rank 0 write `measured.json` beside it."""
    torch.set_num_threads(1)
    with joined(torch.device("cpu"), Options(timeout=900.0)):
        rank = Rank(json.loads(settings.read_text()))
        measured = rank.delays() if "delays" in rank.settings else rank.throughput()
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
        self.cuts = self.agree("backprop", self.backprop_cut)
        for name, method in {"decoupled": settings["method"], "fdg": "fdg"}.items():
            self.cuts |= self.agree(name, partial(self.decoupled_cut, method))

    def agree(self, name: str, choose) -> dict:
        """Let rank 0 choose, while the other one is idle, and tell."""
        return {name: all_gather(choose() if self.rank == 0 else None, "choosing cuts")[0]}

    def model(self):
        torch.manual_seed(0)
        s = self.settings
        return backbone(s["backbone"], s["image"][0], s["num_classes"], s["width"], s["image"][1])

    def net(self, method: str, at: list[str]):
        stages = split(self.model(), None, self.x[:2], at=at)
        return decouple(stages, method, self.settings["num_classes"], self.x[:2], optimizer="sgd", lr=0.01)

    def backprop_cut(self) -> list[str]:
        return choose_cuts(self.model(), 2, self.x, "time")

    def decoupled_cut(self, method: str) -> list[str]:
        """Return, of the ends of layers about that place, the one whose slower block is fastest, with its head."""
        names = cut_points(self.model(), self.x[:2])
        ends = [name for name in names if "." not in name or int(name.split(".")[1]) % 3 == 2]  # conv, norm, ReLU
        here, slowest = names.index(self.cuts["backprop"][0]), {}
        for place in sorted(ends, key=lambda name: abs(names.index(name) - here))[:4]:
            net = self.net(method, [place])
            slowest[place] = max(step_seconds_by_block(net, net.signal(self.x, self.y), 3))
        return [min(slowest, key=slowest.get)]

    def throughput(self) -> dict:
        """Find the best numbers of micro-batches, then measure all cases in turn."""
        ours, fdg, one, late = Ours(self), Late(self), *map(self.whole, ("decoupled", "fdg"))
        backprop = self.net("bp", [])
        micro, theirs = {}, {}
        for name in ("gpipe", "1f1b"):
            micro[name], theirs[name] = self.best(name)
        cases = {
            "backprop, one process": self.alone(lambda: backprop.step(self.x, self.y)),
            "decoupled, one process": self.alone(lambda: one.step(self.x, self.y)),
            "fdg, one process": self.alone(lambda: late.step(self.x, self.y)),
            "ours": ours.flow,
            "own work, slowest rank": ours.own_work,
            "fdg": fdg.flow,
            "own work of fdg, slowest rank": fdg.own_work,
            **{name: case.flow for name, case in theirs.items()},
            "data parallel": self.data_parallel(),
        }
        seconds, predicted = self.in_turn(
            {name: (run, self.settings["steps"]) for name, run in cases.items()},
            lambda: self.predictions(ours, fdg, theirs),
        )
        return {"windows": seconds, "micro": micro, "cuts": self.cuts, "predicted": predicted}

    def delays(self) -> dict:
        """Measure all cases in turn at every delay of the link, with the number of micro-batches that is best there."""
        cases, micro, depth = {}, {}, self.settings["depth"]
        for delay in self.settings["delays"]:
            runs = {"ours": Ours(self, depth, delay).flow, "fdg": Late(self, delay).flow}
            for name in ("gpipe", "1f1b"):
                micro[f"{name}, {delay} s"], case = self.best(name, delay)
                runs[name] = case.flow
            for name, run in runs.items():
                steps = max(4, round(self.settings["seconds"] / (self.window(run, 4) or 1)))
                cases[f"{name}, {delay} s"] = run, steps
        micro_costs = {m: Torchs(self, "1f1b", m) for m in MICRO if self.settings["batch"] % m == 0}
        ours, fdg = Ours(self), Late(self)
        self.window(fdg.flow, 4)

        def costs() -> dict:
            found = {"transfer": self.transfer(ours.handed_on)}
            found |= {name: self.both(case.own_work(8) / 8) for name, case in (("ours", ours), ("fdg", fdg))}
            for m, case in micro_costs.items():
                parts = case.costs(4)
                found[f"1f1b {m}"] = [list(part) for part in (parts.forward, parts.backward, parts.update)]
            return found

        seconds, found = self.in_turn(cases, costs)
        return {"windows": seconds, "micro": micro, "cuts": self.cuts, "costs": found}

    def whole(self, name: str):
        """Return the net that is cut as case `name` is, for one process."""
        return self.net(self.settings["method"] if name == "decoupled" else name, self.cuts[name])

    def best(self, name: str, delay: float = 0.0) -> tuple[int, Torchs]:
        """Return the number of micro-batches with which PyTorch's pipeline of that name is fastest, and it."""
        tried = {m: Torchs(self, name, m, delay) for m in MICRO if self.settings["batch"] % m == 0}
        looks = {m: min(self.window(case.flow, 2) for _ in range(2)) for m, case in tried.items()}
        num_micro = min(looks, key=looks.get)
        return num_micro, tried[num_micro]

    def in_turn(self, cases: dict, beside) -> tuple[dict, dict]:
        """Return, window after window, the seconds per step of each case (run, steps), and what `beside()` finds."""
        seconds, found = {name: [] for name in cases}, {}
        for number in range(self.settings["windows"] + 1):
            for name, (run, steps) in cases.items():
                value = self.window(run, steps if number else 1)
                seconds[name] += [value] if number else []  # the first round only warms up
            for name, value in beside().items():
                found.setdefault(name, []).extend([value] if number else [])
        return seconds, found

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

    def predictions(self, ours: Ours, fdg: Late, theirs: dict[str, Torchs]) -> dict[str, float]:
        """Return the cost model's step times of the pipelines, from what operations take at this moment."""
        zero, transfer, found = [0.0, 0.0], self.transfer(ours.handed_on), {}
        for name, case, schedule in (("ours", ours, "decoupled"), ("fdg", fdg, "fdg")):
            work = self.both(case.own_work(3) / 3)
            costs = Costs(forward=zero, backward=work, update=zero, transfer=transfer)
            found[name] = predict(schedule, costs, 2)["step_seconds"]
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
