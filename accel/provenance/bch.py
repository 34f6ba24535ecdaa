"""BCH(127, 64), which corrects 10 wrong bits, and a decoder that also uses how sure each bit is.

Sources: Lin & Costello, Error Control Coding, 2nd ed., chapter 6 (construction, Berlekamp-Massey,
Chien search); Chase 1972, doi:10.1109/TIT.1972.1054746, algorithm 2.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LENGTH, DATA, ERRORS = 127, 64, 10
POLYNOMIAL = 0b10001001  # x^7 + x^3 + 1, primitive over GF(2)
UNSURE = 8  # least certain bits that the soft decoder tries both ways

Array = NDArray[Any]


class _Field(NamedTuple):
    power: Array  # [254] alpha^i; written twice, so that sums of two logarithms need no modulo
    log: Array  # [128] its inverse; log[0] is not used
    checks: Array  # [127, 140] bit p's part in the 20 syndromes, 7 bits each
    generator: tuple[int, ...]  # coefficients, highest power first


@cache
def _field() -> _Field:
    power = [1]
    while len(power) < LENGTH:
        doubled = power[-1] << 1
        power.append(doubled ^ POLYNOMIAL if doubled > 127 else doubled)
    log = np.zeros(128, np.int64)
    log[power] = np.arange(LENGTH)
    exponents = np.arange(LENGTH)[:, None] * np.arange(1, 2 * ERRORS + 1) % LENGTH
    codes = np.array(power)[exponents]  # [127, 20]
    checks = (codes[:, :, None] >> np.arange(7)) & 1
    return _Field(
        np.array(power + power), log, checks.reshape(LENGTH, -1).astype(np.float32), _generator()
    )


def _generator() -> tuple[int, ...]:
    """Multiply the minimal polynomials of alpha, alpha^3 ... alpha^19; degree 63."""
    power = [1]
    while len(power) < LENGTH:
        doubled = power[-1] << 1
        power.append(doubled ^ POLYNOMIAL if doubled > 127 else doubled)
    log = {value: i for i, value in enumerate(power)}
    roots = {j * 2**k % LENGTH for j in range(1, 2 * ERRORS, 2) for k in range(7)}
    product = [1]  # lowest power first
    for root in sorted(roots):
        times = [power[(log[c] + root) % LENGTH] if c else 0 for c in product] + [0]
        product = [a ^ b for a, b in zip(times, [0, *product])]
    return tuple(reversed(product))


def encode(data: Array) -> Array:  # [64] bits -> [127] bits, data first
    """Append the 63 check bits. Raises ValueError for another number of bits."""
    if data.shape != (DATA,):
        raise ValueError(f"encode: data must be {DATA} bits, got {data.shape}")
    generator = np.array(_field().generator, np.uint8)
    rest = np.concatenate([data.astype(np.uint8), np.zeros(LENGTH - DATA, np.uint8)])
    for i in range(DATA):
        if rest[i]:
            rest[i : i + len(generator)] ^= generator
    rest[:DATA] = data
    return rest


def correct(words: Array) -> tuple[Array, Array]:  # [N, 127] -> [N, 127], [N] errors or -1
    """Correct up to 10 errors in each word; -1 says that a word is too far from any code word."""
    field = _field()
    # Bit 0 of a word is the highest power.
    sums = words[:, ::-1].astype(np.float32) @ field.checks
    bits = sums.astype(np.int64).reshape(len(words), 2 * ERRORS, 7) & 1
    locator, degree = _berlekamp_massey((bits << np.arange(7)).sum(2))
    at = np.arange(LENGTH)
    value = np.zeros((len(words), LENGTH), np.int64)
    for k in range(ERRORS + 1):  # the locator at alpha^-p, for every position p
        value ^= _times(locator[:, k : k + 1], field.power[-at * k % LENGTH][None])
    wrong = value == 0
    fine = (degree <= ERRORS) & (wrong.sum(1) == degree)
    fixed = words.astype(np.uint8) ^ (wrong[:, ::-1] & fine[:, None]).astype(np.uint8)
    return fixed, np.where(fine, degree, -1)


def _times(a: Array, b: Array) -> Array:
    field = _field()
    return np.where((a != 0) & (b != 0), field.power[field.log[a] + field.log[b]], 0)


def _berlekamp_massey(syndromes: Array) -> tuple[Array, Array]:  # [N, 20] -> [N, 21], [N]
    """Find the shortest error locator of each row, all rows in step."""
    field, n = _field(), len(syndromes)
    size = 2 * ERRORS + 1
    locator, last = np.zeros((n, size), np.int64), np.zeros((n, size), np.int64)
    locator[:, 0] = last[:, 0] = 1
    degree, last_discrepancy = np.zeros(n, np.int64), np.ones(n, np.int64)
    for step in range(2 * ERRORS):
        # x · last, one power more for each step since it was set
        last = np.concatenate([np.zeros((n, 1), np.int64), last[:, :-1]], axis=1)
        discrepancy = np.zeros(n, np.int64)
        for k in range(step + 1):
            discrepancy ^= _times(locator[:, k], syndromes[:, step - k])
        inverse = field.power[-field.log[last_discrepancy] % LENGTH]
        new = locator ^ _times(_times(discrepancy, inverse)[:, None], last)
        longer = (discrepancy != 0) & (2 * degree <= step)
        last = np.where(longer[:, None], locator, last)
        last_discrepancy = np.where(longer, discrepancy, last_discrepancy)
        degree = np.where(longer, step + 1 - degree, degree)
        locator = np.where((discrepancy != 0)[:, None], new, locator)
    return locator, degree


def decode_soft(soft: Array) -> list[tuple[Array, int]]:  # [127], above 0 means 1
    """List the code words near `soft`, the likeliest first: (64 data bits, bits that differ).

    The `UNSURE` least certain bits are tried both ways and each word is corrected, so that far more
    than 10 errors are mended when they sit where the signal is weak.
    """
    hard = (soft > 0).astype(np.uint8)
    unsure = np.argsort(np.abs(soft), kind="stable")[:UNSURE]
    trials = np.tile(hard, (1 << UNSURE, 1))
    trials[:, unsure] ^= ((np.arange(1 << UNSURE)[:, None] >> np.arange(UNSURE)) & 1).astype(
        np.uint8
    )
    fixed, errors = correct(trials)
    words = np.unique(fixed[errors >= 0], axis=0)
    likelihood = (words.astype(np.float64) * 2 - 1) @ soft
    return [
        (words[i, :DATA], int((words[i] != hard).sum()))
        for i in np.argsort(-likelihood, kind="stable")
    ]
