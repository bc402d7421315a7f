"""What the tests run on several ranks: `on_ranks(function, …)` for the functions of this file."""

import json
import os
import resource
import signal
import sys
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record

import kit
from kit.pipeline import rank
from kit.pipeline.launch import start_ranks
from kit.pipeline.options import Options
from kit.pipeline.rendezvous import joined
from kit.train import build
from kit.train.run import Run

ROOT = Path(__file__).parents[2]


def on_ranks(function, num_ranks, folder, **arguments):
    """Run `function(**arguments)` of this file in `num_ranks` forked processes, and return when all are done."""
    start_ranks(_run, (function, arguments), num_ranks, 0, str(folder))


def as_programs(function, num_ranks, folder, **arguments):
    """Do so in Python programs, as `launch` starts them: the launcher then knows every failure, not only the first."""
    command = ["-m", __name__, function.__name__, json.dumps(arguments)]
    start_ranks(sys.executable, command, num_ranks, 0, str(folder))


def _run(function, arguments):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    function(**arguments)


def with_dropout(config, data_spec, cuts=None):
    """Return the config's net with dropout at the end of every stage."""
    net = build(config, data_spec, cuts)
    for block in net:
        for k, stage in enumerate(block.body):
            block.body[k] = nn.Sequential(stage, nn.Dropout(0.3))
    return net


def run_all(runs, store, dropout=True, wide=False):
    """Train each of `runs` (settings, number of ranks, options) one after the other, on the first ranks."""
    rank.build = with_dropout if dropout else build
    for number, (settings, num_ranks, options) in enumerate(runs):
        if int(os.environ["RANK"]) < num_ranks:
            with group(num_ranks, f"{store}-{number}"), in_float64() if wide else nullcontext():
                rank.train(
                    kit.RunConfig(**settings),
                    Options(timeout=float(os.environ.get("KIT_TEST_TIMEOUT", 120)), **options),
                    torch.device("cpu"),
                )


@contextmanager
def in_float64():
    """Let float64 stand wherever the kit says float32: rounding is then too small to look like a mistake."""
    plain = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = plain
        torch.set_default_dtype(torch.float32)


class group:
    """A process group of the first ranks, for a while."""

    def __init__(self, num_ranks, store):
        self.num_ranks, self.store = num_ranks, store

    def __enter__(self):
        rank, timeout = int(os.environ["RANK"]), timedelta(seconds=300)  # ranks wait while fewer run
        method = f"file://{self.store}"
        dist.init_process_group("gloo", method, rank=rank, world_size=self.num_ranks, timeout=timeout)

    def __exit__(self, *_):
        dist.destroy_process_group()


def in_one_process(settings):
    """Train as `run_all` does, in this process."""
    config = kit.RunConfig(**settings)
    loaded = kit.train.load_data(config)
    return kit.fit(with_dropout(config, loaded), loaded, config)


def refusals(cases, store):
    """Every rank refuses each of `cases` (settings, options, settings of rank 1, words of the message)."""
    for number, (settings, options, of_rank_1, words) in enumerate(cases):
        changes = of_rank_1 if os.environ["RANK"] == "1" else {}
        with group(2, f"{store}-{number}"):
            try:
                rank.train(kit.RunConfig(**settings | changes), Options(**options), torch.device("cpu"))
            except ValueError as error:
                assert words in str(error), str(error)
            else:
                raise AssertionError(f"not refused: {words}")


def poisoned(settings, step):
    """The last block's loss becomes NaN in that step."""

    def build_poisoned(config, data_spec, cuts=None):
        net = build(config, data_spec, cuts)
        last = net[-1]
        loss = last.objective.loss

        def spoilt(h, signal):
            factor = float("nan") if last.num_steps == step else 1.0
            return {name: term * factor for name, term in loss(h, signal).items()}

        last.objective.loss = spoilt
        return net

    rank.build = build_poisoned
    _train(settings)


def full_disk(settings, step):
    """From that step on, rank 1 can write no file."""

    class Full(Run):
        def _save(self, name, state, own):
            full = self.batch >= step and os.environ["RANK"] == "1"
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0 if full else resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            try:
                super()._save(name, state, own)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    rank.Run = Full
    _train(settings)


def _train(settings):
    options = Options(timeout=20.0)
    with joined(torch.device("cpu"), options) as device:
        rank.train(kit.RunConfig(**settings), options, device)


if __name__ == "__main__":
    record(_run)(globals()[sys.argv[1]], json.loads(sys.argv[2]))
