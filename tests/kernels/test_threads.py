"""Kernels called from many threads at once, as the stages of a pipeline and a server do.

`SANITIZE=thread sh csrc/sanitize.sh` runs this with every access checked for races.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from onnx import helper

from accel.kernels import (
    attention,
    blend_pyramid,
    conv2d,
    feather,
    geglu,
    group_norm_silu,
    keep_memory,
    layer_norm,
    release_memory,
    to_uint8,
)
from accel.models.onnx import load_onnx
from tests.nn.test_onnx import draw, model

THREADS, ROUNDS = 4, 6


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def network():
    """Two native stretches with a convolution between them; the lock is the model's own."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["y"], pads=[1, 1, 1, 1]),
    ]
    x = draw(1, 8, 20, 20)
    constants = {"w": draw(64, 8, 3, 3) / 9, "v": draw(64, 64, 3, 3) / 24}
    ours = load_onnx(model(nodes, {"x": x}, constants), runtime="accel")
    return lambda: torch.from_numpy(ours.run({"x": x})["y"])


def cases():
    x, weight, bias = rand(1, 64, 24, 24), rand(64, 64, 3, 3) / 24, rand(64)
    q, masks, pictures = rand(1, 4, 65, 40), rand(2, 33, 29).sigmoid(), rand(2, 3, 33, 29)
    large = rand(1, 8, 600, 600)  # its result is taken from memory used before
    return [
        lambda: conv2d(x, weight, bias, 1, 1),
        lambda: attention(q, q, q),
        lambda: group_norm_silu(large, 4, rand(8), rand(8), 1e-5),
        lambda: layer_norm(x, torch.ones(24), torch.zeros(24), 1e-5),
        lambda: geglu(rand(7, 66)),
        lambda: to_uint8(pictures),
        lambda: feather(masks, 1.0, 1.5),
        lambda: blend_pyramid(pictures, pictures.flip(3), masks, 2),
        network(),
    ]


@pytest.mark.parametrize("together", ["alike", "mixed"])
def test_bytes_are_those_of_one_thread(together):
    runs = cases()
    expected = [run() for run in runs]

    def work(number):
        order = range(len(runs))
        if together == "mixed":
            order = np.roll(np.arange(len(runs)), number)
        for _ in range(ROUNDS):
            for i in order:
                if not torch.equal(runs[i](), expected[i]):
                    return f"{i} differs"
            if number == 0:
                release_memory()
        return ""

    before = keep_memory(64 << 20)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            assert list(pool.map(work, range(THREADS))) == [""] * THREADS
    finally:
        keep_memory(before)
