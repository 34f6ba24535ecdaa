"""Networks whose values are small each in what is looked at first, and large in what is not:
branches, loops, lists, texts, sides beside an empty one, free sizes, what is needed at a time.

Source: the ONNX operator documents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper

FLAT = {"column": np.array([-1, 1], np.int64), "row": np.array([1, -1], np.int64)}
F, BOOL, INT = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


def _port(name: str, kind: int = F, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _square(n: Any, result: str) -> list[Any]:
    """49,152 times 49,152 sums, and their sum."""
    return [n("Reshape", ["in_face:0", "column"], ["a"]), n("Reshape", ["in_face:0", "row"], ["b"]),
            n("Add", ["a", "b"], ["c"]), n("ReduceSum", ["c"], [result])]  # fmt: skip


def _branch(n: Any) -> list[Any]:
    large = helper.make_graph(_square(n, "d"), "large", [], [_port("d")])
    small = helper.make_graph([n("ReduceSum", ["in_face:0"], ["e"])], "small", [], [_port("e")])
    return [
        n("ReduceMax", ["in_face:0"], ["m"], keepdims=0), n("Cast", ["m"], ["yes"], to=BOOL),
        n("If", ["yes"], ["f"], then_branch=large, else_branch=small),
        n("Add", ["f", "in_face:0"], ["output"]),
    ]  # fmt: skip


def _loop(n: Any, body: list[Any], handed: list[str]) -> list[Any]:
    ports = [_port("i", INT, ()), _port("c", BOOL, ()), *map(_port, handed)]
    inner = [*body, n("Identity", ["c"], ["c2"])]
    graph = helper.make_graph(inner, "body", ports, [_port("c2", BOOL, ()), _port("w")])
    return [n("Loop", ["rounds", "yes", *["in_face:0"] * len(handed)], ["output"], body=graph)]


def _list(n: Any) -> list[Any]:
    nodes = [n("Tile", ["in_face:0", "t"], ["a"]), n("SequenceEmpty", [], ["q0"])]
    nodes += [n("SequenceInsert", [f"q{i}", "a"], [f"q{i + 1}"]) for i in range(60)]
    return [*nodes, n("ConcatFromSequence", ["q60"], ["output"], axis=0)]


def _scan(n: Any) -> list[Any]:
    body = helper.make_graph([n("Add", ["s", "all"], ["w"])], "body", [_port("s")], [_port("w")])
    return [n("Reshape", ["in_face:0", "column"], ["many"]), n("Identity", ["in_face:0"], ["all"]),
            n("Scan", ["many"], ["output"], body=body, num_scan_inputs=1)]  # fmt: skip


def _at_once(n: Any) -> list[Any]:
    nodes = [n("Tile", ["in_face:0", "t"], ["a"])]
    nodes += [n("Add", ["a", f"k{i}"], [f"a{i}"]) for i in range(40)]
    return [*nodes, n("Sum", [f"a{i}" for i in range(40)], ["output"])]


def _of_constants(n: Any) -> list[Any]:
    nodes = [n("RandomNormal", [], [f"a{i}"], shape=[1 << 24]) for i in range(40)]
    nodes += [n("ReduceSum", [f"a{i}"], [f"b{i}"]) for i in range(40)]
    return [*nodes, n("Sum", ["in_face:0", *(f"b{i}" for i in range(40))], ["output"])]


def _deep(n: Any) -> list[Any]:
    nodes = [n("Identity", ["in_face:0"], ["v0"])]
    for i in range(9):
        nodes += [n("Shape", [f"v{i}"], [f"s{i}"]), n("Mul", [f"s{i}", "two"], [f"u{i}"]),
                  n("Expand", ["one", f"u{i}"], [f"v{i + 1}"])]  # fmt: skip
    return [*nodes, n("Neg", ["v9"], ["output"])]


TIMES = np.array([1, 16, 16, 1], np.int64)
ROUNDS = {"rounds": np.int64(10_000), "yes": np.array(True)}
SWELLING: dict[str, tuple[Callable[[Any], list[Any]], dict[str, Any]]] = {
    "a_branch_that_is_large": (_branch, FLAT),
    "a_loop_that_piles_up": (
        lambda n: _loop(n, [n("Identity", ["in_face:0"], ["w"])], []), ROUNDS),
    "a_loop_that_doubles": (
        lambda n: _loop(n, [n("Concat", ["v", "v"], ["w"], axis=0)], ["v"]),
        ROUNDS | {"rounds": np.int64(14)}),
    "a_scan": (_scan, FLAT),
    "a_list": (_list, {"t": TIMES}),
    "many_values_at_once": (
        _at_once, {"t": TIMES} | {f"k{i}": np.float32(i) for i in range(40)}),
    "many_values_of_constants": (_of_constants, {}),
    "sizes_of_sizes_of_sizes": (
        _deep, {"two": np.array([1, 2, 2, 1]), "one": np.ones((1, 1, 1, 1), np.float32)}),
    "texts_of_constants": (
        lambda n: [n("Tile", ["s", "t"], ["a"]), n("Size", ["a"], ["b"]),
                   n("Cast", ["b"], ["c"], to=1), n("Add", ["c", "in_face:0"], ["output"])],
        {"s": np.array(["y" * 1000], object), "t": np.array([1 << 23])}),
    "texts_of_numbers": (
        lambda n: [n("Cast", ["in_face:0"], ["q"], to=8), n("Tile", ["q", "t"], ["a"]),
                   n("Size", ["a"], ["b"]), n("Cast", ["b"], ["c"], to=1),
                   n("Add", ["c", "in_face:0"], ["output"])], {"t": TIMES}),
    "another_domains_padding": (
        lambda n: [n("Pad", ["in_face:0", "p", "z"], ["a"], domain="com.microsoft"),
                   n("ReduceSum", ["a"], ["output"])],
        {"p": np.array([0, 10000, 10000, 0] * 2), "z": np.float32(0)}),
    "another_domains_product": (
        lambda n: [n("Reshape", ["in_face:0", "column"], ["a"]),
                   n("Reshape", ["in_face:0", "row"], ["b"]),
                   n("FusedMatMul", ["a", "b"], ["c"], domain="com.microsoft"),
                   n("ReduceSum", ["c"], ["output"])], FLAT),
    "sides_beside_an_empty_one": (
        lambda n: [n("Slice", ["in_face:0", "no", "no", "no"], ["a"]),
                   n("Resize", ["a", "", "", "s"], ["b"], mode="linear"),
                   n("ReduceSum", ["b"], ["output"])],
        {"no": np.array([0]), "s": np.array([0, 4, 1 << 31, 5])}),
    "places_that_are_found": (
        lambda n: [n("NonZero", ["in_face:0"], ["z"]), n("Cast", ["z"], ["f"], to=1),
                   n("Transpose", ["f"], ["g"]), n("MatMul", ["g", "f"], ["a"]),
                   n("ReduceSum", ["a"], ["output"])], {}),
    "wide_padding_and_wide_steps": (
        lambda n: [n("Transpose", ["in_face:0"], ["x"], perm=[0, 3, 1, 2]),
                   n("Conv", ["x", "w"], ["output"], pads=[1 << 14] * 4, strides=[1 << 14] * 2)],
        {"w": np.ones((3, 3, 1, 1), np.float32)}),
    "a_result_that_is_cut_away": (
        lambda n: [n("Transpose", ["in_face:0"], ["x"], perm=[0, 3, 1, 2]),
                   n("ConvTranspose", ["x", "w"], ["output"], strides=[256] * 2,
                     pads=[16000, 16000, 16000, 16000])],
        {"w": np.ones((3, 3, 1, 1), np.float32)}),
    "a_convolution_of_few_channels": (
        lambda n: [n("Tile", ["in_face:0", "t"], ["a"]),
                   n("Transpose", ["a"], ["x"], perm=[0, 3, 1, 2]),
                   n("Conv", ["x", "w"], ["output"])],
        {"t": np.array([1, 24, 24, 1]), "w": np.ones((3, 3, 1, 1), np.float32)}),
    "constants_beside_values": (
        lambda n: [*(n("ConstantOfShape", ["s"], [f"k{i}"]) for i in range(2)),
                   n("ReduceMax", ["in_face:0"], ["m"]), n("Add", ["m", "k0"], ["a"]),
                   n("Sub", ["m", "k1"], ["b"]), n("Add", ["a", "b"], ["output"])],
        {"s": np.array([1, 8, 1000, 4096])}),
    "a_normal_of_a_words_groups": (
        lambda n: [n("Transpose", ["in_face:0"], ["x"], perm=[0, 3, 1, 2]),
                   n("GroupNormalization", ["x", "k", "k"], ["output"], num_groups="x")],
        {"k": np.ones(1, np.float32)}),
    "neighbours_beyond_number": (
        lambda n: [n("LRN", ["in_face:0"], ["output"], size=(1 << 20) + 1)], {}),
    "a_norm_of_one_group": (
        lambda n: [n("Reshape", ["in_face:0", "all"], ["x"]),
                   n("BatchNormalization", ["x", "k", "k", "k", "k"], ["output"])],
        {"all": np.array([1, 1, -1]), "k": np.ones(1 << 15, np.float32)}),
    "a_product_of_three": (
        lambda n: [n("Reshape", ["in_face:0", "column"], ["a"]),
                   n("Einsum", ["a", "a", "a"], ["b"], equation="ai,bj,ck->ijk"),
                   n("Squeeze", ["b"], ["output"])], FLAT),
    "regions_of_any_number_of_samples": (
        lambda n: [n("RoiAlign", ["in_face:0", "r", "i"], ["output"], output_height=64,
                     output_width=64, sampling_ratio=1 << 12)],
        {"r": np.array([[0, 0, 1e6, 1e6]], np.float32), "i": np.array([0])}),
    "grams_of_any_number": (
        lambda n: [n("Cast", ["in_face:0"], ["q"], to=7), n("Flatten", ["q"], ["f"]),
                   n("TfIdfVectorizer", ["f"], ["output"], mode="TF", min_gram_length=1,
                     max_gram_length=1, max_skip_count=0, ngram_counts=[0],
                     ngram_indexes=[1 << 31], pool_int64s=[5])], {}),
    "steps_that_wrap_around": (
        lambda n: [n("Pad", ["in_face:0", "p"], ["output"])],
        {"p": np.array([0, (1 << 63) - 1, 0, 0] * 2)}),
}  # fmt: skip
