"""group_norm_silu, geglu, attention: every implementation against float64, on awkward shapes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from accel.kernels import attention, geglu, group_norm_silu
from accel.kernels.attention import op as attention_op
from accel.kernels.geglu import op as geglu_op
from accel.kernels.group_norm_silu import op as norm_op
from tests.kernels.check import check_kernel


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


NORMS = [((2, 64, 8, 9), 32), ((1, 6, 3, 5), 3), ((3, 32, 1, 1), 32), ((1, 40, 33, 31), 4)]


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(("shape", "groups"), NORMS, ids=str)
def test_group_norm_agrees(shape, groups, last):
    x = normal(*shape) * 3 + 7
    if last:
        x = x.to(memory_format=torch.channels_last)
    weight, bias = normal(shape[1], seed=1), normal(shape[1], seed=2)
    for silu in (True, False):
        args = (x, groups, weight, bias, 1e-5, silu)
        exact = norm_op.reference(*(a.double() if torch.is_tensor(a) else a for a in args))
        ran = [i for i in norm_op.implementations[:-1] if not i.why_not(*args)]
        assert ran
        for implementation in ran:
            got = implementation.run(*args)
            assert (got - exact).abs().max() <= 1e-5 * exact.abs().max(), implementation.name
    assert group_norm_silu(x, groups, weight, bias).stride() == x.stride()


def test_group_norm_holds_where_the_mean_is_large():
    x = normal(1, 32, 16, 16) + 3000
    weight, bias = torch.ones(32), torch.zeros(32)
    exact = F.silu(F.group_norm(x.double(), 8, weight.double(), bias.double(), 1e-5))
    assert (group_norm_silu(x, 8, weight, bias) - exact).abs().max() < 5e-4


def test_group_norm_of_sequences_and_of_nothing():
    x, ones = normal(2, 8, 5), torch.ones(8)
    assert torch.allclose(group_norm_silu(x, 2, ones, ones * 0, silu=False), F.group_norm(x, 2))
    assert group_norm_silu(x[:0], 2, ones, ones).shape == (0, 8, 5)


def test_group_norm_spreads_nan_over_its_group_alone():
    x = normal(1, 4, 3, 3)
    x[0, 0, 1, 1] = float("nan")
    y = group_norm_silu(x, 2, torch.ones(4), torch.zeros(4))
    assert y[0, :2].isnan().all()
    assert y[0, 2:].isfinite().all()


@pytest.mark.parametrize("shape", [(3, 2), (5, 77, 26), (1, 2048), (0, 8)], ids=str)
def test_geglu_agrees(shape):
    x = normal(*shape) * 4
    assert len(check_kernel(geglu_op, (x,), atol=2e-5)) > bool(x.numel())  # of up to 100
    assert geglu(x).shape == (*shape[:-1], shape[-1] // 2)


def test_geglu_of_a_view_and_of_infinities():
    x = normal(4, 2, 16).transpose(0, 1)
    assert torch.allclose(geglu(x), geglu_op.reference(x), atol=1e-6)
    far = torch.tensor([[1.0, 1.0, 1.0, float("inf"), 100.0, float("nan")]])
    got = geglu(far)[0]
    assert got[0] == float("inf")
    assert got[1] == 100
    assert got[2].isnan()


def test_geglu_of_large_values_and_gates_far_below_zero():
    values, gates = torch.tensor([3e38, 1e20, -1e20, 3e38]), torch.tensor([-3.0, -1e20, -9.0, 1.0])
    got = geglu(torch.cat([values, gates])[None])[0]
    expected = (values.double() * torch.nn.functional.gelu(gates.double())).float()
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e17)


HEADS = [
    (1, 2, 50, 77, 40), (2, 3, 17, 17, 5), (1, 1, 300, 700, 72), (1, 2, 1, 1, 1),
    (1, 1, 257, 513, 160), (2, 2, 7, 31, 200), (1, 2, 70, 129, 33), (1, 1, 33, 300, 81),
    (1, 1, 40, 140, 300), (1, 2, 45, 77, 160), (1, 1, 9, 130, 1040),
]  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", HEADS, ids=str)
def test_attention_agrees(sizes, causal):
    b, h, length, keys, dim = sizes
    q = normal(b, length, h, dim).transpose(1, 2)
    k, v = normal(b, h, keys, dim, seed=1), normal(b, keys, h, dim, seed=2).transpose(1, 2)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=causal)
    for implementation in attention_op.implementations:
        if implementation.name == "triton" and length * keys > 10000:
            continue  # the interpreter would take minutes
        if not implementation.why_not(q, k, v, dim**-0.5, causal):
            got = implementation.run(q, k, v, dim**-0.5, causal)
            assert (got - exact).abs().max() <= 1e-5 * exact.abs().max(), implementation.name
    assert attention(q, k, v, causal=causal).shape == q.shape


WIDTHS = pytest.mark.parametrize("dim", [8, 40])  # vectors; tile registers where there are such


@WIDTHS
def test_attention_of_large_scores_and_of_nan(dim):
    q, k = normal(1, 1, 40, dim) * 60, normal(1, 1, 150, dim, seed=1) * 60
    v = normal(1, 1, 150, dim)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert (attention(q, k, v) - exact).abs().max() < 4e-3  # scores near 1e5 carry few digits
    q[0, 0, 3, 1] = float("nan")
    got = attention(q, k, v)
    assert got[0, 0, 3].isnan().all()
    assert got[0, 0, 4].isfinite().all()


def infinite(changed, where, value, dim):
    """Queries, keys and values of which one tensor has `value` somewhere."""
    tensors = [normal(1, 2, length, dim, seed=i) for i, length in enumerate((70, 150, 150))]
    tensors[changed][where] = value
    return tensors


@pytest.mark.parametrize("changed", [0, 1, 2], ids=["q", "k", "v"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e30], ids=str)
@WIDTHS
def test_attention_of_what_is_not_finite(changed, value, dim):
    q, k, v = infinite(changed, (0, 1, 50, 3), value, dim)
    wanted = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attention(q, k, v), wanted, atol=1e-5, rtol=1e-5, equal_nan=True)


@WIDTHS
def test_attention_of_a_query_that_may_look_at_nothing(dim):
    q, v = torch.ones(1, 1, 20, dim), normal(1, 1, 190, dim)
    k = torch.full((1, 1, 190, dim), float("-inf"))
    assert (attention(q, k, v) == F.scaled_dot_product_attention(q, k, v)).all()
    k[0, 0, 180:] = 1  # what a first block of keys lost comes back with the second
    torch.testing.assert_close(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize(("length", "dim"), [(40, 13), (140, 37)])
def test_attention_at_odd_addresses(length, dim):
    room = normal(3, length * 2 * dim + 1)[:, 1:]
    q, k, v = (t.view(1, length, 2, dim).transpose(1, 2) for t in room)
    torch.testing.assert_close(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_attention_of_tiny_values_and_of_equal_scores():
    q, k = torch.zeros(1, 1, 40, 40), normal(1, 1, 130, 40)
    v = normal(1, 1, 130, 40, seed=1) * 1e-30
    mean = v.mean(2, keepdim=True).expand_as(q)
    torch.testing.assert_close(attention(q, k, v), mean, rtol=1e-5, atol=1e-36)


def test_what_a_query_gets_does_not_depend_on_the_others():
    q, k, v = (normal(1, 2, 300, 40, seed=i) for i in range(3))
    some = torch.cat([attention(q[:, :, i : i + 100], k, v) for i in (0, 100, 200)], dim=2)
    assert torch.equal(attention(q, k, v), some)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dim", [24, 40, 170])
def test_attentions_bytes_do_not_depend_on_batch_or_threads(threads, dim):
    q, k, v = (normal(3, 2, 410, dim, seed=i) for i in range(3))
    alone = torch.cat([attention(q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i in range(3)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(attention(q, k, v), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 64, 40, 40), (9, 64, 12, 11), (2, 32, 150, 70)], ids=str)
def test_norms_bytes_do_not_depend_on_batch_or_threads(threads, shape):
    x, weight = normal(*shape).to(memory_format=torch.channels_last), normal(shape[1], seed=5)
    alone = torch.cat([group_norm_silu(one, 32, weight, weight) for one in x.split(1)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(group_norm_silu(x, 32, weight, weight), alone)
    finally:
        torch.set_num_threads(before)


def test_gradients_are_those_of_torch():
    q = normal(1, 1, 5, 4).requires_grad_()
    x = normal(1, 4, 3, 3, seed=1).requires_grad_()
    weight = torch.ones(4, requires_grad=True)
    loss = attention(q, q, q).sum() + group_norm_silu(x, 2, weight, weight).pow(2).sum()
    (loss + geglu(x).sum() if x.shape[-1] % 2 == 0 else loss).backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in (q, x, weight))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: group_norm_silu(torch.zeros(1, 6, 2, 2), 4, torch.ones(6), torch.ones(6)), "mult"),
        (lambda: group_norm_silu(torch.zeros(1, 6, 2, 2), 3, torch.ones(5), torch.ones(6)), r"\[6"),
        (lambda: geglu(torch.zeros(3, 5)), r"2 \* D"),
        (lambda: attention(*[torch.zeros(1, 1, 2, n) for n in (3, 4, 4)]), r"\[B, H, M, D\]"),
    ],
)
def test_refuses(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("less", ["ACCEL_LANES=4", "ACCEL_LANES=8", "ACCEL_CONV_ISA=avx512"])
def test_narrower_vectors_agree(less):
    """What a CPU without tile registers, without AVX-512, or without AVX2, would run."""
    name, value = less.split("=")
    files = [__file__, str(Path(__file__).with_name("test_layer_norm.py"))]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            *files,
            "-k",
            "attention or bytes or layer or geglu or norm or query",
            "-m",
            "not slow",
        ],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
