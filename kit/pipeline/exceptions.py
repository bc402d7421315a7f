"""What can go wrong between ranks, and how it is said."""

from collections.abc import Iterator
from contextlib import contextmanager


class PipelineFailed(RuntimeError):
    """A rank of the pipeline failed; the message names the rank and, where one is at fault, the block."""


class PeerLost(RuntimeError):
    """Another rank did not answer: it died, or it took longer than the timeout."""


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say what was waited for when the transport gives up."""
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises for a lost or a silent peer
        reason = str(error).splitlines()[0].rpartition("] ")[2]
        raise PeerLost(f"{what}: {reason}") from error
