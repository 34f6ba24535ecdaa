"""What one operator makes, by ONNX's own definition of it: the types of its results, the largest
sizes where those hang on numbers, and small numbers on which other sizes hang.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import onnx
from onnx import NodeProto, TensorProto
from onnx.onnx_pb import TypeProto

from accel.core import InputError
from accel.weights.onnx_operators import STANDARD, definition
from accel.weights.onnx_values import SMALL, Array, Value, tensor_type, written_in

# What sizes are computed with; each needs no more memory than its inputs and its result.
COMPUTED = frozenset((
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Concat", "Constant", "ConstantOfShape",
    "CumSum", "Div", "Equal", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements",
    "GatherND", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log", "Max", "Min",
    "Mod", "Mul", "Neg", "NonZero", "Not", "Or", "Pow", "Range", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceSum", "Reshape", "Round", "ScatterElements", "ScatterND", "Sign", "Size",
    "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tile", "Transpose", "Unsqueeze", "Where",
))  # fmt: skip
PICKING = frozenset(("Compress", "NonMaxSuppression", "NonZero", "Unique"))
# Operators whose results have the sizes of another's, and of which of their inputs: ONNX Runtime's
# own, and those standard ones of which ONNX says none. What others of its own make is not known.
UNSAID = frozenset(("GroupNormalization", "MeanVarianceNormalization"))
LIKE: dict[str, tuple[str, tuple[int, ...]]] = {
    **dict.fromkeys(
        ("BiasGelu", "BiasSoftmax", "DequantizeLinear", "FastGelu", "Gelu", "GroupNorm",
         "GroupNormalization", "MeanVarianceNormalization", "QLinearLeakyRelu", "QLinearSigmoid",
         "QLinearSoftmax", "QuantizeLinear", "QuickGelu", "RotaryEmbedding",
         "SimplifiedLayerNormalization", "SkipLayerNormalization",
         "SkipSimplifiedLayerNormalization"), ("Identity", (0,))),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), ("Add", (0, 3))),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), ("MatMul", (0, 1))),
    "FusedConv": ("Conv", (0, 1, 2)),
    "QGemm": ("Gemm", (0, 3)),  # scales and zero points lie between
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearConcat": ("Concat", tuple(range(2, SMALL, 3))),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
}  # fmt: skip
# Of which input their results have the kind of numbers, where it is not the first that has sizes,
# and the kind where that input is left out.
KIND_OF: dict[str, tuple[int, int]] = {
    "DequantizeLinear": (1, TensorProto.FLOAT),
    "MatMulIntegerToFloat": (2, TensorProto.FLOAT),
    "QGemm": (8, TensorProto.FLOAT),
    "QuantizeLinear": (2, TensorProto.UINT8),
}


@dataclass(frozen=True)
class OperatorSets:
    """Which definitions of operators a model is written for.

    name: of the model in errors. opsets: versions by domain. version: of the standard one.
    """

    name: str
    opsets: Mapping[str, int]
    version: int
    ir_version: int


def refuse(node: NodeProto, must: str, name: str) -> NoReturn:
    raise InputError(f"{name}: operator {node.op_type!r:.60} must {must}")


def types_made(
    node: NodeProto, given: Sequence[Value | None], sets: OperatorSets, *, is_strict: bool
) -> list[TypeProto]:
    """What kinds of values an operator makes, their sizes as far as they are known."""
    unknown = [TypeProto() for _ in node.output]
    numbers = 0  # the kind of the results, where the operator stands in for another
    if node.domain not in STANDARD or node.op_type in UNSAID:
        if node.op_type not in LIKE:
            return unknown
        kind, indices = LIKE[node.op_type]
        # A standard pool has its channels first: pads of other sides make other sizes.
        if kind.endswith("Pool") and any(a.name == "channels_last" for a in node.attribute):
            return unknown
        numbers = _kind_of(node, given, indices[0])
        given = [_as_floats(given[i]) for i in indices if i < len(given)]
        node = _like(node, kind, indices)
    schema = definition(node.op_type, sets.version)
    pairs = {name: value for name, value in zip(node.input, given) if name}
    if schema is None or any(v is None or not v.has_type for v in pairs.values()):
        return unknown
    if node.op_type == "Einsum" and not _has_equation(node):
        raise InputError(f"{sets.name}: an Einsum must have an equation that fits its inputs")
    types = {name: v.type_bytes for name, v in pairs.items() if v is not None}
    data = {n: v.data_bytes for n, v in pairs.items() if v is not None and v.data is not None}
    try:
        found = schema._infer_node_outputs(
            node.SerializeToString(), types, data, {}, sets.opsets, sets.ir_version
        )
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError):
        if is_strict:
            raise InputError(
                f"{sets.name}: inputs must fit the graph, those of {node.op_type!r:.60} do not"
            ) from None
        return unknown
    except (IndexError, MemoryError, RuntimeError, TypeError):  # versions beyond 32 bits
        raise InputError(f"{sets.name}: its operators must have sizes, ONNX finds none") from None
    made = [TypeProto.FromString(found.get(name, b"")) for name in node.output]
    for one in made:
        if numbers and one.HasField("tensor_type"):
            one.tensor_type.elem_type = numbers
        is_tensor = one.WhichOneof("value") in (None, "tensor_type")
        if not is_tensor or one.tensor_type.elem_type == TensorProto.STRING:
            refuse(node, "make tensors of numbers", sets.name)
    return made + unknown[len(made) :]


def _has_equation(node: NodeProto) -> bool:
    """Whether an Einsum's equation is one: of others ONNX's own code never finds the end."""
    text = next((one.s for one in node.attribute if one.name == "equation"), b"").replace(b" ", b"")
    terms = rb"(?:[A-Za-z]|\.\.\.)*"
    whole = re.fullmatch(rb"(%s(?:,%s)*)(?:->%s)?" % (terms, terms, terms), text)
    return whole is not None and whole[1].count(b",") + 1 == len(node.input)


def data_made(
    node: NodeProto, given: Sequence[Value | None], made: Sequence[Value], sets: OperatorSets
) -> list[Array | None]:
    """What is in the results, where that is small and certain."""
    nothing: list[Array | None] = [None] * len(made)
    if node.op_type == "Shape" and given[0] is not None:
        told = {a.name: a.i for a in node.attribute}
        shape = (given[0].shape or ())[told.get("start", 0) : told.get("end")]
        return [np.array(shape, np.int64)]
    if node.op_type == "Size" and given[0] is not None:
        return [np.array(math.prod(given[0].shape or ()), np.int64)]
    if node.op_type == "Constant":
        return [written_in(node), *nothing[1:]]
    if node.op_type not in COMPUTED or node.domain not in STANDARD:
        return nothing
    # NonZero's result is as large as its input at most.
    sizes = [m.elements for m in made] + [v.elements for v in given if v is not None]
    certain = all(v is None or v.data is not None for v in given)
    if not certain or max(sizes, default=0) > SMALL:
        return nothing
    from onnx.reference import ReferenceEvaluator  # half a second, which most graphs spare

    feeds = {n: v.data for n, v in zip(node.input, given) if v is not None}
    named = [name for name in node.output if name]
    try:
        # A node by itself would be taken for one of the newest operator set.
        graph = onnx.helper.make_graph(
            [node],
            "one",
            *([onnx.ValueInfoProto(name=n) for n in names] for names in (feeds, named)),
        )
        results = ReferenceEvaluator(graph, opsets=sets.opsets).run(None, feeds)
    except Exception:  # attributes may be of any kind; the runtime says what is wrong
        return nothing
    found = {
        name: np.asarray(r)
        for name, r in zip(named, results)
        if isinstance(r, np.ndarray | np.generic)
    }
    return [found.get(name) for name in node.output]


def bound(node: NodeProto, given: Sequence[Value | None], types: Sequence[TypeProto]) -> bool:
    """Put the largest into sizes that hang on numbers; return whether there were such."""
    most = _most_found(node, given)
    free = [
        size
        for kind in types
        if most is not None and kind.tensor_type.HasField("shape")
        for size in kind.tensor_type.shape.dim
        if not size.HasField("dim_value")
    ]
    for size in free:
        size.dim_value = most
    return bool(free)


def _most_found(node: NodeProto, given: Sequence[Value | None]) -> int | None:
    """How much an operator that picks things out of its input can pick."""
    first = given[0] if given else None
    if node.domain not in STANDARD or node.op_type not in PICKING:
        return None
    if first is None or not first.is_known:
        return None
    shape = first.shape or ()
    axis = next((a.i for a in node.attribute if a.name == "axis"), None)
    if node.op_type in ("Compress", "Unique") and axis is not None:
        return shape[axis] if -len(shape) <= axis < len(shape) else None
    if node.op_type != "NonMaxSuppression":
        return first.elements
    scores = given[1].shape if len(given) > 1 and given[1] is not None else None
    if len(shape) != 3 or scores is None or len(scores) != 3 or min(scores) < 0:
        return None
    limit = given[2].data if len(given) > 2 and given[2] is not None else None
    of_each = shape[1] if limit is None else min(shape[1], max(int(limit.sum()), 0))
    return shape[0] * scores[1] * of_each


def _like(node: NodeProto, kind: str, indices: Sequence[int]) -> NodeProto:
    """A standard operator whose result has the sizes of another's first one."""
    inputs = [node.input[i] for i in indices if i < len(node.input)]
    made: NodeProto = onnx.helper.make_node(kind, inputs, node.output[:1])
    schema = definition(kind, 1 << 30)
    known = schema.attributes if schema else ()
    made.attribute.extend(a for a in node.attribute if a.name in known)
    return made


def _kind_of(node: NodeProto, given: Sequence[Value | None], first: int) -> int:
    index, otherwise = KIND_OF.get(node.op_type, (first, 0))
    value = given[index] if index < len(given) else None
    found: int = otherwise if value is None else value.type.tensor_type.elem_type
    return found


def _as_floats(value: Value | None) -> Value | None:
    """The same sizes, of numbers that every standard operator takes."""
    if value is None or value.shape is None:
        return value
    return Value(tensor_type(TensorProto.FLOAT, value.shape))
