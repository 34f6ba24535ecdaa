"""Weights that a graph brings in 16 bits stay in 16 bits; results are those of float32 ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from accel.kernels import _native
from accel.models.onnx import load_onnx
from accel.nn.onnx import load
from tests.nn.test_onnx import draw

pytestmark = pytest.mark.skipif(_native.module is None, reason="needs the native module")

WEIGHTS = {
    "conv": draw(128, 96, 3, 3), "point": draw(300, 128, 1, 1), "down": draw(128, 300, 2, 2),
    "thin": draw(256, 128, 3, 3), "matrix": draw(256, 320), "gemm": draw(256, 320),
    "few": draw(8, 3, 3, 3),
}  # fmt: skip


def graph(kind, side):
    """Of wide convolutions, small ones, and products of both ways; `kind` of numbers throughout."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv"], ["a"], pads=[1] * 4), node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "point"], ["c"]), node("Conv", ["c", "down"], ["d"], strides=[2, 2]),
        node("Conv", ["d", "thin"], ["e"], pads=[1] * 4), node("GlobalAveragePool", ["e"], ["f"]),
        node("Flatten", ["f"], ["g"]), node("MatMul", ["g", "matrix"], ["h"]),
        node("Gemm", ["h", "gemm"], ["y"], transB=1),
    ]  # fmt: skip
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    made = [numpy_helper.from_array((0.05 * w).astype(dtype), n) for n, w in WEIGHTS.items()]
    ports = [
        [helper.make_tensor_value_info(name, kind, shape)]
        for name, shape in (("x", [1, 96, side, side]), ("y", [1, 256]))
    ]
    whole = helper.make_graph(nodes, "g", *ports, made)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()


@pytest.mark.parametrize("side", [3, 24])
def test_give_the_bytes_of_widened_ones(monkeypatch, side):
    x = {"x": draw(1, 96, side, side).astype(np.float16)}
    ours = load_onnx(graph(TensorProto.FLOAT16, side), runtime="accel")
    kept = {n: t.dtype for n, t in ours._plan.plan.constants.items() if t.numel() >= 1 << 15}
    assert set(kept.values()) == {torch.float16, torch.float32}
    assert kept["point"] == torch.float32  # few numbers
    got = ours.run(x)["y"]
    monkeypatch.setattr(load, "narrow", lambda *given: None)
    widened = load_onnx(graph(TensorProto.FLOAT16, side), runtime="accel")
    assert {t.dtype for t in widened._plan.plan.constants.values()} == {torch.float32}
    assert np.array_equal(widened.run(x)["y"], got)
    want = load_onnx(graph(TensorProto.FLOAT16, side), runtime="onnxruntime").run(x)["y"]
    assert got.dtype == want.dtype == np.float16
    np.testing.assert_allclose(got, want, rtol=5e-3, atol=5e-3 * np.abs(want).max())


def test_operator_by_operator_too():
    ours = load_onnx(graph(TensorProto.FLOAT16, 24), runtime="accel")
    x = torch.from_numpy(draw(1, 96, 24, 24)).half().float()
    (by_steps,) = ours._plan.plan.run({"x": x})
    (whole,) = ours._plan.run({"x": x})
    torch.testing.assert_close(by_steps, whole, rtol=1e-4, atol=1e-4)


def test_numbers_of_float32_stay_as_they_are():
    ours = load_onnx(graph(TensorProto.FLOAT, 24), runtime="accel")
    assert {t.dtype for t in ours._plan.plan.constants.values()} == {torch.float32}


def test_a_matrix_that_is_read_as_numbers_too_stays_wide():
    w = draw(256, 256).astype(np.float16).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "w"], ["y"])
    ]  # fmt: skip
    ports = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [256, 256])] for n in "xy"]
    whole = helper.make_graph(nodes, "g", *ports, [numpy_helper.from_array(w, "w")])
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    x = draw(256, 256)
    got = load_onnx(model.SerializeToString(), runtime="accel").run({"x": x})["y"]
    np.testing.assert_allclose(got, x @ w + w, rtol=1e-4, atol=1e-3)
