"""The Triton side of `mark`: one program adds the pattern to a block of one row."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _mark_kernel(
    plane_ptr, pattern_ptr, before_ptr, width, unit, max_code, rows, columns, top, left,
    plane_row, plane_step, pattern_row, pattern_step, before_row, before_step,
    COMPARE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    x, y = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = x < width
    at = plane_ptr + y * plane_row + x * plane_step
    code = tl.load(at, inside, 0).to(tl.int32)
    add = pattern_ptr + (y + top) % rows * pattern_row + (x + left) % columns * pattern_step
    pattern = tl.load(add, inside, 0).to(tl.int32)
    if COMPARE:
        before = tl.load(before_ptr + y * before_row + x * before_step, inside, 0).to(tl.int32)
        inside = inside & (before != code)
    code = tl.minimum(tl.maximum(code + pattern * unit, 0), max_code)
    tl.store(at, code.to(plane_ptr.dtype.element_ty), inside)


def add_pattern(plane, pattern, before, bits, top, left) -> None:
    height, width = plane.shape
    compare = before is not None
    _mark_kernel[(triton.cdiv(width, BLOCK), height)](
        plane, pattern, before if compare else plane, width, 1 << (bits - 8), (1 << bits) - 1,
        *pattern.shape, top, left, *plane.stride(), *pattern.stride(),
        *(before.stride() if compare else (0, 0)),
        COMPARE=compare, BLOCK=BLOCK,
    )  # fmt: skip


def _variant(code: str, compare: bool) -> dict:
    kinds = {"plane_ptr": f"*{code}", "pattern_ptr": "*i8", "before_ptr": f"*{code}"}
    constexprs = {"COMPARE": compare, "BLOCK": BLOCK}
    # Columns lie side by side in the planes of every decoder, and Triton compiles a 1 in.
    ones = dict.fromkeys(("plane_step", "pattern_step"), 1)
    signature = {
        name: "constexpr" if name in constexprs or name in ones else kinds.get(name, "i32")
        for name in _mark_kernel.arg_names
    }
    return {
        "name": f"mark_{code}_{'changed' if compare else 'all'}", "kernel": _mark_kernel,
        "signature": signature, "constexprs": constexprs | ones, "num_warps": 4,
    }  # fmt: skip


AOT = [_variant(code, compare) for code in ("u8", "u16") for compare in (False, True)]
