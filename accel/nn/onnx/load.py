"""From an ONNX model to what runs it: constants, steps, fusions; inputs to try a plan with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor

from accel.core import InputError
from accel.kernels.conv2d import reads_halves
from accel.nn.onnx.fuse import fuse
from accel.nn.onnx.narrow import narrow
from accel.nn.onnx.ops import MISFITS, TYPES, Unsupported, first_line
from accel.nn.onnx.plan import KEPT_INPUT, Plan, Step, attributes_of, fold

FREE_SIZE = 64  # of a dimension that a file leaves open, when its plan is tried
MOST_SAMPLED = 1 << 24  # numbers of an input with which a plan is tried


def plan_of(model: ModelProto) -> Plan:
    """Raises Unsupported for what is not implemented, InputError for damaged tensors."""
    try:
        return _plan_of(model)
    except (Unsupported, InputError):
        raise
    except MISFITS as error:  # a constant part that does not fit together
        raise Unsupported(first_line(error)) from None


def _plan_of(model: ModelProto) -> Plan:
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if not 7 <= opset <= 25:
        raise Unsupported(f"opset {opset}")
    graph = model.graph
    constants = {t.name: _tensor(t) for t in graph.initializer}
    steps = []
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise Unsupported(f"operator {node.op_type} of {node.domain}")
        attributes = attributes_of(node, opset, _tensor)
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(attributes)
            continue
        steps.append(Step(node.op_type, attributes, list(node.input), list(node.output), node.name))
    outputs = [o.name for o in graph.output]
    inputs = [i.name for i in graph.input if i.name not in constants]
    small = [i.name for i in graph.input if i.name in inputs and _is_small(i)]
    kept = small if len(small) < len(inputs) else ()
    steps = fold(steps, constants)  # what rewrites look for may be worked out by the graph
    steps = fuse(steps, constants, outputs)
    if reads_halves():
        narrow(steps, constants, outputs)
    return Plan(steps, constants, inputs, outputs, kept)


def _is_small(value: Any) -> bool:
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    return len(dims) < 4 and all(dims[1:]) and int(np.prod([max(d, 1) for d in dims])) <= KEPT_INPUT


def _constant(attributes: dict[str, Any]) -> Tensor:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in attributes:
            return torch.as_tensor(attributes[name])
    raise Unsupported("a Constant of strings")


def _tensor(proto: TensorProto) -> Tensor:
    if proto.data_type not in TYPES:
        raise Unsupported(f"tensors of type {proto.data_type}")
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError) as error:
        raise InputError(f"tensor {proto.name[:60]!r} is damaged: {error}") from None
    if array.dtype.name in ("float16", "bfloat16"):
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array))


def samples(model: ModelProto) -> dict[str, Tensor] | None:
    """Inputs of the declared sizes, a free size being a small one; None where that is too large."""
    found: dict[str, Tensor] = {}
    for port in model.graph.input:
        kind = port.type.tensor_type.elem_type
        if kind not in TYPES or not port.type.tensor_type.HasField("shape"):
            return None
        dims = port.type.tensor_type.shape.dim
        sizes = [d.dim_value or (1 if i == 0 else FREE_SIZE) for i, d in enumerate(dims)]
        if min(sizes, default=0) < 0 or math.prod(sizes) > MOST_SAMPLED:
            return None
        found[port.name] = torch.zeros(sizes, dtype=TYPES[kind])
    return found
