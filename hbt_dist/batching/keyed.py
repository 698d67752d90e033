"""Counter-based randomness: every number is a hash of a key and a counter, so any of them can be asked alone.

A generator with a state has to be run from the start to reach draw one million; these functions reach it
at once, give the same number on every machine, and work on whole arrays (about 20 ns per number).
`permute` is a pseudo-random permutation of 0..size-1 with random access (a Feistel network with cycle
walking): shuffling ten million rows takes no memory and looking up one row takes nanoseconds.

The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood 2014), applied twice.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

UInt64s = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROUNDS = 8


def derive_key(*parts: str | int) -> int:
    """Return a 64-bit key that depends on every part and on their order."""
    digest = hashlib.sha256("\x1f".join(f"{type(part).__name__}:{part}" for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def _mix(x: UInt64s) -> UInt64s:
    x = x ^ (x >> np.uint64(30))
    x *= _MIX_1
    x ^= x >> np.uint64(27)
    x *= _MIX_2
    x ^= x >> np.uint64(31)
    return x


def hash64(key: int | UInt64s, counter: NDArray[np.integer]) -> UInt64s:
    """Return one uniform 64-bit number per counter; `key` is one number or one per counter."""
    keys = np.full(1, key, np.uint64) if isinstance(key, int) else key
    return _mix(_mix(counter.astype(np.uint64) * _GOLDEN + keys) ^ keys)


def uniform(key: int | UInt64s, counter: NDArray[np.integer]) -> Floats:
    """Return one float64 in [0, 1) per counter."""
    return (hash64(key, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(key: int | UInt64s, counter: NDArray[np.integer], limit: NDArray[np.integer] | int) -> Int64s:
    """Return one integer in 0..limit-1 per counter; the bias is below limit / 2**53."""
    return np.minimum((uniform(key, counter) * limit).astype(np.int64), np.asarray(limit, np.int64) - 1)


def permute(slot: NDArray[np.integer], size: NDArray[np.integer], key: UInt64s) -> Int64s:
    """Return where a keyed pseudo-random permutation of 0..size-1 sends each slot.

    Args:
        slot: (n,) positions, each in 0..size-1.
        size: (n,) size of the permutation that the position belongs to, at least 1.
        key: (n,) its key.
    """
    bits = np.frexp(np.maximum(size - 1, 0).astype(np.float64))[1].astype(np.uint64)
    low_bits = (bits + np.uint64(1)) >> np.uint64(1)
    one = np.uint64(1)
    state: list[UInt64s] = [
        slot.astype(np.uint64),
        low_bits,
        (one << low_bits) - one,
        (one << (bits - low_bits)) - one,
        size.astype(np.uint64),
        key,
    ]
    out = np.empty(len(slot), np.int64)
    where = np.arange(len(slot))
    while len(where):
        x = _feistel(state[0], state[1], state[2], state[3], state[5])
        done = x < state[4]
        out[where[done]] = x[done].astype(np.int64)
        rest = ~done  # outside 0..size-1: walk on along the cycle, which ends inside
        where = where[rest]
        state = [x[rest], *(part[rest] for part in state[1:])]
    return out


def _feistel(x: UInt64s, low_bits: UInt64s, low_mask: UInt64s, high_mask: UInt64s, key: UInt64s) -> UInt64s:
    high, low = x >> low_bits, x & low_mask
    for number in range(0, _ROUNDS, 2):
        high = high ^ (_mix(low * _GOLDEN + (key ^ np.uint64(number))) & high_mask)
        low = low ^ (_mix(high * _GOLDEN + (key ^ np.uint64(number + 1))) & low_mask)
    return (high << low_bits) | low


def floor_sum(n: Int64s, modulus: int, a: int, b: Int64s) -> Int64s:
    """Return sum over i in 0..n-1 of floor((a * i + b) / modulus), per element, in O(log modulus) steps.

    All arguments are non-negative and a * n + b stays below 2**63.
    """
    n, size, slope, b = (np.array(part, np.int64) for part in np.broadcast_arrays(n, modulus, a, b))
    total = np.zeros_like(n)
    active = n > 0
    while active.any():
        total += np.where(active, n * (n - 1) // 2 * (slope // size) + n * (b // size), 0)
        slope, b = slope % size, b % size
        last = slope * n + b
        active &= last >= size
        n, b = np.where(active, last // size, 0), np.where(active, last % size, 0)
        size, slope = np.where(active, slope, 1), np.where(active, size, 0)
    return total
