from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from accel.core import ConfigError
from accel.training.optim import LossScale, Optimiser


def weights(layout=torch.contiguous_format):
    make = torch.Generator().manual_seed(0)
    shapes = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "dense.weight": (5, 7)}
    made = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=make)
        if len(shape) == 4:
            tensor = tensor.contiguous(memory_format=layout)
        made[name] = nn.Parameter(tensor)
    return made


def give_gradients(made, seed=0, factor=1.0):
    make = torch.Generator().manual_seed(seed)
    for weight in made.values():
        weight.grad = torch.randn(weight.shape, generator=make) * factor


def trained(steps, layout=torch.contiguous_format, **options):
    made = weights(layout)
    optimiser = Optimiser(made.items(), **({"kind": "rmsprop", "lr": 0.01} | options))
    for step in range(steps):
        give_gradients(made, step)
        optimiser.step()
    return made, optimiser


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_rmsprop_is_torchs():
    made, _ = trained(5)
    torchs = weights()
    optimiser = torch.optim.RMSprop(torchs.values(), lr=0.01, alpha=0.9, eps=1e-7)
    for step in range(5):
        give_gradients(torchs, step)
        optimiser.step()
    for name, weight in made.items():
        torch.testing.assert_close(weight, torchs[name])


def test_layout_in_memory_changes_nothing_without_dropout():
    assert same(trained(3)[0], trained(3, torch.channels_last)[0])


@pytest.mark.parametrize("kind", ["rmsprop", "adabelief"])
def test_a_kept_state_goes_on_exactly(kind):
    options = {"kind": kind, "keep": 0.3, "cosine": 7, "clip": True, "seed": 5}
    whole, _ = trained(6, **options)
    made, first = trained(3, **options)
    second = Optimiser(made.items(), **(options | {"lr": 0.01}))
    assert second.load({name: t.clone() for name, t in first.state().items()}) == []
    for step in range(3, 6):
        give_gradients(made, step)
        second.step()
    assert same(made, whole)


def test_a_state_that_lacks_something_says_so():
    _, optimiser = trained(2)
    state = optimiser.state()
    del state["acc_conv.weight"]
    assert Optimiser(weights().items(), lr=0.1).load(state) == ["acc_conv.weight"]


def test_clipping_limits_the_common_length():
    made, before = weights(), weights()
    optimiser = Optimiser(made.items(), "adabelief", lr=1.0, clip=True)
    give_gradients(made, factor=1e6)
    norm = optimiser.norm()
    assert norm > 1e6
    optimiser.step()
    # The mean is a tenth of the clipped gradient, whose length is one.
    length = math.sqrt(
        sum(float(m.square().sum()) for k, m in optimiser.memory.items() if "ms" in k)
    )
    assert length == pytest.approx(0.1, rel=1e-4)
    assert not same(made, before)


def test_the_cosine_lets_the_rate_fall_to_nothing():
    made, optimiser = weights(), None
    optimiser = Optimiser(made.items(), lr=0.01, cosine=2)
    optimiser.steps = 1
    before = {name: w.detach().clone() for name, w in made.items()}
    give_gradients(made)
    optimiser.step()
    assert same(made, before)


def test_gradients_that_are_not_finite_are_left_out():
    made = weights()
    optimiser, scale = Optimiser(made.items(), lr=0.01), LossScale(1024.0)
    before = {name: w.detach().clone() for name, w in made.items()}
    give_gradients(made)
    made["conv.bias"].grad[0] = torch.inf
    assert not scale.step(optimiser)
    assert scale.factor == 512
    assert same(made, before)
    assert optimiser.steps == 0
    give_gradients(made, factor=512)
    assert scale.step(optimiser)
    other, _ = trained(1)
    for name in made:
        torch.testing.assert_close(made[name], other[name], atol=1e-5, rtol=1e-5)


def test_the_scale_grows_again(monkeypatch):
    monkeypatch.setattr(LossScale, "GOOD", 2)
    made, scale = weights(), LossScale(8.0)
    optimiser = Optimiser(made.items(), lr=0.01)
    for _ in range(2):
        give_gradients(made)
        scale.step(optimiser)
    assert (scale.factor, scale.good) == (16.0, 0)


def test_refuses_other_kinds():
    with pytest.raises(ConfigError, match="optimiser must be one of rmsprop, adabelief, got 'sgd'"):
        Optimiser(weights().items(), "sgd", lr=0.1)
