"""load_onnx on graphs as exporters write them, against ONNX Runtime: free sizes, old operator sets,
every way of resizing and padding, sizes worked out in the graph, files that declare little."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from accel.core import ConfigError
from accel.models.onnx import load_onnx
from tests.nn.test_onnx import draw

I64 = np.int64


def agree(data, feeds, tolerance=1e-5, runtimes=("accel", "auto")):
    """Ours and ONNX Runtime's answers; also where ours is only asked for, not chosen."""
    want = load_onnx(data, runtime="onnxruntime").run(feeds)
    for runtime in runtimes:
        got = load_onnx(data, runtime=runtime).run(feeds)
        for name, array in want.items():
            assert got[name].shape == array.shape, name
            assert got[name].dtype == array.dtype, name
            ours, theirs = got[name].astype(np.float64), array.astype(np.float64)
            scale = max(1.0, float(np.abs(theirs).max(initial=0)))
            assert np.abs(ours - theirs).max(initial=0) <= tolerance * scale, name


# --- networks as torch writes them ------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.a, self.n = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs)
        self.b = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return F.relu(self.b(F.relu(self.n(self.a(x)))) + self.skip(x))


class ResNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, 2, 3)
        self.blocks = nn.Sequential(Residual(width, width), Residual(width, 2 * width, 2))
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x):
        x = self.blocks(F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class UNet(nn.Module):
    """Enlarges to the size of what it joins, which the graph works out for itself."""

    def __init__(self, width=8, mode="nearest", act=F.relu):
        super().__init__()
        self.down, self.low = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.norm, self.out = nn.GroupNorm(2, width), nn.Conv2d(2 * width, 3, 3, 1, 1)
        self.mode, self.act = mode, act

    def forward(self, x):
        a = self.act(self.down(x))
        b = self.act(self.norm(self.low(F.avg_pool2d(a, 2))))
        b = F.interpolate(b, size=a.shape[2:], mode=self.mode)
        return torch.tanh(self.out(torch.cat([a, b], 1)))


class Mobile(nn.Module):
    def __init__(self, c=12):
        super().__init__()
        self.a, self.d = nn.Conv2d(3, c, 3, 2, 1), nn.Conv2d(c, c, 5, 1, 2, groups=c)
        self.p, self.q = nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)

    def forward(self, x):
        x = F.hardswish(self.d(F.relu6(self.a(x))))
        x = x * F.hardsigmoid(self.q(F.relu(self.p(F.adaptive_avg_pool2d(x, 1)))))
        return F.softmax(x.mean((2, 3)), -1), x


