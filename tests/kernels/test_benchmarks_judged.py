"""The developer's benchmarks: what is wrong is not timed, and peers do the same work."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from accel.kernels._op import OPS, Implementation
from benchmarks import harness
from benchmarks.kernels import seamless

WRONG = {"bigger": lambda y: y * 1.1, "nan": lambda y: y * math.nan, "cut": lambda y: y[:, :2]}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_implementation_is_not_timed(monkeypatch, wrong):
    op = OPS["geglu"]
    monkeypatch.setattr(harness, "INTERPRETED", False)
    bad = Implementation("native", lambda x: wrong(op.reference(x)), lambda *a: "")
    monkeypatch.setattr(op, "implementations", [bad, *op.implementations])
    monkeypatch.setattr(harness, "interleaved", lambda *a, **k: pytest.fail("it was timed"))
    monkeypatch.setattr(harness, "save", lambda *a: pytest.fail("it was kept"))
    with pytest.raises(SystemExit, match="geglu: native must be within"):
        harness.bench_kernel(op, [("case", (torch.randn(4, 16),))])


def test_what_is_written_into_arguments_is_compared_too():
    op = OPS["guided_step"]
    from benchmarks.kernels.guided_step import case

    args = case(64)
    before = args[0].clone()
    for implementation in op.implementations:
        if not implementation.why_not(*args):
            harness.refuse_wrong(op, implementation, args)
    assert torch.equal(args[0], before)
    idle = Implementation("idle", lambda *a: None, lambda *a: "")
    with pytest.raises(SystemExit, match="guided_step: idle"):
        harness.refuse_wrong(op, idle, args)


@pytest.mark.parametrize("side", [64, 65])
def test_cloning_is_compared_over_the_same_pixels(side):
    args = seamless.case(side)
    ours, theirs = seamless.op.reference(*args), seamless.opencv(*args)()
    seamless.refuse_other_work(ours, theirs)
    before = args[1][0].permute(1, 2, 0) * 255
    changed = (ours[0].permute(1, 2, 0) * 255 - before).abs().amax(-1) > 0.5
    edge = slice(seamless.EDGE, -seamless.EDGE)
    moved = theirs[edge, edge].astype(int) - before.byte().numpy().astype(int)
    for axis in (0, 1):
        mine = np.nonzero(changed.numpy().any(axis))[0]
        other = np.nonzero((moved != 0).any(-1).any(axis))[0]
        assert (mine[0], mine[-1]) == (other[0], other[-1]) == (1, side - 2)
    with pytest.raises(SystemExit, match="codes off"):
        seamless.refuse_other_work(ours * 0.9, theirs)
