"""Decoded pictures to bytes: what a viewer, an encoder of stills or Pillow wants.

y = round(127.5 · x + 127.5), held to 0..255, halves to even; NaN gives 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, in_triton
from accel.kernels._why_not import not_on_gpu, refuse_others


def to_uint8(
    x: Tensor,  # [N, C, H, W] float, -1..1 from black to white; any strides
) -> Tensor:  # [N, H, W, C] uint8
    """Turn pictures of -1..1 into bytes, pixels side by side; see the module for the definition.

    Raises ValueError unless x has four dimensions and TypeError unless it is floating.
    """
    refuse_others("to_uint8", x=x)
    if x.ndim != 4:
        raise ValueError(f"to_uint8: x must be [N, C, H, W], got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"to_uint8: x must be floating, got {x.dtype}")
    return op(x)


def _reference(x):
    values = (x.float() * 127.5 + 127.5).nan_to_num(0.0).round().clamp(0, 255)
    return values.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


op = Op("to_uint8(Tensor x) -> Tensor", _reference, gradient=False)


def _native_run(x):
    n, c, h, w = x.shape
    y = torch.empty(n, h, w, c, dtype=torch.uint8)
    _native.module.to_uint8(x.detach(), y, torch.get_num_threads())
    return y


def _why_not_native(x) -> str:
    if x.dtype != torch.float32:
        return f"needs float32, got {x.dtype}"
    return _native.why_not(x) if x.numel() else "has nothing to do"


op.implement("native", _native_run, _why_not_native)


def _why_not_triton(x) -> str:
    if not x.numel() or sum((n - 1) * s for n, s in zip(x.shape, x.stride())) >= 1 << 31:
        return f"needs values within 2^31 of the first, got {tuple(x.shape)} by {x.stride()}"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"needs float32, float16 or bfloat16, got {x.dtype}"
    return not_on_gpu(x)


op.implement("triton", in_triton("norm", "to_bytes"), _why_not_triton)
