"""Aligned faces out of a frame's planes as eight-bit pictures, on the CPU, by OpenCV's warp.

Each plane is warped by itself, then the colours are converted in the crop: what it costs does not
grow with the frame. Where a crop shrinks the frame the planes are averaged first, as far as the
area under a pixel of the crop asks.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from accel.faces.align import AnyArray, Array, invert, scale_of, transform
from accel.kernels.crop import crop
from accel.kernels.planes import Planes

Bytes = npt.NDArray[np.uint8]
MARGIN_PX = 4  # of a plane around what a crop shows


def cut_faces(
    planes: Planes,
    matrices: AnyArray,  # [N, 2, 3] frame to crop
    size: int,
) -> Bytes:  # [N, size, size, 3] BGR
    """Cut N square pictures, bilinear where they enlarge; what lies outside the frame is black."""
    wanted = np.asarray(matrices, np.float64)
    if planes.c0.device.type != "cpu" or planes.layout.bits > 8:
        m = torch.from_numpy(np.ascontiguousarray(wanted, np.float32)).to(planes.c0.device)
        deep = crop(planes, m, size, scale=255.0, layout="NHWC", bgr=True, border="zero")
        return np.asarray(deep.add_(0.5).to(torch.uint8).cpu().numpy())
    return np.stack([_cut(planes, matrix, size) for matrix in wanted])


def _cut(planes: Planes, matrix: Array, size: int) -> Bytes:
    layout = planes.layout
    color = np.array(layout.to_rgb).reshape(3, 4)[::-1]  # rows blue, green, red
    black = np.array(layout.from_rgb).reshape(3, 4)[:, 3]
    crops = []
    for channel, plane in enumerate(planes[:3]):
        own = matrix
        if channel and (layout.shift_x or layout.shift_y):
            # Chroma sample q lies at site + q 2^shift of the frame.
            own = matrix.copy()
            own[:, 2] += matrix[:, :2] @ np.array([layout.site_x, layout.site_y])
            own[:, 0] *= 1 << layout.shift_x
            own[:, 1] *= 1 << layout.shift_y
        crops.append(warp_plane(plane.numpy(), own, size, float(black[channel])))
    # In [0, 255], rounded and clipped by OpenCV.
    return np.asarray(cv2.transform(cv2.merge(crops), color * 255), np.uint8)


def warp_plane(
    plane: Any,  # [H, W] uint8 or uint16
    matrix: Array,  # [2, 3] plane to crop
    size: int,
    outside: float = 0.0,  # the border's code
) -> Any:  # [size, size] as plane
    """Warp one plane into a square, averaged where it shrinks."""
    shrink = 1 / float(scale_of(matrix))
    # Not all of it: a box lets patterns through that a blur stops, and bilinear blurs once more.
    whole = int(np.clip(shrink / 2.5, 1, min(plane.shape)))
    plane, low = _seen(plane, matrix, size, MARGIN_PX * whole, whole)
    own = matrix.copy()
    own[:, 2] += matrix[:, :2] @ (low + (whole - 1) / 2)
    own[:, :2] *= whole
    if whole > 1:  # whole squares of samples, which OpenCV averages fast
        height, width = plane.shape
        plane = cv2.resize(plane, (width // whole, height // whole), interpolation=cv2.INTER_AREA)
    rest = shrink / whole
    if rest > 1.1:
        # As wide as the mean over the area under a pixel: its variance is (rest^2 - 1) / 12.
        sigma = float(np.sqrt((rest**2 - 1) / 12))
        side = 3 if sigma < 0.5 else 5
        plane = cv2.GaussianBlur(plane, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    return cv2.warpAffine(
        plane,
        own,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=outside,
    )


def _seen(plane: Any, matrix: Array, size: int, margin: int, unit: int) -> tuple[Any, Array]:
    """The part of a plane that a crop shows, whole squares of `unit`, and where it begins."""
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64)
    reach = transform(invert(matrix), corners)
    ends = np.array(plane.shape[::-1])
    low = np.clip(np.floor(reach.min(0)) - margin, 0, ends - unit).astype(int)
    high = np.clip(np.ceil(reach.max(0)) + margin, low + unit, ends).astype(int)
    count = (high - low) // unit * unit
    return plane[low[1] : low[1] + count[1], low[0] : low[0] + count[0]], low.astype(np.float64)
