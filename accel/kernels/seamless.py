"""Poisson cloning: put a picture's gradients into another one without a seam.

Inside the mask the result has the source's differences between neighbours, outside it the
target's; on the rectangle's border it is the target. The mask is drawn in by three pixels first,
as OpenCV's `seamlessClone` does, whose NORMAL_CLONE this is up to its rounding, on the rectangle
around a mask that does not touch its picture's edge (`accel.faces.merge.clone` tells what becomes
of one that does). With e = source - target the correction u to the target solves, on the
rectangle's inside,

    Δu = div(mask · ∇e),   u = 0 on the border,

with forward differences for the gradient and backward ones for the divergence. The sine transform
turns rows into independent columns, each a tridiagonal system. A row is folded about its middle
first: what is left are two matrix products of half the size.

Source: Pérez, Gangnet and Blake 2003, doi:10.1145/882262.882269, equations 7 and 9.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op
from accel.kernels._why_not import not_contiguous

MARGIN = 3  # pixels that the mask is drawn in by
SMALLEST = 3  # a smaller rectangle has no inside


def seamless(
    sources: Tensor,  # [N, C, H, W] what is put in
    targets: Tensor,  # as sources: what it is put into
    masks: Tensor,  # [N, H, W] the source is taken where this is above 0.5
) -> Tensor:  # [N, C, H, W] within 0..1
    """Clone the sources into the targets; outside the masks the targets bend to meet them.

    Raises ValueError for shapes that do not fit.
    """
    if sources.ndim != 4 or sources.shape != targets.shape:
        raise ValueError(
            "seamless: sources and targets must be [N, C, H, W], got "
            f"{list(sources.shape)} and {list(targets.shape)}"
        )
    if masks.shape != (sources.shape[0], *sources.shape[2:]):
        raise ValueError(
            f"seamless: masks must be [N, H, W] like {list(sources.shape)}, got {list(masks.shape)}"
        )
    if min(sources.shape) == 0 or min(sources.shape[2:]) < SMALLEST:
        return targets.clone()
    inside = (masks > 0.5).to(torch.uint8).contiguous()
    result = op(sources.float().contiguous(), targets.float().contiguous(), inside)
    return result.to(sources.dtype)


def _reference(sources, targets, inside):
    wanted = (sources - targets).double()
    mask = _drawn_in(inside.double())[:, None]
    right = mask[..., :-1] * wanted.diff(dim=3)
    down = mask[:, :, :-1] * wanted.diff(dim=2)
    field = right.diff(dim=3)[:, :, 1:-1] + down.diff(dim=2)[..., 1:-1]
    rows, columns = (_sines(n, sources.device) for n in field.shape[2:])
    steps = [_eigenvalues(n, torch.float64, sources.device) for n in field.shape[2:]]
    spectrum = rows @ field @ columns / (steps[0][:, None] + steps[1])
    result = targets.double().clone()
    result[:, :, 1:-1, 1:-1] += rows @ spectrum @ columns
    return result.clamp(0, 1).float()


def _drawn_in(inside: Tensor) -> Tensor:  # [N, H, W]; beyond the border there is no mask
    reach = 2 * MARGIN + 1
    wide = F.pad(1 - inside, [MARGIN] * 4, value=1)
    return 1 - F.max_pool2d(wide[:, None], reach, stride=1)[:, 0]


def _sines(n: int, device: torch.device) -> Tensor:  # [n, n], its own inverse
    at = torch.arange(1, n + 1, dtype=torch.float64, device=device)
    return torch.sin(torch.pi / (n + 1) * at[:, None] * at) * (2 / (n + 1)) ** 0.5


def _eigenvalues(n: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Of the second difference of n values between two zeros, for frequencies 1..n."""
    at = torch.arange(1, n + 1, dtype=torch.float64, device=device)
    return (2 * torch.cos(torch.pi / (n + 1) * at) - 2).to(dtype)


op = Op(
    "seamless(Tensor sources, Tensor targets, Tensor inside) -> Tensor",
    _reference,
    fake=lambda sources, targets, inside: torch.empty_like(sources),
    gradient=False,
)


@lru_cache(maxsize=8)
def _folded_sines(n: int) -> tuple[Tensor, Tensor]:  # [h, h], [n - h, n - h] float32
    """Sines of the odd frequencies over the first half of a row, and of the even ones."""
    half = (n + 1) // 2
    turn = 2 * (n + 1)  # after so many steps a sine repeats itself
    wave = torch.sin(torch.pi / (n + 1) * torch.arange(turn, dtype=torch.float64)).float()
    at = torch.arange(1, half + 1)
    odd, even = 2 * at - 1, 2 * torch.arange(1, n - half + 1)
    return wave[at[:, None] * odd % turn], wave[at[: n - half, None] * even % turn]


def _native_run(sources, targets, inside):
    count, channels, height, width = sources.shape
    rows, columns = height - 2, width - 2
    half = (columns + 1) // 2
    threads = _native.threads(sources.numel() >> 20)
    sums = sources.new_empty(count * channels * rows, half)
    differences = sources.new_empty(count * channels * rows, columns - half)
    _native.module.seamless_fold(sources, targets, inside, sums, differences, MARGIN, threads)
    steps = _eigenvalues(columns, torch.float32)
    halves = []
    for part, sines, first in zip((sums, differences), _folded_sines(columns), (0, 1)):
        spectrum = part @ sines
        step = steps[first::2].contiguous()
        _native.module.seamless_solve(spectrum, step, rows, 2 / (columns + 1), threads)
        halves.append(spectrum @ sines.T)
    out = torch.empty_like(targets)
    _native.module.seamless_unfold(targets, *halves, out, threads)
    return out


def _why_not(sources, targets, inside) -> str:
    if sources.dtype != torch.float32 or inside.dtype != torch.uint8:
        return "needs float32 pictures and a uint8 mask"
    return _native.why_not(sources, targets, inside) or not_contiguous(sources, targets, inside)


op.implement("native", _native_run, _why_not)
