"""Clouds of points moved so that they are distributed as others are, one line at a time.

Along one line the cheapest way is known: sort both clouds, and equal ranks meet. Moving along many
lines in turn brings whole distributions together.

Sources: Rabin et al. 2012, doi:10.1007/978-3-642-24785-9_37 (sliced transport); Pitié et al. 2007,
doi:10.1016/j.cviu.2006.11.011 (matching histograms along rotated axes).
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op
from accel.kernels._why_not import not_contiguous


def sliced_transport(
    source: Tensor,  # [C, n] float, n points
    target: Tensor,  # [C, n] likewise, in any order
    directions: Tensor,  # [S, D, C] unit vectors: D of each of S steps
    ranked: bool = True,
) -> Tensor:  # [C, n] the points of `source`, moved
    """Move points, in each step by the mean, over its directions, of what makes ranks meet.

    ranked: equal values take ranks in their order. Otherwise they may all go where their ranks'
        mean is, and some of very many points may tell how all are distributed.
    """
    return sliced_op(source.contiguous(), target.contiguous(), directions, ranked)


def match_axes(
    source: Tensor,  # [C, n] float, n points
    target: Tensor,  # [C, m] likewise
    rotations: Tensor,  # [R, C, C]
    bins: int,  # of each histogram, 2 or more
) -> Tensor:  # [C, n] the points of `source`, moved; float32
    """Match the points' marginals after each rotation, one share of the way each time."""
    return axes_op(source.contiguous(), target.contiguous(), rotations, bins)


def _sliced_reference(source, target, directions, ranked=True):
    source = source.clone()
    for step in directions:
        along, wanted = step @ source, step @ target  # [D, n]
        order = along.argsort(dim=1, stable=True)
        apart = wanted.sort(1).values - along.gather(1, order)
        away = torch.zeros_like(along).scatter_(1, order, apart)
        source = source + step.T @ away / len(step)
    return source


def _axes_reference(source, target, rotations, bins):
    source, target = source.double(), target.double()
    for rotation in rotations.double():
        turned, turned_wanted = rotation @ source, rotation @ target
        matched = torch.stack([_match_bins(a, b, bins) for a, b in zip(turned, turned_wanted)])
        source = source + rotation.T @ (matched - turned) / len(rotations)
    return source.float()


def _match_bins(values: Tensor, wanted: Tensor, bins: int) -> Tensor:
    low = torch.minimum(values.min(), wanted.min())
    high = torch.maximum(values.max(), wanted.max())
    width = (high - low).clamp(min=1e-12) / bins
    edges = low + width * torch.arange(1, bins + 1, dtype=low.dtype, device=low.device)

    def ranks(of: Tensor) -> Tensor:
        places = ((of - low) / width).long().clamp(0, bins - 1)
        counts = torch.bincount(places, minlength=bins).double()
        return counts.cumsum(0) / of.numel()

    return _interpolate(values, edges, _interpolate(ranks(values), ranks(wanted), edges))


def _interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Linear between points of rising x; beyond them the end values."""
    high = torch.searchsorted(x, at.contiguous()).clamp(1, max(len(x) - 1, 1))
    if len(x) == 1:
        return y.expand_as(at)
    low = high - 1
    span = x[high] - x[low]
    share = torch.where(span > 0, (at - x[low]) / torch.where(span > 0, span, 1), 1.0)
    return y[low] + share.clamp(0, 1) * (y[high] - y[low])


sliced_op = Op(
    "sliced_transport(Tensor source, Tensor target, Tensor directions, bool ranked=True) -> Tensor",
    _sliced_reference,
    fake=lambda source, target, directions, ranked=True: torch.empty_like(source),
    gradient=False,
)
axes_op = Op(
    "match_axes(Tensor source, Tensor target, Tensor rotations, int bins) -> Tensor",
    _axes_reference,
    fake=lambda source, target, rotations, bins: torch.empty_like(source),
    gradient=False,
)


def _why_not_sliced(source, target, directions, ranked=True) -> str:
    if source.dtype != torch.float32:
        return f"needs float32, got {source.dtype}"
    if not 1 <= source.shape[1] < 1 << 31:
        return f"takes 1 to 2^31 points, got {source.shape[1]}"
    return _native.why_not(source, target, directions) or not_contiguous(source, target)


def _sliced_native(source, target, directions, ranked=True):
    out = source.clone()
    threads = _native.threads(source.shape[1] >> 12)
    _native.module.sliced_transport(out, target, directions.contiguous(), ranked, threads)
    return out


def _why_not_axes(source, target, rotations, bins) -> str:
    if bins < 2 or min(source.shape[1], target.shape[1]) < 1:
        return f"takes some points and 2 bins at least, got {bins} bins"
    return _why_not_sliced(source, target, rotations)


def _axes_native(source, target, rotations, bins):
    out = source.clone()
    threads = _native.threads(source.shape[1] >> 14)
    _native.module.match_axes(out, target, rotations.contiguous(), bins, threads)
    return out


sliced_op.implement("native", _sliced_native, _why_not_sliced)
axes_op.implement("native", _axes_native, _why_not_axes)
