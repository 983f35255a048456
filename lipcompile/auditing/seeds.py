"""Random numbers that depend on what they are for, and on nothing that ran before."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derived_seed(*parts: object) -> int:
    """A seed below 2^31 from the user's seed and the place where it is used."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch inside the block, and gives the caller's random state back after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
