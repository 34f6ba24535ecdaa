"""Aligned faces out of a frame's planes as pictures, on the CPU.

Each plane is sampled by itself, then the colours are converted in the crop: what it costs does not
grow with the frame. Where a crop shrinks the frame the planes are averaged first, as far as the
area under a pixel of the crop asks. Codes of more than eight bits are brought to eight by the way.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from accel.faces.align import AnyArray, Array
from accel.kernels import _native
from accel.kernels.crop import crop
from accel.kernels.cut import backward, can_cut_jpeg, cut, cut_jpeg
from accel.kernels.planes import PlaneLayout, Planes
from accel.kernels.shrink import MOST_SIDE, shrink

native: Any = _native.module
Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float32]
MARGIN_PX = 4  # of a plane around what a crop shows
ROUGH = 1.2  # what a crop may shrink by and still be sampled as it is
MOST_BLURRED = 2.6  # what it may shrink by with no more than a blur


def cut_faces(
    planes: Planes,
    matrices: AnyArray,  # [N, 2, 3] frame to crop
    size: int,
) -> Bytes:  # [N, size, size, 3] BGR
    """Cut N square pictures, bilinear where they enlarge; what lies outside the frame is black."""
    wanted = np.asarray(matrices, np.float64)
    if planes.c0.device.type != "cpu":
        m = torch.from_numpy(np.ascontiguousarray(wanted, np.float32)).to(planes.c0.device)
        made = crop(planes, m, size, scale=255.0, layout="NHWC", bgr=True, border="zero")
        return np.asarray(made.add_(0.5).to(torch.uint8).cpu().numpy())
    color = _to_rgb(planes.layout)[::-1]  # rows blue, green, red
    return _stacked([cut(*_sources(planes, m, size), size, color, _black(planes)) for m in wanted])


def cut_jpegs(
    planes: Planes,
    matrices: AnyArray,  # [N, 2, 3] frame to crop
    size: int,
    *,
    quality: int,  # 1..100
) -> list[bytes]:
    """Cut N pictures as `cut_faces` does and encode each as a JPEG of 4:2:0."""
    wanted = np.asarray(matrices, np.float64)
    if planes.c0.device.type != "cpu" or not can_cut_jpeg():
        return [_jpeg(picture, quality) for picture in cut_faces(planes, wanted, size)]
    color, step = _jfif(planes.layout), _chroma_step(planes.layout)
    return [
        cut_jpeg(
            *_sources(planes, m, size), size, color, _black(planes), quality=quality, step=step
        )
        for m in wanted
    ]


def cut_floats(
    planes: Planes,  # in host memory
    matrices: AnyArray,  # [N, 2, 3] frame to crop
    size: int,
) -> Pixels:  # [N, size, size, 3] RGB 0..1
    """Cut N square pictures as networks take them: chroma at half the resolution."""
    color = _to_rgb(planes.layout)
    step = _chroma_step(planes.layout)
    # A network is content with whole squares of samples; a picture to keep is not.
    return _stacked(
        [
            cut(
                *_sources(planes, m, size, blur=False), size, color, _black(planes),
                step=step, as_float=True,
            )
            for m in np.asarray(matrices, np.float64)
        ]
    )  # fmt: skip


def _stacked(pictures: list[torch.Tensor]) -> npt.NDArray[Any]:
    both = pictures[0][None] if len(pictures) == 1 else torch.stack(pictures)
    return both.numpy()


def _jpeg(picture: Bytes, quality: int) -> bytes:
    good, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not good:
        raise RuntimeError(f"cut_jpegs: OpenCV could not encode a picture of {picture.shape}")
    return data.tobytes()


def _black(planes: Planes) -> list[float]:
    return [code * 255 / planes.layout.max_code for code in planes.layout.from_rgb[3::4]]


def _to_rgb(layout: PlaneLayout) -> Array:  # [3, 4]
    """From codes of eight bits, whatever the planes have."""
    color = np.array(layout.to_rgb).reshape(3, 4)
    color[:, :3] *= layout.max_code / 255
    return color


def _chroma_step(layout: PlaneLayout) -> int:
    """Pixels along an axis that share a sample of chroma, where colour may be at half the
    resolution: planes of red, green and blue have none."""
    return 2 if abs(_jfif(layout)[1, 0]) < 1e-6 else 1


@lru_cache(maxsize=64)
def _jfif(layout: PlaneLayout) -> Array:  # [3, 4]
    """Codes to the Y', Cb and Cr of a JPEG, all less 128. Source: ITU-T T.871, section 7."""
    red, green, blue = 255 * _to_rgb(layout)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.stack([luma - [0, 0, 0, 128], (blue - luma) / 1.772, (red - luma) / 1.402])


