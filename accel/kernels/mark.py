"""Add a fixed pattern of small integers to a plane, in place: how an invisible mark gets in.

code' = clamp(code + pattern · 2^shift, 0, max_code), the pattern being repeated over the plane;
where `before` is given, a sample that equals it stays as it is, so that only what was changed since
then is marked.

Source: additive spread spectrum, Cox, Kilian, Leighton and Shamoon 1997, doi:10.1109/83.650120.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import FORCED, Op, triton_kernels
from accel.kernels._why_not import not_on_gpu
from accel.kernels.planes import Planes


def mark(
    plane: Tensor,  # [H, W] uint8 or uint16, written in place; rows and columns may be strided
    pattern: Tensor,  # [P, Q] int8, in codes of an 8-bit plane; repeated down and right
    *,
    bits: int = 8,  # that a code value has: 8 for uint8, 9 to 16 for uint16
    before: Tensor | None = None,  # [H, W] as plane: samples equal to it are left alone
    top: int = 0,  # row and
    left: int = 0,  # column of the pattern that lie on the plane's first sample
) -> None:
    """Add `pattern` to a plane, saturating; see the module for the definition.

    Raises ValueError for shapes that do not fit, TypeError for other kinds of numbers.
    """
    if plane.ndim != 2 or pattern.ndim != 2:
        raise ValueError(
            "mark: plane must be [H, W] and pattern [P, Q], "
            f"got {tuple(plane.shape)} and {tuple(pattern.shape)}"
        )
    begins = 0 <= top < pattern.shape[0] and 0 <= left < pattern.shape[1]
    if plane.numel() and not begins:
        raise ValueError(
            f"mark: top and left must lie in the pattern's {tuple(pattern.shape)}, "
            f"got {top} and {left}"
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
        op(plane, pattern, before, bits, top, left)


def _reference(plane, pattern, before, bits, top, left):
    rows, columns = (
        (torch.arange(count, device=plane.device) + first) % size
        for count, first, size in zip(plane.shape, (top, left), pattern.shape)
    )
    pattern = pattern[rows][:, columns]
    codes = plane.to(torch.int32)
    new = (codes + (pattern.to(torch.int32) << (bits - 8))).clamp(0, (1 << bits) - 1)
    if before is not None:
        new = torch.where(before.to(torch.int32) == codes, codes, new)
    plane.copy_(new.to(plane.dtype))


op = Op(
    "mark(Tensor(a!) plane, Tensor pattern, Tensor? before, int bits, int top, int left) -> ()",
    _reference,
    fake=lambda *args: None,
)


def _native_run(plane, pattern, before, bits, top, left):
    _native.module.mark(plane, pattern, before, bits, top, left, torch.get_num_threads())


def _why_not_native(plane, pattern, before, bits, top, left) -> str:
    return _native.why_not(plane, pattern, *([] if before is None else [before]))


op.implement("native", _native_run, _why_not_native)


def stamp(
    planes: Planes,  # a frame like those to come
    pattern: Tensor | None,  # as `mark` takes it, for `marked` of the planes
    marked: int,
    label: Sequence[tuple[int, int, Tensor, Tensor]] = (),
    shift: int = 0,
) -> Callable[[Tensor, Tensor, Tensor], None] | None:
    """Return what draws a label into three planes and marks them in one native call.

    label: for each plane, from which row and column on it is (code * keep + add) >> shift, and
        keep and add [h, w], int16 for 8 bits and int32 above.
    None where native code cannot, or is not wanted.
    """
    if FORCED not in ("", "native") or _native.why_not(planes.c0):
        return None
    op.used.add("native")
    made = _native.module.Stamp(planes.layout.bits, shift, marked, pattern, torch.get_num_threads())
    for part in label:
        made.shade_next(*part)
    return cast(Callable[[Tensor, Tensor, Tensor], None], made)


def _triton(plane, pattern, before, bits, top, left):
    triton_kernels("mark").add_pattern(plane, pattern, before, bits, top, left)


def _why_not_triton(plane, pattern, before, bits, top, left) -> str:
    tensors = [plane, pattern] if before is None else [plane, pattern, before]
    if any((t.shape[0] - 1) * t.stride(0) + t.shape[1] * t.stride(1) >= 1 << 31 for t in tensors):
        return "needs planes of fewer than 2^31 samples"
    return not_on_gpu(*tensors)


op.implement("triton", _triton, _why_not_triton)
