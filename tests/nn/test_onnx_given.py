"""What callers give to `OnnxModel.run`, and graphs that look like others: by both runtimes."""

from __future__ import annotations

import gc
import pickle
import resource
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from accel.core import ConfigError, InputError
from accel.kernels import _native
from accel.models.onnx import load_onnx
from tests.nn.test_onnx import both, draw, model
from tests.nn.test_onnx_graphs import agree

RUNTIMES = ("accel", "onnxruntime")
W = draw(8, 3, 3, 3)
X = draw(1, 3, 9, 8)


def network(x=X):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    return model(nodes, {"x": x}, {"w": W})


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "turned",
    [
        lambda x: x.astype(np.float64), lambda x: x.astype(">f4"), np.asfortranarray,
        lambda x: x[:, ::-1], lambda x: x[..., ::-1], lambda x: np.repeat(x, 2, -1)[..., ::2],
        lambda x: x.tolist(), torch.from_numpy, lambda x: torch.tensor(x, requires_grad=True),
        lambda x: torch.tensor(x).contiguous(memory_format=torch.channels_last),
    ],
)  # fmt: skip
def test_arrays_however_they_lie(runtime, turned):
    given = turned(X.copy())
    plain = given.detach().numpy() if torch.is_tensor(given) else np.asarray(given)
    ours = load_onnx(network(), runtime=runtime)
    got, want = ours.run({"x": given}), ours.run({"x": np.ascontiguousarray(plain, np.float32)})
    assert np.array_equal(got["y"], want["y"])
    assert got["y"].dtype == np.float32


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (X[0], r"must be x \[1, 3, 9, 8\] float32, got \[3, 9, 8\]"),
        (draw(1, 4, 9, 8), r"got \[1, 4, 9, 8\]"),
        (draw(1, 3, 10, 8), r"got \[1, 3, 10, 8\]"),
        (X.astype(np.complex64), "got complex64"),
        (np.array(["a"]), "got <U1"),
        (None, "got object"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(runtime, given, said):
    with pytest.raises(ValueError, match=said) as error:
        load_onnx(network(), runtime=runtime).run({"x": given})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("feeds", [{}, {"z": X}, {"x": X, "z": X}, X])
def test_other_names_are_refused(runtime, feeds):
    with pytest.raises(ValueError, match="inputs must be x, got"):
        load_onnx(network(), runtime=runtime).run(feeds)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_digits_are_not_lost_silently(runtime):
    """A picture of 0 to 1 given where bytes are wanted would become black."""
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    ours = load_onnx(model(nodes, {"x": np.zeros((2, 3), np.uint8)}), runtime=runtime)
    with pytest.raises(ValueError, match="uint8, got float32"):
        ours.run({"x": np.full((2, 3), 0.5, np.float32)})
    assert ours.run({"x": np.full((2, 3), 7, np.uint8)})["y"].max() == 7


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_ports_say_what_goes_in(runtime):
    ours = load_onnx(network(), runtime=runtime)
    assert [str(port) for port in ours.ports] == ["x [1, 3, 9, 8] float32"]
    assert ours.inputs == ["x"]


def test_bytes_of_any_kind_are_read():
    data = network()
    for given in (bytearray(data), memoryview(data)):
        assert load_onnx(given).outputs == ["y"]
    assert load_onnx(data, device=torch.device("cpu")).outputs == ["y"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_arrays_are_neither_kept_nor_written_to(runtime):
    ours, x = load_onnx(network(), runtime=runtime), X.copy()
    x.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = ours.run({"x": x})["y"]
    kept = first.copy()
    ours.run({"x": 2 * X})
    assert np.array_equal(first, kept)
    first[:] = 7
    assert np.array_equal(ours.run({"x": x})["y"], kept)


KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool",
         "float16", "float64")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_number_goes_in(kind):
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "half"], ["y"]),
    ]
    x = np.arange(6).astype(kind)
    agree(model(nodes, {"x": x}, {"half": np.float32(0.5)}), {"x": x}, runtimes=("auto",))


def test_many_threads_share_one_model():
    ours = load_onnx(network(), runtime="accel")
    feeds = [{"x": draw(1, 3, 9, 8, seed=i)} for i in range(4)]
    want, wrong = [ours.run(feed)["y"] for feed in feeds], []

    def work(i):
        for _ in range(25):
            if not np.array_equal(ours.run(feeds[i])["y"], want[i]):
                wrong.append(i)

    team = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert not wrong


# --- graphs that look like others ---------------------------------------------------------------


