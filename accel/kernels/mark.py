"""Add a fixed pattern of small integers to a plane, in place: how an invisible mark gets in.

code' = clamp(code + pattern · 2^shift, 0, max_code); where `before` is given, a sample that equals
it stays as it is, so that only what was changed since then is marked.

Source: additive spread spectrum, Cox, Kilian, Leighton and Shamoon 1997, doi:10.1109/83.650120.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, triton_kernels
from accel.kernels._why_not import not_on_gpu


def mark(
    plane: Tensor,  # [H, W] uint8 or uint16, written in place; rows and columns may be strided
    pattern: Tensor,  # [H, W] int8, in codes of an 8-bit plane
    *,
    bits: int = 8,  # that a code value has: 8 for uint8, 9 to 16 for uint16
    before: Tensor | None = None,  # [H, W] as plane: samples equal to it are left alone
) -> None:
    """Add `pattern` to a plane, saturating; see the module for the definition.

    Raises ValueError for shapes that do not fit, TypeError for other kinds of numbers.
    """
    if plane.ndim != 2 or plane.shape != pattern.shape:
        raise ValueError(
            "mark: plane and pattern must be [H, W] of one size, "
            f"got {tuple(plane.shape)} and {tuple(pattern.shape)}"
        )
    if pattern.dtype != torch.int8:
        raise TypeError(f"mark: pattern must be int8, got {pattern.dtype}")
    if not (bits == 8 or 9 <= bits <= 16):
        raise ValueError(f"mark: bits must lie in 8..16, got {bits}")
    if plane.dtype != (torch.uint8 if bits == 8 else torch.uint16):
        raise TypeError(
            f"mark: plane must be uint8 for 8 bits and uint16 above, got {plane.dtype}, {bits} bits"
        )
    if before is not None and (before.shape != plane.shape or before.dtype != plane.dtype):
        raise ValueError(
            f"mark: before must be {tuple(plane.shape)} {plane.dtype} as the plane, "
            f"got {tuple(before.shape)} {before.dtype}"
        )
    if plane.numel():
        op(plane, pattern, before, bits)


def _reference(plane, pattern, before, bits):
    codes = plane.to(torch.int32)
    new = (codes + (pattern.to(torch.int32) << (bits - 8))).clamp(0, (1 << bits) - 1)
    if before is not None:
        new = torch.where(before.to(torch.int32) == codes, codes, new)
    plane.copy_(new.to(plane.dtype))


op = Op(
    "mark(Tensor(a!) plane, Tensor pattern, Tensor? before, int bits) -> ()",
    _reference,
    fake=lambda *args: None,
)


def _native_run(plane, pattern, before, bits):
    _native.module.mark(plane, pattern, before, bits, torch.get_num_threads())


def _why_not_native(plane, pattern, before, bits) -> str:
    return _native.why_not(plane, pattern, *([] if before is None else [before]))


op.implement("native", _native_run, _why_not_native)


def _triton(plane, pattern, before, bits):
    triton_kernels("mark").add_pattern(plane, pattern, before, bits)


def _why_not_triton(plane, pattern, before, bits) -> str:
    tensors = [plane, pattern] if before is None else [plane, pattern, before]
    if any((t.shape[0] - 1) * t.stride(0) + t.shape[1] * t.stride(1) >= 1 << 31 for t in tensors):
        return "needs planes of fewer than 2^31 samples"
    return not_on_gpu(*tensors)


op.implement("triton", _triton, _why_not_triton)
