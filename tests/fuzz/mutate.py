"""Mutations of bytes: what fuzzers have found to work; formats are known to `structure` alone."""

from __future__ import annotations

import random
import struct

from tests.fuzz.structure import Structure

NUMBERS = (0, 1, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31,
           2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
LAYOUTS = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")
MAX_BYTES = 1 << 20


def mutate(
    data: bytes,
    others: list[bytes],
    words: tuple[bytes, ...],
    rng: random.Random,
    structure: Structure | None = None,
) -> bytes:
    """`data` after one to eight changes, most often few; where a structure is known, in it."""
    if structure is not None and rng.random() < 0.6:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            data = structure(data, lambda part: mutate(part, others, words, rng), rng)
        return data[:MAX_BYTES]
    made = bytearray(data)
    for _ in range(min(8, 1 + int(rng.expovariate(0.7)))):
        rng.choice(KINDS)(made, others, words, rng)
    return bytes(made[:MAX_BYTES])


def _place(made, rng) -> int:
    return rng.randrange(len(made)) if made else 0


def _piece(made, rng) -> tuple[int, int]:
    at = _place(made, rng)
    return at, min(len(made), at + int(2 ** rng.uniform(0, 10)))


def _flip(made, others, words, rng) -> None:
    if made:
        made[_place(made, rng)] ^= 1 << rng.randrange(8)


def _set(made, others, words, rng) -> None:
    if made:
        made[_place(made, rng)] = rng.randrange(256)


def _number(made, others, words, rng) -> None:
    layout = rng.choice(LAYOUTS)
    size = struct.calcsize(layout)
    if len(made) >= size:
        at = rng.randrange(len(made) - size + 1)
        value = rng.choice(NUMBERS)
        if rng.random() < 0.3:
            (old,) = struct.unpack_from(layout, made, at)
            value = old + rng.choice((-1, 1, -8, 8))
        struct.pack_into(layout, made, at, value % (1 << 8 * size))


def _delete(made, others, words, rng) -> None:
    at, end = _piece(made, rng)
    del made[at:end]


def _repeat(made, others, words, rng) -> None:
    at, end = _piece(made, rng)
    made[at:at] = made[at:end] * rng.choice((1, 1, 2, 16, 200))


def _move(made, others, words, rng) -> None:
    at, end = _piece(made, rng)
    piece = bytes(made[at:end])
    to = _place(made, rng)
    made[to : to + len(piece)] = piece


def _insert(made, others, words, rng) -> None:
    at = _place(made, rng)
    made[at:at] = rng.randbytes(rng.randrange(1, 12))


def _word(made, others, words, rng) -> None:
    if words:
        at, word = _place(made, rng), rng.choice(words)
        made[at : at + (len(word) if rng.random() < 0.5 else 0)] = word


def _splice(made, others, words, rng) -> None:
    other = rng.choice(others)
    at, end = _piece(other, rng)
    to = _place(made, rng)
    made[to : to + (end - at if rng.random() < 0.5 else 0)] = other[at:end]


def _cut(made, others, words, rng) -> None:
    del made[_place(made, rng) :]


KINDS = (_flip, _flip, _set, _set, _number, _number, _delete, _repeat, _move, _insert, _word, _word,
         _splice, _splice, _cut)  # fmt: skip