def norm_nodes(axes):
    nodes = [
        ("ReduceMean", ["x"], ["m"], {"axes": axes}), ("Sub", ["x", "m"], ["d"], {}),
        ("Mul", ["d", "d"], ["q"], {}), ("ReduceMean", ["q"], ["v"], {"axes": axes}),
        ("Add", ["v", "e"], ["p"], {}), ("Sqrt", ["p"], ["r"], {}), ("Div", ["d", "r"], ["n"], {}),
    ]  # fmt: skip
    return [helper.make_node(kind, given, made, **more) for kind, given, made, more in nodes]


@pytest.mark.parametrize(
    ("shape", "axes"), [((2, 5, 7), [-2, -1]), ((2, 3, 4, 5, 2), [2, 3]), ((5, 7), [-2, -1])]
)
def test_a_norm_over_two_axes_that_are_no_pixels(shape, axes):
    x = draw(*shape)
    data = model(norm_nodes(axes), {"x": x}, {"e": np.float32(1e-5)}, ("n",), 13)
    both(data, {"x": x})


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 1, 1), (1, 1, 8, 1), (8, 1, 1, 1)])
def test_scales_of_columns_are_not_of_channels(shape):
    """All of them are as many as there are channels."""
    x, nodes = draw(1, 8, 8, 8), norm_nodes([2, 3])
    nodes.append(helper.make_node("Mul", ["n", "k"], ["o"]))
    nodes.append(helper.make_node("Add", ["o", "b"], ["y"]))
    constants = {"e": np.float32(1e-5), "k": draw(*shape), "b": draw(*shape, seed=1)}
    both(model(nodes, {"x": x}, constants, opset=13), {"x": x})


def test_an_instance_norm_of_flat_pictures_is_no_group_norm():
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["a"]),
        helper.make_node("InstanceNormalization", ["a", "one", "zero"], ["b"]),
        helper.make_node("Reshape", ["b", "back"], ["y"]),
    ]
    constants = {
        "flat": np.array([0, 0, -1]), "back": np.array([2, 6, 4, 5]),
        "one": np.ones(6, np.float32), "zero": np.zeros(6, np.float32),
    }  # fmt: skip
    x = draw(2, 6, 4, 5)
    both(model(nodes, {"x": x}, constants), {"x": x})


@pytest.mark.parametrize(
    "shape", [(5, 7), (1,), (7,), (5, 1), (1, 1, 1, 7), (3, 1, 5, 7), (3, 1, 1, 1, 7)]
)
def test_attention_with_masks_of_any_shape(shape):
    feeds = {"q": draw(1, 2, 5, 8), "k": draw(1, 2, 7, 8, seed=1), "v": draw(1, 2, 7, 8, seed=2)}
    nodes = [
        helper.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "t"], ["s"]),
        helper.make_node("Add", ["s", "m"], ["a"]),
        helper.make_node("Softmax", ["a"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    both(model(nodes, feeds, {"m": draw(*shape, seed=3)}), feeds)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1), (4, 4), (1,), (1, 1), ()])
def test_a_product_and_what_is_added_to_it(shape):
    """As many rows as columns: a vector that stands is no vector that lies."""
    x = draw(4, 6)
    node = helper.make_node("Gemm", ["x", "w", "c"], ["y"], transB=1)
    both(model([node], {"x": x}, {"w": draw(4, 6), "c": np.asarray(draw(*shape))}), {"x": x})


@pytest.mark.parametrize("largest", [0, 1])
def test_of_equal_numbers_the_first_counts(largest):
    x = np.round(draw(3, 40))
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"], largest=largest)
    got = both(model([node], {"x": x}, {"k": np.array([9])}, ("y", "i")), {"x": x})
    assert got["i"].dtype == np.int64


def test_sparse_constants_are_left_to_onnx_runtime():
    values = helper.make_tensor("s", TensorProto.FLOAT, [2], [1.0, 2.0])
    where = helper.make_tensor("i", TensorProto.INT64, [2], [1, 4])
    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "s"], ["y"])], "g", port[:1], port[1:],
        sparse_initializer=[helper.make_sparse_tensor(values, where, [2, 3])],
    )  # fmt: skip
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    whole.ir_version = 8
    data = whole.SerializeToString()
    assert load_onnx(data).run({"x": np.zeros((2, 3), np.float32)})["y"].sum() == 3
    with pytest.raises(ConfigError, match="sparse constants"):
        load_onnx(data, runtime="accel")


