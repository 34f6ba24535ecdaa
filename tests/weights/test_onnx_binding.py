"""I/O binding: bound runs equal runs by arrays; what the CUDA and TensorRT providers are told."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from accel.core import ConfigError
from accel.models.onnx import load_onnx
from accel.weights.onnx import open_onnx
from accel.weights.onnx_binding import Binding, batch_profiles, device_providers
from tests.gpu.fake_cuda import fake_cuda
from tests.gpu.fake_onnx import fake_onnx


def scaled(batch: int | str = "N", mixes: bool = False) -> bytes:
    """y = 2 x, z = the mean of x; with `mixes` y takes in all items of a batch."""
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["d"]),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0] if mixes else [1], keepdims=1),
        helper.make_node("Add", ["d", "m"], ["y"]),
        helper.make_node("ReduceMean", ["x"], ["z"], axes=[1], keepdims=1),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", floats, [batch, 3])],
        [helper.make_tensor_value_info("y", floats, [batch, 3]),
         helper.make_tensor_value_info("z", floats, [batch, 1])],
        [numpy_helper.from_array(np.array(2, np.float32), "two")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_a_bound_run_is_a_run_by_arrays():
    session = onnxruntime.InferenceSession(scaled(), providers=["CPUExecutionProvider"])
    bound = Binding(session, torch.device("cpu"))
    for count in (2, 5, 2):
        x = torch.randn(3, count).T  # not contiguous
        expected = session.run(None, {"x": x.contiguous().numpy()})
        for got, want in zip(bound({"x": x}), expected, strict=True):
            torch.testing.assert_close(got, torch.from_numpy(want), rtol=0, atol=0)


def test_inputs_are_cast_as_the_graph_wants_them():
    session = onnxruntime.InferenceSession(scaled(), providers=["CPUExecutionProvider"])
    y, _ = Binding(session, torch.device("cpu"))({"x": torch.ones(1, 3, dtype=torch.float16)})
    assert y.tolist() == [[3, 3, 3]]


def test_on_a_device_nothing_is_copied_and_nothing_waits():
    with fake_cuda() as device, fake_onnx(device):
        network = open_onnx(scaled(), device="cuda")
        x = torch.randn(4, 3).to("cuda")
        first = network.on_device(x=x)  # learns the outputs' sizes
        before = device.counts.snapshot()
        again = network.on_device(x=x)
        counts = device.counts.since(before)
        assert (counts.copies, counts.waits, counts.networks) == ([], [], ["bound"])
        assert all(t.is_cuda for t in again)
        expected = network(x.cpu().numpy())
        for far, near, array in zip(first, again, expected, strict=True):
            np.testing.assert_array_equal(far.cpu().numpy(), array)
            np.testing.assert_array_equal(near.cpu().numpy(), array)
        before = device.counts.snapshot()
        arrays = network(x)  # tensors in, arrays out: the answers alone come down, together
        counts = device.counts.since(before)
        assert [c.direction for c in counts.copies] == ["down"]
        assert len(counts.waits) == 1
        np.testing.assert_array_equal(arrays[0], expected[0])


def test_sizes_for_other_counts_of_items_follow_from_one():
    session = onnxruntime.InferenceSession(scaled(), providers=["CPUExecutionProvider"])
    bound = Binding(session, torch.device("cpu"))
    for count in (3, 1, 7):
        y, z = bound({"x": torch.ones(count, 3)})
        assert (y.shape, z.shape) == ((count, 3), (count, 1))
    assert len(bound._shapes) == 1


def test_a_batch_that_would_be_mixed_goes_one_by_one():
    with fake_cuda() as device, fake_onnx(device):
        network = open_onnx(scaled(batch=1, mixes=True), device="cuda")
        x = torch.randn(3, 3).to("cuda")
        y, _ = network.on_device(x=x)
        torch.testing.assert_close(y.cpu(), 3 * x.cpu())
        assert not network.batched


def test_load_onnx_runs_on_the_device():
    with fake_cuda() as device, fake_onnx(device):
        model = load_onnx(scaled(), device="cuda")
        out = model.on_device({"x": torch.ones(1, 3).to("cuda")})
        assert out["y"].is_cuda
        assert out["y"].cpu().tolist() == [[3, 3, 3]]


def test_a_network_on_the_cpu_has_no_device():
    with pytest.raises(ConfigError, match="must be opened on a CUDA device"):
        open_onnx(scaled()).on_device(x=torch.ones(1, 3))
    with pytest.raises(ConfigError, match="must be opened on a CUDA device"):
        load_onnx(scaled(), runtime="onnxruntime").on_device({"x": torch.ones(1, 3)})


def test_sessions_work_on_the_stream_they_are_given(tmp_path):
    stream = SimpleNamespace(cuda_stream=4711)
    cuda, cpu = device_providers(torch.device("cuda", 1), stream)
    assert (cuda[0], cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert cuda[1]["user_compute_stream"] == "4711"
    assert cuda[1]["device_id"] == 1
    first = device_providers(torch.device("cuda"), stream, tmp_path, {"a": "b"})[0]
    assert first[0] == "TensorrtExecutionProvider"
    assert first[1]["user_compute_stream"] == "4711"
    assert first[1]["trt_engine_cache_path"] == str(tmp_path)
    assert first[1]["a"] == "b"


def test_tensorrt_is_told_the_sizes_to_come():
    free = batch_profiles({"target": ("N", 3, 128, 128), "source": (1, 512)})
    assert free["trt_profile_min_shapes"] == "target:1x3x128x128,source:1x512"
    assert free["trt_profile_max_shapes"] == "target:16x3x128x128,source:1x512"
    assert batch_profiles({"x": ("N", 3, "H", "W")}) == {}  # nobody knows them
    assert batch_profiles({"x": (1, 3, 8, 8)}) == {}  # nothing is free
