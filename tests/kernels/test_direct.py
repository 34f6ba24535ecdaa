"""Operators go past torch's dispatcher exactly where nobody would notice."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as forward
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from accel import kernels
from accel.kernels._direct import may_run_at_once
from accel.kernels._op import OPS, Op


def x(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def calls() -> dict[str, tuple]:
    """An operator's arguments, for some of each kind."""
    picture, weight = x(2, 32, 5, 4), x(32)
    return {
        "geglu": (x(3, 8),),
        "layer_norm": (x(3, 32), weight, None, 1e-5),
        "group_norm_silu": (picture, 8, weight, weight, 1e-5, True),
        "conv2d": (picture, x(4, 32, 3, 3), None, None, 1, 1, 1, 1.0),
        "attention": (picture, picture, picture, 0.5, False),
        "to_uint8": (picture,),
    }


@pytest.fixture
def at_once(monkeypatch) -> list[str]:
    """Names of the operators that are run past the dispatcher, as they are."""
    seen: list[str] = []
    run = Op.__call__

    def watched(self, *args):
        if may_run_at_once(args):
            seen.append(self.name)
        return run(self, *args)

    monkeypatch.setattr(Op, "__call__", watched)
    return seen


@pytest.mark.parametrize("name", calls())
def test_both_ways_give_the_same(name, at_once):
    args = calls()[name]
    through = getattr(torch.ops.accel, name)(*args)
    assert torch.equal(OPS[name](*args), through)
    with torch.inference_mode():
        assert torch.equal(OPS[name](*args), through)
    assert at_once == [name, name]


def test_gradients_flow(at_once):
    value = x(3, 8).requires_grad_()
    kernels.geglu(value).sum().backward()
    wanted = torch.autograd.grad(OPS["geglu"].reference(value).sum(), value)[0]
    torch.testing.assert_close(value.grad, wanted)
    assert at_once == []
    with torch.no_grad():
        assert not kernels.geglu(value).requires_grad
    layer = torch.nn.Parameter(x(8), requires_grad=False)
    kernels.layer_norm(x(3, 8), layer)
    assert at_once == ["geglu", "layer_norm"]


class Watched(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        SEEN.append(str(func))
        return func(*args, **(kwargs or {}))


class Overridden(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        SEEN.append(str(func))
        return func(*args, **(kwargs or {}))


SEEN: list[str] = []


@pytest.mark.parametrize("mode", [Watched, Overridden])
def test_modes_see_the_operator(mode):
    SEEN.clear()
    with mode():
        kernels.geglu(x(3, 8))
    assert any("accel.geglu" in name for name in SEEN)


def test_a_profile_has_the_operator():
    with torch.profiler.profile() as profile:
        kernels.geglu(x(3, 8))
    assert "accel::geglu" in {event.key for event in profile.key_averages()}


class Own(Tensor):
    """A tensor whose class may want to know."""


def test_special_tensors_take_the_long_way():
    plain = x(3, 8)
    assert may_run_at_once((plain, None, 1.0, True))
    negated = torch.imag(torch.complex(plain, plain).conj())
    assert not may_run_at_once((negated,))
    torch.testing.assert_close(kernels.geglu(negated), kernels.geglu(-plain))
    assert not may_run_at_once((plain.as_subclass(Own),))
    assert not may_run_at_once((plain.to("meta"),))
    assert kernels.geglu(plain.to("meta")).is_meta
    assert not may_run_at_once((plain.to_sparse(),))
    with torch._subclasses.FakeTensorMode() as fake:
        assert kernels.geglu(fake.from_tensor(plain)).shape == (3, 4)
    with forward.dual_level():
        assert not may_run_at_once((plain,))
    with pytest.raises(ValueError, match=r"geglu: x must be \[..., 2 \* D\]"):
        kernels.geglu(x(3, 7))


def test_a_compiled_program_holds_the_operator():
    names = []

    def backend(graph: torch.fx.GraphModule, examples: list) -> torch.fx.GraphModule:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    program = torch.compile(lambda t: kernels.geglu(t) + 1, backend=backend, fullgraph=True)
    torch.testing.assert_close(program(x(3, 8)), kernels.geglu(x(3, 8)) + 1)
    assert any("accel.geglu" in name for name in names)
    traced = torch.jit.trace(kernels.geglu, x(3, 8))
    assert "accel::geglu" in str(traced.graph)


@pytest.mark.parametrize("recorded", [False, True], ids=["at once", "by the dispatcher"])
def test_an_argument_of_another_kind_is_named(recorded):
    """The binding's own text lists types, the dispatcher's the values, over many lines."""
    q = x(1, 2, 3, 8).requires_grad_(recorded)
    weight = x(2)
    wrong = {
        "attention: k must be Tensor, got ndarray": lambda: kernels.attention(
            q, q.detach().numpy(), q
        ),
        "attention: scale must be float, got str": lambda: kernels.attention(q, q, q, scale="2"),
        "group_norm_silu: groups must be int, got float": lambda: kernels.group_norm_silu(
            q, 2.0, weight, weight
        ),
        "layer_norm: eps must be float, got NoneType": lambda: kernels.layer_norm(
            q, None, None, None
        ),
    }
    for text, call in wrong.items():
        with pytest.raises(TypeError, match=f"^{text}$"):
            call()


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64], ids=str)
def test_numbers_of_another_kind_are_refused_in_one_line(dtype):
    whole = torch.ones(1, 2, 3, 4, dtype=dtype)
    for name, call in {
        "attention": lambda: kernels.attention(whole, whole, whole),
        "group_norm_silu": lambda: kernels.group_norm_silu(whole, 2, x(2), x(2)),
        "layer_norm": lambda: kernels.layer_norm(whole),
        "geglu": lambda: kernels.geglu(whole),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name}: .* floating point.*, got {dtype}[^\n]*$"):
            call()
    with pytest.raises(TypeError, match=r"type, got torch\.float32, torch\.float16 and"):
        kernels.attention(x(1, 1, 2, 4), x(1, 1, 2, 4).half(), x(1, 1, 2, 4))


def test_group_norm_without_weights_is_torchs():
    given = x(2, 6, 5, 4)
    plain = torch.nn.functional.group_norm(given, 3)
    got = kernels.group_norm_silu(given, 3, None, None)
    torch.testing.assert_close(got, torch.nn.functional.silu(plain), rtol=1e-5, atol=1e-5)
