"""ONNX models that reach outside their bytes, or are small and make themselves large or endless."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.core import InputError
from accel.weights import onnx_graph, onnx_sizes
from accel.weights.onnx import open_onnx
from tests.weights.growing import COMPUTED, swapper
from tests.weights.swelling import FLAT, SWELLING
from tests.weights.test_onnx import model, node

F, I64 = TensorProto.FLOAT, TensorProto.INT64
SHAPE = [1, 4]


def outside(name: str = "w", key: str = "location") -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key=key, value="/etc/passwd")
    return tensor


def graph_with(tensor: TensorProto):
    out = helper.make_tensor_value_info("inner", F, None)
    constant = helper.make_node("Constant", [], ["inner"], value=tensor)
    return helper.make_graph([constant], "inner", [], [out])


def add(constants=(), nodes=(), **more):
    return model(
        [node("Add", "x w"), *nodes], [("x", F, SHAPE)], [("y", F, SHAPE)], constants, **more
    )


def dense():
    made = add()
    made.graph.initializer.append(outside())
    return made


def quiet_dense():
    """The data is outside without the flag that says so."""
    made = dense()
    made.graph.initializer[0].data_location = TensorProto.DEFAULT
    return made


def sparse(part: str):
    made = add()
    values, indices = np.ones(1, np.float32), np.zeros(1, np.int64)
    tensor = helper.make_sparse_tensor(
        numpy_helper.from_array(values, "w"), numpy_helper.from_array(indices, "i"), [4]
    )
    getattr(tensor, part).CopyFrom(outside("w" if part == "values" else "i"))
    made.graph.sparse_initializer.append(tensor)
    return made


def attribute():
    made = add({"w": np.ones(4, np.float32)})
    made.graph.node.append(helper.make_node("Constant", [], ["k"], value=outside()))
    return made


def sparse_attribute():
    made = add({"w": np.ones(4, np.float32)})
    tensor = sparse("values").graph.sparse_initializer[0]
    made.graph.node.append(helper.make_node("Constant", [], ["k"], sparse_value=tensor))
    return made


def subgraph():
    made = add({"w": np.ones(4, np.float32), "c": np.array(True)})
    branches = {side: graph_with(outside()) for side in ("then_branch", "else_branch")}
    made.graph.node.append(helper.make_node("If", ["c"], ["k"], **branches))
    return made


def subgraph_twice():
    made = subgraph()
    inner = graph_with(numpy_helper.from_array(np.ones(4, np.float32)))
    inner.node.extend(made.graph.node[1:])
    del made.graph.node[1:]
    branches = {"then_branch": inner, "else_branch": inner}
    made.graph.node.append(helper.make_node("If", ["c"], ["k"], **branches))
    return made


def function(body, name="f", domain="own", opsets=()):
    imports = [helper.make_opsetid("", 16), helper.make_opsetid("own", 1), *opsets]
    return helper.make_function(domain, name, ["a"], ["b"], body, imports)


def calling(functions, name="f"):
    call = helper.make_node(name, ["x"], ["y"], domain="own")
    made = model(
        [call], [("x", F, SHAPE)], [("y", F, SHAPE)], opsets=[helper.make_opsetid("own", 1)]
    )
    made.functions.extend(functions)
    return made


def in_function():
    constant = helper.make_node("Constant", [], ["k"], value=outside())
    return calling([function([constant, helper.make_node("Add", ["a", "k"], ["b"])])])


def foreign_in_function():
    return calling([function([helper.make_node("Run", ["a"], ["b"], domain="evil.ops")])])


def default_attribute():
    body = function([helper.make_node("Identity", ["a"], ["b"])])
    body.attribute_proto.append(helper.make_attribute("k", outside()))
    return calling([body])


def training():
    made = add({"w": np.ones(4, np.float32)})
    made.training_info.add().initialization.CopyFrom(graph_with(outside()))
    return made


def own_domain_without_function():
    made = calling([function([helper.make_node("Identity", ["a"], ["b"])])])
    made.graph.node[0].op_type = "g"
    return made


def itself():
    return calling([function([helper.make_node("f", ["a"], ["b"], domain="own")])])


def each_other():
    first = function([helper.make_node("g", ["a"], ["b"], domain="own")])
    return calling([first, function([helper.make_node("f", ["a"], ["b"], domain="own")], "g")])


def doubling():
    """Each function calls the next one twice: 2^30 operators from some 100."""
    made = []
    for i in range(30):
        inner = f"f{i + 1}"
        body = [helper.make_node(inner, ["a"], ["k"], domain="own"),
                helper.make_node(inner, ["k"], ["b"], domain="own")]  # fmt: skip
        made.append(function(body, f"f{i}"))
    made.append(function([helper.make_node("Identity", ["a"], ["b"])], "f30"))
    return calling(made, "f0")


def made_from(kind, constants, **attributes):
    names = " ".join(constants)
    values = {n: np.array(v) for n, v in constants.items()}
    return model([node(kind, names, **attributes)], [("x", F, SHAPE)], [("y", F, None)], values)


def endless():
    body = helper.make_graph(
        [node("Identity", "c", "c2"), node("Identity", "v", "v2")],
        "body",
        [helper.make_tensor_value_info("i", I64, []), helper.make_tensor_value_info("c", 9, []),
         helper.make_tensor_value_info("v", F, SHAPE)],
        [helper.make_tensor_value_info("c2", 9, []), helper.make_tensor_value_info("v2", F, SHAPE)],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["", "t", "x"], ["y"], body=body)
    return model([loop], [("x", F, SHAPE)], [("y", F, SHAPE)], {"t": np.array(True)})


def outer_product():
    constants = {"a": np.ones((40_000, 1), np.float32), "b": np.ones((1, 40_000), np.float32)}
    nodes = [node("MatMul", "a b", "k"), node("ReduceSum", "k", "s"), node("Add", "x s")]
    return model(nodes, [("x", F, SHAPE)], [("y", F, None)], constants)


def sparse_bomb():
    made = sparse("indices")
    made.graph.sparse_initializer[0].indices.CopyFrom(
        numpy_helper.from_array(np.zeros(1, np.int64), "i")
    )
    made.graph.sparse_initializer[0].dims[:] = [2**40]
    return made


def alone(kind, inputs, outputs=("y",), constants=(), opset=22, **attributes):
    """One operator whose definition ends the process where it is asked for shapes."""
    made = helper.make_node(kind, inputs, outputs, **attributes)
    given = [("x", F, [1, 2, 3, 4])]
    return model([made], given, [("y", F, None)], constants, opset=opset)


def called_with_too_much():
    made = calling([relu()])
    made.graph.node[0].input.extend(["x"] * 3)
    return made


OUTSIDE = r"must lie in the file itself|kept in another file"
CASES = [
    (dense, OUTSIDE),
    (quiet_dense, OUTSIDE),
    (lambda: sparse("values"), OUTSIDE),
    (lambda: sparse("indices"), OUTSIDE),
    (attribute, OUTSIDE),
    (sparse_attribute, OUTSIDE),
    (subgraph, OUTSIDE),
    (subgraph_twice, OUTSIDE),
    (in_function, OUTSIDE),
    (default_attribute, OUTSIDE),
    (training, OUTSIDE),
    (foreign_in_function, "evil.ops"),
    (own_domain_without_function, "operators must be of the domains"),
    (itself, "must not call itself"),
    (each_other, "must not call itself"),
    (doubling, "operators at most"),
    (endless, "must state its rounds"),
    (sparse_bomb, "elements at most"),
    (outer_product, "elements at most"),
    (lambda: made_from("ConstantOfShape", {"s": np.array([2**40])}), "elements at most"),
    (lambda: made_from("Expand", {"a": np.float32([1]), "s": np.array([2**31, 8])}), "at most"),
    (lambda: made_from("Tile", {"a": np.float32([1]), "s": np.array([2**40])}), "at most"),
    (lambda: made_from("Range", {"a": 0, "b": 2**40, "c": 1}), "at most"),
    (lambda: made_from("Range", {"a": 0.0, "b": 1.0, "c": 0.0}), "at most"),
    (lambda: made_from("RandomNormal", {}, shape=[2**20, 2**20]), "at most"),
    (lambda: alone("Split", ["x"], ["y", ""], num_outputs=1), "must have num_outputs 2, got 1"),
    (lambda: alone("Split", ["x"], num_outputs=2**31), "must have num_outputs 1"),
    (lambda: alone("GatherND", ["x", "i"], constants={"i": np.int64([0])}, batch_dims=-100),
     r"must have its batch_dims in 0\.\.64"),
    (lambda: alone("LayerNormalization", ["x", "x"], axis=2**31), "must have its axis in"),
    (lambda: alone("EyeLike", [""]), "must be given input, got none"),
    (lambda: alone("RegexFullMatch", [""], pattern="a"), "must be given X, got none"),
    (lambda: alone("Relu", ["x", "x"]), "must take 1 to 1 inputs, got 2"),
    (lambda: alone("Relu", ["x"], ["y", "z"]), "must make 1 to 1 values, got 2"),
    (lambda: alone("STFT", ["x", "s"], constants={"s": np.zeros(0, np.int64)}), "ONNX finds none"),
    (lambda: alone("DictVectorizer", [""], domain="ai.onnx.ml"), "operators must be of the dom"),
    (lambda: alone("Cast", ["x"]), "must have to, got none"),
    (called_with_too_much, "functions must fit the calls"),
]  # fmt: skip


def test_names_that_are_no_text_are_refused():
    data = foreign_in_function().SerializeToString()
    with pytest.raises(InputError, match="operators must be of the domains"):
        open_onnx(data.replace(b"Run", b"R\xffn"))


@pytest.mark.parametrize("name", COMPUTED)
def test_refuses_sizes_that_a_graph_computes(name):
    """Runtimes work out what hangs on constants and shapes alone as they open a graph."""
    nodes, tensors = COMPUTED[name]
    with pytest.raises(InputError, match="at most"):
        open_onnx(swapper(nodes, tensors))


@pytest.mark.parametrize("name", SWELLING)
def test_refuses_what_swells_as_it_is_run(name):
    nodes, tensors = SWELLING[name]
    with pytest.raises(InputError, match=r"must|Runtime refuses it"):
        open_onnx(swapper(nodes, tensors))


def test_a_free_size_is_checked_once_it_is_known():
    nodes = [node("Reshape", "x column", "a"), node("Reshape", "x row", "b"), node("Add", "a b")]
    network = open_onnx(
        model(nodes, [("x", F, ["n", "m"])], [("y", F, None)], FLAT).SerializeToString()
    )
    assert network(np.ones((1, 50), np.float32))[0].shape == (50, 50)
    with pytest.raises(InputError, match="elements at most, got 2500000000"):
        network(np.ones((1, 50_000), np.float32))


def test_a_computed_size_that_is_modest_is_taken():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "two"], ["size"]),
        helper.make_node("Resize", ["x", "", "", "size"], ["y"]),
    ]
    made = model(nodes, [("x", F, [1, 3, 8, 8])], [("y", F, None)], {"two": np.array([1, 1, 2, 2])})
    (got,) = open_onnx(made.SerializeToString())(np.zeros((1, 3, 8, 8), np.float32))
    assert got.shape == (1, 3, 16, 16)


def test_weights_may_lie_in_a_folder_of_their_own_alone(tmp_path):
    data = dense().SerializeToString()
    named = onnx.load_model_from_string(data).graph.initializer[0].external_data[0].value
    with pytest.raises(InputError, match=OUTSIDE):
        onnx_graph.parse(data, "x", tmp_path)
    inside = data.replace(named.encode(), b"w".ljust(len(named), b"w"))
    name = "w" * len(named)
    (tmp_path / name).symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=OUTSIDE):
        onnx_graph.parse(inside, "x", tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(bytes(16))
    onnx_graph.parse(inside, "x", tmp_path)
    with pytest.raises(InputError, match=OUTSIDE):
        onnx_graph.parse(inside, "x")


@pytest.mark.parametrize(("make", "message"), CASES)
def test_refuses(make, message):
    start = time.perf_counter()
    with pytest.raises(InputError, match=message) as caught:
        open_onnx(make().SerializeToString())
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 5


def message(field: int, content: bytes) -> bytes:
    length, varint = len(content), b""
    while length > 127:
        varint, length = varint + bytes([length & 127 | 128]), length >> 7
    tag = field << 3 | 2
    head = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
    return head + varint + bytes([length]) + content


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (message(7, message(1, b"") * 2_000_000), "parts at most"),  # empty nodes
        (message(7, message(1, message(1, b"") * 2_000_000)), "parts at most"),  # empty names
        (message(7, message(5, message(8, b"") * 2_000_000)), "parts at most"),  # of a tensor
        (message(7, b"\x0a\xff\xff\xff\xff\x7f"), "damaged"),
        (b"\x3b\x3b\x3b", "text|damaged"),
        (b"\x12" + b"\xff" * 20, "damaged"),
    ],
)
def test_bytes_are_counted_before_they_are_parsed(data, why):
    with pytest.raises(InputError, match=why):
        open_onnx(data)


def test_numbers_are_counted_too(tmp_path):
    """Of a long file before it is read: fields of two bytes each are nothing but time."""
    path = tmp_path / "a.onnx"
    path.write_bytes(b"\x08\x01" * (33 << 20))
    start = time.process_time()
    with pytest.raises(InputError, match="parts at most"):
        open_onnx(path)
    assert time.process_time() - start < 3


def test_nesting_is_bounded():
    graph = b""
    for _ in range(30):
        graph = message(1, message(5, message(6, graph)))
    with pytest.raises(InputError, match="nest 40 messages deep"):
        open_onnx(message(7, graph))


def relu():
    return function([helper.make_node("Relu", ["a"], ["b"])])


def bounded():
    loop = endless()
    loop.graph.node[0].input[0] = "n"
    loop.graph.initializer.append(numpy_helper.from_array(np.array(3), "n"))
    return loop


def branches():
    constant = numpy_helper.from_array(np.ones((1, 4), np.float32))
    sides = {side: graph_with(constant) for side in ("then_branch", "else_branch")}
    nodes = [helper.make_node("If", ["c"], ["k"], **sides), node("Add", "x k")]
    return model(nodes, [("x", F, SHAPE)], [("y", F, SHAPE)], {"c": np.array(True)})


def test_honest_functions_loops_and_branches_run():
    x = np.float32([[-1, 2, -3, 4]])
    assert open_onnx(calling([relu()]).SerializeToString())(x)[0].tolist() == [[0, 2, 0, 4]]
    assert open_onnx(bounded().SerializeToString())(x)[0].tolist() == x.tolist()
    assert open_onnx(branches().SerializeToString())(x)[0].tolist() == (x + 1).tolist()


def test_a_shape_of_millions_is_not_written_out():
    made = model(
        [node("Identity", "s", "t"), node("Expand", "x t")],
        [("x", F, SHAPE), ("s", I64, [1 << 25])],
        [("y", F, None)],
        opset=8,
    )
    start = time.process_time()
    with pytest.raises(InputError, match="must take its size from constants or shapes"):
        onnx_graph.parse(made.SerializeToString(), "x")
    assert onnx_sizes.value_shapes(made)["s"] == [1 << 25]
    assert time.process_time() - start < 2


@pytest.mark.parametrize("equation", ["\x1b[2J", "a,b", "a,b,c,d", "a,,->>b", "a.,b,c", "a,b,é"])
def test_an_einsum_without_a_right_equation_is_refused_at_once(equation):
    """ONNX's own code for shapes never came back from the first."""
    step = onnx.helper.make_node("Einsum", ["x", "x", "x"], ["y"], equation=equation)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [step], "g", [value("x", 1, [7])], [value("y", 1, None)]
    )  # fmt: skip
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    made.ir_version = 8
    with pytest.raises(InputError, match="an Einsum must have an equation"):
        onnx_graph.parse(made.SerializeToString(), "a.onnx")
