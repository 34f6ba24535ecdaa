"""MeanVarianceNormalization: ONNX says no sizes of it, so whether it is taken is our own word."""

import numpy as np
import pytest
from onnx import helper

from accel.core import ConfigError
from accel.models.onnx import load_onnx
from tests.nn.test_onnx import draw, model

X = draw(2, 4, 9, 7) * 3 + 1
W = draw(5, 4, 3, 3)


def network(**attributes):
    nodes = [
        helper.make_node("MeanVarianceNormalization", ["x"], ["m"], **attributes),
        helper.make_node("Conv", ["m", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    return model(nodes, {"x": X}, {"w": W})


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
@pytest.mark.parametrize("axes", [None, [0, 2, 3], [1, 2, 3], [2, 3]])
def test_it_is_what_onnx_defines(axes, runtime):
    over = tuple(axes or (0, 2, 3))
    said = {} if axes is None else {"axes": axes}
    got = load_onnx(network(**said), runtime=runtime).run({"x": X})["y"]
    exact = X.astype(np.float64)
    exact = (exact - exact.mean(over, keepdims=True)) / exact.std(over, keepdims=True)
    padded = np.pad(exact, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    want = np.einsum("nchwij,ocij->nohw", windows, W)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_our_kernels_say_in_one_line_that_they_have_none():
    with pytest.raises(ConfigError, match="runtime accel cannot run it: operator MeanVariance"):
        load_onnx(network(), runtime="accel")