class Transformer(nn.Module):
    def __init__(self, d=16, heads=2, causal=False):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.heads, self.causal = heads, causal

    def forward(self, x):
        b, n, d = x.shape
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (t.reshape(b, n, self.heads, d // self.heads).transpose(1, 2) for t in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, d))
        return x + self.down(F.gelu(self.up(x)))


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.block = nn.Embedding(30, 16), Transformer(causal=True)

    def forward(self, tokens):
        x = self.block(self.words(tokens))
        return x, x[torch.arange(x.shape[0]), tokens.argmax(-1)]


class Deconvolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.ConvTranspose2d(6, 8, 4, 2, 1)
        self.b = nn.ConvTranspose2d(8, 9, 3, 2, 1, output_padding=1, groups=1)
        self.c = nn.ConvTranspose2d(9, 6, 2, 2, groups=3)

    def forward(self, x):
        return torch.tanh(self.c(F.elu(self.b(F.leaky_relu(self.a(x), 0.2)))))


class Sound(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 8, 5, 2, 2), nn.ConvTranspose1d(8, 2, 4, 2, 1)

    def forward(self, x):
        return F.avg_pool1d(self.b(F.max_pool1d(F.relu(self.a(x)), 2)), 3, 2)


class Modulated(nn.Module):
    """A convolution whose weights depend on an input, as in StyleGAN."""

    def __init__(self):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Linear(5, 4)

    def forward(self, x, z):
        b, c, h, w = x.shape
        weight = self.weight[None] * self.scale(z)[:, None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        y = F.conv2d(x.reshape(1, b * c, h, w), weight.reshape(-1, c, 3, 3), padding=1, groups=b)
        return y.reshape(b, -1, h, w)


PICTURE = {0: "n", 2: "h", 3: "w"}
EXPORTS = {
    "resnet": (ResNet, [(1, 3, 48, 40)], 11, None),
    "resnet of free sizes": (ResNet, [(3, 3, 40, 56)], 13, PICTURE),
    "unet": (UNet, [(1, 3, 24, 16)], 17, None),
    "unet of odd free sizes": (UNet, [(2, 3, 21, 27)], 16, PICTURE),
    "unet, bilinear": (lambda: UNet(mode="bilinear", act=F.silu), [(1, 3, 19, 22)], 18, PICTURE),
    "unet, cubic": (lambda: UNet(mode="bicubic", act=F.gelu), [(1, 3, 16, 16)], 20, None),
    "depthwise": (Mobile, [(2, 3, 33, 27)], 14, None),
    "depthwise of free sizes": (Mobile, [(1, 3, 30, 31)], 15, PICTURE),
    "transformer": (Transformer, [(2, 7, 16)], 17, None),
    "transformer of free sizes": (Transformer, [(3, 9, 16)], 14, {0: "n", 1: "l"}),
    "transposed": (Deconvolutions, [(2, 6, 5, 4)], 17, None),
    "sound": (Sound, [(2, 4, 50)], 17, None),
    "modulated": (Modulated, [(2, 4, 9, 8), (2, 5)], 17, None),
}  # fmt: skip


def export(network, inputs, opset, free, half=False) -> tuple[bytes, dict]:
    file, names = io.BytesIO(), [f"x{i}" for i in range(len(inputs))]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), tuple(inputs), file, opset_version=opset, input_names=names,
            dynamic_axes={"x0": free} if free else None, dynamo=False,
        )  # fmt: skip
    return file.getvalue(), {n: t.numpy() for n, t in zip(names, inputs)}


@pytest.mark.parametrize("name", EXPORTS)
def test_exported_network_agrees(name):
    make, shapes, opset, free = EXPORTS[name]
    torch.manual_seed(0)
    agree(*export(make(), [torch.randn(shape) for shape in shapes], opset, free))


@pytest.mark.parametrize("free", [None, {0: "n", 1: "l"}])
def test_tokens(free):
    torch.manual_seed(0)
    agree(*export(Text(), [torch.randint(0, 30, (2, 7))], 17, free))


def test_halves_are_given_back_as_halves():
    torch.manual_seed(0)
    data, feeds = export(ResNet().half(), [torch.randn(1, 3, 32, 32).half()], 17, None)
    agree(data, feeds, 5e-3)


# --- graphs written by hand -------------------------------------------------------------------


def graph(nodes, inputs, constants=None, outputs=("y",), opset=17, declared=None, types=None):
    """inputs: name -> array. declared: sizes by name, where they are not the array's."""
    kinds = types or {}
    ports = [
        helper.make_tensor_value_info(
            n, helper.np_dtype_to_tensor_dtype(a.dtype), (declared or {}).get(n, a.shape)
        )
        for n, a in inputs.items()
    ]
    ends = [
        helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in outputs
    ]
    held = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node(*n[:3], **n[3]) for n in nodes], "g", ports, ends, held
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    made.ir_version = 8
    return made.SerializeToString(), dict(inputs)


HOW = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric")
ROUND = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_every_resize(mode, how):
    x, nodes = draw(1, 2, 6, 8), []
    targets = {
        "twice": np.array([1, 1, 2, 2], np.float32),
        "odd": np.array([1, 1, 1.37, 0.61], np.float32),
        "sized": np.array([1, 2, 9, 1]),
    }
    for target in targets:
        given = ["x", "", "", target] if target == "sized" else ["x", "", target]
        for rounding in ROUND if mode == "nearest" else ("floor",):
            about = {"mode": mode, "coordinate_transformation_mode": how, "nearest_mode": rounding}
            nodes.append(("Resize", given, [f"{target}_{rounding}"], about))
    outputs = [n[2][0] for n in nodes]
    agree(*graph(nodes, {"x": x}, targets, outputs, opset=19))


