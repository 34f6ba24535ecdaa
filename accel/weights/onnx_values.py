"""What is known of the values of an ONNX graph before it is run."""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper
from onnx.onnx_pb import TypeProto

Array = np.ndarray[Any, Any]

SMALL = 1000  # elements; what says the shape of other things is smaller
FLOAT = 4  # bytes
ITEM_BYTES = dict.fromkeys(
    (TensorProto.INT64, TensorProto.UINT64, TensorProto.DOUBLE, TensorProto.COMPLEX64,
     TensorProto.COMPLEX128), 8)  # fmt: skip


@dataclass(frozen=True)
class Value:
    """What is known of a value: its type, and what is in it where it is small and certain.

    is_constant: whether it hangs on no input, so that a runtime may work it out once and keep it.
    is_most: whether its sizes are the largest that it can have: how large it is hangs on numbers.
    """

    type: TypeProto
    data: Array | None = None
    is_constant: bool = False
    is_most: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...] | None:  # -1 for a size that is not known
        tensor = self.type.tensor_type
        if not tensor.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)

    @property
    def has_type(self) -> bool:
        return self.type.WhichOneof("value") is not None

    @property
    def is_known(self) -> bool:
        return self.shape is not None and min(self.shape, default=0) >= 0

    @property
    def elements(self) -> int:
        """At least; sides count where others are 0 too: indices of each side are made."""
        return math.prod(max(size, 1) for size in self.shape or ())

    @property
    def in_bytes(self) -> int:
        return self.elements * ITEM_BYTES.get(self.type.tensor_type.elem_type, FLOAT)

    @cached_property
    def type_bytes(self) -> bytes:
        found: bytes = self.type.SerializeToString()
        return found

    @cached_property
    def data_bytes(self) -> bytes:
        assert self.data is not None
        found: bytes = numpy_helper.from_array(self.data).SerializeToString()
        return found


Known = MutableMapping[str, Value]


def tensor_type(kind: int, shape: Sequence[int]) -> TypeProto:
    """-1 in a shape is a size that is not known."""
    sizes = [size if size >= 0 else None for size in shape]
    made: TypeProto = onnx.helper.make_tensor_type_proto(kind, sizes)
    return made


def constants_of(graph: GraphProto) -> Iterator[tuple[str, Value]]:
    for tensor in graph.initializer:
        yield tensor.name, Value(tensor_type(tensor.data_type, tensor.dims), _array(tensor), True)
    for sparse in graph.sparse_initializer:
        kind = tensor_type(sparse.values.data_type, sparse.dims)
        yield sparse.values.name, Value(kind, None, True)


def written_in(node: NodeProto) -> Array | None:
    """What a Constant holds."""
    for a in node.attribute:
        if a.type == AttributeProto.TENSOR:
            return _array(a.t)
        value = {
            "value_int": a.i,
            "value_float": a.f,
            "value_ints": a.ints,
            "value_floats": a.floats,
        }
        if a.name in value:
            found = np.array(value[a.name], np.int64 if "int" in a.name else np.float32)
            return found if found.size <= SMALL else None
    return None


def _array(tensor: TensorProto) -> Array | None:
    if math.prod(tensor.dims) > SMALL or tensor.external_data:
        return None
    try:
        found: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, NotImplementedError):
        return None  # ONNX Runtime will say what is wrong with it
    return found if found.dtype.kind in "iufb" else None
