"""A pseudo-random order that depends on a seed and on the item itself alone."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd


def rank_patches(patches: pd.DataFrame, seed: int) -> np.ndarray:
    """Return a uint64 rank per patch from its case, x and y alone; the lowest are drawn first."""
    return np.array(
        [
            hash_key(seed, (case, str(x), str(y)))
            for case, x, y in zip(patches["case"], patches["x"], patches["y"], strict=True)
        ],
        dtype=np.uint64,
    )


def hash_key(seed: int, parts: Iterable[str]) -> int:
    """Return 64 pseudo-random bits that depend on the seed and the parts alone."""
    text = ":".join((str(seed), *parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