def test_resizes_of_some_axes_by_ratio_and_of_other_ranks():
    nodes = [
        ("Resize", ["x", "", "s"], ["a"], {"axes": [2, 3], "mode": "linear"}),
        ("Resize", ["x", "", "", "z"], ["b"], {"axes": [3, 2]}),
        ("Resize", ["x", "", "", "z"], ["c"],
         {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}),
        ("Resize", ["x", "", "", "z"], ["d"],
         {"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"}),
        ("Resize", ["v", "", "t"], ["e"], {"mode": "linear"}),
    ]  # fmt: skip
    constants = {
        "s": np.array([2, 1.5], np.float32), "z": np.array([14, 3]),
        "t": np.array([1, 1, 2], np.float32),
    }  # fmt: skip
    feeds = {"x": draw(1, 2, 6, 7), "v": draw(2, 3, 9)}
    agree(*graph(nodes, feeds, constants, "abcde", opset=18))


@pytest.mark.parametrize("opset", [9, 10])
def test_enlarging_of_old(opset):
    kind = "Upsample" if opset == 9 else "Resize"
    nodes = [(kind, ["x", "s"], ["a"], {"mode": "linear"}), (kind, ["x", "s"], ["b"], {})]
    constants = {"s": np.array([1, 1, 2, 1.6], np.float32)}
    agree(*graph(nodes, {"x": draw(1, 2, 4, 5)}, constants, "ab", opset=opset))


def test_every_padding():
    nodes = [
        ("Pad", ["x", "p", "v"], ["a"], {}),
        ("Pad", ["x", "q", "v", "axes"], ["b"], {}),
        *[("Pad", ["x", "w"], [mode], {"mode": mode}) for mode in ("wrap", "reflect", "edge")],
        ("Pad", ["t", "u"], ["c"], {"mode": "reflect"}),
        ("Pad", ["t", "u"], ["d"], {"mode": "edge"}),
    ]
    constants = {
        "p": np.array([0, 0, -1, 2, 0, 0, 1, -2]), "v": np.float32(3),
        "q": np.array([1, 2, 0, 1]), "axes": np.array([2, -1]),
        "w": np.array([0, 0, 1, 2, 0, 0, 2, 1]), "u": np.array([0, 2, 1, 0, 1, 0]),
    }  # fmt: skip
    feeds = {"x": draw(1, 2, 5, 6), "t": draw(2, 7, 3)}
    agree(*graph(nodes, feeds, constants, ("a", "b", "wrap", "reflect", "edge", "c", "d"), 19))


