"""An invisible mark in the luma: a tiled pattern that carries a 48-bit id, read blindly.

One square tile is repeated over the picture. A quarter of its frequencies are a fixed signal that
the detector looks for (it gives the place of the tiles and a score), the others carry the id with
a checksum, protected by BCH(127, 64). The pattern is defined in units of the picture's shorter
side, so that plain resizing needs no search, and is constant over a clip, so that the detector may
add up frames. Whoever has the key, and it is public, can remove the mark or copy it: it tells where
a picture came from as long as nobody lies. Only a signature names a person.

Sources: Kalker, Depovere, Haitsma, Maes 1999, "A video watermarking system for broadcast
monitoring", doi:10.1117/12.344661 (tiling, shift by phase correlation); Cox et al. 1997,
doi:10.1109/83.650120 (additive spread spectrum).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accel.core import ConfigError
from accel.kernels import Planes, gbr_layout, mark
from accel.provenance.bch import LENGTH, decode_soft, encode

KEY = b"accel public mark 1"  # changing it, or any number below, makes older marks unreadable
SIDE, TILE = 360, 120  # shorter side of the picture and side of a tile, in units of the pattern
SEEN, MAX_ASPECT = 4, 64  # how long a strip is looked at, and marked, in its widths
BAND = (0.035, 0.20)  # cycles per unit: below is brightness, above is lost to resizing
SYNC_SHARE = 0.25
STRENGTH = 1.25  # standard deviation in 8-bit codes: 45.9 dB

PRESENT = 8.0  # score from which a mark is reported; unmarked pictures stay below 6
READABLE = 5.0  # score from which the id is tried; a wrong one passes in one try of ten million
SCHEME = "accel.tile.1"  # how the mark is called in a credential

# How much a decoded frame counts, by FFmpeg's picture type. Frames that are predicted from others
# carry little of the mark at low rates: measured 0.56 for I, 0.1 for P, 0.06 for B at CRF 28.
WEIGHTS = {1: 8.0, 2: 2.0, 3: 1.0}  # I, P, B

Array = NDArray[Any]


class Mark:
    """A mark with one id, ready to be added to the frames of one clip or to stills.

    ident: twelve hexadecimal digits; None draws them at random.
    strength: standard deviation of the pattern in 8-bit codes.
    Patterns are made once per size and device and kept here.
    """

    def __init__(self, ident: str | None = None, *, strength: float = STRENGTH, key: bytes = KEY):
        self.ident = new_ident() if ident is None else ident
        _bytes(self.ident)  # refuses what is no id
        if not 0 < strength <= 8:
            raise ConfigError(f"strength of a mark must lie in 0..8 codes, got {strength}")
        self.strength, self.key = strength, key
        self._patterns: dict[tuple[int, int, str], Tensor] = {}

    def pattern(self, height: int, width: int, device: str = "cpu") -> Tensor:  # [H, W] int8
        wanted = (height, width, device)
        if wanted not in self._patterns:
            values = pattern(self.ident, height, width, strength=self.strength, key=self.key)
            self._patterns[wanted] = torch.from_numpy(values).to(device)
        return self._patterns[wanted]

    def add(self, planes: Planes, before: Planes | None = None) -> None:
        """Mark a frame in place: its luma, or all three planes of planar RGB.

        before: the frame as it was; only samples that differ from it are marked, so that all
        others stay bit-exact.
        """
        add = self.pattern(planes.height, planes.width, str(planes.c0.device))
        was = (None, None, None) if before is None else before[:3]
        for plane, old in list(zip(planes[:3], was))[: 3 if is_rgb(planes) else 1]:
            mark(plane, add, bits=planes.layout.bits, before=old)

    def add_inside(
        self,
        planes: Planes,
        box: tuple[int, int, int, int],  # x0, y0, x1, y1 in pixels, ends excluded
        before: Sequence[Tensor],  # what the box held, [y1 - y0, x1 - x0] of each plane marked
    ) -> None:
        """Mark in place those samples of a box that differ from what they were."""
        x0, y0, x1, y1 = box
        whole = self.pattern(planes.height, planes.width, str(planes.c0.device))
        for plane, old in zip(planes[:3], before):
            mark(plane[y0:y1, x0:x1], whole[y0:y1, x0:x1], bits=planes.layout.bits, before=old)

    def add_rgb(self, rgb: Tensor) -> None:  # [H, W, 3] uint8, written in place
        add = self.pattern(rgb.shape[0], rgb.shape[1], str(rgb.device))
        for k in range(3):
            mark(rgb[:, :, k], add)


def new_ident() -> str:
    return secrets.token_hex(6)


def is_rgb(planes: Planes) -> bool:
    return planes.layout == gbr_layout(bits=planes.layout.bits)


def luma_of(planes: Planes) -> Array:  # [H, W] float32, in 8-bit codes
    """What a detector looks at; BT.709 weights when the planes are RGB."""
    c0, c1, c2 = (plane.to("cpu").numpy().astype(np.float32) for plane in planes[:3])
    luma = 0.7152 * c0 + 0.0722 * c1 + 0.2126 * c2 if is_rgb(planes) else c0
    return np.asarray(luma / (1 << (planes.layout.bits - 8)), np.float32)


# --- the pattern ------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """Which frequencies of a tile carry what; indices into the flat half spectrum."""

    sync: Array
    sync_phase: Array
    data: Array
    data_phase: Array
    owner: Array  # which coded bit each data frequency carries


def _spectrum() -> tuple[int, int]:
    return TILE, TILE // 2 + 1


@cache
def _layout(key: bytes) -> _Layout:
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
    return _Layout(index[:count], phase[:count], index[count:], phase[count:], owner)


def _draw(label: bytes, count: int) -> Array:
    return np.frombuffer(hashlib.shake_256(label).digest(8 * count), "<u8")


def _bytes(ident: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{12}", ident):
        raise ConfigError(f"a mark's id must be twelve digits of 0-9 and a-f, got {ident!r}")
    return bytes.fromhex(ident)


def _coded(ident: str) -> Array:  # [127] -1 or 1
    raw = _bytes(ident)
    check = (zlib.crc32(raw) & 0xFFFF).to_bytes(2, "big")
    bits = encode(np.unpackbits(np.frombuffer(raw + check, np.uint8)))
    return bits.astype(np.float64) * 2 - 1


def _tile(key: bytes, coded: Array | None) -> Array:  # [TILE, TILE], variance 1
    """One tile; without coded bits, its fixed signal alone."""
    layout, spectrum = _layout(key), np.zeros(_spectrum(), complex)
    spectrum.flat[layout.sync] = layout.sync_phase
    if coded is not None:
        spectrum.flat[layout.data] = layout.data_phase * coded[layout.owner]
    tile = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return np.asarray(tile / tile.std(), np.float32)


@lru_cache(maxsize=2)
def pattern(
    ident: str, height: int, width: int, *, strength: float = STRENGTH, key: bytes = KEY
) -> NDArray[np.int8]:  # [H, W]
    """Make the integers that are added to a picture of this size. Do not write into them."""
    # A strip of a few pixels by many carries no mark, and must not fill the memory.
    scale = max(min(height, width), max(height, width) / MAX_ASPECT) / SIDE
    tile = _tile(key, _coded(ident)) * np.float32(strength)
    rows, columns = (int(np.ceil(size / scale / TILE)) + 1 for size in (height, width))
    shift = 0.5 / scale - 0.5
    to_tiles = np.array([[1 / scale, 0, shift], [0, 1 / scale, shift]], np.float32)
    values = cv2.warpAffine(
        np.tile(tile, (rows, columns)), to_tiles, (width, height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_WRAP,
    )  # fmt: skip
    return np.asarray(np.clip(np.rint(values), -127, 127), np.int8)


# --- the detector -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a detector saw.

    score: how far the best match stands above the others, in their standard deviations.
    ident: the id, when checksum and code agree; corrected: how many of its 127 bits were mended.
    shown: share of the marked picture's shorter side that is still there (1: all of it).
    widened: how much wider than high it must be made to look as made; not 1 when squeezed since.
    turned: how the picture was turned since: `as made`, or quarter turns and mirrored.
    """

    score: float
    ident: str | None
    corrected: int
    shown: float
    widened: float
    turned: str
    frames: int
    soft: Array = field(repr=False)  # [127] the coded bits as they were read, above 0 means 1

    @property
    def present(self) -> bool:
        return self.score >= PRESENT or self.ident is not None

    def agreement(self, ident: str) -> float:
        """How well the bits read agree with an id one suspects, in standard deviations of chance.

        Works far below what can be read blindly; 6 and more is no accident.
        """
        size = float(np.sqrt((self.soft**2).sum()))
        return float(self.soft @ _coded(ident)) / size if size else 0.0


