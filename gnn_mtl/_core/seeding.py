"""One seed, one tree: every random stream of a run is derived from the run's seed by a path.

``derive_seed(seed, "batches", epoch)`` depends only on its arguments, never on how many streams
were drawn before it, so adding a component does not move the randomness of the others.
"""

from __future__ import annotations

import hashlib

import numpy as np

_MASK63 = (1 << 63) - 1


def derive_seed(seed: int, /, *path: str | int) -> int:
    """Return a 63-bit seed for the stream at ``path`` below ``seed``.

    Args:
        seed: The run's seed; any integer.
        *path: Names and indices that say what the stream is for, e.g. ``"batches", epoch``.

    Returns:
        An integer in ``[0, 2**63)``; equal arguments give equal seeds on every platform.

    Example:
        >>> derive_seed(0, "init") == derive_seed(0, "init")
        True
        >>> derive_seed(0, "init") == derive_seed(0, "dropout")
        False
    """
    names = (f"str:{part}" if isinstance(part, str) else f"int:{int(part)}" for part in path)
    text = "\x1f".join([str(int(seed)), *names])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & _MASK63


def generator(seed: int, /, *path: str | int) -> np.random.Generator:
    """Return a counter-based (Philox) NumPy generator for the stream at ``path`` below ``seed``."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, *path)))
