"""Which of this machine's network interfaces leads to another machine."""

import socket
import struct


def interface_to(host: str) -> str | None:
    """Return the name of the interface whose traffic reaches `host`, or None where the system does not tell.

    Gloo otherwise takes the address that this machine's own name stands for, which on Debian and Ubuntu is 127.0.1.1.
    """
    try:
        import fcntl

        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # of a datagram socket: chooses a route, and sends nothing
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                try:
                    reply = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
                except OSError:
                    continue  # an interface without an IPv4 address
                if socket.inet_ntoa(reply[20:24]) == own:
                    return name
    except (ImportError, OSError):
        pass
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name.startswith("lo")), None) if host in ("127.0.0.1", "localhost") else None
