"""Opening ONNX files: what is refused, what is folded, and that batches equal single runs."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from accel.core import ConfigError, InputError
from accel.weights import onnx as onnx_module
from accel.weights import onnx_graph
from accel.weights.assets import asset, manifest
from accel.weights.onnx import open_onnx

EMBEDDED = [name for name in manifest() if name.endswith(".onnx")]


def model(nodes, inputs, outputs, constants=(), opset=16, **more):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in dict(constants).items()],
    )
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def node(kind, inputs, output="y", **attributes):
    return helper.make_node(kind, inputs.split(), [output], **attributes)


F = TensorProto.FLOAT


def test_sizes_are_worked_out_for_files_of_others_alone(monkeypatch, tmp_path):
    asked = []
    sizes = onnx_module.Sizes
    monkeypatch.setattr(onnx_module, "Sizes", lambda *args: asked.append(1) or sizes(*args))
    monkeypatch.setattr(onnx_graph, "Sizes", lambda *args: asked.append(2) or sizes(*args))
    own = asset("nsfw_mobilenet_v2_224.u8w.onnx")
    copy = tmp_path / own.name
    copy.write_bytes(own.read_bytes())
    picture = np.random.default_rng(3).random((1, 224, 224, 3), np.float32)
    (ours,) = open_onnx(own)(picture)
    assert not asked
    (others,) = open_onnx(copy)(picture)
    assert set(asked) == {1, 2}
    np.testing.assert_array_equal(ours, others)


def test_kept_items_stay_in_order():
    network = model([node("Relu", "x", f"y{k}") for k in range(5)], [("x", F, [1])], [])
    onnx_graph._keep(network.graph.node, [True, False, True, False, True])
    assert [one.output[0] for one in network.graph.node] == ["y0", "y2", "y4"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_batch_of_three_equals_three_single_runs(name):
    network = open_onnx(asset(name))
    shape = [s if isinstance(s, int) else 24 for s in network.inputs[0].shape[1:]]
    x = np.random.default_rng(0).random((3, *shape), np.float32)
    together = network(x)
    assert network.batched
    for i in range(3):
        for batch, single in zip(together, network(x[i : i + 1])):
            np.testing.assert_allclose(batch[i : i + 1], single, rtol=1e-4, atol=1e-4)
    assert [len(out) for out in network(x[:0])] == [0] * len(network.outputs)


@pytest.mark.parametrize("name", ["iris_64.fp16w.onnx", "dlib_face_embed_128.u8w.onnx"])
def test_folding_changes_the_storage_and_not_the_answer(name):
    data = asset(name).read_bytes()
    folded = onnx_graph.parse(data, name)
    assert onnx_graph.fold_storage(folded) > 20
    kinds = {n.op_type for n in folded.graph.node}
    assert not kinds & {"DequantizeLinear", "Cast"}
    x = np.random.default_rng(1).random((1, *open_onnx(data).inputs[0].shape[1:]), np.float32)
    for ours, plain in zip(open_onnx(data)(x), open_onnx(data, fold=False, dynamic_batch=False)(x)):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


def test_dequantised_weights_use_their_axis_and_zero_point():
    weights = np.array([[0, 10], [20, 255]], np.uint8)
    network = model(
        [
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=0),
            node("MatMul", "x w"),
        ],
        [("x", F, ["n", 2])],
        [("y", F, ["n", 2])],
        {
            "q": weights,
            "scale": np.array([0.5, 2], np.float32),
            "zero": np.array([10, 20], np.uint8),
        },
    )
    assert onnx_graph.fold_storage(network) == 1
    (y,) = open_onnx(network.SerializeToString())(np.eye(2, dtype=np.float32))
    np.testing.assert_array_equal(y, [[-5, 0], [0, 470]])


def test_quantised_activations_keep_their_integer_weights():
    network = model(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xf"]),
            node("MatMul", "xf wf"),
        ],
        [("x", F, [1, 2])],
        [("y", F, [1, 2])],
        {"w": np.ones((2, 2), np.uint8), "s": np.float32(1), "z": np.uint8(0)},
    )
    assert onnx_graph.fold_storage(network) == 0


def test_reshape_and_resize_constants_follow_the_batch():
    network = model(
        [
            helper.make_node("Resize", ["x", "", "", "sizes"], ["big"], mode="nearest"),
            helper.make_node("Reshape", ["big", "groups"], ["grouped"]),
            node("Reshape", "grouped flat"),
        ],
        [("x", F, [1, 2, 2, 3])],
        [("y", F, [1, 48])],
        {
            "sizes": np.array([1, 2, 4, 6]),
            "groups": np.array([1, 2, -1]),
            "flat": np.array([1, 48]),
        },
    )
    network = open_onnx(network.SerializeToString())
    x = np.arange(36, dtype=np.float32).reshape(3, 2, 2, 3)
    (y,) = network(torch.from_numpy(x))
    assert network.batched
    np.testing.assert_array_equal(y, x.repeat(2, 2).repeat(2, 3).reshape(3, 48))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ReduceMean", "x", axes=[0], keepdims=1, name="mixes the batch")],
        [node("Sub", "x m"), node("ReduceMean", "x", "m", axes=[0], keepdims=1)][::-1],
        [node("Reshape", "x all", "v"), node("Reshape", "v one")],
    ],
    ids=["mean over the batch", "minus the mean over the batch", "refused by the run-time"],
)
def test_a_graph_that_cannot_be_batched_runs_item_by_item(nodes):
    constants = {"all": np.array([4]), "one": np.array([2, 2])}
    used = {name for n in nodes for name in n.input}
    network = model(
        nodes,
        [("x", F, [1, 4])],
        [("y", F, [1, 4] if "all" not in used else [2, 2])],
        {k: v for k, v in constants.items() if k in used},
    )
    network = open_onnx(network.SerializeToString())
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    expected = np.concatenate([network(x[:1])[0], network(x[1:])[0]])
    np.testing.assert_array_equal(network(x)[0], expected)
    assert not network.batched
    np.testing.assert_array_equal(network(x)[0], expected)


def test_equal_items_prove_nothing_about_a_batch():
    network = open_onnx(
        model(
            [node("ReduceMean", "x", axes=[0], keepdims=1)], [("x", F, [1, 4])], [("y", F, [1, 4])]
        ).SerializeToString()
    )
    network(np.ones((3, 4), np.float32))
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(network(x)[0], x)


def test_a_setting_is_not_a_batch():
    network = open_onnx(
        model(
            [node("Mul", "x k")], [("x", F, [1, 4]), ("k", F, [1])], [("y", F, [1, 4])]
        ).SerializeToString()
    )
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    (y,) = network(x=x, k=np.float32([3]))
    np.testing.assert_array_equal(y, 3 * x)
    assert network.batched


ADD = model([node("Add", "x x")], [("x", F, ["n", 2])], [("y", F, ["n", 2])])


def outside(tensor):
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    tensor.ClearField("raw_data")
    return tensor


def external_at(where):
    secret = outside(numpy_helper.from_array(np.zeros((1, 2), np.float32), "w"))
    if where == "initializer":
        bad = model([node("Add", "x w")], [("x", F, ["n", 2])], [("y", F, ["n", 2])])
        bad.graph.initializer.append(secret)
    elif where == "sparse":
        bad = model([node("Add", "x x")], [("x", F, ["n", 2])], [("y", F, ["n", 2])])
        sparse = bad.graph.sparse_initializer.add()
        sparse.values.CopyFrom(secret)
    elif where == "subgraph":
        inner = helper.make_graph(
            [helper.make_node("Constant", [], ["z"], value=secret)],
            "inner",
            [],
            [helper.make_tensor_value_info("z", F, [1, 2])],
        )
        bad = model(
            [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
            [("c", TensorProto.BOOL, [])],
            [("y", F, [1, 2])],
        )
    else:
        bad = onnx.ModelProto()
        bad.CopyFrom(ADD)
        function = helper.make_function(
            "local",
            "F",
            [],
            ["z"],
            [helper.make_node("Constant", [], ["z"], value=secret)],
            [helper.make_opsetid("", 16)],
        )
        bad.functions.append(function)
    return bad.SerializeToString()


@pytest.mark.parametrize("where", ["initializer", "sparse", "subgraph", "function"])
def test_data_in_other_files_is_refused_wherever_it_hides(where):
    with pytest.raises(InputError, match="all data must lie in the file itself"):
        open_onnx(external_at(where))


def test_foreign_operators_are_refused():
    bad = model(
        [helper.make_node("Run", ["x"], ["y"], domain="evil")],
        [("x", F, [1])],
        [("y", F, [1])],
        opsets=[helper.make_opsetid("evil", 1)],
    )
    with pytest.raises(InputError, match="got 'Run' of 'evil'"):
        open_onnx(bad.SerializeToString())


def test_an_operator_that_reads_files_is_refused():
    bad = model(
        [helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")],
        [("x", F, [1])],
        [("y", F, [1])],
    )
    with pytest.raises(InputError, match="'EPContext' reads another file"):
        open_onnx(bad.SerializeToString())


def test_a_tensor_that_claims_more_than_it_holds_is_refused():
    bad = onnx.ModelProto()
    bad.CopyFrom(ADD)
    bad.graph.initializer.append(TensorProto(name="w", data_type=F, dims=[1 << 15, 1 << 14]))
    with pytest.raises(InputError, match="must hold 536870912 numbers"):
        open_onnx(bad.SerializeToString())
    bad.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(InputError, match="2\\^30 elements"):
        open_onnx(bad.SerializeToString())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty file"),
        (b"hello, this is not a network\n" * 20, "text"),
        (b"<html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        (bytes(range(256)) * 8, "damaged or truncated"),
        (ADD.SerializeToString()[:-20], "damaged or truncated"),
    ],
    ids=["empty", "text", "html", "lfs", "binary", "truncated"],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, content, says):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        open_onnx(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_every_truncation_of_a_real_model_is_refused():
    data = asset("iris_64.fp16w.onnx").read_bytes()
    for end in (1, 100, 5000, len(data) // 2, len(data) - 1):
        with pytest.raises(InputError):
            open_onnx(data[:end])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_onnx(tmp_path / "none.onnx")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_is_never_replaced_by_the_cpu_in_silence():
    with pytest.raises(ConfigError, match="cuda"):
        open_onnx(ADD.SerializeToString(), device="cuda")


@pytest.mark.parametrize(
    "x", [np.zeros((2, 3)), np.zeros(2), np.zeros((1, 2, 1))], ids=lambda x: str(x.shape)
)
def test_a_wrong_shape_is_named(x):
    with pytest.raises(ValueError, match=r"input must be x \[n, 2\] float32, got"):
        open_onnx(ADD.SerializeToString())(x)


def test_importing_the_assets_reads_no_file():
    code = (
        "import sys, builtins, accel.weights.assets as a; "
        "assert a._fault.cache_info().currsize == 0; assert 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
