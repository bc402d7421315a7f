"""How a run is spread over ranks."""

from __future__ import annotations

from dataclasses import dataclass

from kit.errors import unknown
from kit.train.config import RunConfig

STATISTICS = ("local", "global")
"""Where batch norms and batch-wise losses take their statistics: on a replica's shard, or on the whole batch."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is spread over ranks: nothing of it changes what one replica computes."""

    num_replicas: int = 1
    """Replicas of the pipeline, each with a share of every batch."""

    statistics: str = "local"
    """Where batch norms and batch-wise losses take their statistics: on a replica's share, or the whole batch."""

    depth: int = 2
    """Signals that may be under way to the next rank before a rank waits for it."""

    timeout: float = 60.0
    """Seconds after which a rank that waits for another gives up."""

    threads: int = 1
    """Threads of each rank on the processor."""

    def __post_init__(self) -> None:
        for name in ("num_replicas", "depth", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}, but it has to be at least 1")
        if not self.timeout > 0:
            raise ValueError(f"timeout={self.timeout}, but it has to be above 0 seconds")
        if self.statistics not in STATISTICS:
            raise unknown("statistics", self.statistics, STATISTICS)


@dataclass(frozen=True)
class Place:
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


def too_many_stages(config: RunConfig, num_stages: int, num_blocks: int) -> str:
    """Say that there are more stages than blocks."""
    return (
        f"num_stages={num_stages}, but {config.method} on {config.backbone} has only {num_blocks} "
        f"block{'s' * (num_blocks > 1)}; choose 1 to {num_blocks}" + ", or more blocks" * (num_blocks > 1)
    )
