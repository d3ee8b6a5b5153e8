"""Counter-based random numbers: the same integers from numba and from torch, on any device.

A draw is a pure function of (key, node, number of the draw), so batches do not depend on how many
workers made them, nor on the backend. The mixing function is the finaliser of SplitMix64 (Steele,
Lea, Flood, OOPSLA 2014), computed modulo 2**64 in both.
"""

from __future__ import annotations

import numba
import numpy as np
from torch import Tensor

_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB
_GOLDEN = 0x9E3779B97F4A7C15


def _signed(value: int) -> int:
    """The two's complement reading of a 64-bit pattern, as torch has no usable uint64."""
    return value - (1 << 64) if value >= 1 << 63 else value


@numba.njit(inline="always")
def mix(z):  # type: ignore[no-untyped-def]
    """SplitMix64's finaliser on a uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_M1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_M2)
    return z ^ (z >> np.uint64(31))


@numba.njit(inline="always")
def draw(key, counter, bound):  # type: ignore[no-untyped-def]
    """Draw ``counter`` of stream ``key`` as an integer in [0, bound), bound < 2**31.

    floor(r * bound / 2**63) of a 63-bit r, in 64-bit arithmetic. No value is likelier than another
    by more than bound / 2**63 (a modulo of 16 bits, as fast samplers take, is off by 2x at degree
    40,000).
    """
    r = mix(key + np.uint64(_GOLDEN) * np.uint64(counter + 1)) >> np.uint64(1)
    n = np.uint64(bound)
    high = (r >> np.uint64(32)) * n
    low = ((r & np.uint64(0xFFFFFFFF)) * n) >> np.uint64(32)
    return np.int64((high + low) >> np.uint64(31))


@numba.njit(inline="always")
def node_key(key, node):  # type: ignore[no-untyped-def]
    """The stream of one node below ``key``."""
    return mix(key ^ mix(np.uint64(node) + np.uint64(_GOLDEN)))


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 taken as uint64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix_torch(z: Tensor) -> Tensor:
    """:func:`mix` on int64 tensors, bit for bit."""
    z = (z ^ _shift(z, 30)) * _signed(_M1)
    z = (z ^ _shift(z, 27)) * _signed(_M2)
    return z ^ _shift(z, 31)


def draw_torch(key: Tensor, counter: int, bound: Tensor) -> Tensor:
    """:func:`draw` on int64 tensors of keys and bounds, bit for bit."""
    r = _shift(mix_torch(key + _signed((_GOLDEN * (counter + 1)) % (1 << 64))), 1)
    high = (r >> 32) * bound
    low = ((r & 0xFFFFFFFF) * bound) >> 32
    return _shift(high + low, 31)


def node_key_torch(key: int, nodes: Tensor) -> Tensor:
    """:func:`node_key` on an int64 tensor of nodes, bit for bit."""
    return mix_torch(_signed(key) ^ mix_torch(nodes + _signed(_GOLDEN)))
