"""The optimisers' steps of optimise.py for GPUs."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _kept(i, limit, seed):
    """1.0 where the update is kept; i int64, seed and limit below and up to 2^32."""
    x = (i.to(tl.int64) ^ seed) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return tl.where((x ^ (x >> 16)) < limit, 1.0, 0.0)


@triton.jit
def _rmsprop_kernel(
    weight_ptr, square_ptr, grad_ptr, n, lr, rho, eps, scale, limit, seed, BLOCK: tl.constexpr
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    grad = tl.load(grad_ptr + i, inside, other=0.0) * scale
    square = tl.load(square_ptr + i, inside, other=0.0) * rho + grad * grad * (1 - rho)
    tl.store(square_ptr + i, square, inside)
    move = lr * grad / (tl.sqrt(square) + eps) * _kept(i, limit, seed)
    tl.store(weight_ptr + i, tl.load(weight_ptr + i, inside, other=0.0) - move, inside)


@triton.jit
def _adabelief_kernel(
    weight_ptr, mean_ptr, spread_ptr, grad_ptr, n, lr, beta1, beta2, eps, scale, limit, seed,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    grad = tl.load(grad_ptr + i, inside, other=0.0) * scale
    mean = tl.load(mean_ptr + i, inside, other=0.0) * beta1 + grad * (1 - beta1)
    tl.store(mean_ptr + i, mean, inside)
    away = grad - mean
    spread = tl.load(spread_ptr + i, inside, other=0.0) * beta2 + away * away * (1 - beta2)
    tl.store(spread_ptr + i, spread, inside)
    move = lr * mean / (tl.sqrt(spread) + eps) * _kept(i, limit, seed)
    tl.store(weight_ptr + i, tl.load(weight_ptr + i, inside, other=0.0) - move, inside)


def rmsprop(weight, square, grad, *numbers):
    n = len(weight)
    _rmsprop_kernel[(triton.cdiv(n, BLOCK),)](weight, square, grad, n, *numbers, BLOCK=BLOCK)


def adabelief(weight, mean, spread, grad, *numbers):
    n = len(weight)
    _adabelief_kernel[(triton.cdiv(n, BLOCK),)](
        weight, mean, spread, grad, n, *numbers, BLOCK=BLOCK
    )


def _ahead(name, kernel, tensors, floats):
    signature = {f"{t}_ptr": "*fp32" for t in tensors} | {"n": "i32"}
    signature |= dict.fromkeys(floats, "fp32") | {"limit": "i64", "seed": "i64"}
    return {
        "name": name, "kernel": kernel, "signature": signature | {"BLOCK": "constexpr"},
        "constexprs": {"BLOCK": BLOCK}, "num_warps": 4,
    }  # fmt: skip


AOT = [
    _ahead(
        "rmsprop_step", _rmsprop_kernel, ("weight", "square", "grad"), ("lr", "rho", "eps", "scale")
    ),
    _ahead(
        "adabelief_step",
        _adabelief_kernel,
        ("weight", "mean", "spread", "grad"),
        ("lr", "beta1", "beta2", "eps", "scale"),
    ),
]
