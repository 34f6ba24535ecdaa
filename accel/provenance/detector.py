"""Finds the mark of `watermark` in a picture, or in the frames of a film added up.

Frames are brought to the pattern's scale, their own content is pressed down (places and frequencies
where it is strong count less), and all tiles are folded into one. The place, scale and turn of the
tiles are where the fixed signal fits best; then the bits are read, from all places and from those
alone that a film carries them in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, product
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from accel.kernels import _native
from accel.provenance.bch import LENGTH
from accel.provenance.tile import (
    BAND,
    CELL,
    KEY,
    PERIOD,
    SIDE,
    TILE,
    Array,
    cells,
    coded,
    ident_of,
    layout,
    tile,
)

PRESENT = 8.0  # score from which a mark is reported; unmarked pictures stay below 7
READABLE = 4.5  # score from which the id is tried; one wrong one in ten million passes
TRIES = 8  # the best places whose id is tried

# How much a decoded frame counts, by FFmpeg's picture type. At low rates frames that are predicted
# from others repeat what those had and add little; tried on four films at CRF 28 and 33.
WEIGHTS = {1: 10.0, 2: 1.0, 3: 0.2}  # I, P, B

# Share of the marked shorter side that may be left; above 1 the picture got a border or was turned.
SHOWN = tuple(0.45 * 1.012**k for k in range(120))
# Pictures of one aspect squeezed into another: 16:9 in 4:3 and the other way round.
ASPECTS, SQUEEZED = (4 / 3, 3 / 4), tuple(0.7 * 1.012**k for k in range(62))
TURNS = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)]
SEEN = 4  # how long a strip is looked at, in its widths
LINES = 1080  # of a picture that are looked at
EVERY = [(shown, 1.0) for shown in SHOWN] + list(product(SQUEEZED, ASPECTS))
LIKELY = 24  # sizes and aspects that are looked at closely
AT_ONCE = 26  # sizes and aspects that are matched in one go
AS_SHOT = (0, 4)  # of TURNS: as made, and mirrored
SUSPECT = 5.2  # score of a rough look from which a close one is worth its time
REACH = int(BAND[1] * TILE) + 3  # highest frequency looked at, and some to compare it with
_ROWS = range(-REACH, REACH + 1)
_BEGINS = ((0, 0), (0, TILE), (TILE, 0), (TILE, TILE))  # of two tiles by two, from one's place


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
        return float(self.soft @ coded(ident)) / size if size else 0.0


class Detector:
    """Adds up the frames of one clip, or takes one still, and looks for a mark.

    Frames must have one size; `add` costs milliseconds each, `find` some tenths of a second.
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
        (as_made,) = self._places([(1.0, 1.0)])
        best = max([self._read(as_made), *self._film_as_made(AS_SHOT)], key=_merit)
        if best.ident or not thorough:
            return best
        for found in self._film_as_made(set(range(len(TURNS))) - set(AS_SHOT)):
            best = max(best, found, key=_merit)
            if best.ident:
                return best
        tried = self._refined([as_made, *self._places(self._scales())])
        for place in tried[:TRIES]:
            begun = (_in_cells(self._sum, place, begin, self.key) for begin in _BEGINS)
            for found in map(self._read, chain([place], begun)):
                best = max(best, found, key=_merit)
                if best.ident:
                    return best
        return best

    def _film_as_made(self, turns: Iterable[int]) -> Iterator[Found]:
        """What a film's cells hold, if nothing was cut off: they begin at a corner then."""
        assert self._sum is not None  # checked by `find`
        for turn in turns:
            quarters, mirrored = TURNS[turn]
            upright = np.rot90(self._sum, -quarters)
            upright = np.ascontiguousarray(upright[:, ::-1] if mirrored else upright)
            corner = _Place(0.0, 1.0, 1.0, 0, 0, 0, np.zeros(0))
            found = self._read(_in_cells(upright, corner, (0, 0), self.key))
            yield replace(found, turned=_turn_name(turn))

    def is_suspect(self) -> bool:
        """Whether a rough look, which takes a fifth of the time of `find`, shows a trace of a mark.

        Mirrored pictures are looked at, turned ones are not.
        """
        if self._sum is None:
            raise ValueError("Detector.is_suspect: needs at least one frame")
        return float(self._fits(AS_SHOT).max()) >= SUSPECT

    def _scales(self) -> list[_Scale]:
        """The likeliest sizes and aspects."""
        best = np.argsort(-self._fits(range(len(TURNS))), kind="stable")
        return [EVERY[k] for k in best[:LIKELY]]

    def _fits(self, turns: Sequence[int]) -> Array:  # of each of EVERY, its score
        """A rough look at half the picture's size."""
        assert self._sum is not None  # checked by whoever calls
        height, width = self._sum.shape
        half = (max(1, width // 2), max(1, height // 2))
        small = cv2.resize(self._sum, half, interpolation=cv2.INTER_AREA)
        white = _folded_roughly(small, EVERY, (height / half[1], width / half[0]))
        parts = [white[first : first + AT_ONCE] for first in range(0, len(white), AT_ONCE)]
        matches = (_matches(part, self.key, TILE // 2, turns) for part in parts)
        return np.concatenate([_scores(one).max(-1) for one in matches])

    def _refined(self, tried: list[_Place]) -> list[_Place]:
        """Look closer at the best three; return all, the best first."""
        tried.sort(key=lambda place: -place.score)
        steps = (-0.005, -0.0025, 0.0025, 0.005)
        near = [(place.shown * (1 + step), place.aspect) for place in tried[:3] for step in steps]
        return sorted(tried + self._places(near), key=lambda place: -place.score)

    def _places(self, scales: list[_Scale]) -> list[_Place]:
        """Fold the picture at each scale and find the shift and turn that fit best."""
        assert self._sum is not None  # checked by `find`
        places = []
        for (shown, aspect), spectrum in zip(scales, _folded(self._sum, scales)):
            white = _whitened(spectrum)
            matches = _matches(white, self.key, TILE)
            scores = _scores(matches)
            turn = int(np.argmax(scores))
            down, right = divmod(int(matches[turn].argmax()), TILE)
            places.append(_Place(float(scores[turn]), shown, aspect, turn, down, right, white))
        return places

    def _read(self, place: _Place) -> Found:
        whole = np.zeros((TILE, TILE // 2 + 1), np.complex64)
        whole[_ROWS, : REACH + 1] = place.white
        spectrum = whole * np.exp(
            2j * np.pi * (np.fft.fftfreq(TILE)[:, None] * place.down
                          + np.fft.rfftfreq(TILE)[None] * place.right)
        )  # fmt: skip
        turns, mirrored = TURNS[place.turn]
        tile = np.fft.irfft2(spectrum, s=(TILE, TILE))
        tile = _about_origin(tile, -turns, False)  # undone in the opposite order
        tile = _about_origin(tile, 0, mirrored)
        spectrum, places = _centred(np.fft.rfft2(tile), self.key), layout(self.key)
        match = np.real(spectrum.flat[places.data] * np.conj(places.data_phase))
        soft = np.bincount(places.owner, weights=match, minlength=LENGTH)
        ident, corrected = ident_of(soft) if place.score >= READABLE else (None, -1)
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


def weight_of(picture: Any) -> float:
    """How much a decoded picture of PyAV counts."""
    return WEIGHTS.get(int(picture.pict_type), 1.0)


def shrunk(plane: Array) -> Array:  # [H, W] -> [h, w] of the same kind of numbers
    """A plane of at most `LINES` lines: a large one as numbers of 32 bits would fill the memory."""
    height, width = plane.shape
    scale = LINES / max(1, min(height, width))
    if scale >= 1:
        return plane
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA))


_Scale = tuple[float, float]  # what is shown of the shorter side, and how much it was widened


class _Place(NamedTuple):
    score: float
    shown: float
    aspect: float
    turn: int
    down: int
    right: int
    white: Array


def _merit(found: Found) -> tuple[bool, float]:
    return found.ident is not None, found.score


def _in_cells(residual: Array, place: _Place, begin: tuple[int, int], key: bytes) -> _Place:
    """Look at a place again, at the cells alone that frames of a film are marked in.

    All else is noise to them. The score is that of this very place, or one beside it.
    """
    carried = np.kron(cells(), np.ones((CELL, CELL), bool))
    carried = _about_origin(carried, *TURNS[place.turn])
    carried = np.roll(carried, (place.down + begin[0], place.right + begin[1]), (0, 1))
    steps = (place.shown, place.shown * place.aspect)
    rows, columns = (
        np.rint((np.arange(count) + 0.5) * step - 0.5).astype(int) % PERIOD
        for count, step in zip(residual.shape, steps)
    )
    held = residual * carried[np.ix_(rows, columns)]
    white = _whitened(_folded(held, [(place.shown, place.aspect)])[0])
    matches = _matches(white, key, TILE, [place.turn])[0]
    near = np.roll(matches, (1 - place.down, 1 - place.right), (0, 1))[:3, :3]
    down, right = divmod(int(near.argmax()), 3)
    score = float(near.max() / (np.sqrt((matches * matches).mean()) + 1e-12))
    down, right = (place.down + down - 1) % TILE, (place.right + right - 1) % TILE
    return place._replace(score=score, down=down, right=right, white=white)


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
def _turned_signals(key: bytes) -> Array:  # [8, 2 REACH + 1, REACH + 1] complex64
    """What a whitened spectrum is multiplied with to find the fixed signal, for each turn."""
    spectrum = np.fft.fft2(tile(key, None))  # turns and mirrors as the tile itself
    turned = [_about_origin(_about_origin(spectrum, 0, m), turns, False) for turns, m in TURNS]
    spectra = np.conj(np.array(turned))[:, _ROWS, : REACH + 1]
    size = np.abs(spectra)
    unit = np.where(size > size.max() * 0.5, spectra / np.maximum(size, 1e-9), 0)
    return unit.astype(np.complex64)


def _matches(
    white: Array,  # [..., 2 REACH + 1, REACH + 1]
    key: bytes,
    side: int,
    turns: Sequence[int] = range(len(TURNS)),
) -> Array:  # [..., T, side, side]
    """How well the fixed signal fits in each turn, at `side` places down and right of a tile."""
    signals = _turned_signals(key)[list(turns)]
    spectra = np.zeros((*white.shape[:-2], len(signals), side, REACH + 1), np.complex64)
    spectra[..., _ROWS, :] = white[..., None, :, :] * signals
    return np.asarray(np.fft.irfft(np.fft.ifft(spectra, axis=-2), n=side, axis=-1))


def _scores(matches: Array) -> Array:  # [..., side, side] -> [...]
    """How far the best place of each turn stands out; the mean of all is 0."""
    flat = matches.reshape(*matches.shape[:-2], -1)
    return np.asarray(flat.max(-1) / (np.sqrt((flat * flat).mean(-1)) + 1e-12))


def _residual(luma: Array) -> Array:
    """Bring a frame to the pattern's scale, keep fine detail, weigh quiet places more."""
    longest = SEEN * min(luma.shape)  # of a strip a hundred times as long as wide
    luma = shrunk(luma[:longest, :longest])
    height, width = luma.shape
    scale = SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    shrink = scale < 1
    small = cv2.resize(
        luma.astype(np.float32), size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    )
    residual = small - cv2.GaussianBlur(small, (0, 0), 3.0)
    # A signal of one size in noise that differs from place to place: over its variance.
    deviation = cv2.blur(np.abs(residual), (9, 9)) + 1.0
    return np.asarray(np.clip(residual / deviation, -2.5, 2.5) / deviation)


def _folded(
    residual: Array,  # [H, W] float32
    scales: list[_Scale],
) -> Array:  # [S, 2 REACH + 1, REACH + 1] complex64
    """The spectrum of all tiles added up, of a picture enlarged to each of the scales.

    That is its Fourier sum at the tile's frequencies, -REACH to REACH and 0 to REACH; as these are
    few, two matrix products get them, exactly and whatever the scale. All scales in one and by
    torch: NumPy's product starts threads each time that wait at work, and took ten times as long.
    """
    height, width = residual.shape
    across = _waves(width, [shown * aspect for shown, aspect in scales])
    below = _waves(height, [shown for shown, _ in scales])
    both = torch.view_as_real(torch.from_numpy(across)).permute(3, 0, 1, 2)
    parts = torch.from_numpy(residual) @ both.reshape(-1, width).T  # a product of real numbers
    real, imaginary = parts.view(height, 2, len(scales), REACH + 1).permute(1, 2, 0, 3)
    every = torch.from_numpy(np.concatenate([below[:, :0:-1].conj(), below], axis=1))
    return np.asarray(every @ torch.complex(real, imaginary))


def _folded_roughly(
    residual: Array,  # [H, W] float32
    scales: Sequence[_Scale],
    step: tuple[float, float],  # what a sample measures down and right
) -> Array:  # [S, 2 REACH + 1, REACH + 1] complex64
    """As `_folded`, but for the phase of a shift, and some tenths of what lies near the edges.

    Each is `_whitened`. It is read between the samples of one transform, of twice the picture's
    size and with its middle at the origin, so that what is read changes slowly from sample to
    sample.
    """
    height, width = residual.shape
    padded = np.zeros((2 * height, 2 * width), np.float32)
    padded[:height, :width] = residual
    centred = np.roll(padded, (-(height // 2), -(width // 2)), (0, 1))
    spectrum = torch.fft.rfft2(torch.from_numpy(centred))  # a quarter of the time of NumPy's
    sizes = np.array(scales)
    down = np.arange(-REACH, REACH + 1) * (sizes[:, :1] * step[0] / TILE * 2 * height)
    right = np.arange(REACH + 1) * (sizes.prod(1, keepdims=True) * step[1] / TILE * 2 * width)
    if _native.module is not None:
        white = np.empty((len(scales), 2 * REACH + 1, REACH + 1), np.complex64)
        pairs = white.view(np.float32).reshape(*white.shape, 2)
        _native.module.mark_trace(torch.view_as_real(spectrum), down, right, pairs)
        return white
    return np.array([_whitened(one) for one in _between(spectrum.numpy(), down, right)])


def _between(spectrum: Array, down: Array, right: Array) -> Array:
    """Read a spectrum between its samples: rows go round, columns end."""
    y, x = (
        np.floor(down).astype(int),
        np.minimum(np.floor(right).astype(int), spectrum.shape[1] - 2),
    )
    y_share = (down - y)[:, :, None].astype(np.float32)
    x_share = (right - x)[:, None].astype(np.float32)

    def row(at: Array) -> Array:
        rows = at[:, :, None] % len(spectrum)
        left = spectrum[rows, x[:, None]]
        return np.asarray(left + (spectrum[rows, x[:, None] + 1] - left) * x_share)

    above = row(y)
    return np.asarray(above + (row(y + 1) - above) * y_share, np.complex64)


def _waves(size: int, scales: list[float]) -> Array:  # [S, REACH + 1, size] complex64
    """Waves of 0 to REACH periods a tile, at the places of a row's samples."""
    at = (np.arange(size) + 0.5) * np.array(scales)[:, None] - 0.5  # pixel centres, in units
    angle = (-2 * np.pi / TILE * np.arange(REACH + 1)[:, None] * at[:, None]).astype(np.float32)
    waves = np.empty(angle.shape, np.complex64)
    waves.real, waves.imag = np.cos(angle), np.sin(angle)
    return waves


def _centred(spectrum: Array, key: bytes) -> Array:
    """Undo the part of a shift that is less than a unit: where the fixed signal fits best."""
    down, right = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]
    places, steps = layout(key), np.linspace(-0.5, 0.5, 5)
    signal = spectrum.flat[places.sync] * np.conj(places.sync_phase)
    y, x = np.divmod(places.sync, TILE // 2 + 1)
    turns = 2j * np.pi * (steps[:, None, None] * down[y, 0] + steps[None, :, None] * right[0, x])
    fits = np.real(signal * np.exp(turns)).sum(-1)
    i, j = np.unravel_index(int(fits.argmax()), fits.shape)
    return np.asarray(spectrum * np.exp(2j * np.pi * (steps[i] * down + steps[j] * right)))


def _whitened(spectrum: Array) -> Array:
    around = cv2.blur(np.abs(spectrum).astype(np.float32), (5, 5))
    return np.asarray(spectrum / (around + 1e-9), np.complex64)
