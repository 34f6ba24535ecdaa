"""The Triton side of `group_norm_silu`, `layer_norm`, `geglu` and `to_uint8`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024  # values a program reads at a time
GATES = 512
MOST_WIDTH = 1 << 12  # of a row that a program holds whole


@triton.jit
def _norm_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, channels, pixels, each, groups, eps,
    SILU: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    unit = tl.program_id(0)
    image, group = unit // groups, unit % groups
    count = each * pixels
    base = image * channels * pixels
    if LAST:
        base += group * each
    else:
        base += group * count
    about = tl.load(x_ptr + base).to(tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        i = first + tl.arange(0, BLOCK)
        inside = i < count
        at = (i // each) * channels + i % each if LAST else i
        d = tl.load(x_ptr + base + at, inside, 0.0).to(tl.float32) - about
        d = tl.where(inside, d, 0.0)
        sums += d
        squares += d * d
    off = tl.sum(sums) / count
    variance = tl.maximum(tl.sum(squares) / count - off * off, 0.0)
    rate = 1.0 / tl.sqrt(variance + eps)
    mean = about + off
    for first in range(0, count, BLOCK):
        i = first + tl.arange(0, BLOCK)
        inside = i < count
        at = (i // each) * channels + i % each if LAST else i
        c = group * each + (i % each if LAST else i // pixels)
        weight = tl.load(weight_ptr + c, inside, 0.0).to(tl.float32)
        bias = tl.load(bias_ptr + c, inside, 0.0).to(tl.float32)
        x = tl.load(x_ptr + base + at, inside, 0.0).to(tl.float32)
        y = (x - mean) * (rate * weight) + bias
        if SILU:
            y = y / (1.0 + tl.exp(-y))
        tl.store(y_ptr + base + at, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _geglu_kernel(x_ptr, y_ptr, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < width
    value = tl.load(x_ptr + row * 2 * width + i, inside, 0.0).to(tl.float32)
    gate = tl.load(x_ptr + row * 2 * width + width + i, inside, 0.0).to(tl.float32)
    y = value * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(y_ptr + row * width + i, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _layer_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, width, eps, AFFINE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * width
    i = tl.arange(0, BLOCK)
    inside = i < width
    x = tl.load(x_ptr + row + i, inside, 0.0).to(tl.float32)
    mean = tl.sum(x) / width
    d = tl.where(inside, x - mean, 0.0)
    y = d / tl.sqrt(tl.sum(d * d) / width + eps)
    if AFFINE:
        weight = tl.load(weight_ptr + i, inside, 0.0).to(tl.float32)
        bias = tl.load(bias_ptr + i, inside, 0.0).to(tl.float32)
        y = y * weight + bias
    tl.store(y_ptr + row + i, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _bytes_kernel(
    x_ptr, y_ptr, count, channels, height, width, image, plane, line, step, BLOCK: tl.constexpr
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    pixel, c = i // channels, i % channels
    row, column = pixel // width, pixel % width
    at = row // height * image + row % height * line + column * step + c * plane
    v = tl.load(x_ptr + at, inside, 0.0).to(tl.float32) * 127.5 + 127.5
    v = tl.where(v > 0.0, tl.where(v < 255.0, v, 255.0), 0.0)
    magic = 12582912.0  # 1.5 * 2^23: beyond it there are no fractions, and halves go to even
    tl.store(y_ptr + i, ((v + magic) - magic).to(tl.int32).to(tl.uint8), inside)


def group_norm(x, groups, weight, bias, eps, silu):
    """One program a group of an image: it reads its values twice, the second time from cache."""
    y = torch.empty_like(x)
    images, channels = x.shape[:2]
    pixels = x.numel() // (images * channels)
    last = x.ndim == 4 and not x.is_contiguous()
    _norm_kernel[(images * groups,)](
        x, weight.contiguous(), bias.contiguous(), y, channels, pixels, channels // groups, groups,
        eps, SILU=silu, LAST=last, BLOCK=BLOCK,
    )  # fmt: skip
    return y


def gate(x):
    width = x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], width)
    _geglu_kernel[(y.numel() // width, triton.cdiv(width, GATES))](x, y, width, BLOCK=GATES)
    return y


def normalize_rows(x, weight, bias, eps):
    """One program a row, which it holds whole."""
    y, width = torch.empty_like(x), x.shape[-1]
    _layer_kernel[(x.numel() // width,)](
        x, weight.contiguous(), bias.contiguous(), y, width, eps, AFFINE=weight.numel() > 0,
        BLOCK=triton.next_power_of_2(width),
    )  # fmt: skip
    return y


def to_bytes(x):
    n, c, h, w = x.shape
    y = torch.empty(n, h, w, c, dtype=torch.uint8, device=x.device)
    grid = (triton.cdiv(y.numel(), BLOCK),)
    _bytes_kernel[grid](x, y, y.numel(), c, h, w, *x.stride(), BLOCK=BLOCK)
    return y


def _variant(kernel, code: str, name: str, constexprs: dict) -> dict:
    kinds = {"x_ptr": f"*{code}", "y_ptr": f"*{code}", "weight_ptr": f"*{code}"}
    kinds |= {"bias_ptr": f"*{code}", "eps": "fp32"}
    if kernel is _bytes_kernel:
        kinds["y_ptr"] = "*u8"
    signature = {
        n: "constexpr" if n in constexprs else kinds.get(n, "i32") for n in kernel.arg_names
    }
    return {
        "name": name, "kernel": kernel, "signature": signature, "constexprs": constexprs,
        "num_warps": 4,
    }  # fmt: skip


AOT = [
    *(
        _variant(
            _norm_kernel,
            code,
            f"group_norm_silu_{code}_{'nhwc' if last else 'nchw'}",
            {"SILU": True, "LAST": last, "BLOCK": BLOCK},
        )
        for code in ("fp32", "fp16")
        for last in (False, True)
    ),
    *(
        _variant(_geglu_kernel, code, f"geglu_{code}", {"BLOCK": GATES})
        for code in ("fp32", "fp16")
    ),
    *(
        _variant(
            _layer_kernel, code, f"layer_norm_{code}_{width}", {"AFFINE": True, "BLOCK": width}
        )
        for code, width in (("fp32", 512), ("fp16", 512), ("fp16", 2048))
    ),
    *(
        _variant(_bytes_kernel, code, f"to_uint8_{code}", {"BLOCK": BLOCK})
        for code in ("fp32", "fp16")
    ),
]
