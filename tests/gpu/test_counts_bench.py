"""accel bench on the device that is not there: our GPU kernels are what is checked and timed."""

from __future__ import annotations

import pytest
import torch

from accel.core import ConfigError
from accel.kernels import OPS
from accel.kernels._op import Implementation
from accel.pipelines.bench import kernels, measure
from tests.gpu.fake_cuda import fake_cuda
from tests.pipelines.bench.test_bench import CEILINGS

CUDA = torch.device("cuda")
SMALL = {
    "group_norm_silu": kernels._norm(1, 64, 8),
    "geglu": kernels._geglu(16, 64),
    "geglu_linear": kernels._geglu_linear(32, 64, 64),
    "attention": kernels._attention(1, 2, 64, 64, 40),
}


@pytest.fixture
def once(monkeypatch):
    def timed(calls, **settings):
        return measure.interleaved(calls, **(settings | {"rounds": 1, "min_s": 0}))

    monkeypatch.setattr(kernels, "interleaved", timed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("name", SMALL)
def test_gpu_cases_take_gpu_kernels_in_half_precision(once, name):
    """In float32 most of them would be torch's operators under our name."""
    with fake_cuda(exact=True):
        row = kernels.bench_case(OPS[name], SMALL[name], CUDA, CEILINGS, 1)
    assert (row.implementation, row.dtype, row.device) == ("triton", "float16", "cuda")
    assert 0 < row.error < 2e-3
    assert row.limit.endswith("of the card") or row.limit.endswith("by the card")
    assert "torch" in row.peers


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_native_kernel_is_no_gpu_figure(once, monkeypatch):
    op = OPS["geglu"]
    silent = Implementation("native", op.reference, lambda *a: "")
    monkeypatch.setattr(op, "implementations", [silent])
    with fake_cuda(), pytest.raises(ConfigError, match="must run a GPU kernel, got native"):
        kernels.bench_case(op, SMALL["geglu"], CUDA, CEILINGS, 1)
