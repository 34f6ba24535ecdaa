"""Pictures bent by a coarse grid and turned by a matrix, read once: what training data is made of.

Read twice, as where a bent picture is stored and then turned, detail is lost that the network is
to learn.

Source: Keys 1981, doi:10.1109/TASSP.1981.1163711, with a = -0.75 as OpenCV has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, in_triton
from accel.kernels._why_not import not_contiguous, not_on_gpu

CUBIC_A = -0.75


def warp(
    pictures: Tensor,  # [N, H, W, C] uint8, C 1 or 3
    grids: Tensor,  # [N, 2, G, G] float32, (x, y) in the picture of every corner of its cells
    matrices: Tensor,  # [N, 2, 3] float32, output pixel to pixel of the bent picture
    *,
    cubic: bool = True,  # else linear
) -> Tensor:  # [N, C, H, W] float32, 0..1
    """Bend pictures by their grids, then turn them by their matrices.

    A corner (j, i) of the grid belongs to pixel (i·W/(G-1), j·H/(G-1)) of the bent picture, and
    what lies between corners is linear. Pixels count from their centres. Beyond its border a
    picture, and a bent picture, goes on as at the border.

    Raises TypeError for other dtypes, ValueError for shapes that do not fit together.
    """
    if pictures.dtype != torch.uint8 or not grids.dtype == matrices.dtype == torch.float32:
        raise TypeError(
            "warp: pictures must be uint8, grids and matrices float32, "
            f"got {pictures.dtype}, {grids.dtype} and {matrices.dtype}"
        )
    n = len(pictures) if pictures.ndim else 0
    if (
        pictures.ndim != 4
        or pictures.shape[3] not in (1, 3)
        or grids.ndim != 4
        or grids.shape != (n, 2, grids.shape[3], grids.shape[3])
        or grids.shape[3] < 2
        or matrices.shape != (n, 2, 3)
    ):
        raise ValueError(
            "warp: pictures must be [N, H, W, 1 or 3], grids [N, 2, G, G] with G of 2 or more, "
            f"matrices [N, 2, 3], got {tuple(pictures.shape)}, {tuple(grids.shape)} and "
            f"{tuple(matrices.shape)}"
        )
    return op(pictures.contiguous(), grids.contiguous(), matrices.contiguous(), cubic)


def straight_grid(height: int, width: int, side: int = 2) -> Tensor:  # [2, side, side]
    """The grid that bends nothing."""
    x, y = torch.linspace(0, width, side), torch.linspace(0, height, side)
    return torch.stack([x.expand(side, side), y[:, None].expand(side, side)])


def _reference(pictures, grids, matrices, cubic):
    n, height, width, channels = pictures.shape
    u, v = _places(grids, matrices, height, width)
    x0, y0 = u.floor(), v.floor()
    across, down = _weights(u - x0, cubic), _weights(v - y0, cubic)
    first = -1 if cubic else 0
    values = pictures.float().view(n, height * width, channels)
    out = torch.zeros(n, height * width, channels, device=pictures.device)
    for j, wy in enumerate(down):
        row = (y0.long() + first + j).clamp(0, height - 1) * width
        for i, wx in enumerate(across):
            at = row + (x0.long() + first + i).clamp(0, width - 1)
            taps = values.gather(1, at[..., None].expand(-1, -1, channels))
            out += (wx * wy)[..., None] * taps
    out = (out / 255).clamp(0, 1)
    return out.transpose(1, 2).reshape(n, channels, height, width).contiguous()


def _places(grids, matrices, height, width):  # -> x and y in the picture, [N, H·W] each
    side = grids.shape[-1]
    y, x = torch.meshgrid(
        *(torch.arange(s, device=grids.device, dtype=torch.float32) for s in (height, width)),
        indexing="ij",
    )
    points = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    u, v = (matrices @ points).unbind(1)
    gx = u.nan_to_num(0).clamp(0, width - 1) * ((side - 1) / width)
    gy = v.nan_to_num(0).clamp(0, height - 1) * ((side - 1) / height)
    i, j = gx.long().clamp(max=side - 2), gy.long().clamp(max=side - 2)
    fx, fy = (gx - i)[:, None], (gy - j)[:, None]
    flat = grids.flatten(2)
    corner = [
        flat.gather(2, ((j + dy) * side + i + dx)[:, None].expand(-1, 2, -1))
        for dy in (0, 1)
        for dx in (0, 1)
    ]
    top, low = (corner[k] * (1 - fx) + corner[k + 1] * fx for k in (0, 2))
    at_x, at_y = (top * (1 - fy) + low * fy).unbind(1)
    return at_x.clamp(-width, 2 * width), at_y.clamp(-height, 2 * height)


def _weights(f, cubic):
    if not cubic:
        return 1 - f, f
    a, g, h = CUBIC_A, f + 1, 1 - f
    before = ((a * g - 5 * a) * g + 8 * a) * g - 4 * a
    left = ((a + 2) * f - (a + 3)) * f * f + 1
    right = ((a + 2) * h - (a + 3)) * h * h + 1
    return before, left, right, 1 - before - left - right


def _fake(pictures, grids, matrices, cubic):
    n, height, width, channels = pictures.shape
    return torch.empty(n, channels, height, width, device=pictures.device)


op = Op(
    "warp(Tensor pictures, Tensor grids, Tensor matrices, bool cubic) -> Tensor",
    _reference,
    fake=_fake,
    gradient=False,
)


def _native_run(pictures, grids, matrices, cubic):
    out = _fake(pictures, grids, matrices, cubic)
    _native.module.warp(pictures, grids.detach(), matrices.detach(), cubic, out)
    return out


def _unfit(*tensors) -> str:
    return not_contiguous(*tensors) if tensors[0].numel() else "has nothing to do"


def _why_not_native(*args) -> str:
    return _native.why_not(*args[:3]) or _unfit(*args[:3])


def _why_not_triton(*args) -> str:
    return not_on_gpu(*args[:3]) or _unfit(*args[:3])


op.implement("native", _native_run, _why_not_native)
op.implement("triton", in_triton("warp", "warp"), _why_not_triton)
