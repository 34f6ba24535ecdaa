"""Networks without our operators."""

from __future__ import annotations

import pytest
import torch

from accel.kernels._op import OPS
from accel.nn import Conv2d
from accel.nn.plain import PlainOps


def test_operators_are_replaced_inside_and_only_there(monkeypatch):
    asked = []
    reference = OPS["conv2d"].reference
    monkeypatch.setattr(OPS["conv2d"], "reference", lambda *a: asked.append(1) or reference(*a))
    layer, x = Conv2d(4, 8, 3, padding=1).requires_grad_(False), torch.randn(1, 4, 6, 6)
    with PlainOps():
        inside = layer(x)
        assert asked == [1]
    torch.testing.assert_close(inside, layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::Warning")  # tracing tells of checks, and of its age
def test_a_trace_shows_torchs_operators_alone():
    layer, x = Conv2d(4, 8, 3, padding=1).requires_grad_(False), torch.randn(1, 4, 6, 6)
    assert "accel::" in str(torch.jit.trace(layer, x).inlined_graph)
    with PlainOps():
        assert "accel::" not in str(torch.jit.trace(layer, x).inlined_graph)
