"""Small RGB pictures for the face networks, read straight out of a frame's planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from accel.faces.align import AnyArray
from accel.kernels.crop import crop
from accel.kernels.planes import Planes, gbr_layout

Pixels = npt.NDArray[np.float32]


def rgb_crops(
    planes: Planes,
    matrices: AnyArray,  # [N, 2, 3] frame to crop
    size: int,
    *,
    low: float = 0.0,  # what black becomes
    high: float = 1.0,  # what white becomes
    border: str = "zero",
) -> Pixels:  # [N, size, size, 3] on the host, where the networks take their input
    """Cut N square pictures; what lies outside the frame is black, or repeats its edge."""
    m = torch.from_numpy(np.ascontiguousarray(matrices, np.float32))
    span = high - low
    pictures = crop(
        planes, m.to(planes.c0.device), size,
        mean=-low / span, scale=span, layout="NHWC", dtype=torch.float32, border=border,
    )  # fmt: skip
    result: Pixels = pictures.cpu().numpy()  # waits for the device: the networks start here
    return result


def picture_planes(picture: npt.NDArray[Any]) -> Planes:  # [H, W, 3] uint8 RGB
    """Split an RGB picture into the planes that the kernels read.

    Raises ValueError unless it is a uint8 picture with three channels.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"picture_planes: picture must be [H, W, 3] uint8, got {list(picture.shape)} "
            f"{picture.dtype}"
        )
    red, green, blue = (
        torch.from_numpy(np.ascontiguousarray(picture[:, :, channel])) for channel in range(3)
    )
    return Planes(green, blue, red, gbr_layout())
