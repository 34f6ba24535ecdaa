"""Sampling on a device that counts: one launch a step, and no wait between the steps."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import accel
from accel.pipelines.generate.pictures import to_rgb
from tests.gpu.fake_cuda import fake_cuda

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real CUDA device is here")

PACE = "Event.synchronize at pipelines/generate/graphs.py"  # for the step before the last one
NANO_LAUNCHES = 430  # of the step that is not replayed, the tables and the noise


def test_a_step_is_one_launch_and_nothing_is_waited_for():
    """Network and sampler are one graph; the picture comes down when it is asked for."""
    options = {"seed": 3, "output": "latent"}
    expected = accel.load("nano").sample("a red apple", steps=2, **options)
    with fake_cuda() as device:
        model = accel.load("nano", device="cuda")
        costs = []
        for steps in (2, 2, 4):  # the first encodes the prompt too
            before = device.counts.snapshot()
            latent = model.sample("a red apple", steps=steps, **options)
            costs.append(device.counts.since(before))
            if steps == 2:  # what was captured and replayed is what the CPU makes
                torch.testing.assert_close(latent.cpu(), expected, rtol=1e-3, atol=1e-3)
    _, short, long = costs
    assert long.launched - short.launched <= 2 * 2  # a step's graph, and its row in a table
    assert (short.launches["graph"], long.launches["graph"]) == (1, 3)
    assert short.launched <= NANO_LAUNCHES
    assert not long.moved("down")
    assert [c.where for c in short.copies] == [c.where for c in long.copies]
    waits = [Counter(w for w in cost.waits if not w.startswith(PACE)) for cost in (short, long)]
    assert waits[0] == waits[1]
    assert waits[1].total() <= 4, waits[1]  # tables and noise go up, before the loop


def test_a_decoded_picture_becomes_bytes_before_it_comes_down():
    image = torch.rand(1, 3, 24, 40) * 2.2 - 1.1
    expected = to_rgb(image)
    with fake_cuda() as device:
        near, before = image.to("cuda"), device.counts.snapshot()
        rgb = to_rgb(near)
        counts = device.counts.since(before)
    assert (rgb == expected).all()
    assert counts.launches.total() == 1
    assert [(c.direction, c.nbytes) for c in counts.copies] == [("down", 24 * 40 * 3)]
    assert len(counts.waits) == 1


def test_a_graph_does_again_what_was_captured():
    with fake_cuda() as device:
        x, total = torch.ones(3, device="cuda"), torch.zeros(3, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = (x * 2)[1:]
            total[1:] += y
        assert total.cpu().tolist() == [0, 0, 0]  # captured, not done
        before = device.counts.snapshot()
        for value in (1.0, 10.0):
            x.fill_(value)
            graph.replay()
        counts = device.counts.since(before)
        assert total.cpu().tolist() == [0, 22, 22]
        assert y.cpu().tolist() == [20, 20]
        assert dict(counts.launches) == {"fill_": 2, "graph": 2}
        with (
            torch.cuda.graph(torch.cuda.CUDAGraph()),
            pytest.raises(RuntimeError, match="captured"),
        ):
            x.sum().item()
