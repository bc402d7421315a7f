"""How ranks meet: in a file that `launch` gives them, or in the store of torchrun, which lets anybody in.

Over a network, each rank proves that it knows the secret in the environment variable KIT_SECRET, without telling it.
What travels afterwards is neither encrypted nor signed, so the network has to be one's own; none of it can run code.
"""

import hmac
import multiprocessing
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.pool import ThreadPool

import psutil
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from kit.pipeline.exceptions import PeerLost, waiting
from kit.pipeline.options import Options


@contextmanager
def joined(device: torch.device, options: Options) -> Iterator[torch.device]:
    """Join the other ranks, and give the device to work on: on a machine's GPUs, a rank has its own.

    Raises PeerLost if they are not together within `options.timeout`, and ValueError if the secret is not the same.
    """
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"a rank for GPU {device.index}, but this machine has {torch.cuda.device_count()}")
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        with ThreadPool(1) as pool:  # where nobody connects, gloo waits five times as long as it was told to
            pool.apply_async(_join, (backend, timedelta(seconds=options.timeout))).get(options.timeout)
    except (multiprocessing.TimeoutError, PeerLost) as error:
        raise PeerLost(
            f"{str(error) or f'not all ranks came within {options.timeout:g} s'}. Were all started? Between hosts, "
            "set GLOO_SOCKET_IFNAME on each to the network interface that leads to the others (now "
            f"{os.environ.get('GLOO_SOCKET_IFNAME')}; `ip -brief address` lists them)"
        ) from error
    yield device
    dist.destroy_process_group()  # only after success: a rank that failed leaves at once


def _join(backend: str, timeout: timedelta) -> None:
    rank, size, master = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ["MASTER_ADDR"]
    with waiting("joining the other ranks"):
        if master.startswith("/"):
            store, address = dist.FileStore(master, size), "127.0.0.1"
        else:
            store, address = _store_of_torchrun(rank, size, master, timeout)
        if interface := interface_of(address):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)


def _store_of_torchrun(rank: int, size: int, master: str, timeout: timedelta) -> tuple[dist.Store, str]:
    """Return the ranks' store, and the address of this host from which the others can be reached."""
    secret = os.environ.get("KIT_SECRET", "")
    if len(secret) < 16:
        raise ValueError(
            f"KIT_SECRET has {len(secret)} characters, but ranks that meet over a network need one of at least 16: "
            "on each host, set that environment variable to the same random text (openssl rand -hex 16 makes one)"
        )
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # ranks that are started again find the old store
    store, addresses = trusted(dist.PrefixStore(f"kit-{attempt}", store), secret, rank, size, address_to(master))
    # A host's own name often stands for 127.0.1.1, so it is the way to another host that tells its address.
    elsewhere = next((address for address in addresses if not address.startswith("127.")), "127.0.0.1")
    return store, address_to(elsewhere)


def trusted(store: dist.Store, secret: str, rank: int, size: int, own: str) -> tuple[dist.Store, list[str]]:
    """Return the part of `store` where ranks with this secret meet, and what each of them told (`own`).

    Each signs the fresh random texts of all (HMAC-SHA-256), so that nobody can use again what he heard earlier. Raises
    ValueError if another rank has another secret.
    """
    store.set(f"hello-{rank}", f"{secrets.token_hex(16)} {own}")
    hellos = [store.get(f"hello-{other}") for other in range(size)]

    def signed(by: object) -> bytes:
        return hmac.digest(secret.encode(), b"|".join([*hellos, str(by).encode()]), "sha256").hex().encode()

    store.set(f"proof-{rank}", signed(rank))
    for other in range(size):
        if not hmac.compare_digest(store.get(f"proof-{other}"), signed(other)):
            raise ValueError(f"rank {other} does not have the KIT_SECRET of rank {rank}: start all ranks with the same")
    return dist.PrefixStore(signed("all").decode(), store), [hello.decode().split(" ")[1] for hello in hellos]


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
