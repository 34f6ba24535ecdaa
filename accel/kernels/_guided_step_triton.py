"""The Triton side of `guided_step`: every number is read and written once, and nothing waits."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 512


@triton.jit
def _guided_step_kernel(
    values_ptr, inputs_ptr, cond_ptr, uncond_ptr, numbers_ptr, slots_ptr, step_ptr, n, copies,
    GUIDED: tl.constexpr, HEAD: tl.constexpr, OUTPUTS: tl.constexpr, TERMS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    step = tl.load(step_ptr)
    numbers_ptr += step * (HEAD + OUTPUTS * (2 + TERMS))
    slots_ptr += step * (HEAD + OUTPUTS * (1 + TERMS))
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    guidance, keep = tl.load(numbers_ptr), tl.load(numbers_ptr + 1)
    gain, scale = tl.load(numbers_ptr + 2), tl.load(numbers_ptr + 3)
    x = tl.load(values_ptr + tl.load(slots_ptr).to(tl.int64) * n + i, inside, 0.0)
    p = tl.load(cond_ptr + i, inside, 0.0).to(tl.float32)
    without = p
    if GUIDED:
        without = tl.load(uncond_ptr + i, inside, 0.0).to(tl.float32)
        p = without + (p - without) * guidance
    clean = x * keep + p * gain
    other = x * keep + without * gain
    fed = tl.load(slots_ptr + 3)
    # All is read before anything is written: an output may go where a term was.
    outs = ()
    for m in tl.static_range(OUTPUTS):
        coefficients = numbers_ptr + HEAD + m * (2 + TERMS)
        places = slots_ptr + HEAD + m * (1 + TERMS)
        out = clean * tl.load(coefficients) + other * tl.load(coefficients + 1)
        for k in tl.static_range(TERMS):
            slot = tl.load(places + 1 + k)
            value = tl.load(values_ptr + slot.to(tl.int64) * n + i, inside & (slot >= 0), 0.0)
            out += value * tl.load(coefficients + 2 + k)
        outs = outs + (out,)  # type: ignore[assignment]
    to = tl.load(slots_ptr + 1)
    tl.store(values_ptr + to.to(tl.int64) * n + i, clean, inside & (to >= 0))
    to = tl.load(slots_ptr + 2)
    tl.store(values_ptr + to.to(tl.int64) * n + i, other, inside & (to >= 0))
    for m in tl.static_range(OUTPUTS):
        to = tl.load(slots_ptr + HEAD + m * (1 + TERMS))
        tl.store(values_ptr + to.to(tl.int64) * n + i, outs[m], inside & (to >= 0))
        shown = (outs[m] * scale).to(inputs_ptr.dtype.element_ty)
        for copy in range(copies):
            tl.store(inputs_ptr + copy * n + i, shown, inside & (fed == m) & (to >= 0))


SIZES = {"HEAD": 4, "OUTPUTS": 3, "TERMS": 10, "BLOCK": BLOCK}


def run(values, inputs, cond, uncond, numbers, slots, step):
    n = values.shape[1]
    _guided_step_kernel[(triton.cdiv(n, BLOCK),)](
        values, inputs, cond, cond if uncond is None else uncond, numbers, slots, step, n,
        len(inputs), GUIDED=uncond is not None, **SIZES,
    )  # fmt: skip


def _ahead(code: str, guided: bool) -> dict:
    pointers = {
        "values_ptr": "*fp32", "inputs_ptr": f"*{code}", "cond_ptr": f"*{code}",
        "uncond_ptr": f"*{code}", "numbers_ptr": "*fp32", "slots_ptr": "*i32", "step_ptr": "*i32",
    }  # fmt: skip
    constexprs = {"GUIDED": guided, **SIZES}
    return {
        "name": f"guided_step_{code}{'' if guided else '_alone'}",
        "kernel": _guided_step_kernel,
        "signature": pointers
        | {"n": "i32", "copies": "i32"}
        | dict.fromkeys(constexprs, "constexpr"),
        "constexprs": constexprs,
        "num_warps": 4,
    }


AOT = [_ahead(code, guided) for code in ("fp32", "fp16") for guided in (True, False)]