def test_pools_that_round_up_and_those_of_sound_and_volumes():
    up = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
    nodes = [
        ("MaxPool", ["x"], ["a"], up),
        ("AveragePool", ["x"], ["b"], up | {"pads": [1, 1, 1, 1]}),
        ("AveragePool", ["x"], ["c"], up | {"pads": [1, 1, 0, 1], "count_include_pad": 1}),
        ("MaxPool", ["x"], ["d"], {"kernel_shape": [2, 2], "dilations": [2, 3]}),
        ("MaxPool", ["v"], ["e"], {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    ]
    feeds = {"x": draw(2, 3, 12, 15), "v": draw(1, 2, 4, 6, 5)}
    agree(*graph(nodes, feeds, None, "abcde", 19))


def test_transposed_convolutions_that_say_how_large_they_want_to_be():
    nodes = [
        ("ConvTranspose", ["x", "w"], ["a"], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("ConvTranspose", ["x", "w"], ["b"], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ("ConvTranspose", ["x", "w"], ["c"], {"output_shape": [12, 14], "strides": [2, 2]}),
    ]
    agree(*graph(nodes, {"x": draw(1, 3, 6, 7)}, {"w": draw(3, 2, 3, 3)}, "abc"))


def test_sizes_that_an_old_graph_works_out():
    """As written before operator set 13, when axes and parts were attributes."""
    nodes = [
        ("Shape", ["x"], ["s"], {}), ("Slice", ["s", "one", "three"], ["part"], {}),
        ("Split", ["s"], ["n", "rest"], {"split": [1, 3]}),
        ("ReduceSum", ["part"], ["sum"], {"axes": [0], "keepdims": 0}),
        ("Unsqueeze", ["sum"], ["u"], {"axes": [0]}), ("Squeeze", ["n"], ["number"], {"axes": [0]}),
        ("Unsqueeze", ["number"], ["first"], {"axes": [0]}),
        ("Sub", ["u", "u"], ["zero"], {}),
        ("Concat", ["zero", "zero", "zero", "first", "zero", "zero", "zero", "u"], ["pads"],
         {"axis": 0}),
        ("Pad", ["x", "pads"], ["y"], {}),
    ]  # fmt: skip
    constants = {"one": np.array([1]), "three": np.array([3])}
    agree(*graph(nodes, {"x": draw(2, 3, 4, 5)}, constants, ["y"], 11))


def test_sizes_that_the_graph_works_out():
    nodes = [
        ("Shape", ["x"], ["s"], {}), ("Gather", ["s", "i2"], ["h"], {}),
        ("Gather", ["s", "i3"], ["w"], {}), ("Mul", ["h", "w"], ["hw"], {}),
        ("Unsqueeze", ["hw", "zero1"], ["u"], {}),
        ("Concat", ["two", "six", "u"], ["to"], {"axis": 0}), ("Reshape", ["x", "to"], ["r"], {}),
        ("Transpose", ["r"], ["t"], {"perm": [0, 2, 1]}), ("MatMul", ["t", "r"], ["m"], {}),
        ("Softmax", ["m"], ["y"], {}), ("Range", ["zero", "hw", "one"], ["n"], {}),
        ("Cast", ["n"], ["z"], {"to": 1}),
    ]  # fmt: skip
    constants = {
        "i2": I64(2), "i3": I64(3), "zero1": np.array([0]), "two": np.array([2]),
        "six": np.array([6]), "zero": I64(0), "one": I64(1),
    }  # fmt: skip
    declared = {"x": ["n", 6, "h", "w"]}
    agree(*graph(nodes, {"x": draw(2, 6, 4, 5)}, constants, "yz", declared=declared))


def test_indices_triangles_and_sums():
    nodes = [
        ("GatherND", ["x", "nd"], ["a"], {}), ("ScatterND", ["x", "nd", "u"], ["b"], {}),
        ("ScatterElements", ["x", "g", "gu"], ["c"], {"axis": 2}),
        ("GatherElements", ["x", "g"], ["d"], {"axis": -1}), ("Trilu", ["x"], ["e"], {"upper": 0}),
        ("Trilu", ["x", "k"], ["f"], {}), ("CumSum", ["x", "k"], ["h"], {"exclusive": 1}),
        ("OneHot", ["i", "depth", "ends"], ["o"], {"axis": 1}),
        ("Gather", ["x", "k"], ["p"], {"axis": 1}), ("ArgMin", ["x"], ["q"], {"axis": 1}),
        ("LogSoftmax", ["x"], ["l"], {"axis": 1}), ("Mod", ["x", "half"], ["m"], {"fmod": 1}),
        ("ReduceLogSumExp", ["x", "axes"], ["r"], {}), ("Celu", ["x"], ["s"], {"alpha": 0.5}),
    ]  # fmt: skip
    constants = {
        "nd": np.array([[0, 1], [1, -1]]), "u": draw(2, 5), "g": np.full((2, 4, 1), -1),
        "gu": draw(2, 4, 1), "k": I64(1), "depth": I64(4), "half": np.float32(0.5),
        "ends": np.array([-1, 2], np.float32), "axes": np.array([-1]),
    }  # fmt: skip
    feeds = {"x": draw(2, 4, 5), "i": np.array([0, -1, 2])}
    kinds = {"q": TensorProto.INT64}
    agree(*graph(nodes, feeds, constants, "abcdefhopqlmrs", 18, types=kinds))


def test_softmax_of_old_takes_all_that_follows_together():
    nodes = [("Softmax", ["x"], [f"y{a}"], {"axis": a}) for a in range(4)]
    agree(*graph(nodes, {"x": draw(2, 3, 4, 5)}, None, ("y0", "y1", "y2", "y3"), 11))


def test_a_lone_number_and_an_input_without_a_shape():
    nodes = [("Mul", ["x", "s"], ["p"], {}), ("Add", ["p", "x"], ["y"], {})]
    data, feeds = graph(nodes, {"x": draw(2, 3, 4, 5), "s": np.float32(3)})
    agree(data, feeds)
    loose = onnx.load_model_from_string(data)
    loose.graph.input[0].type.tensor_type.ClearField("shape")
    agree(loose.SerializeToString(), feeds)


def test_free_sizes_that_a_trial_cannot_guess():
    """All sizes are declared free; the graph fits three channels alone."""
    nodes = [("Conv", ["x", "w"], ["c"], {}), ("Reshape", ["c", "s"], ["y"], {})]
    constants = {"w": draw(4, 3, 1, 1), "s": np.array([1, 4, 48])}
    declared = {"x": ["a", "b", "c", "d"]}
    agree(*graph(nodes, {"x": draw(1, 3, 6, 8)}, constants, declared=declared))


def test_inputs_and_constants_as_outputs_and_one_value_twice():
    nodes = [("Conv", ["x", "w"], ["c"], {}), ("Add", ["c", "c"], ["y"], {}),
             ("Add", ["k", "k"], ["q"], {})]  # fmt: skip
    constants = {"w": draw(20, 3, 1, 1), "k": draw(2)}
    agree(*graph(nodes, {"x": draw(1, 3, 5, 5)}, constants, ("y", "x", "q", "k")))


def test_parts_of_a_split_that_nobody_wants():
    """ONNX Runtime ends the process at one without a name."""
    nodes = [("Split", ["x", "s"], ["a", "", "c"], {"axis": 1}),
             ("Concat", ["c", "a"], ["y"], {"axis": 1})]  # fmt: skip
    agree(*graph(nodes, {"x": draw(2, 6, 4, 5)}, {"s": np.array([1, 3, 2])}))


def test_slopes_of_columns_are_not_of_channels():
    """A vector of slopes belongs to the last dimension, though it fits the channels too."""
    agree(*graph([("PRelu", ["x", "s"], ["y"], {})], {"x": draw(2, 5, 4, 5)}, {"s": draw(5)}))


def test_what_is_not_known_is_said_in_one_line_or_left_to_onnx_runtime():
    wide = {"w": draw(64, 64, 3, 3) / 24}
    nodes = [
        ("Conv", ["x", "w"], ["a"], {}), ("MaxPool", ["a"], ["b", "i"], {"kernel_shape": [2, 2]}),
        ("Conv", ["b", "w"], ["y"], {}),
    ]  # fmt: skip
    kinds = {"i": TensorProto.INT64}
    data, feeds = graph(nodes, {"x": draw(1, 64, 40, 40)}, wide, ("y", "i"), types=kinds)
    assert load_onnx(data).runtime == "onnxruntime"
    agree(data, feeds, runtimes=("auto",))
    with pytest.raises(ConfigError, match="runtime accel cannot run it: MaxPool") as error:
        load_onnx(data, runtime="accel").run(feeds)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="inputs must fit the graph") as refused:
        load_onnx(graph([("Add", ["x", "k"], ["y"], {})], {"x": draw(2, 3)}, {"k": draw(4)})[0],
                  runtime="accel").run({"x": draw(2, 3)})  # fmt: skip
    assert "\n" not in str(refused.value)
