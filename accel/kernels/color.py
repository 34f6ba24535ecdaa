"""Colour of a face: its statistics, how light falls on it, and moving it to another's.

All in CIE Lab (D65) of sRGB-coded input. Sources: IEC 61966-2-1 (sRGB); CIE 15:2004 (Lab);
Reinhard et al. 2001, doi:10.1109/38.946629 (matching mean and deviation); Knutsson and Westin
1993, doi:10.1109/CVPR.1993.341081 (normalised convolution).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, triton_kernels
from accel.kernels._why_not import not_contiguous, not_on_gpu

# Linear sRGB to XYZ, each row divided by the white point D65, so that white is (1, 1, 1).
WHITE = (0.950456, 1.0, 1.088754)
RGB_TO_XYZ = (
    (0.412453 / WHITE[0], 0.357580 / WHITE[0], 0.180423 / WHITE[0]),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / WHITE[2], 0.119193 / WHITE[2], 0.950227 / WHITE[2]),
)
XYZ_TO_RGB = tuple(map(tuple, torch.tensor(RGB_TO_XYZ, dtype=torch.float64).inverse().tolist()))
# Below f = 6/29 the cube root of Lab is replaced by its tangent.
BEND = 6 / 29
MIN_DEVIATION = 1e-6
SMOOTH = 1 / 8  # deviation of the low-pass over the grid of light, as a share of its side


def color_stats(
    crops: Tensor,  # [N, 3, H, W] RGB 0..1, sRGB-coded
    masks: Tensor,  # [N, H, W] weight of each pixel, 0 or more
) -> Tensor:  # [N, 2, 3] float32: mean and deviation of L, a, b
    """Weigh the colours under each mask: L is 0..100, a and b about -100..100.

    Where a mask is empty the result is zero. Pixels of weight 0 do not count, whatever they hold.
    """
    _check("color_stats", crops, masks)
    return color_stats_op(crops.contiguous(), masks)


def illumination(
    crops: Tensor,  # [N, 3, H, W] RGB 0..1, sRGB-coded
    masks: Tensor,  # [N, H, W] weight of each pixel, 0 or more
    grid: int = 16,
) -> Tensor:  # [N, 4, grid, grid] float32: L, a, b and the weight
    """Find how light falls on the face: its colour after a wide low-pass, on a small grid.

    Pixel (x, y) belongs to cell (x·grid // W, y·grid // H). Colours are averaged under the mask and
    blurred by a Gaussian whose deviation is grid / 8 cells, only over what the mask covers, so that
    holes are filled in from around. The last channel is the mask's mean in the cell. Where a mask
    is empty the result is zero.
    """
    _check("illumination", crops, masks)
    if not 1 <= grid <= 64:
        raise ValueError(f"illumination: grid must lie in 1..64, got {grid}")
    return illumination_op(crops.contiguous(), masks, grid)


def relight(
    crops: Tensor,  # [N, 3, H, W] RGB 0..1, sRGB-coded
    source_stats: Tensor,  # [N, 2, 3] what `color_stats` says of the crops
    target_stats: Tensor,  # [N, 2, 3] what it shall say afterwards
    source_light: Tensor,  # [N, 3 or 4, G, G] what `illumination` says of the crops
    target_light: Tensor,  # as source_light, of the place where the crops are put
    strength: float = 0.75,  # how much of the target's light is taken over, 0..1
    max_gain: float = 1.6,  # contrast is multiplied or divided by no more than this
) -> Tensor:  # [N, 3, H, W] RGB 0..1, dtype of crops
    """Give faces the colours and the light of the place they are put in.

    In Lab, with means m, deviations d and light I of source s and target t:
    R(x) = (x - m_s) · clip(d_t / d_s, 1 / max_gain, max_gain) + m_t, and the result is
    R(x) + strength · (I_t - R(I_s)), the grids read bilinearly, clamped to what RGB can show.

    Statistics of an empty mask are zero, which would paint black: leave such faces out.
    """
    count = crops.shape[0]
    if crops.ndim != 4 or crops.shape[1] != 3 or not crops.is_floating_point():
        raise ValueError(f"relight: crops must be [N, 3, H, W] floats, got {_say(crops)}")
    for name, stats in (("source_stats", source_stats), ("target_stats", target_stats)):
        if stats.shape != (count, 2, 3):
            raise ValueError(f"relight: {name} must be [{count}, 2, 3], got {_say(stats)}")
    light = source_light.shape
    if len(light) != 4 or light[0] != count or light[1] not in (3, 4) or 0 in light[2:]:
        raise ValueError(
            f"relight: source_light must be [{count}, 3 or 4, G, G], got {_say(source_light)}"
        )
    if target_light.shape != light:
        raise ValueError(
            f"relight: target_light must be like source_light, {_say(source_light)}, "
            f"got {_say(target_light)}"
        )
    if not max_gain >= 1:
        raise ValueError(f"relight: max_gain must be at least 1, got {max_gain}")
    grids = source_light, target_light
    return relight_op(crops.contiguous(), source_stats, target_stats, *grids, strength, max_gain)


def _check(who: str, crops: Tensor, masks: Tensor) -> None:
    if crops.ndim != 4 or crops.shape[1] != 3 or not crops.is_floating_point():
        raise ValueError(f"{who}: crops must be [N, 3, H, W] floats, got {_say(crops)}")
    if masks.shape != (crops.shape[0], *crops.shape[2:]) or not masks.is_floating_point():
        raise ValueError(
            f"{who}: masks must be [N, H, W] floats like the crops {_say(crops)}, got {_say(masks)}"
        )


def _say(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype}"


def rgb_to_lab(rgb: Tensor) -> Tensor:  # [N, 3, ...] sRGB-coded 0..1 -> L 0..100, a, b; float32
    """The definition: exact powers, input clamped to 0..1, NaN kept."""
    coded = rgb.float().clamp(0, 1)
    curve = ((coded + 0.055) / 1.055).clamp(min=0.05).pow(2.4)
    linear = torch.where(coded > 0.04045, curve, coded / 12.92)
    xyz = torch.einsum("ij,nj...->ni...", linear.new_tensor(RGB_TO_XYZ), linear)
    root = xyz.clamp(min=BEND**3).pow(1 / 3)
    f = torch.where(xyz > BEND**3, root, xyz / (3 * BEND**2) + 4 / 29)
    fx, fy, fz = f.unbind(1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:  # [N, 3, ...] -> sRGB-coded, clamped to 0..1; float32
    """The inverse of `rgb_to_lab`, clamped in linear light."""
    fy = (lab[:, 0].float() + 16) / 116
    f = torch.stack([fy + lab[:, 1] / 500, fy, fy - lab[:, 2] / 200], 1)
    xyz = torch.where(f > BEND, f * f * f, (f - 4 / 29) * (3 * BEND**2))
    linear = torch.einsum("ij,nj...->ni...", xyz.new_tensor(XYZ_TO_RGB), xyz).clamp(0, 1)
    curve = 1.055 * linear.clamp(min=0.003).pow(1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curve, 12.92 * linear)


def convert_lab(
    pictures: Tensor,  # [N, 3, H, W] as `rgb_to_lab` or, to go back, `lab_to_rgb` takes them
    back: bool = False,
) -> Tensor:  # [N, 3, H, W]
    """What `rgb_to_lab` gives, or `lab_to_rgb` with `back`, faster and without a gradient."""
    return lab_op(pictures.contiguous(), back)


def _stats_reference(crops, masks):
    weight = masks.float()[:, None]
    lab = torch.where(weight > 0, rgb_to_lab(crops), 0)
    total = weight.sum((2, 3))
    share = 1 / torch.where(total > 0, total, 1)
    mean = (weight * lab).sum((2, 3)) * share
    away = torch.where(weight > 0, lab - mean[:, :, None, None], 0)
    variance = (weight * away * away).sum((2, 3)) * share
    return torch.stack([mean, variance.sqrt()], 1)


def _cells(count: int, grid: int, like: Tensor) -> Tensor:  # [grid, count] 1 where a pixel belongs
    cell = torch.arange(count, device=like.device) * grid // max(count, 1)
    return (cell == torch.arange(grid, device=like.device)[:, None]).float()


def _low_pass(grid: int, like: Tensor) -> Tensor:  # [grid, grid] Gaussian between two cells
    at = torch.arange(grid, device=like.device, dtype=torch.float32)
    return torch.exp(-((at - at[:, None]) ** 2) / (2 * (SMOOTH * grid) ** 2))


def _illumination_reference(crops, masks, grid):
    weight = masks.float()[:, None]
    lab = torch.where(weight > 0, rgb_to_lab(crops), 0)
    columns, rows = _cells(crops.shape[3], grid, weight), _cells(crops.shape[2], grid, weight)
    sums = rows @ torch.cat([weight * lab, weight], 1) @ columns.T
    pixels = rows.sum(1)[:, None] * columns.sum(1)
    return _smoothed(sums, pixels)


def _smoothed(sums: Tensor, pixels: Tensor) -> Tensor:
    """[N, 4, G, G] sums of weighted L, a, b and of weights -> what `illumination` returns."""
    low_pass = _low_pass(sums.shape[-1], sums)
    wide = low_pass @ sums @ low_pass
    weight = wide[:, 3:]
    light = torch.where(weight > 0, wide[:, :3] / torch.where(weight > 0, weight, 1), 0)
    return torch.cat([light, sums[:, 3:] / pixels.clamp(min=1)], 1)


def _transfer(source_stats, target_stats, source_light, target_light, strength, max_gain):
    """Gain and bias [N, 3] of R, and what is added to R, [N, 3, G, G] in Lab."""
    mean_s, deviation_s = source_stats.float().unbind(1)
    mean_t, deviation_t = target_stats.float().unbind(1)
    gain = (deviation_t / deviation_s.clamp(min=MIN_DEVIATION)).clamp(1 / max_gain, max_gain)
    bias = mean_t - mean_s * gain
    moved = gain[:, :, None, None] * source_light[:, :3].float() + bias[:, :, None, None]
    return gain, bias, strength * (target_light[:, :3].float() - moved)


def _relight_reference(
    crops, source_stats, target_stats, source_light, target_light, strength, max_gain
):
    gain, bias, added = _transfer(
        source_stats, target_stats, source_light, target_light, strength, max_gain
    )
    lab = rgb_to_lab(crops) * gain[:, :, None, None] + bias[:, :, None, None]
    if crops.numel():
        lab = lab + F.interpolate(added, crops.shape[2:], mode="bilinear", align_corners=False)
    return lab_to_rgb(lab).to(crops.dtype).contiguous()


color_stats_op = Op("color_stats(Tensor crops, Tensor masks) -> Tensor", _stats_reference)
illumination_op = Op(
    "illumination(Tensor crops, Tensor masks, int grid) -> Tensor", _illumination_reference
)
relight_op = Op(
    "relight(Tensor crops, Tensor source_stats, Tensor target_stats, Tensor source_light,"
    " Tensor target_light, float strength, float max_gain) -> Tensor",
    _relight_reference,
    fake=lambda crops, *rest: crops.new_empty(crops.shape),
)

lab_op = Op(
    "convert_lab(Tensor pictures, bool back) -> Tensor",
    lambda pictures, back: lab_to_rgb(pictures) if back else rgb_to_lab(pictures),
    fake=lambda pictures, back: torch.empty_like(pictures),
    gradient=False,
)


def _why_not_triton(crops, *rest) -> str:
    if crops.dtype not in (torch.float32, torch.float16):
        return f"needs float32 or float16, got {crops.dtype}"
    return not_on_gpu(crops) or not_contiguous(crops)


def _stats_triton(crops, masks):
    # of parts of the crops, [N, parts, 1 or 3]
    weight, mean, squares = triton_kernels("color").moments(crops, masks.contiguous())
    total = weight.sum(1)
    share = 1 / torch.where(total > 0, total, 1)
    whole = (weight * mean).sum(1) * share
    spread = squares + weight * (mean - whole[:, None]) ** 2
    return torch.stack([whole, (spread.sum(1) * share).sqrt()], 1)


def _illumination_triton(crops, masks, grid):
    sums = triton_kernels("color").cell_sums(crops, masks.contiguous(), grid)
    rows, columns = _cells(crops.shape[2], grid, sums), _cells(crops.shape[3], grid, sums)
    return _smoothed(sums, rows.sum(1)[:, None] * columns.sum(1))


def _relight_triton(crops, *rest):
    gain, bias, added = _transfer(*rest)
    return triton_kernels("color").apply(crops, gain, bias, added)


color_stats_op.implement("triton", _stats_triton, _why_not_triton)
illumination_op.implement("triton", _illumination_triton, _why_not_triton)
relight_op.implement("triton", _relight_triton, _why_not_triton)


def _why_not_native(crops, *rest) -> str:
    if crops.dtype != torch.float32:
        return f"needs float32, got {crops.dtype}"
    tensors = [a for a in (crops, *rest) if isinstance(a, Tensor)]
    return _native.why_not(*tensors) or not_contiguous(crops)


def _threads(crops: Tensor) -> int:
    """One for each 2^16 pixels: less work is not worth waking a thread for."""
    return _native.threads(crops.shape[0] * crops.shape[2] * crops.shape[3] >> 16)


def _stats_native(crops, masks):
    out = torch.empty(crops.shape[0], 2, 3)
    _native.module.color_stats(crops, masks.float().contiguous(), out, _threads(crops))
    return out


def _illumination_native(crops, masks, grid):
    out = torch.empty(crops.shape[0], 4, grid, grid)
    masks = masks.float().contiguous()
    _native.module.illumination(crops, masks, _low_pass(grid, out), out, _threads(crops))
    return out


def _relight_native(crops, *rest):
    gain, bias, added = _transfer(*rest)
    out = torch.empty_like(crops)
    _native.module.relight(crops, gain, bias, added.contiguous(), out, _threads(crops))
    return out


def _lab_native(pictures, back):
    out = torch.empty_like(pictures)
    threads = _native.threads(pictures.numel() >> 16)
    planes = (3 * len(pictures), pictures[0, 0].numel() if len(pictures) else 0)
    _native.module.convert_lab(pictures.view(planes), out.view(planes), back, threads)
    return out


color_stats_op.implement("native", _stats_native, _why_not_native)
illumination_op.implement("native", _illumination_native, _why_not_native)
relight_op.implement("native", _relight_native, _why_not_native)
lab_op.implement("native", _lab_native, _why_not_native)
