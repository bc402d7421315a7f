"""A meeting point for the ranks of one machine that listens on one address only.

torchrun's own rendezvous, and every `TCPStore` that is given a port, listens on all of a machine's addresses.
"""

from __future__ import annotations

import socket
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

BACKEND = "kit-one-address"


class OneAddress(RendezvousHandler):
    """The rendezvous of one agent with itself. Raises ValueError if the port at that address is taken."""

    use_agent_store = True  # the ranks meet at the same store

    def __init__(self, parameters: RendezvousParameters):
        self.run_id, self.closed = parameters.run_id, False
        self.host, port = parse_rendezvous_endpoint(parameters.endpoint, default_port=0)
        self.listener: socket.socket | None = listen(self.host, port)  # now, so that a port in use is told at once

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Open a fresh store for each start of the ranks: in an old one they would find ranks that are gone."""
        listener, self.listener = self.listener or listen(self.host, 0), None
        port, timeout = listener.getsockname()[1], timedelta(seconds=60)
        store = TCPStore(self.host, port, is_master=True, timeout=timeout, master_listen_fd=listener.detach())
        return RendezvousInfo(PrefixStore(self.run_id, store), 0, 1, RendezvousStoreInfo(self.host, port))

    def is_closed(self) -> bool:
        return self.closed

    def set_closed(self) -> None:
        self.closed = True

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self.run_id

    def shutdown(self) -> bool:
        self.closed = True
        return True


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at that address only; port 0 stands for any that is free."""
    try:
        return socket.create_server((host, port), reuse_port=False)
    except OSError as error:
        raise ValueError(
            f"address='{host}:{port}' cannot be listened at ({error.strerror}); choose another port, or leave "
            "it out for any that is free"
        ) from error


def register() -> None:
    """Make the backend known to torch.distributed's launcher."""
    rendezvous_handler_registry.register(BACKEND, OneAddress)