class Detector:
    """Adds up the frames of one clip, or takes one still, and looks for a mark.

    Frames must have one size; `add` costs milliseconds each, `find` a second at most.
    """

    def __init__(self, *, key: bytes = KEY) -> None:
        self.key = key
        self.frames = 0
        self._sum: Array | None = None

    def add(self, luma: Array, weight: float = 1.0) -> None:  # [H, W] in 8-bit codes
        """Take a frame; `WEIGHTS` says how much each kind of decoded frame should count.

        Raises ValueError for a frame of another size or shape than the first.
        """
        if luma.ndim != 2 or min(luma.shape) < 2:
            raise ValueError(f"Detector.add: luma must be [H, W], got {luma.shape}")
        residual = _residual(luma) * np.float32(weight)
        if self._sum is None:
            self._sum = residual
        elif self._sum.shape != residual.shape:
            raise ValueError(f"Detector.add: frames must have one size, got {luma.shape} now")
        else:
            self._sum += residual
        self.frames += 1

    def join(self, other: Detector) -> None:
        """Add what another detector took, from another part of the same film.

        Raises ValueError when its frames had another size.
        """
        if other._sum is None:
            return
        if self._sum is not None and self._sum.shape != other._sum.shape:
            raise ValueError("Detector.join: frames must have one size")
        self._sum = other._sum.copy() if self._sum is None else self._sum + other._sum
        self.frames += other.frames

    def find(self, *, thorough: bool = True) -> Found:
        """Look for the mark as it was made; if `thorough`, in crops, enlargements and turns too."""
        if self._sum is None:
            raise ValueError("Detector.find: needs at least one frame")
        tried = [self._at(self._sum, 1.0)]
        if tried[0].score < PRESENT and thorough:
            tried += [self._at(self._sum, shown) for shown in SHOWN]
            tried = self._refined(tried)
            if tried[0].score < PRESENT:
                tried += [self._at(self._sum, shown, a) for a in ASPECTS for shown in SQUEEZED]
                tried = self._refined(tried)
        for place in tried[:TRIES]:
            found = self._read(place)
            if found.ident:
                return found
        return self._read(tried[0])

    def _refined(self, tried: list[_Place]) -> list[_Place]:
        """Look closer at the best three; return all, the best first."""
        assert self._sum is not None  # checked by `find`
        tried.sort(key=lambda place: -place.score)
        near = [
            self._at(self._sum, place.shown * (1 + step), place.aspect)
            for place in tried[:3]
            for step in (-0.005, -0.0025, 0.0025, 0.005)
        ]
        return sorted(tried + near, key=lambda place: -place.score)

    def _at(self, residual: Array, shown: float, aspect: float = 1.0) -> _Place:
        """Fold the picture at one scale and find the shift and turn that fit best."""
        height, width = residual.shape
        if (shown, aspect) != (1, 1):
            size = (max(8, round(width * shown * aspect)), max(8, round(height * shown)))
            how = cv2.INTER_AREA if shown < 1 else cv2.INTER_LINEAR
            residual = cv2.resize(residual, size, interpolation=how)
        white = _whitened(_fold(residual))
        matches = np.fft.irfft2(white * _turned_signals(self.key), s=(TILE, TILE), axes=(1, 2))
        flat = matches.reshape(len(TURNS), -1)
        scores = (flat.max(1) - flat.mean(1)) / (flat.std(1) + 1e-12)
        turn = int(np.argmax(scores))
        down, right = divmod(int(flat[turn].argmax()), TILE)
        return _Place(float(scores[turn]), shown, aspect, turn, down, right, white)

    def _read(self, place: _Place) -> Found:
        spectrum = place.white * np.exp(
            2j * np.pi * (np.fft.fftfreq(TILE)[:, None] * place.down
                          + np.fft.rfftfreq(TILE)[None] * place.right)
        )  # fmt: skip
        turns, mirrored = TURNS[place.turn]
        tile = np.fft.irfft2(spectrum, s=(TILE, TILE))
        tile = _about_origin(tile, -turns, False)  # undone in the opposite order
        tile = _about_origin(tile, 0, mirrored)
        spectrum, layout = np.fft.rfft2(tile), _layout(self.key)
        match = np.real(spectrum.flat[layout.data] * np.conj(layout.data_phase))
        soft = np.bincount(layout.owner, weights=match, minlength=LENGTH)
        ident, corrected = _ident_of(soft) if place.score >= READABLE else (None, -1)
        return Found(
            score=place.score, ident=ident, corrected=corrected, shown=place.shown,
            widened=place.aspect, turned=_turn_name(place.turn), frames=self.frames, soft=soft,
        )  # fmt: skip


