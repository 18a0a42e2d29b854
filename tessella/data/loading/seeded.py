"""Randomness without state: a generator made from what it is for, so that workers, ranks and restarts draw alike."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """`generator(seed, epoch, sample_id)`: the same key gives the same numbers on every machine."""
    hasher = hashlib.blake2b(digest_size=16)  # Philox takes a key of 128 bits
    for part in key:
        piece = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else str(int(part)).encode()
        hasher.update(b"%c%d:" % (b"s" if isinstance(part, str) else b"i", len(piece)))  # 1, "1" and "11" must differ
        hasher.update(piece)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hasher.digest(), "little")))
