"""What every rank does: join the others, agree on the run, take its blocks, train."""

import argparse
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, fields, replace
from datetime import timedelta
from importlib import import_module
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from kit.data import Data, Split
from kit.files import folder_lock
from kit.net import Net
from kit.pipeline.exceptions import PeerLost
from kit.pipeline.neighbours import LateReceiver, Mail, Neighbours
from kit.pipeline.options import MeshRank, Options, check_stages
from kit.pipeline.placement import place
from kit.pipeline.ranks import Ranks, all_gather
from kit.pipeline.rendezvous import joined
from kit.pipeline.replicas import Replicas
from kit.pipeline.transport import Receiver, Sender, Wire
from kit.processes import leave_with
from kit.train import build, check_fit, load_data, measured_cuts
from kit.train.config import RunConfig
from kit.train.ends import EVALUATION_BATCH, NOWHERE, FromData
from kit.train.identity import identify
from kit.train.record import History
from kit.train.run import Run


@record
def main(arguments: list[str] | None = None) -> None:
    """Run one rank; torchrun, or `kit.pipeline.launch`, starts them."""
    try:
        config, options, record_folder = _parse(arguments)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    if "RANK" not in os.environ:
        sys.exit("error: start the ranks with torchrun: torchrun --nproc-per-node 2 -m kit.pipeline CONFIG.json")
    leave_with(os.getppid())
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(options.threads or max(1, (os.cpu_count() or 1) // ranks_here))
    with joined(config.resolved_device(), options) as device:
        history = train(config, options, device)
        if record_folder and dist.get_rank() == 0:
            history.save(record_folder)


def train(config: RunConfig, options: Options, device: torch.device) -> History:
    """Train this rank's blocks, in a process group that exists already, and return the whole run's record."""
    neighbours, here = _agree(config, options), _place(options)
    replicas = None
    if here.num_replicas > 1:
        stages = torch.arange(dist.get_world_size()).view(-1, here.num_stages).T.tolist()
        group, _ = dist.new_subgroups_by_enumeration(stages, timedelta(seconds=options.timeout))
        replicas = Replicas(group, options.statistics)
    with _waking(neighbours), folder_lock(config.folder) if here.rank == 0 else nullcontext():
        loaded = load_data(config) if here.is_first else None
        data_spec = without_images(all_gather(loaded and describe(loaded), "loading the data")[0])
        own_device = replace(config, device=str(device))
        cuts = all_gather(measured_cuts(own_device, data_spec) if here.rank == 0 else None, "choosing the cuts")[0]
        net = build(own_device, data_spec, cuts)
        _check_mesh(net, data_spec, config, options, here)
        if here.is_first:
            check_fit(net, loaded, config)
        own = place(own_device, data_spec, cuts, here.num_stages)
        identity = all_gather(identify(net, loaded, config) if here.rank == 0 else None, "comparing nets")[0]
        if replicas:
            identity |= {"num_replicas": options.num_replicas, "statistics": options.statistics}
        ranks = Ranks(here, net, own, replicas)
        ends = _ends(net, loaded or data_spec, own_device, options, here)
        history = Run(net, loaded or data_spec, config, identity, ranks=ranks, own=own[here.stage], **ends).run()
        all_gather(None, "ending the run")
    return history


def _ends(net: Net, data: Data, config: RunConfig, options: Options, here: MeshRank) -> dict:
    """Return where this rank's signals come from, and where they go."""

    def sizes(split: str, start: int) -> list[int]:
        batch_size = config.batch_size if split == "train" else EVALUATION_BATCH
        shards = shard_sizes(data, split, batch_size, here.num_replicas)
        return [size for shard in shards[start:] if (size := shard[here.replica])]

    late = net.late[0].delay if net.late else None
    gradients = dist.new_group(timeout=timedelta(seconds=options.timeout)) if late else None
    behind = None if here.is_last else Wire(here.rank + 1, options.timeout, options.link_delay)
    before = None if here.is_first else Wire(here.rank - 1, options.timeout, options.link_delay, gradients)
    if here.is_first:
        shard = None if here.num_replicas == 1 else lambda batch: batch.tensor_split(here.num_replicas)[here.replica]
        source = FromData(net, data, config, shard)
    else:
        kind = LateReceiver if late and late.unlocked else Receiver
        announced = Mail(before, net.device).receive if data.words else None
        source = kind(here.rank - 1, options.depth, net.device, options.timeout, sizes, announced)
    sink = NOWHERE
    if behind:  # texts of one batch size differ in length
        sink = Mail(behind, net.device) if data.words else Sender(behind, options.depth)
    if late:
        mails = before and Mail(before, net.device), behind and Mail(behind, net.device, gradients)
        sink = Neighbours(sink, *mails, late.unlocked)
    return {"source": source, "sink": sink}


def _parse(arguments: list[str] | None) -> tuple[RunConfig, Options, str | None]:
    parser = argparse.ArgumentParser(
        "torchrun … -m kit.pipeline", description="One rank of a pipeline: as many stages as ranks per replica."
    )
    parser.add_argument("config", metavar="CONFIG.json", type=Path, help="settings of kit.RunConfig, as JSON")
    kinds = {"statistics": str, "register": str, "timeout": float, "link_delay": float}
    for option in fields(Options):
        flag = "--" + option.name.replace("_", "-")
        parser.add_argument(flag, type=kinds.get(option.name, int), default=option.default)
    parser.add_argument("--record", metavar="FOLDER", help="where rank 0 writes the record, besides the run's folder")
    given = vars(parser.parse_args(arguments))
    settings, record_folder = json.loads(given.pop("config").read_text()), given.pop("record")
    if given["register"]:
        import_module(given["register"])
    return RunConfig(**settings), Options(**given), record_folder


def _agree(config: RunConfig, options: Options) -> list[int]:
    """Raise ValueError on every rank unless all were started with the same settings; return this machine's ranks."""
    settings = config.plain() | asdict(options) | {"torch": torch.__version__}
    mine = {name: value for name, value in settings.items() if name != "root"}
    given = all_gather([mine, socket.gethostname(), os.getpid()], "comparing settings")
    first = given[0][0]
    for rank, (other, _, _) in enumerate(given):
        names = sorted(name for name in {*other, *first} if other.get(name) != first.get(name))
        if names:
            listed = ", ".join(f"{name}={other.get(name)!r} there, {first.get(name)!r} on rank 0" for name in names)
            raise ValueError(f"rank {rank} was started with other settings: {listed}. Start all ranks with the same")
    return [pid for _, host, pid in given if host == socket.gethostname()]


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


def _place(options: Options) -> MeshRank:
    world = dist.get_world_size()
    if world % options.num_replicas:
        raise ValueError(f"num_replicas={options.num_replicas} with {world} ranks: choose a divisor of {world}")
    return MeshRank(dist.get_rank(), world // options.num_replicas, options.num_replicas)


def describe(loaded: Data) -> dict:
    """Return, as plain JSON values, what ranks without images have to know of a dataset."""
    spec = {name: getattr(loaded, name) for name in ("name", "shape", "classes", "augmentation", "view_shapes")}
    spec |= {"mean": loaded.mean.tolist(), "std": loaded.std.tolist(), "views": dict.fromkeys(loaded.views)}
    spec["words"] = [""] * len(loaded.words)  # their number is all that a net needs
    return spec | {split: len(getattr(loaded, split)) for split in ("train", "val", "test")}


def without_images(spec: dict) -> Data:
    """Return the dataset that `describe` tells of: shapes and sizes, but no image and no label."""
    known = {name: torch.tensor(spec[name]) for name in ("mean", "std")}
    for split in ("train", "val", "test"):
        images = torch.empty(spec[split], *spec["shape"], dtype=torch.uint8, device="meta")
        known[split] = Split(images, torch.empty(spec[split], dtype=torch.int64, device="meta"))
    known |= {"shape": tuple(spec["shape"]), "classes": tuple(spec["classes"])}
    return Data(**spec | known)


def _check_mesh(net: Net, data_spec: Data, config: RunConfig, options: Options, here: MeshRank) -> None:
    check_stages(config, here.num_stages)
    if net.late and here.num_replicas > 1:
        raise ValueError(
            f"num_replicas={here.num_replicas} with {config.method}: late gradients are not averaged; use 1"
        )
    smallest = min(min(shards) for shards in shard_sizes(data_spec, "train", config.batch_size, here.num_replicas))
    least = 2 if net.uses_batch_statistics and options.statistics == "local" else 1
    if smallest < least:
        raise ValueError(
            f"num_replicas={here.num_replicas} with batch_size={config.batch_size} and {len(data_spec.train)} training "
            f"images leaves {smallest} of some batch to a replica, but each needs {least}; choose fewer replicas or "
            "another batch_size or limit"
        )


def shard_sizes(loaded: Data, split: str, batch_size: int, num_replicas: int) -> list[list[int]]:
    """Return how many samples of each batch go to each replica; batches as `Data.batches` makes them."""
    count, num_batches = len(getattr(loaded, split)), loaded.num_batches(split, batch_size)
    sizes = [min(batch_size, count - start) for start in islice(range(0, count, batch_size), num_batches)]
    return [[size // num_replicas + (r < size % num_replicas) for r in range(num_replicas)] for size in sizes]
