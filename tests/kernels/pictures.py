"""Made-up planes and matrices for the tests of kernels that read or write planes."""

from __future__ import annotations

import math

import numpy as np
import torch

from accel.kernels.planes import PlaneLayout, Planes


def random_planes(layout: PlaneLayout, height: int, width: int, *, store="planar", seed=0):
    """Noise in every code value. store: "planar", "padded" (rows wider than that) or "nv12"."""
    draw = torch.Generator().manual_seed(seed)

    def plane(rows: int, columns: int):
        codes = torch.randint(0, layout.max_code + 1, (rows, columns), generator=draw)
        return codes.to(torch.int32).to(layout.dtype)

    small = -(-height // (1 << layout.shift_y)), -(-width // (1 << layout.shift_x))
    if store == "nv12":
        both = plane(small[0], 2 * small[1])
        return Planes(plane(height, width), both[:, 0::2], both[:, 1::2], layout)
    extra = 13 if store == "padded" else 0
    views = [plane(h, w + extra)[:, :w] for h, w in ((height, width), small, small)]
    return Planes(*views, layout)


def placed(shrink: float, degrees: float, x: float, y: float, size: int | tuple[int, int]):
    """[2, 3] float32: the crop's centre shows frame pixel (x, y), `shrink` pixels a pixel."""
    height, width = (size, size) if isinstance(size, int) else size
    c, s = math.cos(math.radians(degrees)) / shrink, math.sin(math.radians(degrees)) / shrink
    linear = np.array([[c, -s], [s, c]])
    shift = np.array([(width - 1) / 2, (height - 1) / 2]) - linear @ np.array([x, y])
    return torch.from_numpy(np.column_stack([linear, shift])).float()


def bilinear(plane: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Float64 numpy, borders replicated; written apart from the code under test."""
    plane = np.pad(plane.astype(np.float64), 1, mode="edge")
    u = np.clip(u, 0, plane.shape[1] - 3) + 1
    v = np.clip(v, 0, plane.shape[0] - 3) + 1
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    fu, fv = u - i, v - j
    return (
        plane[j, i] * (1 - fu) * (1 - fv)
        + plane[j, i + 1] * fu * (1 - fv)
        + plane[j + 1, i] * (1 - fu) * fv
        + plane[j + 1, i + 1] * fu * fv
    )


def picture_at(planes: Planes, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[..., 3] RGB in 0..1 where (u, v) frame pixels fall, from the definition of the layout."""
    of = planes.layout
    across = (u - of.site_x) / 2**of.shift_x, (v - of.site_y) / 2**of.shift_y
    codes = [bilinear(planes.c0.numpy(), u, v)]
    codes += [bilinear(p.numpy(), *across) for p in planes[1:3]]
    m = np.array(of.to_rgb).reshape(3, 4)
    return np.clip(np.stack(codes, -1) @ m[:, :3].T + m[:, 3], 0, 1)