def detect(lumas: Iterable[Array], *, key: bytes = KEY, thorough: bool = True) -> Found:
    """Look for a mark in the lumas [H, W] of one clip, or in one still's."""
    detector = Detector(key=key)
    for luma in lumas:
        detector.add(luma)
    return detector.find(thorough=thorough)


# Share of the marked shorter side that may be left; above 1 the picture got a border or was turned.
SHOWN = tuple(0.45 * 1.012**k for k in range(120))
# Pictures of one aspect squeezed into another: 16:9 in 4:3 and the other way round.
ASPECTS, SQUEEZED = (4 / 3, 3 / 4), tuple(0.7 * 1.012**k for k in range(62))
TRIES = 4  # the best places whose id is tried
TURNS = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)]


class _Place(NamedTuple):
    score: float
    shown: float
    aspect: float
    turn: int
    down: int
    right: int
    white: Array


def _turn_name(turn: int) -> str:
    turns, mirrored = TURNS[turn]
    if not turn:
        return "as made"
    return " and ".join(["mirrored"] * mirrored + [f"turned {turns * 90} degrees"] * (turns > 0))


def _about_origin(tile: Array, turns: int, mirrored: bool) -> Array:
    """Turn and mirror a periodic tile about its sample (0, 0), which stays where it is."""
    if mirrored:
        tile = np.roll(tile[:, ::-1], 1, axis=1)
    for _ in range(turns % 4):
        tile = np.roll(np.rot90(tile), 1, axis=0)
    return tile


