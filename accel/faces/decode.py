"""Pictures of faces decoded, once their headers say that they are of a modest size."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from accel.core import InputError
from accel.faces.faceset import picture_shape

MAX_SIDE = 8192  # pixels


def decode(data: bytes, who: str, flags: int = cv2.IMREAD_COLOR) -> NDArray[Any]:  # [H, W(, 3)] BGR
    """A JPEG or PNG as OpenCV reads it; `who` begins the message of an error.

    OpenCV fills what a cut JPEG lacks with grey and says nothing. Raises InputError.
    """
    if max(picture_shape(data, who)[:2]) > MAX_SIDE:
        raise InputError(f"{who}: must be a picture of at most {MAX_SIDE} pixels a side")
    picture: NDArray[Any] | None
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None:
        raise InputError(f"{who}: picture is damaged or cut short")
    return np.asarray(picture)
