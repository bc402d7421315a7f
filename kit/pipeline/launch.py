"""Starting a pipeline's ranks on this machine, from a script or a notebook cell."""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

from torch.distributed import HashStore
from torch.distributed.elastic import rendezvous
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from kit.files import temporary_folder
from kit.methods import lookup
from kit.pipeline.exceptions import PipelineFailed
from kit.pipeline.options import Options, check_stages
from kit.settings import Count, Whole, accept, typed
from kit.train.config import RunConfig
from kit.train.record import History

BACKEND = "kit-one-folder"


@typed
def launch(config: RunConfig, *, num_stages: Count = 2, max_restarts: Whole = 0, **options: object) -> History:
    """Train as `kit.run` does, with the blocks spread over processes that work at the same time; return the record.

    Each replica of the pipeline has `num_stages` processes; `options` are those of `kit.pipeline.options.Options`. With
    one replica, and as many `threads` per process as the one process has, weights and record are bit for bit those of
    `kit.run(config)`. A rank that dies ends the run, or starts it again from the last checkpoint, up to `max_restarts`
    times. Processes of this machine only: for several machines use `torchrun … -m kit.pipeline`.

    Raises ValueError for settings that cannot be, before anything starts, and PipelineFailed with the rank, the block
    and the reason if a rank fails. No process outlives this call, however it ends.
    """
    given = replace(Options(**accept("option of launch:", options, Options)), register=_home(config.method))
    check_stages(config, num_stages)
    with temporary_folder("kit-pipeline") as folder:
        settings = folder / "config.json"
        settings.write_text(json.dumps(config.plain()))
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(given).items() if value is not None]
        # `kit.cpu_allocator` becomes the command that follows it, so the rank is the very process that is watched
        command = ["-m", "kit.cpu_allocator", sys.executable, "-m", "kit.pipeline", str(settings), *flags]
        num_ranks = num_stages * given.num_replicas
        start_ranks(sys.executable, [*command, "--record", str(folder)], num_ranks, max_restarts, str(folder))
        return History.load(folder)


def start_ranks(entry: str | Callable, arguments: Sequence, num_ranks: int, max_restarts: int, folder: str) -> None:
    """Run a program or a function with `arguments` in `num_ranks` processes of torchrun's launcher, and wait for them.

    Processes that run a function are forked off a server of multiprocessing, which has imported what it was told to.
    They meet in a file of `folder`. What rank 0 prints is printed here; the rest goes into `folder`. Raises
    PipelineFailed.
    """
    rendezvous.rendezvous_handler_registry.register(BACKEND, OneFolder)
    logs = DefaultLogsSpecs(log_dir=folder, redirects=Std.ALL, tee={0: Std.OUT})
    launcher = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=num_ranks, logs_specs=logs, run_id="pipeline", rdzv_backend=BACKEND,
        rdzv_endpoint=folder, max_restarts=max_restarts, start_method="forkserver", local_addr="127.0.0.1",
        shutdown_timeout=5, role="", log_line_prefix_template="${role_name}",  # rank 0's lines as they are
    )  # fmt: skip
    with _handlers_restored(), _silenced("torch.distributed.elastic"):
        try:
            elastic_launch(launcher, entry)(*arguments)
        except ChildFailedError as error:
            raise PipelineFailed(_explain(error.failures, Path(folder))) from None
        except json.JSONDecodeError as error:
            raise PipelineFailed(f"a rank failed and could not write why into {folder}; is that disk full?") from error
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None


def _home(method: str) -> str | None:
    """Return the module that registers a method of one's own, for the ranks to import; ValueError for a cell's."""
    module = lookup(method).objective.__module__
    if module == "__main__":
        raise ValueError(f"method {method!r} is defined in a notebook cell or a script, which ranks cannot import: put "
                         "it into a file of its own and import that")  # fmt: skip
    return None if module.startswith("kit.") else module


class OneFolder(StaticTCPRendezvous):
    """The rendezvous of one agent with itself: its ranks meet in a file of its folder, and no port is opened.

    torchrun's own rendezvous, and every `TCPStore`, listens on all of a machine's addresses and asks nobody who they
    are; a file in a temporary folder is its owner's alone.
    """

    use_agent_store = False

    def __init__(self, parameters: rendezvous.RendezvousParameters):
        super().__init__("127.0.0.1", 0, rank=0, world_size=1, run_id=parameters.run_id, timeout=60)
        self.folder, self.starts = parameters.endpoint, count()

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> rendezvous.RendezvousInfo:
        """Name a fresh file for each start of the ranks: in an old one they would find ranks that are gone."""
        file = os.path.abspath(os.path.join(self.folder, f"store-{next(self.starts)}"))
        return rendezvous.RendezvousInfo(HashStore(), 0, 1, rendezvous.RendezvousStoreInfo(file, 0))


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Put signal handlers back as they were: the launcher sets its own and leaves them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keep the launcher's log to itself: what failed is raised, in words."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _explain(failures: dict[int, ProcessFailure], folder: Path) -> str:
    """Say which rank failed and why; what is at fault comes before ranks that only lost another one.

    A rank that the launcher ended because another had failed has nothing to say, unless it was failing itself.
    """
    own = {r: f for r, f in failures.items() if f.exitcode != -signal.SIGTERM or _told(f)} or failures
    in_time = sorted(own.items(), key=lambda item: (item[1].timestamp, item[0]))
    lines = [f"rank {rank}: {_reason(failure, folder)}" for rank, failure in in_time]
    return "\n".join(sorted(lines, key=lambda line: "PeerLost" in line))


def _reason(failure: ProcessFailure, folder: Path) -> str:
    if _told(failure):
        return failure.message["message"]
    if failure.exitcode < 0:
        return f"killed by {failure.signal_name()}"
    *_, errors = sorted(folder.glob(f"*/attempt_*/{failure.local_rank}/stderr.log"))
    last = errors.read_text(errors="replace").strip().splitlines()[-5:]
    return "\n  ".join([f"ended with exit code {failure.exitcode}", *last])


def _told(failure: ProcessFailure) -> bool:
    """Whether the rank itself wrote why it failed."""
    return isinstance(failure.message, dict)