@pytest.mark.skipif(_native.module is None, reason=_native.reason)
def test_what_is_kept_of_an_input_is_forgotten_when_a_run_fails(monkeypatch):
    """Else the next run with the input before would take what the failed one left."""
    nodes = [
        helper.make_node("Gemm", ["s", "k"], ["g"]),
        helper.make_node("Unsqueeze", ["g", "a"], ["h"]),
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c", "h"], ["y"]),
    ]
    feeds = {"x": X, "s": draw(1, 4)}
    constants = {"k": draw(4, 8), "a": np.array([2, 3]), "w": W}
    ours = load_onnx(model(nodes, feeds, constants), runtime="accel")
    want = ours.run(feeds)["y"]
    program = ours._plan.program({name: torch.from_numpy(a) for name, a in feeds.items()})

    def fail(view, boxes, threads):
        raise RuntimeError("no memory")

    monkeypatch.setattr(program, "_work", [*program._work, fail])
    with pytest.raises(ValueError, match="no memory"):
        ours.run(feeds | {"s": draw(1, 4, seed=5)})
    monkeypatch.undo()
    assert np.array_equal(ours.run(feeds)["y"], want)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for memory")
def test_the_file_itself_is_not_kept_in_memory():
    """A part of the parsed file, kept for its sizes, kept all of it."""
    weights = 48 << 20
    data = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": draw(1, 3072)},
                 {"w": np.ones((3072, weights // 4 // 3072), np.float32)})  # fmt: skip
    before = pages_in_bytes()
    opened = load_onnx(data, runtime="accel")
    opened.run({"x": draw(1, 3072)})
    assert pages_in_bytes() - before < 2.9 * weights  # as they were and packed


def pages_in_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_quantized_pool_with_its_channels_last_is_refused():
    """Taken for one with channels first, it could make a million times what it was counted for."""
    pool = helper.make_node(
        "QLinearAveragePool", ["x", "s", "z", "s", "z"], ["y"], domain="com.microsoft",
        kernel_shape=[1001, 1001], pads=[1000] * 4, channels_last=1,
    )  # fmt: skip
    graph = helper.make_graph(
        [pool], "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 1, 1, 1 << 14))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(0), "z")],
    )  # fmt: skip
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    with pytest.raises(InputError, match="must make what has a size that follows"):
        load_onnx(helper.make_model(graph, opset_imports=sets).SerializeToString())


def test_graphs_whose_numbers_are_whole_run_on_onnx_runtime():
    """As ONNX Runtime's quantizer writes them: operators of its own on eight bits."""
    own = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["c"]),
        helper.make_node("QLinearAdd", ["c", "s", "z", "c", "s", "z", "s", "z"], ["a"], **own),
        helper.make_node(
            "QLinearConcat", ["s", "z", "a", "s", "z", "c", "s", "z"], ["j"], axis=1, **own
        ),
        helper.make_node(
            "QLinearAveragePool", ["j", "s", "z", "s", "z"], ["p"], kernel_shape=[2, 2], **own
        ),
        helper.make_node("QLinearGlobalAveragePool", ["p", "s", "z", "s", "z"], ["g"], **own),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("QGemm", ["f", "s", "z", "m", "s", "z", "", "s", "z"], ["o"], **own),
        helper.make_node("DequantizeLinear", ["o", "s", "z"], ["y"]),
    ]
    whole_numbers = np.random.default_rng(0).integers
    constants = {
        "s": np.float32(0.1),
        "z": np.int8(0),
        "w": whole_numbers(-9, 9, (4, 3, 1, 1), np.int8),
        "m": whole_numbers(-9, 9, (8, 5), np.int8),
    }
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 5))],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    whole = helper.make_model(graph, opset_imports=sets)
    whole.ir_version = 8
    network = load_onnx(whole.SerializeToString())
    assert network.runtime == "onnxruntime"
    for count in (1, 3):
        made = network.run({"x": draw(count, 3, 6, 6)})
        assert made["y"].shape == (count, 5)
        assert made["y"].any()


class TestPickles:
    @pytest.mark.parametrize("runtime", ["accel", "onnxruntime"])
    def test_of_a_model_from_a_file_open_it_again(self, tmp_path, runtime):
        path = tmp_path / "network.onnx"
        path.write_bytes(network())
        ours = load_onnx(path, runtime=runtime)
        again = pickle.loads(pickle.dumps(ours))
        assert (again.runtime, again.name) == (runtime, ours.name)
        assert np.array_equal(again.run({"x": X})["y"], ours.run({"x": X})["y"])

    def test_of_its_method_too_as_pools_send_it(self, tmp_path):
        path = tmp_path / "network.onnx"
        path.write_bytes(network())
        run = load_onnx(path, runtime="accel").run
        assert np.array_equal(pickle.loads(pickle.dumps(run))({"x": X})["y"], run({"x": X})["y"])

    def test_of_bytes_are_refused_in_one_line(self):
        with pytest.raises(TypeError, match="only a model opened from a file can be pickled"):
            pickle.dumps(load_onnx(network()))
