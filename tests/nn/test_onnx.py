"""load_onnx on our kernels: every operator against ONNX Runtime, fusions, whole networks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from accel.core import ConfigError, InputError
from accel.models.onnx import load_onnx
from accel.nn.onnx.plan import Step
from accel.weights.assets import asset

F32 = TensorProto.FLOAT


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(nodes, inputs, constants=None, outputs=("y",), opset=17) -> bytes:
    """inputs: name -> array, whose shape is declared; constants: name -> array."""
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    graph = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    ).graph
    known = {v.name: v for v in [*graph.value_info, *graph.output]}
    declared = [known[o] if known[o].type.WhichOneof("value") else None for o in outputs]
    for i, value in enumerate(declared):
        if value is None:
            declared[i] = helper.make_tensor_value_info(outputs[i], F32, None)
    del graph.output[:]
    graph.output.extend(declared)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    whole.ir_version = 8
    return whole.SerializeToString()


def both(data, feeds, tolerance=1e-5):
    """Run by our kernels and by ONNX Runtime; compare; return ours."""
    ours = load_onnx(data, runtime="accel")
    assert ours.runtime == "accel"
    got, want = ours.run(feeds), load_onnx(data, runtime="onnxruntime").run(feeds)
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].shape == array.shape, name
        assert got[name].dtype == array.dtype, name
        scale = max(1.0, float(np.abs(array).max(initial=0)))
        assert np.abs(got[name].astype(np.float64) - array).max(initial=0) <= tolerance * scale
    return got


X = draw(2, 4, 9, 7)
I64 = np.int64
CASES = {
    "conv": ("Conv", {"pads": [1, 1, 1, 1]}, {"w": draw(6, 4, 3, 3), "b": draw(6)}),
    "conv stride": ("Conv", {"strides": [2, 2], "pads": [1, 1, 1, 1]}, {"w": draw(5, 4, 3, 3)}),
    "conv uneven pads": ("Conv", {"pads": [0, 1, 1, 2]}, {"w": draw(3, 4, 3, 3)}),
    "conv same upper": (
        "Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"w": draw(3, 4, 3, 3)},
    ),
    "conv same lower": ("Conv", {"auto_pad": "SAME_LOWER"}, {"w": draw(3, 4, 2, 2)}),
    "conv groups": ("Conv", {"group": 4, "pads": [1, 1, 1, 1]}, {"w": draw(8, 1, 3, 3)}),
    "conv dilated": ("Conv", {"dilations": [2, 2]}, {"w": draw(3, 4, 3, 3)}),
    "conv 1x3, strides apart": ("Conv", {"strides": [1, 2]}, {"w": draw(3, 4, 1, 3)}),
    "transposed": (
        "ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"w": draw(4, 3, 3, 3), "b": draw(3)},
    ),
    "transposed, uneven pads": (
        "ConvTranspose", {"strides": [2, 2], "pads": [0, 1, 1, 0]}, {"w": draw(4, 3, 3, 3)},
    ),
    "max pool": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}, {}),
    "max pool same": (
        "MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, {},
    ),
    "average pool": ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}, {}),
    "average pool, pads counted": (
        "AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}, {},
    ),
    "global average": ("GlobalAveragePool", {}, {}),
    "global max": ("GlobalMaxPool", {}, {}),
    "batch norm": (
        "BatchNormalization", {"epsilon": 1e-3},
        {"s": draw(4), "b": draw(4), "m": draw(4), "v": np.abs(draw(4)) + 0.1},
    ),
    "instance norm": ("InstanceNormalization", {}, {"s": draw(4), "b": draw(4)}),
    "layer norm": ("LayerNormalization", {}, {"s": draw(7), "b": draw(7)}),
    "prelu": ("PRelu", {}, {"s": draw(4, 1, 1)}),
    "prelu of one": ("PRelu", {}, {"s": draw(1)}),
    "leaky relu": ("LeakyRelu", {"alpha": 0.2}, {}),
    "elu": ("Elu", {"alpha": 0.7}, {}),
    "hard sigmoid": ("HardSigmoid", {"alpha": 0.3}, {}),
    "hard swish": ("HardSwish", {}, {}),
    "clip": ("Clip", {}, {"lo": np.float32(-0.5), "hi": np.float32(0.7)}),
    "softmax": ("Softmax", {"axis": 1}, {}),
    "reduce mean": ("ReduceMean", {"axes": [2, 3]}, {}),
    "reduce sum": ("ReduceSum", {"keepdims": 0}, {"axes": np.array([1], I64)}),
    "reduce all": ("ReduceMax", {}, {}),
    "reduce l2": ("ReduceL2", {"axes": [1], "keepdims": 1}, {}),
    "lp norm": ("LpNormalization", {"axis": 1}, {}),
    "reshape": ("Reshape", {}, {"shape": np.array([0, -1, 7], I64)}),
    "flatten": ("Flatten", {"axis": 2}, {}),
    "transpose": ("Transpose", {"perm": [0, 2, 3, 1]}, {}),
    "transpose, all round": ("Transpose", {}, {}),
    "unsqueeze": ("Unsqueeze", {}, {"axes": np.array([0, -1], I64)}),
    "slice": (
        "Slice", {}, {"s": np.array([1, -6], I64), "e": np.array([4, 100], I64),
                      "a": np.array([1, 2], I64), "t": np.array([2, 1], I64)},
    ),
    "slice backwards": (
        "Slice", {}, {"s": np.array([-1], I64), "e": np.array([-(2**31)], I64),
                      "a": np.array([3], I64), "t": np.array([-2], I64)},
    ),
    "gather": ("Gather", {"axis": 1}, {"i": np.array([[3, -1], [0, 2]], I64)}),
    "tile": ("Tile", {}, {"r": np.array([1, 2, 1, 3], I64)}),
    "expand": ("Expand", {}, {"s": np.array([1, 1, 9, 1], I64)}),
    "pad": ("Pad", {}, {"p": np.array([0, 0, 1, 2, 0, 1, 0, 3], I64), "v": np.float32(0.5)}),
    "pad reflect": (
        "Pad", {"mode": "reflect"}, {"p": np.array([0, 0, 1, 2, 0, 0, 2, 1], I64)},
    ),
    "pad edge": ("Pad", {"mode": "edge"}, {"p": np.array([0, 0, 1, 2, 0, 0, 2, 1], I64)}),
    "depth to space": ("DepthToSpace", {"blocksize": 2}, {}),
    "depth to space crd": ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, {}),
    "cast": ("Cast", {"to": TensorProto.INT32}, {}),
    "pow": ("Pow", {}, {"p": np.float32(2)}),
    "erf": ("Erf", {}, {}),
    "shape": ("Shape", {}, {}),
    "arg max": ("ArgMax", {"axis": 1, "keepdims": 0}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operator_agrees_with_onnx_runtime(case):
    kind, attributes, constants = CASES[case]
    node = helper.make_node(kind, ["x", *constants], ["y"], **attributes)
    both(model([node], {"x": X}, constants), {"x": X})


RESIZES = [
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"},
    {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "ceil"},
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
    {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
]


@pytest.mark.parametrize("scale", [2.0, 3.0, 1.5])
@pytest.mark.parametrize("attributes", RESIZES, ids=lambda a: "-".join(a.values()))
def test_resize_agrees(attributes, scale):
    x = draw(1, 2, 6, 8)
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], **attributes)
    both(model([node], {"x": x}, {"s": np.array([1, 1, scale, scale], np.float32)}), {"x": x})


def test_split_concat_where_and_arithmetic_of_shapes():
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        helper.make_node("Concat", ["b", "a"], ["c"], axis=1),
        helper.make_node("Shape", ["c"], ["n"]),
        helper.make_node("Div", ["n", "two"], ["half"]),
        helper.make_node("Greater", ["c", "zero"], ["m"]),
        helper.make_node("Where", ["m", "c", "zero"], ["y"]),
    ]
    constants = {"sizes": np.array([1, 3]), "two": np.array([2]), "zero": np.float32(0)}
    both(model(nodes, {"x": X}, constants, ("y", "half")), {"x": X})


def residual_block(prefix, channels, x, adain, source="s"):
    """conv, written-out instance norm, scale and shift from a vector, ReLU, conv, norm, skip."""
    nodes, constants = [], {}

    def add(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [prefix + output], **attributes))
        return prefix + output

    h = x
    for i in (1, 2):
        seed = 2 * i + 10 * len(prefix)
        constants[f"{prefix}w{i}"] = draw(channels, channels, 3, 3, seed=seed) / 20
        constants[f"{prefix}b{i}"] = draw(channels, seed=seed + 1)
        h = add("Conv", [h, f"{prefix}w{i}", f"{prefix}b{i}"], f"c{i}", pads=[1, 1, 1, 1])
        mean = add("ReduceMean", [h], f"m{i}", axes=[2, 3])
        centred = add("Sub", [h, mean], f"d{i}")
        square = add("Mul", [centred, centred], f"q{i}")
        variance = add("ReduceMean", [square], f"v{i}", axes=[2, 3])
        root = add("Sqrt", [add("Add", [variance, "eps"], f"e{i}")], f"r{i}")
        if i == 1:
            h = add("Mul", [centred, add("Div", ["one", root], f"u{i}")], f"n{i}")
        else:
            h = add("Div", [centred, root], f"n{i}")
        if adain:
            constants[f"{prefix}k{i}"] = draw(8, 2 * channels, seed=seed + 5)
            style = add("Gemm", [source, f"{prefix}k{i}"], f"g{i}")
            style = add("Unsqueeze", [style, "axes23"], f"h{i}")
            nodes.append(
                helper.make_node(
                    "Split", [style, "halves"], [f"{prefix}a{i}", f"{prefix}z{i}"], axis=1
                )
            )
            h = add("Mul", [h, f"{prefix}a{i}"], f"s{i}")
            h = add("Add", [h, f"{prefix}z{i}"], f"t{i}")
        if i == 1:
            h = add("Relu", [h], "o1")
    return nodes, constants, add("Add", [x, h], "out")


# Random weights make the last tanh steep: it enlarges the rounding of the convolutions before it
# (3e-6 of the largest result where they run on tile registers) fifty times.
STEEP = 1e-3


def swapper(channels=64):
    """The shape of a face swapper of the inswapper kind, made small, with random weights."""
    shared = {
        "eps": np.float32(1e-8), "one": np.float32(1), "axes23": np.array([2, 3]),
        "halves": np.array([channels, channels]), "w0": draw(channels, 3, 7, 7, seed=90) / 10,
        "w9": draw(3, channels, 3, 3, seed=91) / 10, "scale": np.array([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Pad", ["x", "p"], ["xp"], mode="reflect"),
        helper.make_node("Conv", ["xp", "w0"], ["c0"]),
        helper.make_node("LeakyRelu", ["c0"], ["h0"], alpha=0.2),
    ]
    shared["p"] = np.array([0, 0, 3, 3, 0, 0, 3, 3])
    h = "h0"
    for block in ("p", "qq"):
        more, constants, h = residual_block(block, channels, h, True)
        nodes += more
        shared |= constants
    nodes += [
        helper.make_node("Resize", [h, "", "scale"], ["up"], mode="linear"),
        helper.make_node("Conv", ["up", "w9"], ["c9"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c9"], ["y"]),
    ]
    return nodes, shared


def test_a_swapper_fuses_and_keeps_what_hangs_on_the_identity(monkeypatch):
    nodes, constants = swapper()
    feeds = {"x": draw(1, 3, 32, 32), "s": draw(1, 8, seed=3)}
    data = model(nodes, feeds, constants)
    both(data, feeds, STEEP)
    ours = load_onnx(data)
    assert ours.runtime == "accel"  # chosen without being asked for
    plan = ours._plan.plan
    kinds = [step.kind for step in plan.steps]
    assert kinds.count("accel.instance_norm") == 4
    assert "ReduceMean" not in kinds
    assert "Sub" not in kinds
    assert kinds.count("accel.conv") == 1  # the first, with its leaky ReLU
    counted = []
    run = Step.run

    def counting(self, values):
        counted.append(self.kind)
        run(self, values)

    def by_operators(feeds):
        return plan.run({n: torch.from_numpy(a) for n, a in feeds.items()})[0].numpy()

    monkeypatch.setattr(Step, "run", counting)
    first = by_operators(feeds)
    assert counted.count("Gemm") == 4
    counted.clear()
    assert np.array_equal(by_operators(feeds), first)
    assert "Gemm" not in counted  # the same identity: its styles were kept
    other = by_operators(feeds | {"s": draw(1, 8, seed=4)})
    assert counted.count("Gemm") == 4
    want = load_onnx(data, runtime="onnxruntime").run(feeds | {"s": draw(1, 8, seed=4)})["y"]
    assert np.abs(other - want).max() < STEEP


def test_skip_of_a_block_is_added_by_its_convolution_but_a_broadcast_is_not():
    w = draw(4, 4, 3, 3)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["r", "c"], ["y"]),
    ]
    data = model(nodes, {"x": X}, {"w": w})
    both(data, {"x": X})
    assert [s.kind for s in load_onnx(data, runtime="accel")._plan.plan.steps] == ["Relu", "Conv"]
    nodes[0] = helper.make_node("ReduceMean", ["x"], ["r"], axes=[2, 3])
    nodes[1] = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])
    data = model(nodes, {"x": X}, {"w": w})
    both(data, {"x": X})
    assert load_onnx(data, runtime="accel")._plan.plan.steps[-1].kind == "Add"


def test_batch_norm_folds_into_the_convolution_before_it():
    constants = {
        "w": draw(6, 4, 3, 3), "s": draw(6), "b": draw(6, seed=1), "m": draw(6, seed=2),
        "v": np.abs(draw(6, seed=3)) + 0.2,
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    data = model(nodes, {"x": X}, constants)
    both(data, {"x": X})
    assert [s.kind for s in load_onnx(data, runtime="accel")._plan.plan.steps] == ["accel.conv"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("facemesh_468_192.fp16w.onnx", (1, 192, 192, 3)),
        ("blazeface_back_256.fp16w.onnx", (1, 256, 256, 3)),
        ("iris_64.fp16w.onnx", (1, 64, 64, 3)),
        ("dlib_face_embed_128.u8w.onnx", (1, 3, 150, 150)),
        ("esrgan_slim_x2.onnx", (1, 3, 24, 20)),
    ],
)
def test_embedded_networks_agree(name, shape):
    path = asset(name)
    port = load_onnx(path, runtime="onnxruntime")._network.inputs[0]
    shape = tuple(s if isinstance(s, int) else d for s, d in zip(port.shape, shape))
    both(path, {port.name: np.abs(draw(*shape)).clip(0, 1)}, 1e-4)


def test_refusals(tmp_path):
    node = helper.make_node("Det", ["x"], ["y"])
    data = model([node], {"x": draw(3, 3)})
    with pytest.raises(ConfigError, match="operator Det"):
        load_onnx(data, runtime="accel")
    assert load_onnx(data).runtime == "onnxruntime"
    with pytest.raises(ConfigError, match="runtime must be"):
        load_onnx(data, runtime="tensorrt")
    with pytest.raises(InputError):
        load_onnx(b"no model at all")
    fine = model([helper.make_node("Relu", ["x"], ["y"])], {"x": X})
    for runtime in ("accel", "onnxruntime"):
        with pytest.raises(ValueError, match="inputs must be"):
            load_onnx(fine, runtime=runtime).run({"z": X})
