"""Networks drawn by lot: operators in any order, with attributes and constants that may not be."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WHOLE = (-(2**63), -(2**31), -9, -3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 64, 2**20, 2**31, 2**62)
BROKEN = (math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-38, 1e38, 0.5)
WORDS = ("", "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "reflect", "edge", "wrap", "constant",
         "linear", "nearest", "cubic", "CRD", "DCR", "floor", "ceil", "align_corners", "tanh",
         "asymmetric", "half_pixel", "ij,jk->ik", "...a,a...->", "\x1b[2J")  # fmt: skip
SHAPES = ((2, 4, 9, 7), (1, 4, 8, 8), (1, 1, 1, 1), (1, 16, 4, 4), (0, 4, 8, 8), (2, 3, 5), (4, 7),
          (7,), ())  # fmt: skip
# Beside those whose attributes and constants are in tests/nn/test_onnx.py.
PLAIN = (
    "Add", "Sub", "Mul", "Div", "Pow", "MatMul", "Gemm", "Where", "Max", "Min", "Sum", "Relu",
    "Sigmoid", "Tanh", "Softplus", "Identity", "Neg", "Sqrt", "Exp", "Log", "Mod", "Size",
)  # fmt: skip
MORE: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("Concat", {"axis": 1}, {}), ("Split", {"axis": 1, "num_outputs": 2}, {}),
    ("Split", {"axis": 1}, {"p": np.array([2, 2])}), ("Squeeze", {}, {"a": np.array([0])}),
    ("Einsum", {"equation": "abcd,abcd->abc"}, {}), ("CumSum", {"reverse": 1}, {"a": np.array(1)}),
    ("TopK", {"axis": 1}, {"k": np.array([2])}), ("Trilu", {}, {"k": np.array(1)}),
    ("OneHot", {}, {"d": np.array(9), "v": np.float32([0, 1])}),
    ("GatherND", {}, {"i": np.array([[0, 1], [1, 2]])}),
    ("GatherElements", {"axis": 1}, {"i": np.zeros((1, 1, 1, 1), np.int64)}),
    ("ScatterND", {}, {"i": np.array([[0]]), "u": np.zeros((1, 4, 9, 7), np.float32)}),
    ("ScatterElements", {"axis": 1}, {"i": np.zeros((1, 1, 1, 1), np.int64),
                                      "u": np.ones((1, 1, 1, 1), np.float32)}),
    ("GroupNormalization", {"num_groups": 2}, {"s": np.ones(4, np.float32),
                                               "b": np.ones(4, np.float32)}),
    ("Resize", {"mode": "linear"}, {"r": np.zeros(0, np.float32), "s": np.float32([1, 1, 2, 2])}),
    ("Resize", {"mode": "cubic"}, {"r": np.zeros(0, np.float32), "e": np.zeros(0, np.float32),
                                   "s": np.array([2, 4, 5, 5])}),
    ("GridSample", {}, {"g": np.zeros((2, 3, 3, 2), np.float32)}),
    ("Range", {}, {"b": np.float32(5), "c": np.float32(1)}),
    ("ConstantOfShape", {}, {}), ("Softmax", {"axis": -1}, {}), ("LogSoftmax", {"axis": 1}, {}),
    ("SpaceToDepth", {"blocksize": 1}, {}), ("Gelu", {"approximate": "tanh"}, {}),
    ("Celu", {"alpha": 0.5}, {}), ("ThresholdedRelu", {"alpha": 0.1}, {}),
)  # fmt: skip


def drawn(seed: bytes) -> bytes:
    """A serialised model of one to six operators; the same bytes draw the same one."""
    from tests.nn.test_onnx import CASES

    rng = random.Random(seed)
    kinds = [*CASES.values(), *MORE, *((kind, {}, {}) for kind in PLAIN)]
    values, nodes, constants = ["x"], [], {}
    for index in range(rng.choice((1, 1, 2, 3, 6))):
        kind, attributes, given = rng.choice(kinds)
        inputs = [rng.choice((values[-1], values[-1], rng.choice(values)))]
        for value in given.values():
            name = f"c{len(constants)}"
            constants[name] = changed_array(np.asarray(value), rng) if rng.random() < 0.4 else value
            inputs.append(name if rng.random() < 0.95 else rng.choice(["", *values]))
        if kind in PLAIN or kind in ("Concat", "Einsum"):
            inputs += [rng.choice(values) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
        how = {k: changed(v, rng) if rng.random() < 0.4 else v for k, v in attributes.items()}
        outputs = [f"v{index}"] + ["" if rng.random() < 0.5 else f"w{index}"] * (kind == "Split")
        try:
            nodes.append(helper.make_node(kind, inputs, outputs, **how))
        except (TypeError, ValueError):  # a list of nothing has no type
            continue
        values.append(outputs[0])
    shape = rng.choice(SHAPES)
    into = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info(values[-1], TensorProto.FLOAT, None)
    held = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "g", [into], [out], held)
    opset = [helper.make_opsetid("", rng.choice((7, 11, 13, 17, 18, 20)))]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def changed(value: Any, rng: random.Random) -> Any:
    """An attribute of another number, length or kind."""
    if rng.random() < 0.05:
        return rng.choice((1, 1.5, "x", [1, 2], [0.5]))
    if isinstance(value, str):
        return rng.choice(WORDS)
    if isinstance(value, list):
        made = [changed(v, rng) if rng.random() < 0.4 else v for v in value]
        return (
            made[: rng.randrange(len(made) + 1)]
            if rng.random() < 0.2
            else made + made[:1] * (rng.random() < 0.2)
        )
    return rng.choice(BROKEN) if isinstance(value, float) else rng.choice(WHOLE)


def changed_array(value: Any, rng: random.Random) -> Any:
    """A constant of other numbers, another shape or another type."""
    made, how = np.array(value), rng.random()
    if how < 0.4 and made.size:
        numbers = BROKEN if made.dtype.kind == "f" else WHOLE
        made.flat[rng.randrange(made.size)] = rng.choice(numbers)
    elif how < 0.6:
        made = made.reshape(-1)[: rng.randrange(made.size + 1)]
    elif how < 0.75:
        made = made.reshape(rng.choice(((-1,), (1, -1), (-1, 1), (1, 1, -1))))
    elif how < 0.85:
        made = np.concatenate([made.reshape(-1)] * 2)
    else:
        with np.errstate(all="ignore"):
            made = made.astype(rng.choice((np.int64, np.int32, np.float32, np.float64, np.uint8)))
    return made
