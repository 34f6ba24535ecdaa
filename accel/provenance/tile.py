"""The tile that an invisible mark repeats over a picture: which of its frequencies carry what.

Some of the frequencies are a fixed signal that a detector looks for (it gives the place of the
tiles and a score), the others carry a 48-bit id with a checksum, protected by BCH(127, 64).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel.core import ConfigError
from accel.provenance.bch import LENGTH, decode_soft, encode

KEY = b"accel public mark 1"  # changing it, or any number below, makes older marks unreadable
SCHEME = "accel.tile.1"  # how the mark is called in a credential
SIDE, TILE = 360, 120  # shorter side of the picture and side of a tile, in units of the pattern
BAND = (0.04, 0.16)  # cycles per unit: below is brightness, above is lost to resizing
SYNC_SHARE = 0.28
# The frames of a film carry it in a quarter of the places alone, so that an encoder has less to do:
# of two tiles by two one cell in each row and column, and each quarter of a tile once.
CELL, CELLS = TILE // 2, ((0, 0), (1, 2), (2, 3), (3, 1))
PERIOD = 4 * CELL
# Agreement of soft bits with a word, from which it is read. One noise in a hundred reaches it, and
# one of 65,536 such words passes the checksum.
SURE = 8.05

Array = NDArray[Any]


class Layout(NamedTuple):
    """Which frequencies of a tile carry what; indices into the flat half spectrum."""

    sync: Array
    sync_phase: Array
    data: Array
    data_phase: Array
    owner: Array  # which coded bit each data frequency carries


@cache
def layout(key: bytes) -> Layout:
    radius = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None])
    used = (radius >= BAND[0]) & (radius <= BAND[1])
    used[:, [0, -1]] = False  # the half spectrum holds these twice
    used[0] = False  # pure gratings show
    index = np.flatnonzero(used)
    # Drawn from a hash: the streams of random generators change between versions of a library.
    index = index[np.argsort(_draw(key + b"/order", len(index)), kind="stable")]
    phase = np.exp(2j * np.pi * (_draw(key + b"/phase", len(index)) / 2.0**64))
    count = int(len(index) * SYNC_SHARE)
    owner = np.arange(len(index) - count) % LENGTH
    return Layout(index[:count], phase[:count], index[count:], phase[count:], owner)


def _draw(label: bytes, count: int) -> Array:
    return np.frombuffer(hashlib.shake_256(label).digest(8 * count), "<u8")


def tile(key: bytes, ident: str | None) -> Array:  # [TILE, TILE] float32, variance 1
    """One tile; without an id, its fixed signal alone."""
    places, spectrum = layout(key), np.zeros((TILE, TILE // 2 + 1), complex)
    spectrum.flat[places.sync] = places.sync_phase
    if ident is not None:
        spectrum.flat[places.data] = places.data_phase * coded(ident)[places.owner]
    made = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return np.asarray(made / made.std(), np.float32)


@cache
def cells() -> Array:  # [4, 4] bool
    """Which cells of two tiles by two the frames of a film carry."""
    carried = np.zeros((4, 4), bool)
    carried[tuple(np.transpose(CELLS))] = True
    return carried


def new_ident() -> str:
    return secrets.token_hex(6)


def coded(ident: str) -> Array:  # [127] -1 or 1
    """The bits that a tile carries. Raises ConfigError for what is no id."""
    if not re.fullmatch(r"[0-9a-f]{12}", ident):
        raise ConfigError(f"a mark's id must be twelve digits of 0-9 and a-f, got {ident!r}")
    raw = bytes.fromhex(ident)
    bits = encode(np.unpackbits(np.frombuffer(raw + _check(raw), np.uint8)))
    return bits.astype(np.float64) * 2 - 1


def ident_of(soft: Array) -> tuple[str | None, int]:  # [127] above 0 means 1
    """The id that soft bits carry, and how many of them had to be mended; None and -1 for none."""
    for word, agreement in decode_soft(soft):
        raw = np.packbits(word[:64]).tobytes()
        if agreement >= SURE and raw[6:] == _check(raw[:6]):
            return raw[:6].hex(), int((word != (soft > 0)).sum())
    return None, -1


def _check(raw: bytes) -> bytes:
    return (zlib.crc32(raw) & 0xFFFF).to_bytes(2, "big")
