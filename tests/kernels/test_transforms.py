"""What torch does with operators besides calling them: shapes ahead, gradients of gradients, and
torch.func's transforms. Each must be what torch's own operators give."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from accel.kernels import (
    attention,
    conv2d,
    geglu,
    group_norm_silu,
    layer_norm,
    linear,
    to_uint8,
)
from tests.kernels.check import draw


def gated(x):
    value, gates = x.chunk(2, -1)
    return value * F.gelu(gates)


# Ours, torch's, and shapes of tensors.
SMOOTH = {
    "attention": (
        attention, F.scaled_dot_product_attention,
        [(2, 3, 9, 8), (2, 3, 7, 8), (2, 3, 7, 8)],
    ),
    "group norm": (
        lambda x, w, b: group_norm_silu(x, 3, w, b, 1e-5),
        lambda x, w, b: F.silu(F.group_norm(x, 3, w, b)),
        [(2, 6, 5, 4), (6,), (6,)],
    ),
    "layer norm": (
        lambda x, w, b: layer_norm(x, w, b, 1e-5), lambda x, w, b: F.layer_norm(x, (8,), w, b),
        [(3, 5, 8), (8,), (8,)],
    ),
    "geglu": (geglu, gated, [(3, 5, 12)]),
    "conv2d": (
        lambda x, w, b: conv2d(x, w, b, 1, 1), lambda x, w, b: F.conv2d(x, w, b, 1, 1),
        [(2, 6, 5, 4), (7, 6, 3, 3), (7,)],
    ),
    "conv2d, strided, in groups": (
        lambda x, w: conv2d(x, w, None, 2, 1, 2), lambda x, w: F.conv2d(x, w, None, 2, 1, 1, 2),
        [(2, 6, 5, 4), (4, 3, 3, 3)],
    ),
    "linear": (linear, F.linear, [(2, 5, 8), (6, 8), (6,)]),
}  # fmt: skip
OTHER = {"to bytes": (to_uint8, None, [(2, 3, 5, 4)])}
ONCE_ONLY = ("attention",)  # torch's own has neither second nor forward gradients on the CPU


LAYOUTS = {
    "plain": lambda x: x,
    "turned": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
    "first two turned": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other": lambda x: torch.repeat_interleave(x, 2, -1)[..., ::2],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", {**SMOOTH, **OTHER})
def test_what_the_compiler_is_told_is_what_comes(name, layout, dtype):
    """It writes code for the strides that it was told, and checks them as that code runs."""
    run, _, shapes = {**SMOOTH, **OTHER}[name]
    given = [draw(*shape) for shape in shapes]
    if given[0].ndim == 4 or layout != "channels last":
        given[0] = LAYOUTS[layout](given[0])
    given = [x.to(dtype) for x in given]
    made = run(*given)
    with FakeTensorMode() as mode:
        told = run(*[mode.from_tensor(x) for x in given])
    assert told.shape == made.shape
    assert told.dtype == made.dtype
    assert told.stride() == made.stride()


def of_sum(run):
    """A number that depends on every result, and not linearly."""
    return lambda *given: run(*given).sin().sum()


@pytest.mark.parametrize("name", [name for name in SMOOTH if name not in ONCE_ONLY])
def test_the_gradient_of_a_gradient(name):
    """As gradient penalties take it, behind another layer."""
    ours, torchs, shapes = SMOOTH[name]
    found = []
    for run in (ours, torchs):
        given = [draw(*shape).double().requires_grad_() for shape in shapes]
        inner = run(given[0].tanh(), *given[1:]).sin().sum()
        (slope,) = torch.autograd.grad(inner, given[0], create_graph=True)
        slope.square().sum().backward()
        found.append([x.grad for x in given])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_by_functions(name):
    ours, torchs, shapes = SMOOTH[name]
    given = [draw(*shape) for shape in shapes]
    wanted = tuple(range(len(given)))
    found = [torch.func.grad(of_sum(run), wanted)(*given) for run in (ours, torchs)]
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_of_each_item(name):
    ours, torchs, shapes = SMOOTH[name]
    first, *rest = [draw(*shape) for shape in shapes]
    each = (0, *[None] * len(rest)) if name != "attention" else (0, 0, 0)

    def per_item(run):
        def one(x, *others):
            others = [o[None] for o in others] if name == "attention" else others
            return of_sum(run)(x[None], *others)

        return torch.vmap(torch.func.grad(one), in_dims=each)(first, *rest)

    torch.testing.assert_close(per_item(ours), per_item(torchs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in SMOOTH if name not in ONCE_ONLY])
def test_forward_gradients(name):
    """They were zero, silently."""
    ours, torchs, shapes = SMOOTH[name]
    given = tuple(draw(*shape) for shape in shapes)
    along = tuple(torch.ones_like(x) for x in given)
    found = [torch.func.jvp(run, given, along) for run in (ours, torchs)]
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMOOTH)
def test_many_at_once(name):
    ours, torchs, shapes = SMOOTH[name]
    stacks = [torch.stack([draw(*shape), 2 * draw(*shape)]) for shape in shapes]
    if name.startswith("conv2d"):  # channels last; torch's group norm cannot be told so
        stacks[0] = stacks[0].movedim(2, -1).contiguous().movedim(-1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a loop, says torch
        made = torch.vmap(ours)(*stacks)
    wanted = torch.vmap(torchs)(*stacks)
    # A sum of many products is as exact as its largest, however small the sum itself is.
    atol = max(1e-5, 1e-6 * float(wanted.abs().max()))
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_group_of_one_number_is_its_shift(dtype):
    shift = draw(4).to(dtype)
    got = group_norm_silu(draw(1, 4).to(dtype), 4, torch.ones(4, dtype=dtype), shift)
    torch.testing.assert_close(got, F.silu(shift)[None])