def _sources(
    planes: Planes,
    matrix: Array,  # [2, 3] frame to crop
    size: int,
    *,
    blur: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Array, Array]:
    """The three planes that a crop is sampled from, and the matrices of luma and chroma."""
    layout, own = planes.layout, matrix
    if layout.shift_x or layout.shift_y:
        # Chroma sample q lies at site + q 2^shift of the frame.
        own = matrix.copy()
        own[:, 2] += matrix[:, 0] * layout.site_x + matrix[:, 1] * layout.site_y
        own[:, 0] *= 1 << layout.shift_x
        own[:, 1] *= 1 << layout.shift_y
    top = layout.max_code
    luma, to_luma = _averaged(planes.c0, matrix, size, top, blur=blur)
    blue, to_chroma = _averaged(planes.c1, own, size, top, blur=blur)
    red, _ = _averaged(planes.c2, own, size, top, blur=blur)
    return luma, blue, red, to_luma, to_chroma


def _averaged(
    plane: torch.Tensor, matrix: Array, size: int, max_code: int, *, blur: bool
) -> tuple[torch.Tensor, Array]:
    """What a crop shows of a plane, in eight bits, averaged as far as it shrinks, and the matrix
    from there to the crop."""
    scale = _shrink(matrix)
    # Not all of it: a box lets patterns through that a blur stops, and bilinear blurs once more.
    wanted = math.ceil(scale / MOST_BLURRED) if blur else round(scale)
    whole = min(max(wanted, 1), MOST_SIDE, *plane.shape)
    rest, variance = min(scale / whole, MOST_BLURRED), 0.0
    if blur and rest > ROUGH:
        variance = (rest**2 - 1) / 12  # of the mean over the area under a pixel, less bilinear's
    if whole == 1 and not variance and plane.dtype == torch.uint8 and plane.stride(1) == 1:
        return plane, matrix
    part, left, top = _seen(plane, matrix, size, MARGIN_PX * whole, whole)
    (a, b, x), (c, d, y) = matrix.tolist()
    left, top = left + (whole - 1) / 2, top + (whole - 1) / 2
    moved = x + a * left + b * top, y + c * left + d * top
    own = np.array([[a * whole, b * whole, moved[0]], [c * whole, d * whole, moved[1]]])
    return shrink(part, whole, variance=variance, max_code=max_code), own


def warp_plane(
    plane: torch.Tensor,  # [H, W] uint8 or uint16
    matrix: Array,  # [2, 3] plane to crop
    size: int,
    max_code: int = 255,  # becomes 1
) -> Pixels:  # [size, size]
    """Warp one plane into a square, averaged over whole squares of samples where it shrinks."""
    part, own = _averaged(plane, matrix, size, max_code, blur=False)
    if native:
        picture = np.empty((size, size), np.float32)
        native.patch(part, backward("matrix", own), picture)
        return picture
    codes = cv2.warpAffine(part.numpy(), own, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(codes / np.float32(255))


def _shrink(matrix: Array) -> float:
    """Samples of the plane by pixels of the crop, along an axis."""
    (a, b, _), (c, d, _) = matrix.tolist()
    return 1 / max(math.sqrt(abs(a * d - b * c)), 1e-9)


def _seen(
    plane: torch.Tensor, matrix: Array, size: int, margin: int, unit: int
) -> tuple[torch.Tensor, float, float]:
    """The part of a plane that a crop shows, whole squares of `unit`, and where it begins."""
    (a, b, x), (c, d, y) = matrix.tolist()
    det = a * d - b * c
    places = [
        ((d * (u - x) - b * (v - y)) / det, (a * (v - y) - c * (u - x)) / det)
        for u in (0, size)
        for v in (0, size)
    ]
    begins, counts = [], []
    for along, end in zip(zip(*places), tuple(plane.shape)[::-1]):
        low = min(max(math.floor(min(along)) - margin, 0), end - unit)
        high = min(max(math.ceil(max(along)) + margin, low + unit), end)
        begins.append(low)
        counts.append((high - low) // unit * unit)
    part = plane[begins[1] : begins[1] + counts[1], begins[0] : begins[0] + counts[0]]
    return part, begins[0], begins[1]
