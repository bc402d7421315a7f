"""What a schedule is made of: one list of `Op` per rank."""

from typing import NamedTuple


class Op(NamedTuple):
    """One operation: F forward, B backward, I and W its halves (gradient of input, of weights), R forward again and
    backward, U update, S step."""

    kind: str
    chunk: int
    batch: int


Schedule = list[list[Op]]


def check_counts(num_ranks: int, num_batches: int) -> None:
    """Raise ValueError for fewer than one rank or (micro-)batch."""
    if num_ranks < 1 or num_batches < 1:
        raise ValueError(f"num_ranks={num_ranks}, num_batches={num_batches}, but both have to be at least 1")
