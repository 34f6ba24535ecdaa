"""The similarity that brings points onto a template, for a batch, on the points' own device.

Source: Umeyama 1991, doi:10.1109/34.88573. In two dimensions its answer is one complex division.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels._op import Op, triton_kernels
from accel.kernels._why_not import not_contiguous, not_on_gpu


def similarity(
    points: Tensor,  # [N, P, 2] in the frame, (x, y) pixels
    template: Tensor,  # [P, 2] where they belong in the crop
) -> Tensor:  # [N, 2, 3] maps frame to crop; float32
    """Find the rotation, scale and shift that bring `points` closest to `template`.

    Closest is least squares; mirror images are not allowed. Equal points have no similarity and
    give NaN. Raises ValueError for shapes that do not fit one another.
    """
    if points.ndim != 3 or template.ndim != 2 or points.shape[1:] != template.shape:
        raise ValueError(
            "similarity: points must be [N, P, 2] and template [P, 2], "
            f"got {tuple(points.shape)} and {tuple(template.shape)}"
        )
    if points.shape[2] != 2 or points.shape[1] < 2:
        raise ValueError(f"similarity: needs two or more points (x, y), got {tuple(points.shape)}")
    return op(points, template)


def _reference(points, template):
    points, template = points.double(), template.double()
    mean, to = points.mean(1), template.mean(0)
    p, t = points - mean[:, None], template - to
    spread = p.square().sum((1, 2))
    cos = (p * t).sum((1, 2)) / spread
    sin = (p[..., 0] * t[:, 1] - p[..., 1] * t[:, 0]).sum(1) / spread
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    shift = to - torch.einsum("nij,nj->ni", turn, mean)
    return torch.cat([turn, shift[:, :, None]], 2).float()


op = Op("similarity(Tensor points, Tensor template) -> Tensor", _reference)


def _triton(points, template):
    out = points.new_empty(len(points), 2, 3)
    triton_kernels("detect").fit(points, template, out)
    return out


def _why_not_triton(points, template) -> str:
    if points.dtype != torch.float32 or template.dtype != torch.float32:
        return f"needs float32, got {points.dtype}, {template.dtype}"
    if not len(points):
        return "has nothing to do"
    return not_on_gpu(points, template) or not_contiguous(points, template)


op.implement("triton", _triton, _why_not_triton)
