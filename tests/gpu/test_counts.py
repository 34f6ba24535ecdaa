"""The GPU's path, run on a device that counts: copies, launches and waits per frame and per step.

These are ceilings. A change that needs more must say so here, where a reviewer sees it.
"""

from __future__ import annotations

import pytest
import torch

from accel.kernels import geglu, group_norm_silu
from accel.nn.attention import FeedForward
from tests.gpu.fake_cuda import fake_cuda

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real CUDA device is here")


def test_copies_launches_and_waits_are_counted():
    with fake_cuda() as device:
        x = torch.zeros(4, 4).to("cuda")
        y = torch.ones(4, 4).to("cuda", non_blocking=True)
        assert x.is_cuda
        assert x.device == torch.device("cuda", 0)
        z = (x + y)[:2]
        assert z.sum().item() == 8
        z[0] = 5  # a view writes into what it is a view of
        counts = device.counts.snapshot()
        assert [(c.direction, c.nbytes) for c in counts.copies] == [
            ("up", 64), ("up", 64), ("down", 4)
        ]  # fmt: skip
        assert [wait.split(" at ")[0] for wait in counts.waits] == [
            "copy up", "_local_scalar_dense"
        ]  # fmt: skip
        assert dict(counts.launches) == {"add": 1, "sum": 1, "fill_": 1}
        torch.cuda.synchronize()
        assert len(device.counts.since(counts).waits) == 1
    assert not torch.cuda.is_available()


def test_what_cuda_would_refuse_is_refused():
    with fake_cuda() as device:
        x = torch.zeros(2, 4, device="cuda")
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.zeros(2, 4)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        with pytest.raises(ValueError, match="cannot be accessed from Triton"):
            group_norm_silu(x[:, :, None, None], 2, torch.ones(4), torch.ones(4), 1e-5)
        x[x > 1]
        assert device.counts.waits  # how many there are must be known first


@pytest.mark.parametrize("exact", [False, True])
def test_values_are_those_of_the_cpu(exact):
    x = torch.randn(2, 8, 4, 4)
    weight, bias = torch.rand(8), torch.rand(8)
    with fake_cuda(exact) as device:
        far = [t.to("cuda") for t in (x, weight, bias)]
        before = device.counts.snapshot()
        normed = group_norm_silu(far[0], 4, far[1], far[2], 1e-5)
        gated = geglu(normed)
        counts = device.counts.since(before)
        assert dict(counts.launches) == {"triton:_norm_kernel": 1, "triton:_geglu_kernel": 1}
        assert not counts.copies
        got = gated.cpu()
    expected = geglu(group_norm_silu(x, 4, weight, bias, 1e-5))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_feed_forward_of_a_transformer_is_one_kernel_and_a_product():
    layer = FeedForward(16, 4).half()
    x = torch.randn(1, 5, 16).half()
    with torch.no_grad():
        expected = layer(x)
        with fake_cuda() as device:
            layer.to("cuda")
            near, before = x.to("cuda"), device.counts.snapshot()
            result = layer(near)
            launches = device.counts.since(before).launches
            got = result.cpu()
    assert launches["triton:_geglu_linear_kernel"] == 1
    assert launches.total() <= 3
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
