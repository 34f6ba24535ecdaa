"""Colour transfers by name: giving a face the colours of the place it is put in.

`rct`, `lct`, `mkl`, `mkl-m`, `idt`, `idt-m`, `sot`, `sot-m`, `mix-m` and `hist-match`, as
DeepFaceLab's merger offers them. Where chance plays a part it comes from `seed`, so that a track
that keeps its seed does not flicker.

Sources: Reinhard et al. 2001, doi:10.1109/38.946629 (rct); Pitié and Kokaram 2007,
doi:10.1049/cp:20070055 (mkl); for idt and sot see `transport`, for the filter `bilateral`. Numbers
of steps, bins and deviations are DeepFaceLab's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op
from accel.kernels._why_not import not_contiguous
from accel.kernels.bilateral import bilateral
from accel.kernels.color import convert_lab, lab_to_rgb, rgb_to_lab
from accel.kernels.transport import match_axes, sliced_transport

MODES = (
    "rct", "lct", "mkl", "mkl-m", "idt", "idt-m", "sot", "sot-m", "mix-m", "hist-match",
)  # fmt: skip
VARIANTS = ("exact", "dfl")
INSIDE = 0.5  # a pixel belongs to the face from this weight on
COVARIANCE_FLOOR = 1e-5
IDT_ROTATIONS, IDT_BINS = 20, 256
SOT_STEPS = 10
SOT_DIRECTIONS = {"sot": 5, "sot-m": 30, "mix-m": 5}  # in each step
SOT_SPACE = 16.0  # deviations of the filter: pixels, and units of 0..1 or, in mix, of 0..255
SOT_COLOR = 5.0
# Side of the largest crop whose every neighbour is looked at by the filter, by how wide it is in
# colour; every second in one of the next side, and so on.
SPARE_SIDES = {True: (64,) * 3, False: (96, 256, 512)}
MIX_LIGHTNESS = 100 / 255 * 100  # where mix moves chroma; DeepFaceLab's 8-bit Lab calls it 100


def color_transfer(
    crops: Tensor,  # [N, 3, H, W] RGB 0..1, what is changed
    targets: Tensor,  # as crops: what lies there now
    masks: Tensor,  # [N, H, W] 0..1 where both show the face
    mode: str,
    *,
    seed: int = 0,
    variant: str = "exact",
    threshold: float = 255.0,  # of hist-match: how far up the target's values are used, 0..255
) -> Tensor:  # [N, 3, H, W] RGB 0..1, dtype of crops
    """Change colours so that they are distributed as the targets' are.

    variant: `exact` looks at and moves pixels under the mask alone, in `rct` and the `-m` modes;
        `dfl` does as DeepFaceLab: pixels outside are black, and black counts.
    An empty mask leaves a crop as it is. Raises ValueError for another mode, variant or shape.
    """
    if mode not in MODES or variant not in VARIANTS:
        raise ValueError(
            f"color_transfer: mode must be one of {', '.join(MODES)} and variant one of "
            f"{', '.join(VARIANTS)}, got {mode!r} and {variant!r}"
        )
    if crops.ndim != 4 or crops.shape[1] != 3 or crops.shape != targets.shape:
        raise ValueError(
            "color_transfer: crops and targets must be [N, 3, H, W], got "
            f"{list(crops.shape)} and {list(targets.shape)}"
        )
    if masks.shape != (crops.shape[0], *crops.shape[2:]):
        raise ValueError(
            f"color_transfer: masks must be [N, H, W] like {list(crops.shape)}, "
            f"got {list(masks.shape)}"
        )
    result = crops.clone(memory_format=torch.contiguous_format)
    ours, theirs = crops.float().contiguous(), targets.float().contiguous()
    for i, (crop, target, inside) in enumerate(zip(ours, theirs, masks >= INSIDE)):
        if not inside.any():
            continue
        if mode.endswith("-m") and variant == "dfl":
            crop, target, inside = crop * inside, target * inside, torch.ones_like(inside)
        elif mode != "rct" and not mode.endswith("-m"):
            inside = torch.ones_like(inside)
        make = torch.Generator().manual_seed(seed)
        moved = _transfer(crop, target, inside, mode, variant, make, threshold)
        result[i] = moved.clamp(0, 1)
    return result


def _transfer(crop, target, inside, mode, variant, make, threshold):
    if mode == "rct":
        return _reinhard(crop, target, inside, counts_all=variant == "dfl")
    if mode == "hist-match":
        matched = [_match(c, t, threshold) for c, t in zip(crop.flatten(1), target.flatten(1))]
        return torch.stack(matched).view_as(crop)
    if mode == "lct":
        return _affine(crop, target, inside, _whiten_color)
    if mode.startswith("mkl"):
        return _affine(crop, target, inside, _monge_kantorovich)
    if mode.startswith("idt"):
        moved = _distribution(_inside(crop, inside), _inside(target, inside), make)
        return _put(crop, inside, moved)
    if mode == "mix-m":
        return _mix(crop, target, inside, make)
    return _sliced(crop, target, inside, SOT_DIRECTIONS[mode], SOT_COLOR, make)


def _inside(crop: Tensor, inside: Tensor) -> Tensor:  # [3, H, W] -> [3, n]
    return crop.flatten(1).contiguous() if inside.all() else crop[:, inside].contiguous()


def _put(crop: Tensor, inside: Tensor, values: Tensor) -> Tensor:
    if inside.all():
        return values.view_as(crop)
    out = crop.clone()
    out[:, inside] = values
    return out


# --- rct: mean and deviation in Lab -------------------------------------------------------------


def _reinhard(crop, target, inside, counts_all):
    return reinhard_op(crop, target, inside, counts_all)


def _reinhard_reference(crop, target, inside, counts_all):
    """Give L, a and b the mean and deviation of the target's.

    counts_all: pixels that are not inside are black, and count; else they do not count.
    """
    lab, lab_target = rgb_to_lab(torch.stack([crop, target]))
    if counts_all:
        of_crop, of_target = (lab * inside).flatten(1), (lab_target * inside).flatten(1)
    else:
        of_crop, of_target = lab[:, inside], lab_target[:, inside]
    gain = _deviation(of_target) / _deviation(of_crop).clamp(min=1e-6)
    moved = (lab - _mean(of_crop)) * gain + _mean(of_target)
    low, high = crop.new_tensor([[0, -127, -127], [100, 127, 127]])[:, :, None, None]
    return lab_to_rgb(moved.clamp(low, high)[None])[0]


def _mean(values: Tensor) -> Tensor:
    return values.mean(1)[:, None, None]


def _deviation(values: Tensor) -> Tensor:
    return values.std(1, correction=0)[:, None, None]


# --- lct, mkl: one matrix -----------------------------------------------------------------------


def _affine(crop, target, inside, solve):
    """Move colours by the matrix that `solve` finds between two covariances."""
    source, wanted = crop[:, inside].double(), target[:, inside].double()
    mean, mean_wanted = source.mean(1, keepdim=True), wanted.mean(1, keepdim=True)
    source, wanted = source - mean, wanted - mean_wanted
    matrix = solve(_covariance(source), _covariance(wanted))
    moved = matrix @ (crop.flatten(1).double() - mean) + mean_wanted
    return moved.float().view_as(crop)


def _covariance(centred: Tensor) -> Tensor:
    floor = COVARIANCE_FLOOR * torch.eye(len(centred), dtype=centred.dtype)
    return centred @ centred.T / centred.shape[1] + floor.to(centred.device)


def _root(matrix: Tensor, power: float = 0.5) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=1e-16) ** power) @ vectors.T


def _whiten_color(source: Tensor, wanted: Tensor) -> Tensor:
    return _root(wanted) @ _root(source, -0.5)


def _monge_kantorovich(source: Tensor, wanted: Tensor) -> Tensor:
    root, back = _root(source), _root(source, -0.5)
    return back @ _root(root @ wanted @ root) @ back


# --- hist-match, idt: one dimension after another -----------------------------------------------


def _match(values: Tensor, wanted: Tensor, threshold: float) -> Tensor:
    """Values of equal rank replace each other; ranks are scaled by threshold / 255."""
    # NumPy sorts and interpolates several times as fast as torch does on a CPU.
    source, steps = values.detach().cpu().numpy(), np.sort(wanted.detach().cpu().numpy())
    order = np.argsort(source)
    last, last_wanted = _last_of_equals(source[order]), _last_of_equals(steps)
    rank = (last + 1) / len(source) * (threshold / 255)
    levels = np.interp(rank, (last_wanted + 1) / len(steps), steps[last_wanted])
    matched = np.empty_like(source)
    matched[order] = np.repeat(levels.astype(np.float32), np.diff(last, prepend=-1))
    return torch.from_numpy(matched).to(values.device)


def _last_of_equals(rising: np.ndarray) -> np.ndarray:
    """Indices of rising values whose next is another one, and of the last."""
    return np.flatnonzero(np.append(rising[1:] != rising[:-1], True))


def _distribution(source: Tensor, wanted: Tensor, make: torch.Generator) -> Tensor:
    """idt: match the three marginals, a twentieth of the way, after each of twenty rotations."""
    turns = torch.stack([random_rotation(make) for _ in range(IDT_ROTATIONS)])
    turns = turns.float().to(source.device)
    return match_axes(source, wanted, turns, IDT_BINS)


def random_rotation(make: torch.Generator) -> Tensor:  # [3, 3] float64
    """A rotation, all equally likely: the frame of three normal vectors, made right-handed."""
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=make, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q)


# --- sot, mix: along many directions at once ----------------------------------------------------


def _sliced(crop, target, inside, count, color, make):
    """Sliced transport, and what it added smoothed over the face."""
    directions = torch.randn(SOT_STEPS, count, 3, generator=make)
    directions = (directions / directions.norm(dim=2, keepdim=True)).to(crop.device)
    source, wanted = _inside(crop, inside), _inside(target, inside)
    blurs = color >= 1  # wider than colours differ: where one pixel goes is then of no matter
    moved = sliced_transport(source, wanted, directions, not blurs)
    added = _put(torch.zeros_like(crop), inside, moved - source)
    weight = inside.to(crop.dtype)
    step = 1 + sum(max(crop.shape[1:]) > side for side in SPARE_SIDES[blurs])
    smooth = bilateral(added[None], weight[None], color, SOT_SPACE, step)
    return _where(inside, crop + smooth[0], crop)


def _mix(crop, target, inside, make):
    """Lightness by lct, chroma by sot at one lightness."""
    lab, lab_target = convert_lab(torch.stack([crop, target]))
    light = _affine(lab[:1] / 100, lab_target[:1] / 100, inside, _whiten_color) * 100
    lab[0], lab_target[0] = MIX_LIGHTNESS, MIX_LIGHTNESS
    flat = convert_lab(torch.stack([lab, lab_target]), back=True)
    chroma = _sliced(flat[0], flat[1], inside, SOT_DIRECTIONS["mix-m"], SOT_COLOR / 255, make)
    moved = convert_lab(chroma.clamp(0, 1)[None])[0]
    moved[0] = light[0].clamp(0, 100)
    return _where(inside, convert_lab(moved[None], back=True)[0], crop)


def _where(inside: Tensor, there: Tensor, elsewhere: Tensor) -> Tensor:
    return there if inside.all() else torch.where(inside, there, elsewhere)


reinhard_op = Op(
    "reinhard(Tensor crop, Tensor target, Tensor inside, bool counts_all) -> Tensor",
    _reinhard_reference,
    fake=lambda crop, *rest: torch.empty_like(crop),
    gradient=False,
)


def _why_not_reinhard(crop, target, inside, counts_all) -> str:
    if crop.dtype != torch.float32:
        return f"needs float32, got {crop.dtype}"
    return _native.why_not(crop, target, inside) or not_contiguous(crop, target)


def _reinhard_native(crop, target, inside, counts_all):
    out = torch.empty_like(crop)
    threads = _native.threads(inside.numel() >> 14)
    mask = inside.contiguous().view(torch.uint8).flatten()
    of_crop, of_target, result = (t.flatten(1) for t in (crop, target, out))
    _native.module.reinhard(of_crop, of_target, mask, result, counts_all, threads)
    return out


reinhard_op.implement("native", _reinhard_native, _why_not_reinhard)
