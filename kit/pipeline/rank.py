"""What every rank does: join the others, agree on the run, take its blocks, train."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, fields, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.elastic.multiprocessing.errors import record

from kit.data import Data
from kit.net import Net
from kit.pipeline import placement, saved
from kit.pipeline.exceptions import PeerLost, waiting
from kit.pipeline.options import STATISTICS, Options, Place, too_many_stages
from kit.pipeline.stage import Stage, hollow, shard_sizes
from kit.train import build, load_data
from kit.train.checks import check, only_one
from kit.train.config import RunConfig
from kit.train.record import History


@record
def main(arguments: list[str] | None = None) -> None:
    """Run one rank; torchrun, or `kit.pipeline.launch`, starts them."""
    config, options, record_folder = _parse(arguments)
    if "RANK" not in os.environ:
        sys.exit("error: start the ranks with torchrun: torchrun --nproc-per-node 2 -m kit.pipeline CONFIG.json")
    _leave_with(os.getppid())
    torch.set_num_threads(options.threads)
    with joined(config.resolved_device(), options) as device:
        history = train(config, options, device)
        if record_folder and dist.get_rank() == 0:
            history.save(record_folder)


def train(config: RunConfig, options: Options, device: torch.device) -> History:
    """Train this rank's blocks, in a process group that exists already, and return the whole run's record."""
    neighbours = _agree(config, options)
    place = _place(options)
    mesh = init_device_mesh(device.type, (place.num_replicas, place.num_stages), mesh_dim_names=("data", "pipe"))
    data_group = mesh.get_group("data") if place.num_replicas > 1 else None
    with _waking(neighbours), only_one(config.folder) if place.rank == 0 else nullcontext():
        if place.rank == 0 and config.folder:
            saved.sweep(config.folder)
        loaded = load_data(config) if place.is_first else None
        known = _from_first(loaded and hollow(loaded))
        here = placement.fix_cuts(replace(config, device=str(device)), known)
        net = build(here, known)
        _check_mesh(net, known, config, options, place)
        if place.is_first:
            check(net, loaded, config)
        own = placement.place(here, known, most_blocks(net, config), place.num_stages)[place.stage]
        run = Stage(net, own, loaded or known, config, place, options, data_group)
        run.cuts = here.cuts
        run.run()
        run.export()
        dist.barrier()
    return run.history


def _parse(arguments: list[str] | None) -> tuple[RunConfig, Options, str | None]:
    parser = argparse.ArgumentParser(
        "torchrun … -m kit.pipeline", description="One rank of a pipeline: as many stages as ranks per replica."
    )
    parser.add_argument("config", metavar="CONFIG.json", type=Path, help="settings of kit.RunConfig, as JSON")
    for option in fields(Options):
        flag = "--" + option.name.replace("_", "-")
        choices = STATISTICS if option.name == "statistics" else None
        parser.add_argument(flag, type=type(option.default), default=option.default, choices=choices)
    parser.add_argument("--record", metavar="FOLDER", help="where rank 0 writes the record, besides the run's folder")
    given = vars(parser.parse_args(arguments))
    settings, record_folder = json.loads(given.pop("config").read_text()), given.pop("record")
    return RunConfig(**settings), Options(**given), record_folder


@contextmanager
def joined(device: torch.device, options: Options) -> Iterator[torch.device]:
    """Join the other ranks, and give the device to work on: on a machine's GPUs, a rank has its own."""
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"a rank for GPU {device.index}, but this machine has {torch.cuda.device_count()}")
        torch.cuda.set_device(device)
    if ipaddress.ip_address(socket.gethostbyname(os.environ["MASTER_ADDR"])).is_loopback:
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with waiting("joining the other ranks"):
        dist.init_process_group(backend, timeout=timedelta(seconds=options.timeout))
    yield device
    dist.destroy_process_group()  # only after success: a rank that failed leaves at once


def _leave_with(parent: int) -> None:
    """End this process when the one that started it is gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _agree(config: RunConfig, options: Options) -> list[int]:
    """Raise ValueError on every rank unless all were started with the same settings; return this machine's ranks."""
    mine = asdict(config) | asdict(options) | {"torch": torch.__version__}
    mine = {name: json.loads(json.dumps(value)) for name, value in mine.items() if name != "root"}
    given: list = [None] * dist.get_world_size()
    with waiting("comparing settings with all ranks"):
        dist.all_gather_object(given, (mine, socket.gethostname(), os.getpid()))
    given, hosts, pids = zip(*given, strict=True)
    for rank, other in enumerate(given):
        names = sorted(name for name in {*other, *given[0]} if other.get(name) != given[0].get(name))
        if names:
            listed = ", ".join(f"{name}={other.get(name)!r} there, {given[0].get(name)!r} on rank 0" for name in names)
            raise ValueError(f"rank {rank} was started with other settings: {listed}. Start all ranks with the same")
    return [pid for host, pid in zip(hosts, pids, strict=True) if host == socket.gethostname()]


@contextmanager
def _waking(neighbours: list[int]) -> Iterator[None]:
    """Where a rank is given up, let stopped ones go on: they could not be ended otherwise, but after half a minute."""
    try:
        yield
    except PeerLost:
        for pid in neighbours:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
        raise


def _place(options: Options) -> Place:
    world = dist.get_world_size()
    if world % options.num_replicas:
        raise ValueError(
            f"num_replicas={options.num_replicas} with {world} ranks: every replica needs as many; "
            f"choose a divisor of {world}"
        )
    return Place(dist.get_rank(), world // options.num_replicas, options.num_replicas)


def _from_first(known: Data | None) -> Data:
    """Return what rank 0 knows of the dataset."""
    told = [known]
    with waiting("waiting for rank 0 to load the data"):
        dist.broadcast_object_list(told, 0)
    return told[0]


def most_blocks(net: Net, config: RunConfig) -> int:
    """Return how many blocks the net may have in the end."""
    return config.growth.max_blocks if config.growth else len(net)


def _check_mesh(net: Net, known: Data, config: RunConfig, options: Options, place: Place) -> None:
    if place.num_stages > most_blocks(net, config):
        raise ValueError(too_many_stages(config, place.num_stages, most_blocks(net, config)))
    smallest = min(min(shards) for shards in shard_sizes(known, "train", config.batch_size, place.num_replicas))
    least = 2 if net.uses_batch_statistics and options.statistics == "local" else 1
    if smallest < least:
        raise ValueError(
            f"num_replicas={place.num_replicas} with batch_size={config.batch_size} and {len(known.train)} training "
            f"images leaves {smallest} of some batch to a replica, but each needs {least}; choose fewer replicas or "
            "another batch_size or limit"
        )
