"""A picture in few colours, found by median cut, for films that were made with a palette.

The picture's colours are told apart to 6 bits a channel. Boxes of them are cut in two, along their
longest side, where half of their pixels lie on either side; next is always the box with the
largest product of pixels and longest side. A box's colour is its pixels' mean, and each pixel
takes the nearest.

Source: Heckbert 1982, doi:10.1145/965145.801294.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op

BITS = 6  # a channel's part of a cell's number
SIDE = 1 << BITS
MOST = 256
WORTH_THREADS = 1 << 18  # pixels


def few_colors(
    picture: Tensor,  # [H, W, 3] uint8
    colors: int = MOST,
    share: int = 100,  # per cent of the result that has few colours; the rest is the picture
) -> Tensor:  # [H, W, 3] uint8
    """Reduce a picture to so many colours, and mix it with what it was.

    Raises ValueError for another shape or dtype, colours outside 1..256, a share outside 0..100.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != torch.uint8:
        raise ValueError(
            f"few_colors: picture must be [H, W, 3] uint8, got {list(picture.shape)} "
            f"{picture.dtype}"
        )
    if not 1 <= colors <= MOST or not 0 <= share <= 100:
        raise ValueError(
            f"few_colors: colors must lie in 1..{MOST} and share in 0..100, "
            f"got {colors} and {share}"
        )
    if picture.numel() == 0:
        return picture.clone()
    return op(picture.contiguous(), colors, share)


def _reference(picture, colors, share):
    codes = picture.cpu().numpy().astype(np.int64)
    cells = (codes >> (8 - BITS)) @ np.array([SIDE * SIDE, SIDE, 1])
    used, index, counts = np.unique(cells, return_inverse=True, return_counts=True)
    places = np.stack([used // SIDE**2, used // SIDE % SIDE, used % SIDE], 1)  # [n, 3]
    twice = 8 * places + 3  # twice the middle of a cell's colours in 0..255
    palette = np.stack([_mean(twice[box], counts[box]) for box in _cut(places, counts, colors)])
    apart = ((twice[:, None] - 2 * palette) ** 2).sum(2)
    nearest = palette[apart.argmin(1)][index.reshape(cells.shape)]
    mixed = (codes * (100 - share) + nearest * share + 50) // 100
    return torch.from_numpy(mixed.astype(np.uint8)).to(picture.device)


def _mean(twice, counts):  # of a box, rounded; [3]
    pixels = counts.sum()
    return (counts @ twice + pixels) // (2 * pixels)


def _cut(places, counts, most):  # -> indices of the cells of each box
    boxes = [np.arange(len(places))]
    while len(boxes) < most:
        sides = np.array([np.ptp(places[box], 0) for box in boxes])
        worth = sides.max(1) * np.array([counts[box].sum() for box in boxes])
        chosen = int(worth.argmax())
        if worth[chosen] == 0:
            break
        box = boxes[chosen]
        at = places[box, sides[chosen].argmax()]
        below = np.bincount(at, counts[box], minlength=SIDE).cumsum()
        last = min(int((2 * below >= counts[box].sum()).argmax()), at.max() - 1)
        boxes[chosen] = box[at <= last]
        boxes.append(box[at > last])
    return boxes


op = Op(
    "few_colors(Tensor picture, int colors, int share) -> Tensor",
    _reference,
    fake=lambda picture, colors, share: torch.empty_like(picture),
    gradient=False,
)


def _native_run(picture, colors, share):
    out = torch.empty_like(picture)
    threads = torch.get_num_threads() if picture.numel() > 3 * WORTH_THREADS else 1
    _native.module.few_colors(picture, out, colors, share, threads)
    return out


op.implement("native", _native_run, lambda picture, *rest: _native.why_not(picture))
