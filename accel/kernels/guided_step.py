"""One step of a sampler in one pass: guidance, the denoised picture, the way to the next level.

For every number of a latent, with the predictions u and c without and with the prompt:

    p = u + guidance * (c - u)          (c where there is no u)
    clean = keep * x + gain * p         other = keep * x + gain * u
    output = of_clean * clean + of_other * other + sum of coefficient * values[slot]

Every sampler of accel.sampling is such sums of what it remembers: `accel.sampling.plan` finds their
coefficients. All steps stand in two tables, of which a counter on the device picks one, so that the
same launch does for every step and can be replayed as part of a CUDA graph.

Sources: Ho & Salimans 2022 (arXiv:2207.12598) for guidance; Karras et al. 2022 (arXiv:2206.00364)
for the form of the steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, in_triton
from accel.kernels._why_not import not_contiguous, not_on_gpu

OUTPUTS, TERMS = 3, 10  # sums of one step, and remembered values in each, at most
# A step's numbers: guidance, keep, gain, scale of the inputs; then for each output of_clean,
# of_other and the coefficients.
HEAD = 4
NUMBERS = HEAD + OUTPUTS * (2 + TERMS)
# A step's slots: x, where clean goes, where other goes, which output the inputs are made of; then
# for each output where it goes and where its terms are. -1: nowhere, none.
SLOTS = HEAD + OUTPUTS * (1 + TERMS)


def guided_step(
    values: Tensor,  # [S, N] float32 (or float64) what the sampler remembers; written
    inputs: Tensor,  # [R, N] float: what the network sees next, R times the same; written
    cond: Tensor,  # [N] float: prediction with the prompt
    uncond: Tensor | None,  # [N] prediction without it
    numbers: Tensor,  # [T, NUMBERS] dtype of values
    slots: Tensor,  # [T, SLOTS] int32, each below S
    step: Tensor,  # [1] int32: the row of the tables; counted up
) -> None:
    """Take step number `step`; see the module for what is computed, in the dtype of `values`.

    Raises ValueError for shapes that do not fit one another. What is in the tables is not looked
    at, as that would wait for the device: a slot that is not there is read or written.
    """
    count = values.shape[1] if values.ndim == 2 else -1
    shapes = [tuple(t.shape) for t in (cond, uncond) if t is not None]
    if any(shape != (count,) for shape in shapes) or inputs.ndim != 2 or inputs.shape[1] != count:
        raise ValueError(
            "guided_step: values must be [S, N], inputs [R, N], predictions [N], got"
            f" {tuple(values.shape)}, {tuple(inputs.shape)} and {', '.join(map(str, shapes))}"
        )
    steps = numbers.shape[0]
    if numbers.shape != (steps, NUMBERS) or slots.shape != (steps, SLOTS) or step.shape != (1,):
        raise ValueError(
            f"guided_step: numbers must be [T, {NUMBERS}], slots [T, {SLOTS}], step [1], got"
            f" {tuple(numbers.shape)}, {tuple(slots.shape)} and {tuple(step.shape)}"
        )
    if numbers.dtype != values.dtype or slots.dtype != torch.int32 or step.dtype != torch.int32:
        raise TypeError(
            f"guided_step: numbers must be {values.dtype}, slots and step int32, got"
            f" {numbers.dtype}, {slots.dtype} and {step.dtype}"
        )
    op(values, inputs, cond, uncond, numbers, slots, step)
    step += 1


def _reference(values, inputs, cond, uncond, numbers, slots, step):
    row = int(step)  # waits for the device: the other implementations do not
    guidance, keep, gain, scale, *sums = numbers[row].tolist()
    at, clean_to, other_to, fed, *places = slots[row].tolist()
    x, cond = values[at], cond.to(values.dtype)
    without = cond if uncond is None else uncond.to(values.dtype)
    clean = x * keep + (without + (cond - without) * guidance) * gain
    other = x * keep + without * gain
    outputs = []
    for m in range(OUTPUTS):
        of_clean, of_other, *coefficients = sums[m * (2 + TERMS) : (m + 1) * (2 + TERMS)]
        to, *terms = places[m * (1 + TERMS) : (m + 1) * (1 + TERMS)]
        if to < 0:
            continue
        out = clean * of_clean
        if of_other:
            out = out + other * of_other
        for slot, coefficient in zip(terms, coefficients):
            if slot >= 0:
                out = out + values[slot] * coefficient
        outputs.append((m, to, out))
    for to, value in ((clean_to, clean), (other_to, other)):
        if to >= 0:
            values[to] = value
    for m, to, value in outputs:
        values[to] = value
        if m == fed:
            inputs.copy_((value * scale).to(inputs.dtype).expand_as(inputs))


op = Op(
    "guided_step(Tensor(a!) values, Tensor(b!) inputs, Tensor cond, Tensor? uncond, Tensor numbers,"
    " Tensor slots, Tensor step) -> ()",
    _reference,
    fake=lambda *args: None,
)


def _native_run(values, inputs, cond, uncond, numbers, slots, step):
    _native.module.guided_step(
        values.detach(), inputs.detach(), cond.detach(),
        None if uncond is None else uncond.detach(), numbers[int(step)], slots[int(step)],
    )  # fmt: skip


def _laid_out(values, inputs, cond, uncond, numbers, slots, step) -> str:
    tensors = [t for t in (values, inputs, cond, uncond, numbers, slots) if t is not None]
    if values.dtype != torch.float32:
        return f"needs float32 values, got {values.dtype}"
    return not_contiguous(*tensors) if values.shape[1] else "has nothing to do"


def _why_not_native(values, inputs, cond, uncond, numbers, slots, step) -> str:
    floats = [t for t in (inputs, cond, uncond) if t is not None]
    if any(t.dtype != torch.float32 for t in floats):
        return f"needs float32, got {', '.join(str(t.dtype) for t in floats)}"
    return _native.why_not(values, slots, *floats) or _laid_out(
        values, inputs, cond, uncond, numbers, slots, step
    )


op.implement("native", _native_run, _why_not_native)


def _why_not_triton(values, inputs, cond, uncond, numbers, slots, step) -> str:
    tensors = [t for t in (values, inputs, cond, uncond, numbers, slots, step) if t is not None]
    return not_on_gpu(*tensors) or _laid_out(values, inputs, cond, uncond, numbers, slots, step)


op.implement("triton", in_triton("guided_step", "run"), _why_not_triton)
