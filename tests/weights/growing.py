"""Networks that compute how large they grow, of constants and of shapes.

Source: the ONNX operator documents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SHAPE = (1, 128, 128, 3)


def swapper(nodes: Callable[[Any], list[Any]], tensors: dict[str, Any] | None = None) -> bytes:
    """A DFM whose three outputs are `output`."""
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT
    names = ("out_face_mask:0", "out_celeb_face:0", "out_celeb_face_mask:0")
    made = nodes(helper.make_node)
    made += [helper.make_node("Identity", ["output"], [name]) for name in names]
    inputs = [helper.make_tensor_value_info("in_face:0", kind, SHAPE)]
    outputs = [helper.make_tensor_value_info(name, kind, None) for name in names]
    constants = [numpy_helper.from_array(np.asarray(v), n) for n, v in (tensors or {}).items()]
    graph = helper.make_graph(made, "g", inputs, outputs, constants)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


ROOT = np.array([1 << 8, 1 << 7], np.int64)  # whose square is a shape of 2^30 elements
COMPUTED: dict[str, tuple[Callable[[Any], list[Any]], dict[str, Any]]] = {
    "a_product": (
        lambda n: [n("Mul", ["s", "s"], ["size"]), n("ConstantOfShape", ["size"], ["output"])],
        {"s": ROOT},
    ),
    "a_power": (
        lambda n: [n("Pow", ["s", "two"], ["size"]), n("Expand", ["one", "size"], ["wide"]),
                   n("Add", ["wide", "one"], ["output"])],
        {"s": ROOT, "two": np.int64(2), "one": np.ones((1, 1), np.float32)},
    ),
    "a_chain": (
        lambda n: [n("Add", ["s", "s"], ["a"]), n("Mul", ["a", "s"], ["b"]),
                   n("Neg", ["b"], ["c"]), n("Abs", ["c"], ["size"]),
                   n("Tile", ["one", "size"], ["output"])],
        {"s": ROOT, "one": np.ones((1, 1), np.float32)},
    ),
    "floats": (
        lambda n: [n("Exp", ["f"], ["e"]), n("Cast", ["e"], ["size"], to=7),
                   n("ConstantOfShape", ["size"], ["output"])],
        {"f": np.log(np.array([32768.0, 32768.0])).astype(np.float32)},
    ),
    "a_shape": (
        lambda n: [n("Shape", ["in_face:0"], ["a"]), n("Mul", ["a", "a"], ["b"]),
                   n("Expand", ["in_four", "b"], ["wide"]), n("Neg", ["wide"], ["output"])],
        {"in_four": np.ones((1, 1, 1, 1), np.float32)},
    ),
    "scales": (
        lambda n: [n("Mul", ["s", "s"], ["scales"]),
                   n("Resize", ["in_face:0", "", "scales"], ["output"], mode="nearest")],
        {"s": np.array([1, 8, 8, 1], np.float32)},
    ),
    "padding": (
        lambda n: [n("Mul", ["p", "p"], ["pads"]), n("Pad", ["in_face:0", "pads"], ["output"])],
        {"p": np.array([0, 120, 120, 0] * 2, np.int64)},
    ),
    "a_range": (
        lambda n: [n("Mul", ["r", "r"], ["end"]), n("Range", ["zero", "end", "by"], ["many"]),
                   n("Cast", ["many"], ["output"], to=1)],
        {"r": np.int64(1 << 14), "zero": np.int64(0), "by": np.int64(1)},
    ),
    "a_depth": (
        lambda n: [n("Mul", ["d", "d"], ["depth"]), n("OneHot", ["i", "depth", "v"], ["output"])],
        {"d": np.int64(1 << 10), "i": np.zeros(512, np.int64), "v": np.array([0, 1], np.float32)},
    ),
    "a_branch": (
        lambda n: [n("Where", ["yes", "s", "s"], ["a"]), n("Mul", ["a", "a"], ["size"]),
                   n("ConstantOfShape", ["size"], ["output"])],
        {"yes": np.array(True), "s": ROOT},
    ),
    "broadcasts": (
        lambda n: [n("Reshape", ["in_face:0", "column"], ["a"]),
                   n("Reshape", ["in_face:0", "row"], ["b"]), n("Add", ["a", "b"], ["output"])],
        {"column": np.array([-1, 1], np.int64), "row": np.array([1, -1], np.int64)},
    ),
    "gathering": (
        lambda n: [n("Reshape", ["in_face:0", "flat"], ["a"]),
                   n("Gather", ["a", "i"], ["output"], axis=0)],
        {"flat": np.array([1, -1], np.int64), "i": np.zeros(1 << 13, np.int64)},
    ),
    "a_matrix": (
        lambda n: [n("Reshape", ["in_face:0", "column"], ["a"]),
                   n("Reshape", ["in_face:0", "row"], ["b"]), n("MatMul", ["a", "b"], ["output"])],
        {"column": np.array([-1, 1], np.int64), "row": np.array([1, -1], np.int64)},
    ),
}  # fmt: skip
