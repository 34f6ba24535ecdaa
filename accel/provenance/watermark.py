"""An invisible mark in the luma: a tiled pattern that carries a 48-bit id, read blindly.

One square tile (`tile`) is repeated over the picture and added as small integers; in the frames of
a film in a quarter of the places, because an encoder has to code it again wherever something moves:
stronger in few places costs less than weaker in all, for what can be read of it. The pattern is
defined in units of the picture's shorter side, so that plain resizing needs no search, and is
constant over a clip, so that a detector (`detector`) may add up frames. Whoever has the key, and
it is public, can remove the mark or copy it: it tells where a picture came from as long as nobody
lies. Only a signature names a person.

Sources: Kalker, Depovere, Haitsma, Maes 1999, "A video watermarking system for broadcast
monitoring", doi:10.1117/12.344661 (tiling, shift by phase correlation); Cox et al. 1997,
doi:10.1109/83.650120 (additive spread spectrum).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accel.core import ConfigError
from accel.kernels import Planes, gbr_layout, mark
from accel.provenance.detector import shrunk
from accel.provenance.tile import (
    CELL,
    KEY,
    PERIOD,
    SIDE,
    TILE,
    Array,
    cells,
    coded,
    new_ident,
    tile,
)

STILL = 1.37  # standard deviation in 8-bit codes of what is seen once: 45.1 dB
LEAST, MOST = 0.6, 2.0  # of a film: below, hardly a sample is changed by one code; 48 dB
MAX_ASPECT = 64  # how long a strip is marked, in its widths
_STRIP = 1 << 21  # samples of a pattern that are made at a time
_VECTOR = 16  # samples that are marked at once


class Mark:
    """A mark with one id, ready to be added to the frames of one clip or to stills.

    ident: twelve hexadecimal digits; None draws them at random.
    strength: standard deviation of the pattern in 8-bit codes; None: what each use needs.
    Patterns are made once per size and device and kept here, as much of them as is not repeated.
    """

    def __init__(
        self, ident: str | None = None, *, strength: float | None = None, key: bytes = KEY
    ) -> None:
        self.ident = new_ident() if ident is None else ident
        coded(self.ident)  # refuses what is no id
        if strength is not None and not 0 < strength <= 8:
            raise ConfigError(f"strength of a mark must lie in 0..8 codes, got {strength}")
        self.strength, self.key = strength, key
        self._patterns: dict[tuple[int, int, str, float, bool], Tensor] = {}

    def pattern(  # [P, Q] int8, which is repeated over the picture
        self, height: int, width: int, device: str = "cpu", *, still: bool = False
    ) -> Tensor:
        strength = self.strength or (STILL if still else film_strength(height, width))
        wanted = (height, width, device, strength, still)
        if wanted not in self._patterns:
            values = _repeated(
                self.ident, height, width, strength=strength, key=self.key, sparse=not still
            )
            self._patterns[wanted] = torch.from_numpy(values).to(device)
        return self._patterns[wanted]

    def add(self, planes: Planes, before: Planes | None = None, *, still: bool = False) -> None:
        """Mark a frame in place: its luma, or all three planes of planar RGB.

        before: the frame as it was; only samples that differ from it are marked, so that all
        others stay bit-exact.
        still: a picture by itself, which is marked as strongly as nobody sees.
        """
        add = self.pattern(planes.height, planes.width, str(planes.c0.device), still=still)
        was = (None, None, None) if before is None else before[:3]
        for plane, old in list(zip(planes[:3], was))[: 3 if is_rgb(planes) else 1]:
            mark(plane, add, bits=planes.layout.bits, before=old)

    def add_inside(
        self,
        planes: Planes,
        box: tuple[int, int, int, int],  # x0, y0, x1, y1 in pixels, ends excluded
        before: Sequence[Tensor],  # what the box held, [y1 - y0, x1 - x0] of each plane marked
    ) -> None:
        """Mark in place those samples of a box that differ from what they were.

        As strongly as a still: where a part alone is marked, no frame has much to read.
        """
        x0, y0, x1, y1 = box
        whole = self.pattern(planes.height, planes.width, str(planes.c0.device), still=True)
        top, left = y0 % whole.shape[0], x0 % whole.shape[1]
        for plane, old in zip(planes[:3], before):
            mark(
                plane[y0:y1, x0:x1], whole, bits=planes.layout.bits, before=old, top=top, left=left
            )

    def add_rgb(self, rgb: Tensor) -> None:  # [H, W, 3] uint8, written in place
        add = self.pattern(rgb.shape[0], rgb.shape[1], str(rgb.device), still=True)
        for k in range(3):
            mark(rgb[:, :, k], add)


def is_rgb(planes: Planes) -> bool:
    return planes.layout == gbr_layout(bits=planes.layout.bits)


def luma_of(planes: Planes) -> Array:  # [h, w] float32, in 8-bit codes
    """What a detector looks at; BT.709 weights when the planes are RGB.

    Of a large picture it has fewer lines (`detector.shrunk`), more than a detector needs.
    """
    rgb = is_rgb(planes)
    looked_at = (planes.c0, planes.c1, planes.c2)[: 3 if rgb else 1]
    seen = [shrunk(plane.to("cpu").numpy()).astype(np.float32) for plane in looked_at]
    luma = 0.7152 * seen[0] + 0.0722 * seen[1] + 0.2126 * seen[2] if rgb else seen[0]
    deep = planes.layout.bits - 8
    return np.asarray(luma / (1 << deep) if deep else luma, np.float32)


def film_strength(height: int, width: int) -> float:
    """How strongly a film is marked where it is, as the standard deviation in 8-bit codes.

    The more samples a unit of the pattern has, the less of its noise and of an encoder's is left
    in their mean; and each code less is less for the encoder to code in every frame that moves.
    """
    return float(np.clip(1.45 * (SIDE / min(height, width)) ** 0.7, LEAST, MOST))


def pattern(
    ident: str,
    height: int,
    width: int,
    *,
    strength: float = STILL,
    key: bytes = KEY,
    sparse: bool = False,
) -> NDArray[np.int8]:  # [H, W]
    """Make the integers that are added to a picture of this size; sparse: to a film's frame."""
    part = _repeated(ident, height, width, strength=strength, key=key, sparse=sparse)
    strip = np.tile(part, (1, -(-width // part.shape[1])))[:, :width]
    return np.resize(strip, (height, width))  # strip below strip


@lru_cache(maxsize=2)
def _repeated(
    ident: str, height: int, width: int, *, strength: float, key: bytes, sparse: bool
) -> NDArray[np.int8]:  # [P, Q]
    """The part of a pattern that is repeated over a picture; all of it where tiles end between
    samples. Do not write into it."""
    # A strip of a few pixels by many carries no mark, and must not fill the memory.
    scale = max(min(height, width), max(height, width) / MAX_ASPECT) / SIDE
    values, period = tile(key, ident) * np.float32(strength), scale * (PERIOD if sparse else TILE)
    whole = not period.is_integer()
    side = 0 if whole else int(period)  # as of 360, 720 and 1080 lines
    once = _enlarged(
        values, scale, height if whole else min(side, height), width if whole else min(side, width)
    )
    if sparse:
        rows, columns = (
            ((np.arange(count) + 0.5) / (scale * CELL)).astype(int) % 4 for count in once.shape
        )
        once *= cells()[np.ix_(rows, columns)]
    if whole:
        return once
    # Whole vectors across, and a small part stays in the cache.
    across = math.lcm(side, _VECTOR)
    return np.tile(once, (1, -(-across // side)))[:, : min(across, width)]


def _enlarged(
    one: Array,  # [TILE, TILE] float32
    scale: float,
    height: int,
    width: int,
) -> NDArray[np.int8]:  # [H, W]
    """A tile repeated over a picture, `scale` samples a unit."""
    shift = 0.5 / scale - 0.5
    out = np.empty((height, width), np.int8)
    rows = min(height, max(1, _STRIP // width))
    # OpenCV goes round an edge once, not over and over.
    counts = [int(np.ceil(size / scale / TILE)) + 1 for size in (rows, width)]
    tiles = np.tile(one, (counts[0] + 1, counts[1]))
    for top in range(0, height, rows):  # whole, a large picture's would take 16 bytes a sample
        part = out[top : top + rows]
        to_tile = np.array([[1 / scale, 0, shift], [0, 1 / scale, shift + top / scale % TILE]])
        values = cv2.warpAffine(
            tiles, to_tile, (width, len(part)),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_WRAP,
        )  # fmt: skip
        part[:] = np.clip(np.rint(values), -127, 127)
    return out
