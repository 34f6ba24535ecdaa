"""Put crops back into the planes of a frame, in place, under soft masks.

The definition. `_reference` follows it in float64; every implementation stays within 1 code of it:

1. The crop's colour is corrected pixel by pixel, rgb' = clamp(rgb · gain + bias, 0, 1), and turned
   into code values by the layout's `from_rgb`. The map is affine, so it may be applied before or
   after the averaging of step 3.
2. Sample (i, j) of a plane lies at p = (site_x + i·2^shift_x, site_y + j·2^shift_y) luma pixels
   (luma: no site, no shift), and its footprint is 2^shift_x by 2^shift_y luma pixels around p.
3. Colour and mask are averaged over kx × ky bilinear samples spread evenly over the footprint,
   k = max(1, ceil(length of the footprint in crop pixels)) along each axis, at most the crop's
   side: a crop larger than the face is area-filtered and does not alias. Beyond its outermost pixel
   centres the colour is that of the nearest pixel and the mask is 0, so that an unfeathered mask
   falls to 0 within one crop pixel (bilinear, as everywhere).
4. code' = code + alpha · (new - code), rounded to nearest, clipped to 0..max_code. A sample with
   alpha 0 is not written.

Masks are clamped to 0..1, NaN counts as 0. A sample whose average meets a NaN colour is not
written.

Sources: footprints and pre-filtering, Heckbert 1989, "Fundamentals of texture mapping and image
warping"; chroma sample location and colour matrices, ITU-T H.273 (see `planes`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, triton_kernels
from accel.kernels._why_not import not_contiguous, not_on_gpu, without_numba
from accel.kernels.planes import Planes, check_planes

# A footprint of exactly 2 crop pixels must not become 3 samples because a rotation's entries were
# rounded to float32.
SLACK = 1e-3


def paste(
    planes: Planes,  # written in place
    crops: Tensor,  # [N, 3, S, S] RGB in 0..1; float32 or float16
    masks: Tensor,  # [N, S, S] 0 keeps the frame, 1 takes the crop
    matrices: Tensor,  # [N, 2, 3] maps frame to crop, (x, y) pixels, pixel centres at integers
    *,
    gain: Tensor | None = None,  # [N, 3] rgb' = rgb · gain + bias; None leaves colours alone
    bias: Tensor | None = None,  # [N, 3]
) -> None:
    """Blend N crops into a frame, in order: later ones lie over earlier ones.

    Outside each face's `paste_rectangle` no sample changes; see the module for the definition.

    Raises ValueError for shapes that do not fit, for a matrix that is not finite or has no inverse.
    On a CUDA device the call waits for `matrices` to reach the CPU unless they are there already.
    """
    check_planes("paste", planes)
    n, side = crops.shape[0], crops.shape[-1]
    if crops.ndim != 4 or tuple(crops.shape) != (n, 3, side, side) or side < 1:
        raise ValueError(f"paste: crops must be [N, 3, S, S], got {tuple(crops.shape)}")
    if crops.dtype not in (torch.float32, torch.float16):
        raise TypeError(f"paste: crops must be float32 or float16, got {crops.dtype}")
    if tuple(masks.shape) != (n, side, side) or not masks.is_floating_point():
        raise ValueError(
            f"paste: masks must be floats {(n, side, side)} beside crops {tuple(crops.shape)}, "
            f"got {tuple(masks.shape)} {masks.dtype}"
        )
    if tuple(matrices.shape) != (n, 2, 3):
        raise ValueError(f"paste: matrices must be {(n, 2, 3)}, got {tuple(matrices.shape)}")
    for name, value in (("gain", gain), ("bias", bias)):
        if value is not None and tuple(value.shape) != (n, 3):
            raise ValueError(f"paste: {name} must be {(n, 3)}, got {tuple(value.shape)}")
    # The rectangles decide what is launched, so the matrices are needed here: the one wait.
    matrices = matrices.detach().to("cpu", torch.float32).contiguous()
    for matrix in matrices.tolist():
        _check_matrix("paste", matrix)
    if n == 0:
        return
    layout, device = planes.layout, crops.device
    if gain is None:
        gain = torch.ones(n, 3, device=device)
    if bias is None:
        bias = torch.zeros(n, 3, device=device)
    op(
        planes.c0, planes.c1, planes.c2, crops.detach().contiguous(),
        masks.detach().float().contiguous(), matrices, gain.detach().float().contiguous(),
        bias.detach().float().contiguous(), layout.from_rgb, layout.shift_x, layout.shift_y,
        layout.site_x, layout.site_y, layout.max_code,
    )  # fmt: skip


def paste_rectangle(
    matrix: Tensor,  # [2, 3] maps frame to crop, (x, y) pixels, pixel centres at integers
    crop_size: int,  # S, pixels
    height: int,
    width: int,
    *,
    shift_x: int = 1,
    shift_y: int = 1,
) -> tuple[int, int, int, int]:
    """Return x0, y0, x1, y1 in luma pixels, ends excluded: outside it `paste` changes no sample.

    The rectangle is clipped to the frame and snapped outwards to whole chroma cells of 2^shift
    pixels; the defaults hold for 4:2:0 and everything finer. Off the frame it is empty
    (x0 == x1 or y0 == y1). Raises ValueError for a matrix that is not finite or has no inverse.
    """
    if tuple(matrix.shape) != (2, 3):
        raise ValueError(f"paste_rectangle: matrix must be (2, 3), got {tuple(matrix.shape)}")
    rows = matrix.detach().to("cpu", torch.float32).tolist()
    _check_matrix("paste_rectangle", rows)
    left, top, right, bottom = _reach(rows, crop_size)
    x0, x1 = _snap(left, right, 1 << shift_x, width)
    y0, y1 = _snap(top, bottom, 1 << shift_y, height)
    return x0, y0, max(x0, x1), max(y0, y1)


def _snap(low: float, high: float, cell: int, size: int) -> tuple[int, int]:
    # A chroma sample lies anywhere in its cell and reaches half a cell to each side.
    first = math.floor(_clamp((low - 1.5 * cell) / cell, size)) + 1
    last = math.ceil(_clamp((high + 0.5 * cell) / cell, size))
    return min(max(first * cell, 0), size), min(max(last * cell, 0), size)


def _clamp(value: float, size: int) -> float:
    return min(max(value, -2.0), size + 2.0)


def _check_matrix(who: str, matrix: list[list[float]]) -> None:
    (a, b, _), (c, d, _) = matrix
    if not all(math.isfinite(value) for row in matrix for value in row):
        raise ValueError(f"{who}: a matrix must be finite, got {matrix}")
    if abs(a * d - b * c) <= 1e-9 * math.hypot(a, c) * math.hypot(b, d):
        raise ValueError(f"{who}: a matrix must have an inverse, got {matrix}")


def _reach(matrix: list[list[float]], side: int) -> tuple[float, float, float, float]:
    """Bound, in luma pixels, the points that map into (-1, S)²: beyond it the mask is 0."""
    (a, b, tx), (c, d, ty) = matrix
    det = a * d - b * c
    corners = [(u - tx, v - ty) for u in (-1.0, side) for v in (-1.0, side)]
    xs = [(d * u - b * v) / det for u, v in corners]
    ys = [(a * v - c * u) / det for u, v in corners]
    return min(xs), min(ys), max(xs), max(ys)


class Group(NamedTuple):
    """Planes that share their sample positions, and the part of them that one face can touch.

    Sample (x0 + i, y0 + j) maps to crop position origin + i · along_x + j · along_y.
    """

    channels: range  # which planes
    x0: int
    y0: int
    x1: int
    y1: int
    kx: int
    ky: int
    origin: tuple[float, float]
    along_x: tuple[float, float]
    along_y: tuple[float, float]


def groups(
    matrix: list[list[float]], side: int, shapes: list[tuple[int, int]], shift_x: int, shift_y: int,
    site_x: float, site_y: float,
) -> list[Group]:  # fmt: skip
    """Split the planes by sample position; leave out groups that the face does not reach."""
    if shift_x == shift_y == 0 and site_x == site_y == 0:
        parts = [(range(3), 1, 1, 0.0, 0.0)]
    else:
        parts = [
            (range(1), 1, 1, 0.0, 0.0),
            (range(1, 3), 1 << shift_x, 1 << shift_y, site_x, site_y),
        ]
    (a, b, tx), (c, d, ty) = matrix
    left, top, right, bottom = _reach(matrix, side)
    found = []
    for channels, step_x, step_y, at_x, at_y in parts:
        rows, columns = shapes[channels[0]]
        x0, x1 = _indices(left, right, step_x, at_x, columns)
        y0, y1 = _indices(top, bottom, step_y, at_y, rows)
        if x0 >= x1 or y0 >= y1:
            continue
        x, y = at_x + x0 * step_x, at_y + y0 * step_y
        found.append(
            Group(
                channels, x0, y0, x1, y1,
                _taps(step_x * math.hypot(a, c), side), _taps(step_y * math.hypot(b, d), side),
                (a * x + b * y + tx, c * x + d * y + ty),
                (a * step_x, c * step_x), (b * step_y, d * step_y),
            )
        )  # fmt: skip
    return found


def _indices(low: float, high: float, step: int, at: float, count: int) -> tuple[int, int]:
    """Return the samples whose footprint may meet low..high, one to spare at each end."""
    first = math.floor(_clamp((low - at) / step - 0.5, count))
    last = math.ceil(_clamp((high - at) / step + 0.5, count)) + 1
    return max(first, 0), min(last, count)


def _taps(length: float, side: int) -> int:
    return min(max(1, math.ceil(min(length, side + 1.0) - SLACK)), side)


def _offsets(count: int) -> list[float]:
    """Spread `count` points evenly over -0.5..0.5."""
    return [(i + 0.5) / count - 0.5 for i in range(count)]


def _reference(
    c0, c1, c2, crops, masks, matrices, gain, bias, from_rgb, shift_x, shift_y, site_x, site_y,
    max_code,
):  # fmt: skip
    planes = (c0, c1, c2)
    shapes = [tuple(plane.shape) for plane in planes]
    to_codes = torch.tensor(from_rgb, dtype=torch.float64, device=crops.device).view(3, 4)
    for n, matrix in enumerate(matrices.tolist()):
        codes, mask = _corrected(crops[n], masks[n], gain[n], bias[n], to_codes)
        for group in groups(matrix, crops.shape[-1], shapes, shift_x, shift_y, site_x, site_y):
            average = _average(codes, mask, group)
            alpha = average[3]
            for channel in group.channels:
                part = planes[channel][group.y0 : group.y1, group.x0 : group.x1]
                old = part.to(torch.float64)
                new = (old + alpha * (average[channel] - old)).round().clamp(0, max_code)
                part.copy_(torch.where((alpha > 0) & ~new.isnan(), new, old))


def _corrected(crop, mask, gain, bias, to_codes) -> tuple[Tensor, Tensor]:
    """Return code values with the border repeated and the mask with zeros around it."""
    rgb = (crop.double() * gain.double()[:, None, None] + bias.double()[:, None, None]).clamp(0, 1)
    codes = torch.einsum("ck,kyx->cyx", to_codes[:, :3], rgb) + to_codes[:, 3, None, None]
    alpha = mask.double().nan_to_num(nan=0.0).clamp(0, 1)
    return F.pad(codes[None], (1, 1, 1, 1), mode="replicate")[0], F.pad(alpha, (1, 1, 1, 1))


def _average(codes: Tensor, mask: Tensor, group: Group) -> Tensor:  # [4, rows, columns]
    size = mask.shape[-1]
    picture = torch.cat([codes, mask[None]]).flatten(1)
    i = torch.arange(group.x1 - group.x0, dtype=torch.float64, device=mask.device)
    j = torch.arange(group.y1 - group.y0, dtype=torch.float64, device=mask.device)[:, None]
    total = torch.zeros(4, len(j), len(i), dtype=torch.float64, device=mask.device)
    for dy in _offsets(group.ky):
        for dx in _offsets(group.kx):
            u, v = (
                (o + (i + dx) * ax + (j + dy) * ay).clamp(-1, size - 2) + 1
                for o, ax, ay in zip(group.origin, group.along_x, group.along_y)
            )
            iu, iv = u.floor().clamp(max=size - 2), v.floor().clamp(max=size - 2)
            fu, fv = u - iu, v - iv
            at = (iv * size + iu).long()
            upper = picture[:, at] * (1 - fu) + picture[:, at + 1] * fu
            lower = picture[:, at + size] * (1 - fu) + picture[:, at + size + 1] * fu
            total += upper * (1 - fv) + lower * fv
    return total / (group.kx * group.ky)


op = Op(
    "paste(Tensor(a!) c0, Tensor(b!) c1, Tensor(c!) c2, Tensor crops, Tensor masks,"
    " Tensor matrices, Tensor gain, Tensor bias, float[] from_rgb, int shift_x, int shift_y,"
    " float site_x, float site_y, int max_code) -> ()",
    _reference,
    fake=lambda *args: None,
)


def _numba(
    c0, c1, c2, crops, masks, matrices, gain, bias, from_rgb, shift_x, shift_y, site_x, site_y,
    max_code,
):  # fmt: skip
    from accel.kernels._paste_numba import paste_face

    planes = [plane.numpy() for plane in (c0, c1, c2)]
    crops, masks, gain, bias = (t.float().numpy() for t in (crops, masks, gain, bias))
    to_codes = np.asarray(from_rgb, np.float32).reshape(3, 4)
    shapes = [plane.shape for plane in planes]
    for n, matrix in enumerate(matrices.tolist()):
        found = groups(matrix, crops.shape[-1], shapes, shift_x, shift_y, site_x, site_y)
        if found:
            margins = [
                max(abs(group.along_x[k]) + abs(group.along_y[k]) for group in found)
                for k in (0, 1)
            ]
            paste_face(
                planes, crops[n], masks[n], gain[n], bias[n], to_codes, found, margins,
                [_taps_of(group) for group in found], max_code,
            )  # fmt: skip


def _taps_of(group: Group) -> list[np.ndarray]:
    """Return the taps of a sample, in crop pixels from its own place: u, then v."""
    dx, dy = (np.array(_offsets(count)) for count in (group.kx, group.ky))
    return [
        (group.along_x[k] * dx + group.along_y[k] * dy[:, None]).ravel().astype(np.float32)
        for k in (0, 1)
    ]


# The first eight arguments are tensors, the first three of them planes, whose rows may be padded.
op.implement("numba", _numba, lambda *a: without_numba(*a[:8]) or not_contiguous(*a[3:8]))


def _native_run(*args):
    _native.module.paste(*args, torch.get_num_threads())


op.implement("native", _native_run, lambda *a: _native.why_not(*a[:8]) or not_contiguous(*a[3:8]))


def _triton(
    c0, c1, c2, crops, masks, matrices, gain, bias, from_rgb, shift_x, shift_y, site_x, site_y,
    max_code,
):  # fmt: skip
    planes = (c0, c1, c2)
    shapes = [tuple(plane.shape) for plane in planes]
    to_codes = [from_rgb[k : k + 4] for k in (0, 4, 8)]
    paste_group = triton_kernels("paste").paste_group
    for n, matrix in enumerate(matrices.tolist()):
        for group in groups(matrix, crops.shape[-1], shapes, shift_x, shift_y, site_x, site_y):
            paste_group(planes, crops[n], masks[n], gain[n], bias[n], to_codes, group, max_code)


def _why_not_triton(*args) -> str:
    tensors = [*args[:5], *args[6:8]]  # matrices stay on the CPU
    return not_on_gpu(*tensors) or not_contiguous(*tensors[3:])


op.implement("triton", _triton, _why_not_triton)
