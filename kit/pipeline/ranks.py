"""The ranks of a run: what they tell each other, and who has which blocks."""

import json
from collections.abc import Sequence

import torch
import torch.distributed as dist

from kit.block import Block
from kit.net import Net
from kit.pipeline.exceptions import waiting
from kit.pipeline.options import MeshRank
from kit.pipeline.replicas import Replicas, sync_buffers
from kit.train.ends import Alone


def all_gather(value: object, doing: str) -> list:
    """Return what every rank gave (JSON values), by rank. Raises PeerLost, naming what was being done."""
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    with waiting(f"{doing} with all ranks"):
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
        dist.all_gather(sizes, torch.tensor([len(text)]))
        room = torch.zeros(int(max(sizes)), dtype=torch.uint8)
        room[: len(text)] = text
        parts = [torch.empty_like(room) for _ in sizes]
        dist.all_gather(parts, room)
    return [json.loads(part[:size].numpy().tobytes()) for part, size in zip(parts, map(int, sizes), strict=True)]


class Ranks(Alone):
    """All ranks of a run, seen from `place`: `own` are the blocks of each stage."""

    def __init__(self, place: MeshRank, net: Net, own: Sequence[range], replicas: Replicas | None):
        self.place, self.own, self.replicas = place, own, replicas
        self.is_main, self.writes = place.rank == 0, place.replica == 0
        for block in net:
            self.share(block)

    def gather(self, value: object, doing: str) -> list:
        """Return what every rank gave (JSON values), by rank."""
        return all_gather(value, doing)

    def totals(self, rows: list[list], doing: str) -> list[list]:
        """Return the rows [*key, number] of all blocks, first to last; replicas' numbers summed."""
        given, stages = self.gather(rows, doing), self.place.num_stages
        by_stage = [zip(*given[stage::stages], strict=True) for stage in range(stages)]
        return [[*same[0][:-1], sum(row[-1] for row in same)] for stage in by_stage for same in stage]

    def mean(self, rows: list[list], doing: str) -> list[list]:
        """Return `totals`, divided by the number of replicas."""
        return [[*row[:-1], row[-1] / self.place.num_replicas] for row in self.totals(rows, doing)]

    def share(self, block: Block) -> None:
        """Make a block that has joined the net one of this rank's, if it is."""
        if self.replicas is not None and block.index in self.own[self.place.stage]:
            self.replicas.join(block)

    def settle(self, net: Net) -> None:
        """Give every replica the first one's running statistics, and every rank the parts that others lend it (AL)."""
        if self.replicas is not None:
            sync_buffers([block for block in net if block.index in self.own[self.place.stage]], self.replicas.group)
        for block in net:
            if block.objective.lent is not None:
                owner = next(stage for stage, blocks in enumerate(self.own) if block.index in blocks)
                with waiting("sharing what blocks lend each other with all ranks"):
                    for tensor in block.objective.lent.state_dict().values():
                        dist.broadcast(tensor, owner)
