"""Which of this machine's addresses and network interfaces lead to another machine."""

import socket

import psutil


def address_to(host: str) -> str:
    """Return the address of this machine from which traffic to `host` leaves. Raises OSError if there is no way."""
    family, kind, _, _, there = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(there)  # of a datagram socket: chooses a route, and sends nothing
        return probe.getsockname()[0]


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has this address, or None where the system does not tell.

    Gloo otherwise takes the address that this machine's own name stands for, which on Debian and Ubuntu is 127.0.1.1.
    """
    address = "127.0.0.1" if address.startswith("127.") else address
    found = psutil.net_if_addrs().items()
    return next((name for name, own in found if any(entry.address == address for entry in own)), None)
