"""Several pictures on one, in rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GAP_PX = 4
GROUND = 255

Picture = NDArray[np.uint8]  # [H, W, 3]


def contact_sheet(pictures: Sequence[Picture], columns: int | None = None) -> Picture:
    """Pictures in reading order, about as wide as high unless `columns` says otherwise."""
    height = max(p.shape[0] for p in pictures)
    width = max(p.shape[1] for p in pictures)
    columns = columns or math.ceil(math.sqrt(len(pictures) * height / width))
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    size = (rows * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX, 3)
    sheet = np.full(size, GROUND, np.uint8)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        y, x = row * (height + GAP_PX), column * (width + GAP_PX)
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet
