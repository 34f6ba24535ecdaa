"""Three planes that make a picture, and the arithmetic between their code values and RGB.

Sources: ITU-T H.273 (colour matrices, ranges, chroma sample location), ITU-R BT.601, BT.709,
BT.2020, SMPTE 240M.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from accel.core import ConfigError

# Weights of red and blue in luma (H.273 table 4); green is what is left of 1.
LUMA_WEIGHTS = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}
SITINGS = ("left", "center", "topleft")


@dataclass(frozen=True, kw_only=True)
class PlaneLayout:
    """How three planes make a picture.

    shift_x, shift_y: log2 of the chroma subsampling (4:2:0 is 1, 1; 4:2:2 is 1, 0; 4:4:4 is 0, 0).
    site_x, site_y: where chroma sample (0, 0) lies, in luma pixels from the centre of luma
        sample (0, 0); chroma sample (i, j) lies at (site_x + i·2^shift_x, site_y + j·2^shift_y).
    bits: bits a code value has; planes are uint8 for 8 bits and uint16 above.
    to_rgb: twelve numbers, row-major [3, 4]: RGB in 0..1 is to_rgb[:, :3] · codes + to_rgb[:, 3].
    from_rgb: the inverse, RGB in 0..1 to code values before rounding.
    """

    shift_x: int
    shift_y: int
    site_x: float
    site_y: float
    bits: int
    to_rgb: tuple[float, ...]
    from_rgb: tuple[float, ...]

    @property
    def max_code(self) -> int:
        return (1 << self.bits) - 1

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.bits == 8 else torch.uint16


class Planes(NamedTuple):
    """A picture as it lies in memory. Rows may be padded (strides), samples in a row lie together
    in plane 0; planes 1 and 2 may be interleaved (NV12)."""

    c0: Tensor  # [H, W] luma, or green of planar RGB; uint8 or uint16
    c1: Tensor  # [ceil(H / 2^shift_y), ceil(W / 2^shift_x)] Cb, or blue
    c2: Tensor  # as c1: Cr, or red
    layout: PlaneLayout

    @property
    def height(self) -> int:
        return int(self.c0.shape[0])

    @property
    def width(self) -> int:
        return int(self.c0.shape[1])

    def clone(self) -> Planes:
        return Planes(self.c0.clone(), self.c1.clone(), self.c2.clone(), self.layout)


def check_planes(who: str, planes: Planes) -> None:
    """Raise ValueError unless the three planes fit their layout."""
    layout = planes.layout
    for name, plane in zip(("c0", "c1", "c2"), planes[:3]):
        if plane.ndim != 2 or plane.dtype != layout.dtype:
            raise ValueError(
                f"{who}: plane {name} must be [H, W] {layout.dtype} for {layout.bits} bits, "
                f"got {tuple(plane.shape)} {plane.dtype}"
            )
    height, width = planes.c0.shape
    small = (-(-height // (1 << layout.shift_y)), -(-width // (1 << layout.shift_x)))
    if not tuple(planes.c1.shape) == tuple(planes.c2.shape) == small:
        raise ValueError(
            f"{who}: planes c1 and c2 must be {small} beside a {height}x{width} c0, "
            f"got {tuple(planes.c1.shape)} and {tuple(planes.c2.shape)}"
        )


@lru_cache(maxsize=64)
def yuv_layout(
    *,
    matrix: str = "bt709",
    full_range: bool = False,
    bits: int = 8,
    shift_x: int = 1,
    shift_y: int = 1,
    siting: str = "left",
) -> PlaneLayout:
    """Describe Y'CbCr planes.

    matrix: bt601, bt709, bt2020 (non-constant luminance), smpte240m or fcc.
    siting: where the first chroma sample lies along a subsampled axis: `left` (MPEG-2, H.264
        default: on the column, between rows), `center` (JPEG: between both), `topleft` (UHD).
    """
    if matrix not in LUMA_WEIGHTS:
        raise ConfigError(f"matrix must be one of {', '.join(LUMA_WEIGHTS)}, got {matrix!r}")
    if siting not in SITINGS:
        raise ConfigError(f"siting must be one of {', '.join(SITINGS)}, got {siting!r}")
    if not 8 <= bits <= 16:
        raise ConfigError(f"bits must lie in 8..16, got {bits}")
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    unit = float(1 << (bits - 8))
    if full_range:
        luma_span, luma_zero, chroma_span = 256 * unit - 1, 0.0, 256 * unit - 1
    else:
        luma_span, luma_zero, chroma_span = 219 * unit, 16 * unit, 224 * unit
    from_rgb = torch.tensor(
        [
            [red * luma_span, green * luma_span, blue * luma_span, luma_zero],
            [*(chroma_span * w / (2 * (1 - blue)) for w in (-red, -green, 1 - blue)), 128 * unit],
            [*(chroma_span * w / (2 * (1 - red)) for w in (1 - red, -green, -blue)), 128 * unit],
        ],
        dtype=torch.float64,
    )
    center_x, center_y = ((1 << shift_x) - 1) / 2, ((1 << shift_y) - 1) / 2
    return PlaneLayout(
        shift_x=shift_x,
        shift_y=shift_y,
        site_x=center_x if siting == "center" else 0.0,
        site_y=0.0 if siting == "topleft" else center_y,
        bits=bits,
        to_rgb=_numbers(_inverse(from_rgb)),
        from_rgb=_numbers(from_rgb),
    )


@lru_cache(maxsize=8)
def gbr_layout(*, bits: int = 8) -> PlaneLayout:
    """Describe planar RGB as FFmpeg keeps it: planes green, blue, red, full range."""
    top = float((1 << bits) - 1)
    from_rgb = torch.tensor([[0, top, 0, 0], [0, 0, top, 0], [top, 0, 0, 0]], dtype=torch.float64)
    return PlaneLayout(
        shift_x=0, shift_y=0, site_x=0.0, site_y=0.0, bits=bits,
        to_rgb=_numbers(_inverse(from_rgb)), from_rgb=_numbers(from_rgb),
    )  # fmt: skip


def _inverse(affine: Tensor) -> Tensor:  # [3, 4] -> [3, 4]
    linear = torch.linalg.inv(affine[:, :3])
    return torch.cat([linear, -linear @ affine[:, 3:]], dim=1)


def _numbers(affine: Tensor) -> tuple[float, ...]:
    return tuple(affine.flatten().tolist())