@cache
def _turned_signals(key: bytes) -> Array:  # [8, TILE, TILE // 2 + 1] complex64
    """What a whitened spectrum is multiplied with to find the fixed signal, for each turn."""
    signal = _tile(key, None)
    turned = [_about_origin(_about_origin(signal, 0, m), turns, False) for turns, m in TURNS]
    spectra = np.conj(np.fft.rfft2(np.array(turned)))
    size = np.abs(spectra)
    unit = np.where(size > size.max() * 0.5, spectra / np.maximum(size, 1e-9), 0)
    return unit.astype(np.complex64)


def _residual(luma: Array) -> Array:
    """Bring a frame to the pattern's scale, keep fine detail, make flat and busy places equal."""
    longest = SEEN * min(luma.shape)  # of a strip a hundred times as long as wide
    luma = luma[:longest, :longest]
    height, width = luma.shape
    scale = SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    shrink = scale < 1
    small = cv2.resize(
        luma.astype(np.float32), size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    )
    residual = small - cv2.GaussianBlur(small, (0, 0), 3.0)
    deviation = cv2.blur(np.abs(residual), (9, 9)) + 1.0
    return np.asarray(np.clip(residual / deviation, -2.5, 2.5))


def _fold(residual: Array) -> Array:  # [H, W] -> [TILE, TILE] mean over all tiles
    height, width = residual.shape
    padded = np.zeros((height + -height % TILE, width + -width % TILE), np.float32)
    padded[:height, :width] = residual
    rows, columns = padded.shape[0] // TILE, padded.shape[1] // TILE
    total = padded.reshape(rows, TILE, columns, TILE).sum((0, 2))
    at = np.arange(TILE)
    count = np.outer(-((at - height) // TILE), -((at - width) // TILE))  # samples that fall there
    return np.asarray(total / np.maximum(count, 1))


def _whitened(tile: Array) -> Array:
    spectrum = np.fft.rfft2(tile)
    around = cv2.blur(np.abs(spectrum).astype(np.float32), (5, 5))
    return np.asarray(spectrum / (around + 1e-9), np.complex64)


def _ident_of(soft: Array) -> tuple[str | None, int]:
    for bits, corrected in decode_soft(soft):
        raw = np.packbits(bits).tobytes()
        if int.from_bytes(raw[6:], "big") == zlib.crc32(raw[:6]) & 0xFFFF:
            return raw[:6].hex(), corrected
    return None, -1
