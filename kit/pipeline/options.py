"""How a run is spread over ranks."""

from dataclasses import dataclass
from typing import Literal

from kit.settings import Count, NonNegative, Positive, check
from kit.train.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is spread over ranks: nothing of it changes what one replica computes."""

    num_replicas: Count = 1
    """Replicas of the pipeline, each with a share of every batch."""
    statistics: Literal["local", "global"] = "local"
    """Where batch norms and batch-wise losses take their statistics: on a replica's share, or the whole batch."""
    depth: Count = 2
    """Signals that may be under way to the next rank before a rank waits for it."""
    timeout: Positive = 60.0
    """Seconds after which a rank that waits for another gives up."""
    link_delay: NonNegative = 0.0
    """Seconds added to each transfer between ranks, as a long line would: for teaching, and for tests."""
    threads: Count | None = None
    """Threads of each rank on the processor; None shares out the processor's cores."""
    register: str | None = None
    """A module that registers a method of one's own, for every rank to import."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class MeshRank:
    """Where a rank stands in the mesh (data, pipe): rank = replica · num_stages + stage."""

    rank: int
    num_stages: int
    num_replicas: int = 1

    @property
    def stage(self) -> int:
        return self.rank % self.num_stages

    @property
    def replica(self) -> int:
        return self.rank // self.num_stages

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.num_stages - 1


def check_stages(config: RunConfig, num_stages: int) -> None:
    """Raise ValueError for more stages than there will be blocks, and runs that cannot be spread."""
    most = config.most_blocks
    if config.stagewise:
        raise ValueError("stagewise=True trains one block at a time, so no rank could work beside another: use kit.run")
    if num_stages > most:
        raise ValueError(
            f"num_stages={num_stages}, but {config.method} on {config.backbone} has only {most} "
            f"block{'s' * (most > 1)}; choose 1 to {most}" + ", or more blocks" * (most > 1)
        )
