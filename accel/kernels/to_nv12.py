"""A decoder's pictures as the codes that a video encoder reads, in one launch.

NV12: a plane of luma, then one of chroma pairs at half the size. Twelve times fewer bytes than
float32 RGB leave the device, or none where the encoder is on it. Chroma lies as MPEG-2 and all its
successors have it: on the left one of two pixels, between two rows.

Source: ITU-T H.273 and ITU-R BT.709 for the matrix; FFmpeg's NV12 for the order of samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels._op import Op, triton_kernels
from accel.kernels._why_not import not_contiguous, not_on_gpu
from accel.kernels.planes import yuv_layout


def to_nv12(
    x: Tensor,  # [B, 3, H, W] red, green, blue in -1..1; float; H and W even
    *,
    matrix: str = "bt709",
    full_range: bool = False,
) -> Tensor:  # [B, 3 * H / 2, W] uint8: H rows of luma, then H / 2 rows of blue and red in turn
    """Quantise, convert and pack; what lies outside -1..1 is clipped.

    Raises ValueError for a shape without whole chroma samples or a matrix that is not known.
    """
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"to_nv12: x must be [B, 3, H, W], H and W even, got {tuple(x.shape)}")
    layout = yuv_layout(matrix=matrix, full_range=full_range, bits=8, shift_x=1, shift_y=1)
    return op(x, list(layout.from_rgb))


def _reference(x, color):
    m = torch.tensor(color, dtype=torch.float64, device=x.device).reshape(3, 4)
    rgb = x.double().clamp(-1, 1) / 2 + 0.5
    luma = torch.einsum("c,bchw->bhw", m[0, :3], rgb) + m[0, 3]
    left = torch.cat([rgb[..., :1], rgb[..., 1:-1:2]], -1)  # the pixel before, at the edge itself
    small = (left + 2 * rgb[..., 0::2] + rgb[..., 1::2]) / 4
    small = (small[:, :, 0::2] + small[:, :, 1::2]) / 2
    chroma = torch.einsum("kc,bchw->bhwk", m[1:, :3], small) + m[1:, 3]
    codes = torch.cat([luma, chroma.flatten(2)], 1)
    return (codes + 0.5).floor().clamp(0, 255).to(torch.uint8)


op = Op(
    "to_nv12(Tensor x, float[] color) -> Tensor",
    _reference,
    gradient=False,  # code values are whole numbers
)


def _triton(x, color):
    images, _, height, width = x.shape
    out = torch.empty((images, height + height // 2, width), dtype=torch.uint8, device=x.device)
    triton_kernels("nv12").write(x, color, out)
    return out


def _why_not_triton(x, color) -> str:
    if why := not_on_gpu(x) or not_contiguous(x):
        return why
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"needs float32, float16 or bfloat16, got {x.dtype}"
    if not x.numel() > 0 or x.shape[2] * x.shape[3] >= 1 << 29:
        return f"needs 1 to 2^29 pixels, got {tuple(x.shape)}"
    unit = triton_kernels("nv12").UNIT
    if x.shape[2] * x.shape[3] % unit:
        return f"needs a multiple of {unit} pixels, got {tuple(x.shape)}"
    return ""


op.implement("triton", _triton, _why_not_triton)
