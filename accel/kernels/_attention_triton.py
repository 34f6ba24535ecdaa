"""The Triton side of `attention`: heads whose size is no power of two, without padding to one.

A head of 40 is read as 32 + 16 columns, 80 as 64 + 16 and 160 as 128 + 32: three quarters and less
of the products that padding to 64, 128 and 256 costs. Rows are addressed in steps of eight values,
which tells the compiler that a load of 16 bytes is aligned.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = 1.4426950408889634
# Head size: columns of both parts, queries and keys a program takes at a time, warps.
TILES = {40: (32, 16, 128, 64, 8), 80: (64, 16, 64, 64, 4), 160: (128, 32, 64, 32, 8)}
UNIT = 8  # values; what every stride must be a multiple of


def attend(q, k, v, scale):  # [B, H, L, D] and [B, H, M, D] -> [B, H, L, D]
    batch, heads, queries, size = q.shape
    low, high, rows, columns, warps = TILES[size]
    # Heads of one row side by side, as the layer that reads them wants them.
    out = q.new_empty(batch, queries, heads, size).transpose(1, 2)
    steps = [t.stride(i) // UNIT for t in (q, k, v, out) for i in (0, 1, 2)]
    _attention_kernel[(triton.cdiv(queries, rows), batch * heads)](
        q, k, v, out, *steps, heads, queries, k.shape[2], scale * LOG2_E,
        SIZE=size, LOW=low, HIGH=high, ROWS=rows, COLUMNS=columns,
        num_warps=warps, num_stages=2,
    )  # fmt: skip
    return out


@triton.jit
def _part(ptr, rows, count, step, FIRST: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    columns = FIRST + tl.arange(0, WIDTH)
    inside = (rows < count)[:, None] & (columns < SIZE)[None, :]
    return tl.load(ptr + rows[:, None] * (step * 8) + columns[None, :], inside, 0.0)


@triton.jit
def _attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr,
    q_image, q_head, q_row, k_image, k_head, k_row, v_image, v_head, v_row,
    out_image, out_head, out_row, heads, queries, keys, scale,
    SIZE: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    image, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    q_ptr += image * (q_image * 8) + head * (q_head * 8)
    k_ptr += image * (k_image * 8) + head * (k_head * 8)
    v_ptr += image * (v_image * 8) + head * (v_head * 8)
    out_ptr += image * (out_image * 8) + head * (out_head * 8)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    q_low = _part(q_ptr, rows, queries, q_row, 0, LOW, SIZE)
    q_high = _part(q_ptr, rows, queries, q_row, LOW, HIGH, SIZE)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    low = tl.zeros((ROWS, LOW), tl.float32)
    high = tl.zeros((ROWS, HIGH), tl.float32)
    for start in range(0, keys, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        k_low = _part(k_ptr, columns, keys, k_row, 0, LOW, SIZE)
        k_high = _part(k_ptr, columns, keys, k_row, LOW, HIGH, SIZE)
        scores = tl.dot(q_low, tl.trans(k_low), input_precision="ieee")
        scores = tl.dot(q_high, tl.trans(k_high), scores, input_precision="ieee") * scale
        scores = tl.where((columns < keys)[None, :], scores, float("-inf"))
        above = tl.maximum(largest, tl.max(scores, 1))
        shrink = tl.exp2(largest - above)
        weights = tl.exp2(scores - above[:, None])
        total = total * shrink + tl.sum(weights, 1)
        weights = weights.to(v_ptr.dtype.element_ty)
        v_low = _part(v_ptr, columns, keys, v_row, 0, LOW, SIZE)
        v_high = _part(v_ptr, columns, keys, v_row, LOW, HIGH, SIZE)
        low = tl.dot(weights, v_low, low * shrink[:, None], input_precision="ieee")
        high = tl.dot(weights, v_high, high * shrink[:, None], input_precision="ieee")
        largest = above
    to = out_ptr + rows[:, None] * (out_row * 8)
    inside = (rows < queries)[:, None]
    at = tl.arange(0, LOW)
    tl.store(to + at[None, :], (low / total[:, None]).to(out_ptr.dtype.element_ty), inside)
    at = LOW + tl.arange(0, HIGH)
    inside = inside & (at < SIZE)[None, :]
    tl.store(to + at[None, :], (high / total[:, None]).to(out_ptr.dtype.element_ty), inside)


def why_not(q, k, v, causal) -> str:
    size = q.shape[3]
    if causal:
        return "sees all keys"
    if size not in TILES:
        return f"is for heads of {', '.join(map(str, TILES))}, got {size}"
    if not (q.numel() and k.numel()):
        return "needs at least one query and one key"
    for t in (q, k, v):
        if t.stride(3) != 1 or any(t.stride(i) % UNIT for i in (0, 1, 2)):
            return f"needs strides that are multiples of {UNIT}, got {t.stride()}"
        if t.data_ptr() % 16:
            return "needs tensors that begin at a multiple of 16 bytes"
    return ""


def _kind(name: str, code: str) -> str:
    if name.endswith("_ptr"):
        return f"*{code}"
    return "constexpr" if name.isupper() else "fp32" if name == "scale" else "i32"


AOT = [
    {
        "name": f"attention_{size}_{code}",
        "kernel": _attention_kernel,
        "signature": {name: _kind(name, code) for name in _attention_kernel.arg_names},
        "constexprs": {
            "SIZE": size, "LOW": low, "HIGH": high, "ROWS": rows,
            "COLUMNS": columns,
        },
        "num_warps": warps,
        "options": {"num_stages": 2},
        "needs": ("vector loads", "tensor cores"),
    }
    for size, (low, high, rows, columns, warps) in TILES.items()
    for code in ("fp16", "bf16")
]  # fmt: skip
