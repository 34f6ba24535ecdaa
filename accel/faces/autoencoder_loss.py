"""What a face autoencoder is trained to make small: structure, colour and mask of a face.

Sources: Wang et al. 2004, doi:10.1109/TIP.2003.819861 (structural similarity); weights, windows
and blurs are those of DeepFaceLab's Quick96 and SAEHD.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

STRUCTURE, COLOUR, MASK = 10.0, 10.0, 10.0  # weights of the three terms
DETAIL = 300.0  # weight of eyes and mouth, where they come first
SSIM_SIGMA = 1.5  # pixels
LUMINANCE, CONTRAST = 0.01**2, 0.03**2  # keep divisions by nearly nothing tame


def side_loss(
    face: Tensor,  # [B, 3, R, R] predicted, 0..1
    mask: Tensor,  # [B, 1, R, R] predicted, 0..1
    target: Tensor,  # [B, 3, R, R]
    target_mask: Tensor,  # [B, 1, R, R]
    *,
    kind: str = "quick96",
    masked: bool = True,
    details: Tensor | None = None,  # [B, 1, R, R] 1 on eyes and mouth
) -> Tensor:  # [B]
    """One person's loss for each picture.

    kind: `saehd` blurs masks as SAEHD does and looks at structure in two sizes from 256 pixels on.
    masked: count the face alone, what lies around it not at all. Quick96 always does.
    """
    if face.shape != target.shape or mask.shape != target_mask.shape or face.ndim != 4:
        raise ValueError(
            "side_loss: face and target, mask and target_mask must have one shape, got "
            f"{tuple(face.shape)}, {tuple(target.shape)}, {tuple(mask.shape)}, "
            f"{tuple(target_mask.shape)}"
        )
    if kind not in ("quick96", "saehd"):
        raise ValueError(f"side_loss: kind must be quick96 or saehd, got {kind!r}")
    face, mask, target, target_mask = (t.float() for t in (face, mask, target, target_mask))
    px = face.shape[-1]
    soft = soft_mask(target_mask, kind)
    seen, wanted = (face * soft, target * soft) if masked else (face, target)
    loss = COLOUR * (seen - wanted).square().mean((1, 2, 3))
    for weight, window in windows(px, kind):
        loss = loss + weight * dssim(wanted, seen, window).mean(1)
    if details is not None:
        loss = loss + DETAIL * ((target - face) * details).abs().mean((1, 2, 3))
    return loss + MASK * (target_mask - mask).square().mean((1, 2, 3))


def soft_mask(mask: Tensor, kind: str = "quick96") -> Tensor:  # [B, 1, R, R]
    """The mask as pictures are multiplied by it: blurred, saehd's also wider."""
    soft = gaussian_blur(mask.float(), max(1, mask.shape[-1] // 32))
    return soft.clamp(0, 0.5) * 2 if kind == "saehd" else soft


def windows(px: int, kind: str = "quick96") -> list[tuple[float, int]]:
    """Weight and side of each window that structure is looked at through."""
    if kind == "saehd" and px >= 256:
        return [(STRUCTURE / 2, int(px / 11.6)), (STRUCTURE / 2, int(px / 23.2))]
    return [(STRUCTURE, int(px / 11.6))]


def dssim(
    a: Tensor,  # [B, C, H, W] 0..1
    b: Tensor,
    window: int,  # side of the Gaussian window, whose deviation is 1.5 pixels
) -> Tensor:  # [B, C] 0 where alike, 1 at most
    """Half of what is missing from a structural similarity of one."""
    if not 1 <= window <= min(a.shape[-2:]):
        raise ValueError(f"dssim: window must lie in 1..{min(a.shape[-2:])}, got {window}")
    row = gaussian_row(window, SSIM_SIGMA, (window - 1) / 2).to(a.device)
    # Means of a, b, ab and a² + b² in one pass of two thin convolutions.
    means = _blur(torch.cat([a, b, a * b, a * a + b * b], 1), row)
    mean_a, mean_b, product, squares = means.chunk(4, 1)
    both, each = 2 * mean_a * mean_b, mean_a**2 + mean_b**2
    similar = (both + LUMINANCE) / (each + LUMINANCE)
    structured = (2 * product - both + CONTRAST) / (squares - each + CONTRAST)
    return (1 - (similar * structured).mean((2, 3))) / 2


def gaussian_blur(pictures: Tensor, sigma: float) -> Tensor:  # [B, C, H, W]
    """Blur with a Gaussian cut at two deviations; beyond the edge all is zero."""
    size = max(3, int(4 * sigma)) | 1
    row = gaussian_row(size, sigma, size // 2).to(pictures.device)
    return _blur(F.pad(pictures, [size // 2] * 4), row)


def blur_outside(
    pictures: Tensor,  # [B, 3, R, R]
    mask: Tensor,  # [B, 1, R, R]
) -> Tensor:  # [B, 3, R, R]
    """Blur what lies outside of the mask, of itself alone: the face does not bleed into it."""
    sigma, outside = pictures.shape[-1] / 128, 1 - mask
    weight = gaussian_blur(outside, sigma)
    around = gaussian_blur(pictures * outside, sigma) / weight.where(weight > 0, 1)
    return pictures * mask + around * outside


@lru_cache(maxsize=32)
def gaussian_row(size: int, sigma: float, centre: float) -> Tensor:  # [size] float32
    """Weights that sum to one even after rounding.

    Variances are small differences of means: a sum that is one part in ten million off shows.
    """
    at = torch.arange(size, dtype=torch.float64) - centre
    exact = torch.exp(-(at**2) / (2 * sigma**2))
    row = (exact / exact.sum()).float()
    for i in row.argsort(descending=True)[:4]:
        row[i] += (1 - row.double().sum()).float()
    return row


def _blur(x: Tensor, row: Tensor) -> Tensor:
    channels = x.shape[1]
    across = row.to(x.dtype).view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    x = F.conv2d(x, across, groups=channels)
    return F.conv2d(x, across.transpose(2, 3), groups=channels)
