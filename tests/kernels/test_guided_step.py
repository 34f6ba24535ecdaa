"""A sampler's step in one pass: every implementation beside the sums of its docstring."""

from __future__ import annotations

import pytest
import torch

from accel.kernels.guided_step import HEAD, NUMBERS, OUTPUTS, SLOTS, TERMS, guided_step, op

KINDS = [torch.float32, torch.float16]


def step_of(seed: int, slots: int = 8, steps: int = 3, fed: int = 1):
    """Tables of steps: some outputs and terms are left out, one output goes where a term was."""
    make = torch.Generator().manual_seed(seed)
    numbers = torch.randn(steps, NUMBERS, generator=make)
    places = torch.randint(-1, slots, (steps, SLOTS), generator=make, dtype=torch.int32)
    places[:, :HEAD] = torch.tensor([2, 3, 4, fed], dtype=torch.int32)
    for m, to in enumerate((5, 6, -1)):
        places[:, HEAD + m * (1 + TERMS)] = to
    places[:, HEAD + 1] = 6
    return numbers, places


def given(n: int, dtype=torch.float32, guided: bool = True, seed: int = 0, slots: int = 8):
    make = torch.Generator().manual_seed(seed)
    values = torch.randn(slots, n, generator=make)
    inputs = torch.full((2, n), float("nan"), dtype=dtype)
    cond, uncond = (torch.randn(n, generator=make).to(dtype) for _ in range(2))
    return [values, inputs, cond, uncond if guided else None]


def by_hand(values, cond, uncond, numbers, slots):
    """In float64, from the docstring."""
    old, row = values.double(), [float(v) for v in numbers]
    guidance, keep, gain, scale = row[:HEAD]
    where = slots.tolist()
    x, c = old[where[0]], cond.double()
    u = c if uncond is None else uncond.double()
    new = old.clone()
    clean, other = keep * x + gain * (u + guidance * (c - u)), keep * x + gain * u
    new[where[1]], new[where[2]] = clean, other
    shown = None
    for m in range(OUTPUTS):
        of_clean, of_other, *coefficients = row[HEAD + m * (2 + TERMS) :][: 2 + TERMS]
        to, *terms = where[HEAD + m * (1 + TERMS) :][: 1 + TERMS]
        total = of_clean * clean + of_other * other
        total = total + sum(a * old[s] for a, s in zip(coefficients, terms) if s >= 0)
        if to >= 0:
            new[to] = total
            shown = total * scale if m == where[3] else shown
    return new, shown


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("n", [1, 130, 1500])
def test_agrees_with_reference(n, dtype, guided):
    numbers, slots = step_of(n)
    ran = []
    for row in range(3):
        step = torch.tensor([row], dtype=torch.int32)
        values, inputs, cond, uncond = given(n, dtype, guided)
        expected, shown = by_hand(values, cond, uncond, numbers[row], slots[row])
        results = {}
        for implementation in op.implementations:
            args = [values.clone(), inputs.clone(), cond, uncond, numbers, slots, step]
            if implementation.why_not(*args) or (implementation.name == "triton" and row == 2):
                continue
            implementation.run(*args)
            ran.append(implementation.name)
            results[implementation.name] = args[0]
            torch.testing.assert_close(args[0].double(), expected, rtol=1e-5, atol=1e-5)
            atol = 1e-5 if dtype is torch.float32 else 2e-2
            for copy in args[1]:
                torch.testing.assert_close(copy.double(), shown, rtol=1e-3, atol=atol)
        if "native" in results:
            assert torch.equal(results["native"], results["reference"])
    assert "reference" in ran


def test_the_counter_goes_up_and_picks_the_row():
    numbers, slots = step_of(1)
    values, inputs, cond, uncond = given(40)
    expected, step = values, torch.zeros(1, dtype=torch.int32)
    for row in range(3):
        expected, _ = by_hand(expected, cond, uncond, numbers[row], slots[row])
        expected = expected.float()
        guided_step(values, inputs, cond, uncond, numbers, slots, step)
        assert step.item() == row + 1
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


def test_the_same_bits_on_any_number_of_threads():
    numbers, slots = step_of(2)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            values, inputs, cond, uncond = given(70_001)
            step = torch.zeros(1, dtype=torch.int32)
            guided_step(values, inputs, cond, uncond, numbers, slots, step)
            results.append(values)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_double_values_are_computed_in_double():
    numbers, slots = step_of(3)
    values, inputs, cond, uncond = given(9)
    values, numbers = values.double(), numbers.double()
    expected, _ = by_hand(values, cond, uncond, numbers[0], slots[0])
    guided_step(values, inputs, cond, uncond, numbers, slots, torch.zeros(1, dtype=torch.int32))
    torch.testing.assert_close(values, expected, rtol=1e-14, atol=1e-14)


def test_refusals():
    numbers, slots = step_of(0)
    values, inputs, cond, uncond = given(9)
    step = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"values must be \[S, N\].* \(8,\)"):
        guided_step(values, inputs, cond[:8], uncond, numbers, slots, step)
    with pytest.raises(ValueError, match="numbers must be"):
        guided_step(values, inputs, cond, uncond, numbers[:, 1:], slots, step)
    with pytest.raises(TypeError, match="slots and step int32"):
        guided_step(values, inputs, cond, uncond, numbers, slots.long(), step)
    native = next((i for i in op.implementations if i.name == "native"), None)
    bad = slots.clone()
    bad[0, HEAD + 1] = 99
    if native and not native.why_not(values, inputs, cond, uncond, numbers, bad, step):
        with pytest.raises(ValueError, match="no such slot"):
            native.run(values, inputs, cond, uncond, numbers, bad, step)
