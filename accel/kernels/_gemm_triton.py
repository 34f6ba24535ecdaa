"""The Triton side of `geglu_linear`: both halves of the product in one pass, gated before they are
written, so that the wide intermediate never reaches memory.

Rows are addressed in steps of eight values, which tells the compiler that a load of 16 bytes is
aligned; neighbouring programs share columns of the weights, which then come from cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROWS, COLUMNS, DEPTH, WARPS, STAGES = 128, 64, 32, 8, 3
GROUP = 8  # blocks of rows that take the same columns one after another
UNIT = 8


def gated(x, weight, bias, out):  # [M, K], [2 * N, K], [2 * N], [M, N] written
    rows, columns = out.shape
    _geglu_linear_kernel[(triton.cdiv(rows, ROWS) * triton.cdiv(columns, COLUMNS),)](
        x, weight, bias, out, x.stride(0) // UNIT, weight.stride(0) // UNIT, rows, columns // UNIT,
        x.shape[1] // UNIT, ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH, GROUP=GROUP,
        num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip


@triton.jit
def _geglu_linear_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, x_row, weight_row, rows, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    x_row, weight_row, columns, depth = x_row * 8, weight_row * 8, columns * 8, depth * 8
    down, across = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    group = tl.program_id(0) // (GROUP * across)
    tall = tl.minimum(down - group * GROUP, GROUP)
    within = tl.program_id(0) % (GROUP * across)
    i = (group * GROUP + within % tall) * ROWS + tl.arange(0, ROWS)
    j = within // tall * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    # Past the end the first ones are read again: what they give is never written.
    x_at = x_ptr + (i % rows).to(tl.int64)[:, None] * x_row + k[None, :]
    near = tl.max_contiguous(tl.multiple_of(j % columns, 8), 8)
    value_at = weight_ptr + near.to(tl.int64)[None, :] * weight_row + k[:, None]
    gate_at = value_at + columns.to(tl.int64) * weight_row
    value = tl.zeros((ROWS, COLUMNS), tl.float32)
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        inside = start + k < depth
        x = tl.load(x_at, inside[None, :], 0.0)
        w = tl.load(value_at, inside[:, None], 0.0)
        value = tl.dot(x, w, value, input_precision="ieee")
        w = tl.load(gate_at, inside[:, None], 0.0)
        gate = tl.dot(x, w, gate, input_precision="ieee")
        x_at += DEPTH
        value_at += DEPTH
        gate_at += DEPTH
    value += tl.load(bias_ptr + j, j < columns, 0.0).to(tl.float32)[None, :]
    gate += tl.load(bias_ptr + columns + j, j < columns, 0.0).to(tl.float32)[None, :]
    y = value * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    to = out_ptr + i.to(tl.int64)[:, None] * columns + j[None, :]
    tl.store(to, y.to(out_ptr.dtype.element_ty), inside)


def _kind(name: str, code: str) -> str:
    return f"*{code}" if name.endswith("_ptr") else "constexpr" if name.isupper() else "i32"


AOT = [
    {
        "name": f"geglu_linear_{code}",
        "kernel": _geglu_linear_kernel,
        "signature": {name: _kind(name, code) for name in _geglu_linear_kernel.arg_names},
        "constexprs": {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH, "GROUP": GROUP},
        "num_warps": WARPS,
        "options": {"num_stages": STAGES},
        "needs": ("vector loads", "tensor cores"),
    }
    for code in ("fp16", "bf16")
]
