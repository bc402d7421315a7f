"""Which of this machine's addresses and network interfaces lead to another machine."""

import socket
import struct


def address_to(host: str) -> str:
    """Return the address of this machine from which traffic to `host` leaves. Raises OSError if there is no way."""
    family, kind, _, _, there = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(there)  # of a datagram socket: chooses a route, and sends nothing
        return probe.getsockname()[0]


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has this IPv4 address, or None where the system does not tell.

    Gloo otherwise takes the address that this machine's own name stands for, which on Debian and Ubuntu is 127.0.1.1.
    """
    names = [name for _, name in socket.if_nameindex()]
    if address.startswith("127."):
        return next((name for name in names if name.startswith("lo")), None)
    try:
        import fcntl
    except ImportError:
        return None
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        for name in names:
            try:
                reply = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
            except OSError:
                continue  # an interface without an IPv4 address
            if socket.inet_ntoa(reply[20:24]) == address:
                return name
    return None
