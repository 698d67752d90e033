"""Draw random numbers by counter: every number is a hash of a key and a counter, and is computed alone.

A generator with a state must run from the start to reach draw one million. These functions reach it
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
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROUNDS = 8
_ROUNDS_SMALL = 24  # a permutation of few elements needs more rounds until all orders are equally likely
_SMALL = 1024


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
    out = np.empty(len(slot), np.int64)
    small = size <= _SMALL
    for rows, rounds in ((np.flatnonzero(small), _ROUNDS_SMALL), (np.flatnonzero(~small), _ROUNDS)):
        if len(rows):
            out[rows] = _walk(slot[rows].astype(np.uint64), size[rows], key[rows], rounds)
    return out


def _walk(x: UInt64s, size: NDArray[np.integer], key: UInt64s, rounds: int) -> Int64s:
    """Apply the network, which permutes 0..2**bits-1, until each element is inside 0..size-1 again."""
    bits = np.frexp((size - 1).astype(np.float64))[1].astype(np.uint64)
    low_bits = (bits + np.uint64(1)) >> np.uint64(1)
    masks = [low_bits, *((np.uint64(1) << count) - np.uint64(1) for count in (low_bits, bits - low_bits))]
    limit = size.astype(np.uint64)
    out = np.empty(len(x), np.int64)
    where = np.arange(len(x))
    while len(where):
        x = _feistel(x, masks[0], masks[1], masks[2], key, rounds)
        done = x < limit
        out[where[done]] = x[done].astype(np.int64)
        rest = ~done
        where, x, limit, key = where[rest], x[rest], limit[rest], key[rest]
        masks = [mask[rest] for mask in masks]
    return out


def _feistel(
    x: UInt64s, low_bits: UInt64s, low_mask: UInt64s, high_mask: UInt64s, key: UInt64s, rounds: int
) -> UInt64s:
    high, low = x >> low_bits, x & low_mask
    for number in range(0, rounds, 2):
        high = high ^ (_mix(low * _GOLDEN + (key ^ np.uint64(number))) & high_mask)
        low = low ^ (_mix(high * _GOLDEN + (key ^ np.uint64(number + 1))) & low_mask)
    return (high << low_bits) | low


def floor_sum(n: Int64s, modulus: int, a: int, b: Int64s) -> Int64s:
    """Return sum over i in 0..n-1 of floor((a * i + b) / modulus), per element, in O(log n) steps.

    All arguments are non-negative and a * n + b stays below 2**63.
    """
    total = np.zeros_like(n)
    while n.any():
        total += n * (n - 1) // 2 * (a // modulus) + n * (b // modulus)
        a, b = a % modulus, b % modulus
        last = a * n + b
        n, b = last // modulus, last % modulus
        modulus, a = a, modulus
        if not modulus:
            break
    return total
