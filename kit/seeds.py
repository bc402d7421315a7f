"""Randomness that depends on what is computed, never on when, where or beside what."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(*parts: int | str) -> int:
    """Return a 63-bit seed for this tuple, e.g. `derive(seed, "block", 2, "step", 17)`.

    Unlike `seed + 17`, near tuples give unrelated streams; unlike `hash`, it is the same in every process.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded with `derive(*parts)`."""
    return torch.Generator().manual_seed(derive(*parts))


@contextmanager
def seeded(*parts: int | str, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators with `derive(*parts)` inside, and put them back as they were after."""
    on_gpu = device is not None and device.type == "cuda"
    # torch.manual_seed formats a stack trace for each kind of accelerator that is not there: a millisecond a step.
    seed = torch.manual_seed if on_gpu else torch.default_generator.manual_seed
    with torch.random.fork_rng([device] if on_gpu else []):
        seed(derive(*parts))
        yield
