"""More attack files: networks whose operators cannot be, or that compute how large they grow.

Source: the ONNX operator documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.attacks import Words, attack
from tests.weights.growing import COMPUTED, swapper
from tests.weights.swelling import SWELLING


def _add(name: str, graph) -> None:
    """An attack by a swapper; graph: its operators and constants, as `swapper` takes them."""

    def build(folder: Path, url: str) -> Words:
        (folder / "a.dfm").write_bytes(swapper(*graph))
        words = ["swap", "portrait.png", "out.png", "--source", "portrait.png"]
        return [*words, "--swapper", "a.dfm"]

    build.__name__ = name
    attack()(build)


for _name, _graph in COMPUTED.items():
    _add(f"swapper_of_a_size_computed_by_{_name}", _graph)

for _name, _graph in SWELLING.items():
    _add(f"swapper_that_swells_by_{_name}", _graph)


# What cannot be: too few inputs, attributes of other kinds, sizes of zero, values that are missing.
IMPOSSIBLE: dict[str, tuple[Callable[[Any], list[Any]], dict[str, Any]]] = {
    "one_input": (lambda n: [n("Add", ["in_face:0"], ["output"])], {}),
    "too_many_inputs": (lambda n: [n("Relu", ["in_face:0"] * 9, ["output"])], {}),
    "no_output": (lambda n: [n("Relu", ["in_face:0"], [])], {}),
    "values_that_are_missing": (lambda n: [n("Add", ["in_face:0", "z"], ["output"])], {}),
    "a_circle": (
        lambda n: [n("Add", ["in_face:0", "b"], ["a"]), n("Relu", ["a"], ["b"]),
                   n("Relu", ["b"], ["output"])], {}),
    "one_name_twice": (
        lambda n: [n("Relu", ["in_face:0"], ["output"]), n("Neg", ["in_face:0"], ["output"])], {}),
    "no_step": (
        lambda n: [n("Conv", ["in_face:0", "w"], ["output"], strides=[0, 0])],
        {"w": np.ones((3, 128, 1, 1), np.float32)}),
    "no_groups": (
        lambda n: [n("Conv", ["in_face:0", "w"], ["output"], group=0)],
        {"w": np.ones((3, 128, 1, 1), np.float32)}),
    "a_word_for_a_number": (lambda n: [n("Softmax", ["in_face:0"], ["output"], axis="x")], {}),
    "an_axis_too_far": (lambda n: [n("Softmax", ["in_face:0"], ["output"], axis=99)], {}),
    "no_axis": (lambda n: [n("Concat", ["s", "s"], ["output"], axis=0)], {"s": np.float32(1)}),
    "a_step_of_zero": (
        lambda n: [n("Slice", ["in_face:0", "a", "b", "c", "d"], ["output"])],
        {"a": np.array([0]), "b": np.array([9]), "c": np.array([1]), "d": np.array([0])}),
    "blocks_of_zero": (lambda n: [n("DepthToSpace", ["in_face:0"], ["output"], blocksize=0)], {}),
    "parts_of_zero": (
        lambda n: [n("Split", ["in_face:0", "s"], ["output", "b"], axis=1)],
        {"s": np.array([0, 0])}),
    "an_odd_equation": (
        lambda n: [n("Einsum", ["in_face:0"], ["output"], equation="a...b->\x1b[2J")], {}),
    "indices_outside": (
        lambda n: [n("Gather", ["in_face:0", "i"], ["output"], axis=1)],
        {"i": np.array([2**40, -(2**40)])}),
    "indices_outside_by_names": (
        lambda n: [n("ScatterND", ["in_face:0", "i", "u"], ["output"])],
        {"i": np.full((1, 4), 2**40), "u": np.ones(1, np.float32)}),
    "scales_of_nothing": (
        lambda n: [n("Resize", ["in_face:0", "", "s"], ["output"])],
        {"s": np.array([1, np.nan, -1, np.inf], np.float32)}),
    "a_window_of_nothing": (
        lambda n: [n("MaxPool", ["in_face:0"], ["output"], kernel_shape=[0, 0])], {}),
    "a_negative_shape": (
        lambda n: [n("Reshape", ["in_face:0", "s"], ["output"])], {"s": np.array([-5, -7])}),
    "half_an_order": (lambda n: [n("Transpose", ["in_face:0"], ["output"], perm=[0, 0, 0])], {}),
    "words": (
        lambda n: [n("Identity", ["s"], ["output"])], {"s": np.array(["x"], object)}),
    # On these ONNX's own code for shapes ends the process.
    "axes_to_skip_below_zero": (
        lambda n: [n("GatherND", ["in_face:0", "i"], ["output"], batch_dims=-100)],
        {"i": np.array([0, 1])}),
    "an_axis_beyond_32_bits": (
        lambda n: [n("LayerNormalization", ["in_face:0", "s"], ["output"], axis=2**31)],
        {"s": np.ones(3, np.float32)}),
    "a_tree": (lambda n: [n("DictVectorizer", [""], ["output"], domain="ai.onnx.ml")], {}),
    "no_input_for_an_eye": (lambda n: [n("EyeLike", [""], ["output"])], {}),
    "a_step_of_no_number": (
        lambda n: [n("STFT", ["in_face:0", "s"], ["output"])], {"s": np.zeros(0, np.int64)}),
    "a_normal_of_no_groups": (
        lambda n: [n("InstanceNormalization", ["in_face:0", "s", "s"], ["output"],
                     epsilon=math.nan)], {"s": np.zeros(0, np.float32)}),
}  # fmt: skip

for _name, _graph in IMPOSSIBLE.items():
    _add(f"swapper_with_{_name}", _graph)
