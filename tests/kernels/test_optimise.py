"""The optimisers' steps beside their formulas in NumPy, and which weights they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accel.kernels.optimise import (
    adabelief_op,
    adabelief_step,
    mix,
    rmsprop_op,
    rmsprop_step,
)

OPS = {"rmsprop": rmsprop_op, "adabelief": adabelief_op}


def arrays(n, count, seed=0):
    make = torch.Generator().manual_seed(seed)
    found = [torch.randn(n, generator=make) for _ in range(count)]
    found[-2].abs_()  # a running mean of squares
    return found


def run(kind, implementation, tensors, keep=1.0, seed=3):
    numbers = (0.9,) if kind == "rmsprop" else (0.9, 0.999)
    copies = [t.clone() for t in tensors]
    implementation.run(*copies, 0.01, *numbers, 1e-7, 0.5, int(keep * 2**32), seed)
    return copies


@pytest.mark.parametrize("keep", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("n", [1, 7, 3000, 40_001])
@pytest.mark.parametrize("kind", OPS)
def test_agrees_with_reference(kind, n, keep):
    tensors = arrays(n, 3 if kind == "rmsprop" else 4)
    implementations = OPS[kind].implementations
    expected = run(kind, implementations[-1], tensors, keep)
    for implementation in implementations[:-1]:
        if n > 7 and implementation.name == "triton":
            continue  # the interpreter is slow
        if not implementation.why_not(*tensors):
            found = run(kind, implementation, tensors, keep)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_rmsprop_is_its_formula():
    weight, square, grad = (t.double().numpy() for t in arrays(50, 3))
    tensors = [torch.from_numpy(a.astype(np.float32)) for a in (weight, square, grad)]
    rmsprop_step(*tensors, lr=2e-4)
    square = 0.9 * square + 0.1 * grad**2
    weight = weight - 2e-4 * grad / (np.sqrt(square) + 1e-7)
    np.testing.assert_allclose(tensors[0], weight, atol=1e-6)
    np.testing.assert_allclose(tensors[1], square, atol=1e-6)


def test_adabelief_is_its_formula():
    weight, mean, spread, grad = (t.double().numpy() for t in arrays(50, 4))
    tensors = [torch.from_numpy(a.astype(np.float32)) for a in (weight, mean, spread, grad)]
    adabelief_step(*tensors, lr=1e-3, scale=2.0)
    mean = 0.9 * mean + 0.1 * 2 * grad
    spread = 0.999 * spread + 0.001 * (2 * grad - mean) ** 2
    weight = weight - 1e-3 * mean / (np.sqrt(spread) + 1e-7)
    for found, wanted in zip(tensors, (weight, mean, spread)):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_dropped_weights_stay_but_remember():
    weight, square, grad = arrays(100_000, 3)
    before, remembered = weight.clone(), square.clone()
    rmsprop_step(weight, square, grad, lr=0.01, keep=0.3, seed=11)
    moved = weight != before
    assert abs(moved.float().mean() - 0.3) < 0.01
    assert (square != remembered).float().mean() > 0.99
    again, other = before.clone(), before.clone()
    rmsprop_step(again, remembered.clone(), grad, lr=0.01, keep=0.3, seed=11)
    rmsprop_step(other, remembered.clone(), grad, lr=0.01, keep=0.3, seed=12)
    assert torch.equal(again, weight)
    both = (moved & (other != before)).float().mean()
    assert abs(both - 0.09) < 0.01  # two draws know nothing of each other


def test_seeds_of_neighbours_differ():
    seeds = {mix(0, step, place) for step in range(100) for place in range(100)}
    assert len(seeds) > 9_990
    assert mix(1, 2) != mix(2, 1)
    assert mix(5, 6) == mix(5, 6) < 2**32


def test_numbers_near_zero_are_zero():
    weight, square, grad = torch.zeros(64), torch.full((64,), 1e-37), torch.zeros(64)
    for _ in range(20):
        rmsprop_step(weight, square, grad, lr=0.1)
    assert square.max() <= 1e-37
    assert torch.isfinite(weight).all()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"keep": 1.1}, "keep must lie in 0..1"),
        ({"keep": float("nan")}, "keep must lie in 0..1"),
        ({"seed": -1}, "seed must lie in"),
        ({"seed": 2**32}, "seed must lie in"),
    ],
)
def test_refuses_numbers_out_of_range(change, why):
    with pytest.raises(ValueError, match=why):
        rmsprop_step(*arrays(4, 3), lr=0.1, **change)


def test_refuses_tensors_that_do_not_fit():
    weight, square, grad = arrays(4, 3)
    with pytest.raises(ValueError, match=r"one length, got \(4,\), \(4,\), \(3,\)"):
        rmsprop_step(weight, square, grad[:3], lr=0.1)
    with pytest.raises(TypeError, match="float32"):
        adabelief_step(weight, square, square, grad.double(), lr=0.1)


def test_registration():
    args = (*arrays(8, 3), 0.01, 0.9, 1e-7, 1.0, 2**32, 0)
    torch.library.opcheck(torch.ops.accel.rmsprop_step.default, args)
