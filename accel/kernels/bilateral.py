"""Pictures smoothed without their edges: what lies near counts, the less the more it differs.

Source: Tomasi and Manduchi 1998, doi:10.1109/ICCV.1998.710815.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op
from accel.kernels._why_not import not_contiguous


def bilateral(
    pictures: Tensor,  # [N, C, H, W] float
    masks: Tensor,  # [N, H, W] how much each pixel counts; those of 0 count nowhere
    color: float,  # deviation in colour, above 0, in units of the pictures
    space: float,  # deviation of distance, above 0, in pixels
    step: int = 1,  # every step-th row and column of neighbours may do for all
) -> Tensor:  # [N, C, H, W] dtype of pictures; 0 where no pixel counts
    """Mean of the neighbours within 1.5 deviations, those that are near and alike counting most.

    The weight is a Gaussian of distance times a Gaussian of the sum of differences over channels;
    borders are reflected about the end samples.
    """
    return op(pictures.contiguous(), masks, color, space, step)


def _reference(pictures, masks, color, space, step=1):  # looks at all neighbours, whatever `step`
    radius = round(1.5 * space)
    _, _, height, width = pictures.shape
    rows = _reflected(height, radius).to(pictures.device)
    columns = _reflected(width, radius).to(pictures.device)
    wide = pictures.float()[:, :, rows][..., columns]
    weights = masks.float()[:, None, rows][..., columns]
    total = torch.zeros_like(pictures, dtype=torch.float32)
    weight = torch.zeros_like(total[:, :1])
    for y in range(2 * radius + 1):
        for x in range(2 * radius + 1):
            far = (x - radius) ** 2 + (y - radius) ** 2
            if far > radius * radius:
                continue
            near = wide[:, :, y : y + height, x : x + width]
            apart = (near - pictures).abs().sum(1, keepdim=True)
            share = torch.exp(-far / (2 * space**2) - apart**2 / (2 * color**2))
            share = share * weights[:, :, y : y + height, x : x + width]
            total, weight = total + share * near, weight + share
    smooth = torch.where(weight > 0, total / torch.where(weight > 0, weight, 1), 0)
    return smooth.to(pictures.dtype).contiguous()


def _reflected(size: int, radius: int) -> Tensor:
    """Indices of a row widened by `radius`, turning back at the ends without repeating them."""
    at = torch.arange(-radius, size + radius)
    if size == 1:
        return torch.zeros_like(at)
    at = at.abs() % (2 * size - 2)
    return torch.minimum(at, 2 * size - 2 - at)


op = Op(
    "bilateral(Tensor pictures, Tensor masks, float color, float space, int step=1) -> Tensor",
    _reference,
    fake=lambda pictures, *rest: pictures.new_empty(pictures.shape),
    gradient=False,
)


def _why_not_native(pictures, masks, color, space, step=1) -> str:
    if pictures.dtype != torch.float32:
        return f"needs float32, got {pictures.dtype}"
    return _native.why_not(pictures, masks) or not_contiguous(pictures)


def _native_run(pictures, masks, color, space, step=1):
    out = torch.empty_like(pictures)
    radius, threads = round(1.5 * space), torch.get_num_threads()
    masks = masks.float().contiguous()
    _native.module.bilateral(pictures, masks, out, radius, color, space, step, threads)
    return out


op.implement("native", _native_run, _why_not_native)
