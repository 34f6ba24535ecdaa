"""Small RGB pictures for the face networks, read straight out of a frame's planes.

A face in a large frame shrinks a lot on its way into a network. The kernel averages exactly what
lies under each pixel, turned or not, and what it costs grows with the square of the shrink. So on
a CPU the part of the frame that is looked at is first halved, without turning, as often as goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accel.faces.align import AnyArray, Array, invert, scale_of, transform
from accel.kernels.crop import crop
from accel.kernels.planes import PlaneLayout, Planes, gbr_layout

Pixels = npt.NDArray[np.float32]
MOST_HALVINGS = 5


def rgb_crops(
    planes: Planes,
    matrices: AnyArray,  # [N, 2, 3] frame to crop
    size: int,
    *,
    low: float = 0.0,  # what black becomes
    high: float = 1.0,  # what white becomes
) -> Pixels:  # [N, size, size, 3] on the host, where the networks take their input
    """Cut N square pictures; what lies outside the frame is black."""
    wanted = np.asarray(matrices, np.float64)
    if planes.c0.device.type == "cpu" and (scale_of(wanted) <= 0.5).any():
        parts = [_cut(*halved(planes, m, size), size, low, high) for m in wanted]
        return np.concatenate(parts)
    return _cut(planes, wanted, size, low, high)


def network_crops(
    planes: Planes,
    matrices: AnyArray,  # [N, 2, 3] frame to crop
    size: int,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> Pixels | Tensor:  # [N, size, size, 3]
    """As rgb_crops; of a frame on a GPU they stay there, where a network takes them as they lie."""
    if planes.c0.device.type == "cpu":
        return rgb_crops(planes, matrices, size, low=low, high=high)
    return _read(planes, np.asarray(matrices, np.float64), size, low, high)


def joined(crops: Sequence[Pixels | Tensor]) -> Pixels | Tensor:
    """The crops of several frames, one after the other."""
    if len(crops) == 1:
        return crops[0]
    tensors = [crop for crop in crops if isinstance(crop, Tensor)]
    if len(tensors) < len(crops):
        return np.concatenate([c for c in crops if not isinstance(c, Tensor)])
    return torch.cat(tensors)


def halved(planes: Planes, matrix: Array, size: int) -> tuple[Planes, Array]:
    """Return the part of the frame that a crop shows, halved as often as its scale allows.

    matrix is [2, 3]; the answer's is [1, 2, 3] and maps the part to the same crop. Up to a few
    samples at the frame's right and bottom edge are left out: they do not fill a whole sample.
    """
    times = int(np.clip(np.floor(-np.log2(scale_of(matrix))), 0, MOST_HALVINGS))
    if times == 0 or min(planes.height, planes.width) < 4 << times:
        return planes, matrix[None]
    layout = planes.layout
    # Aligned so that every plane is cut and halved at whole samples.
    unit = 1 << (times + max(layout.shift_x, layout.shift_y))
    corners = np.array([[-1, -1], [size, -1], [-1, size], [size, size]], np.float64)
    reach = transform(invert(matrix), corners)
    ends = np.array([planes.width, planes.height]) // unit * unit
    start = np.clip(np.floor(reach.min(axis=0) / unit - 1).astype(int) * unit, 0, ends - unit)
    stop = np.clip(np.ceil(reach.max(axis=0) / unit + 1).astype(int) * unit, start + unit, ends)
    (x0, y0), (x1, y1) = start, stop
    cx, cy = layout.shift_x, layout.shift_y
    luma = _halve(planes.c0[y0:y1, x0:x1], times)
    small = slice(y0 >> cy, y1 >> cy), slice(x0 >> cx, x1 >> cx)
    blue, red = _halve(planes.c1[small], times), _halve(planes.c2[small], times)
    shrink = float(1 << times)
    # Sample i of the part lies at start + shrink * i + (shrink - 1) / 2 of the frame.
    moved = matrix.copy()
    moved[:, :2] *= shrink
    moved[:, 2] += matrix[:, :2] @ (start + (shrink - 1) / 2)
    return Planes(luma, blue, red, _shrunk(layout, shrink)), moved[None]


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


def _cut(planes: Planes, matrices: Array, size: int, low: float, high: float) -> Pixels:
    result: Pixels = _read(planes, matrices, size, low, high).cpu().numpy()  # waits, on a GPU
    return result


def _read(planes: Planes, matrices: Array, size: int, low: float, high: float) -> Tensor:
    m = torch.from_numpy(np.ascontiguousarray(matrices, np.float32))
    span = high - low
    return crop(
        planes, m, size,
        mean=-low / span, scale=span, layout="NHWC", dtype=torch.float32, border="zero",
    )  # fmt: skip


def _halve(plane: Tensor, times: int) -> Tensor:
    """Average squares of 2 x 2 samples, `times` times over; OpenCV is fast at just that."""
    array = plane.numpy()
    for _ in range(times):
        height, width = array.shape
        array = cv2.resize(array, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(array)


def _shrunk(layout: PlaneLayout, shrink: float) -> PlaneLayout:
    """The layout of planes whose samples are averages of shrink x shrink samples."""

    def site(was: float, shift: int) -> float:
        return (was + ((1 << shift) - 1) * (shrink - 1) / 2) / shrink

    return replace(
        layout,
        site_x=site(layout.site_x, layout.shift_x),
        site_y=site(layout.site_y, layout.shift_y),
    )
