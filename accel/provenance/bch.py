"""BCH(127, 64), whose words differ in 21 bits, and a decoder that uses how sure each bit is.

Sources: Lin & Costello, Error Control Coding, 2nd ed., chapter 6 (construction); Fossorier & Lin
1995, doi:10.1109/18.412683 (decoding by ordered statistics).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

LENGTH, DATA = 127, 64
POLYNOMIAL = 0b10001001  # x^7 + x^3 + 1, primitive over GF(2)
DISTANCE = 21  # designed: ten wrong bits are always fewer than to any other word

Array = NDArray[Any]


@cache
def _generator() -> Array:  # [64] coefficients, highest power first
    """Multiply the minimal polynomials of alpha, alpha^3 ... alpha^19; degree 63."""
    power = [1]
    while len(power) < LENGTH:
        doubled = power[-1] << 1
        power.append(doubled ^ POLYNOMIAL if doubled > 127 else doubled)
    log = {value: i for i, value in enumerate(power)}
    roots = {j * 2**k % LENGTH for j in range(1, DISTANCE, 2) for k in range(7)}
    product = [1]  # lowest power first
    for root in sorted(roots):
        times = [power[(log[c] + root) % LENGTH] if c else 0 for c in product] + [0]
        product = [a ^ b for a, b in zip(times, [0, *product])]
    return np.array(product[::-1], np.uint8)


def encode(data: Array) -> Array:  # [64] bits -> [127] bits, data first
    """Append the 63 check bits. Raises ValueError for another number of bits."""
    if data.shape != (DATA,):
        raise ValueError(f"encode: data must be {DATA} bits, got {data.shape}")
    generator = _generator()
    rest = np.concatenate([data.astype(np.uint8), np.zeros(LENGTH - DATA, np.uint8)])
    for i in range(DATA):
        if rest[i]:
            rest[i : i + len(generator)] ^= generator
    rest[:DATA] = data
    return rest


@cache
def _words() -> Array:  # [64, 127] the words of one data bit each
    return np.array([encode(row) for row in np.eye(DATA, dtype=np.uint8)])


def decode_soft(soft: Array, most: int = 4) -> list[tuple[Array, float]]:  # [127], above 0 means 1
    """List the code words that agree best with `soft`: ([127] bits, agreement), the best first.

    The word is rebuilt from the 64 most certain bits that are independent, as they are and with one
    to three of them turned over. Agreement is the correlation in standard deviations of chance, at
    most the root of 127; of soft values that are noise the best word has 7.8.
    """
    order = np.argsort(-np.abs(soft), kind="stable")
    sure = np.asarray(soft, np.float64)[order]
    size = float(np.sqrt((sure**2).sum()))
    if not 0 < size < np.inf:
        return []
    rows, pivots = _systematic(_words()[:, order])
    first = (sure[pivots] > 0) @ rows & 1
    # Signs that turning over a data bit gives the whole word; the first row turns over none.
    turns = np.vstack([np.ones(LENGTH), 1.0 - 2.0 * rows]).astype(np.float32)
    match = (sure / size * (2.0 * first - 1)).astype(np.float32)
    pairs = ((match * turns)[:, None] * turns).reshape(-1, LENGTH)
    # Torch's product, because NumPy's starts threads that wait at work.
    every = torch.from_numpy(pairs) @ torch.from_numpy(turns).T
    agreements = every.numpy().ravel()[_triples()]
    best = np.argpartition(-agreements, most)[:most]
    found = []
    for k in best[np.argsort(-agreements[best], kind="stable")]:
        word = np.empty(LENGTH, np.uint8)
        turned = np.unravel_index(_triples()[k], (DATA + 1,) * 3)
        word[order] = np.bitwise_xor.reduce([first, *(rows[bit - 1] for bit in turned if bit)])
        found.append((word, float(agreements[k])))
    return found


@cache
def _triples() -> Array:
    """Flat indices of what is turned over, each choice once; 0 stands for nothing."""
    i, j, k = np.ogrid[: DATA + 1, : DATA + 1, : DATA + 1]
    return np.flatnonzero(((i < j) | (j == 0)) & (i <= j) & ((j < k) | (k == 0)) & (j <= k))


def _systematic(words: Array) -> tuple[Array, list[int]]:
    """Combine words so that each of the first independent positions is set in one row alone."""
    rows = words.copy()
    pivots: list[int] = []
    for column in range(LENGTH):
        row = len(pivots)
        if not rows[row:, column].any():
            continue
        best = row + int(rows[row:, column].argmax())
        rows[[row, best]] = rows[[best, row]]
        others = rows[:, column].astype(bool)
        others[row] = False
        rows[others] ^= rows[row]
        pivots.append(column)
        if len(pivots) == DATA:
            break
    return rows, pivots
